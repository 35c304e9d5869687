"""JSON is read in one way: a key twice, half of a character and endless nesting are refused."""

import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mdlbench.adapters.checkpoint import load_json, load_safetensors
from mdlbench.adapters.load import load_coder
from mdlbench.disk.json_text import no_constant, parse_json
from mdlbench.errors import CheckpointError, HubError, RecordError, SuiteError
from mdlbench.records import seal
from mdlbench.records.record import parse_references
from mdlbench.scoring.fetch import Checksums
from mdlbench.suite.load import load_suite
from mdlbench.suite.yaml_file import read_yaml
from mdlbench.training.trainer import train
from tests.records import make_record, realistic_references
from tests.test_other_libraries import write_tracer
from tests.test_training import CONFIG, SparseSource
from tests.tiny import write_sae, write_tiny_suite

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def doubled(text: str, key: str) -> str:
    """The text with another value for a key behind the one that it has."""
    changed, n = re.subn(rf'("{key}":)', r"\1 1, \1", text, count=1)
    assert n == 1
    return changed


@given(VALUES)
def test_what_json_writes_is_read(value):
    try:
        text = json.dumps(value)
        text.encode()
        expected = json.loads(text)
        json.dumps(expected, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert parse_json(text) == parse_json(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' is repeated"),
        ('[{"x": {"\u202ey": 1, "\u202ey": 2}}]', r"the key '\u202ey' is repeated"),
        ('["\\ud800"]', "half of a character, U+D800"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting property name"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_what_is_not_plain_is_refused(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_json(text)


def test_only_configs_may_have_constants():
    assert parse_json("[Infinity]") == [float("inf")]
    with pytest.raises(ValueError, match="Infinity is not a JSON number"):
        parse_json("[Infinity]", no_constant)


def test_an_sae_s_config_that_says_a_thing_twice_is_refused(tmp_path):
    folder = write_sae(tmp_path / "sae")
    path = folder / "cfg.json"
    path.write_text(doubled(path.read_text(), "d_in"))
    with pytest.raises(CheckpointError, match=r"cfg\.json: not JSON: the key 'd_in' is repeated"):
        load_coder(f"saelens:{folder}")


def test_so_is_a_config_in_yaml(tmp_path):
    write_tracer(tmp_path / "set", "relu", skip=False, stored_k=False)
    path = tmp_path / "set" / "config.yaml"
    path.write_text(path.read_text() + "scan: y\n")
    with pytest.raises(
        CheckpointError, match=r"config\.yaml, line 7: 'scan' is here a second time, after line 6"
    ):
        load_coder(f"circuit_tracer:{tmp_path / 'set'}/layer_3.safetensors")


def test_a_tensor_that_is_listed_twice_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2), "b": torch.ones(2)}, path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].replace(b'"b"', b'"a"')
    path.write_bytes(content[:8] + header + content[8 + length :])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: truncated, or not a safetensors"):
        load_safetensors(path)


def test_a_training_run_reads_its_settings_in_the_same_way(tmp_path):
    config, source = replace(CONFIG, epochs=1), SparseSource(128, 50)
    path = train(config, source, tmp_path / "run") / "training.json"
    text = path.read_text()
    for content, said in {
        doubled(text, "width"): "not JSON: the key 'width' is repeated",
        "[]": "expected an object, found a list",
        '{"settings": 3}': "not the record of a training run: it has no settings",
        " " * ((1 << 24) + 1): "larger than 16,777,216 bytes",
    }.items():
        path.write_text(content)
        with pytest.raises(CheckpointError, match=re.escape(said)):
            train(config, source, tmp_path / "run")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="not a regular file, but a FIFO"):
        train(config, source, tmp_path / "run")


def test_records_and_references_are_refused_by_the_key():
    text = doubled(make_record("a").to_json(), "partial")
    with pytest.raises(RecordError, match="not JSON: the key 'partial' is repeated"):
        seal.check(text)
    text = doubled(realistic_references().to_json(), "schema_version")
    with pytest.raises(RecordError, match=r"not JSON: the key 'schema_version' is repeated"):
        parse_references(text, "references.json")


@pytest.mark.parametrize("content", ['{"a": 3}', "[1]", '{"a": "b", "a": "c"}', "{"])
def test_a_damaged_list_of_checksums_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    suite = load_suite(write_tiny_suite(tmp_path / "suite"))
    path = tmp_path / "mdlbench" / "fetched" / f"{suite.name}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(HubError, match=rf"{path}: cannot be read: .*; delete it"):
        Checksums.of(suite)


def test_a_fifo_is_no_suite_and_no_config(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(SuiteError, match="not a regular file, but a FIFO"):
        read_yaml(tmp_path / "x")
    with pytest.raises(CheckpointError, match="not a regular file, but a FIFO"):
        load_json(Path(tmp_path / "x"))
