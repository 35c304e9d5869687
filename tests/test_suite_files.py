"""Suite files and their artefacts as anybody might write them: whole, or refused with a line."""

import io
import lzma
import re

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mdlbench.errors import SuiteError
from mdlbench.sources.images import Images
from mdlbench.suite.load import load_suite, suites_folder
from mdlbench.suite.yaml_file import DEEPEST, LARGEST_FILE, MOST_VALUES, read_yaml
from tests.tiny import tiny_suite, write_tiny_suite

TOY = (suites_folder() / "toy" / "suite.yaml").read_text()
LINES = TOY.count("\n")
SLOW = settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(folder, text):
    """What is said of a suite file."""
    folder.mkdir(exist_ok=True)
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "suite.yaml").write_bytes(content)
    with pytest.raises(SuiteError) as raised:
        load_suite(folder)
    return str(raised.value).removeprefix(f"{folder / 'suite.yaml'}")


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("added", "line", "message"),
    [
        ("saes: []", 1, "'saes' is here a second time, after line 51"),
        ("tolerances: []", 1, "'tolerances' is here a second time, after line 42"),
        ('"title": again', 1, "'title' is here a second time, after line"),
        ("x: {a: 1,\n b: 2,\n a: 3}", 3, "'a' is here a second time, after line"),
        ("x: {<<: {a: 1},\n <<: {b: 1}}", 2, "'<<' is here a second time"),
        ("1: 2", 1, "a key that is not text; write it in quotes"),
        ("? [a]\n: 1", 1, "a key that is not text"),
        ("x: 2020-13-45", 1, "'2020-13-45' is no timestamp: month must be in 1..12"),
        ("x: " + "9" * 5000, 1, "is no int: Exceeds the limit"),
        ("x: 0x" + "9" * 5000, 1, "an integer of more than 64 bits"),
        ("x: -9223372036854775809", 1, "an integer of more than 64 bits"),
        ("x: !!int foo", 1, "'foo' is no int"),
        ("x: !!timestamp foo", 1, "'foo' is no timestamp"),
        ("x: !!binary aGk=", 1, "data only may stand here"),
        ("x: !!python/object/apply:os.system [ls]", 1, "data only may stand here"),
        ("x: !mine 1", 1, "data only may stand here, and !mine asks for more"),
        ('x: "a\\0b"', 1, "holds the control character U+0000"),
        ('x: "\\e[31m"', 1, "holds the control character U+001B"),
        ('x: "\\x9b31m"', 1, "holds the control character U+009B"),
        ('x: "\\ud800"', 1, "holds the control character U+D800"),
        ('"\\0": 1', 1, "holds the control character U+0000"),
        ('x: "\\UFFFFFFFF"', 1, "not valid YAML"),
        ("x: \x1b[31m", 1, "not valid YAML: unacceptable character #x001b"),
        (f"x: {nested(DEEPEST)}", 1, f"nested deeper than {DEEPEST} levels"),
        (f"x: {nested(50_000)}", 1, f"nested deeper than {DEEPEST} levels"),
        ("x: &a [*a]", 1, "an alias of something that it is part of"),
        ("x: *nowhere", 1, "not valid YAML: found undefined alias 'nowhere'"),
        ("x: [1", 2, "not valid YAML: expected ',' or ']'"),
        ("---\nx: 1", 1, "not valid YAML: but found another document"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(added, line, message, tmp_path):
    found = refused(tmp_path, f"{TOY}{added}\n")
    assert found.startswith(f", line {LINES + line}: "), found
    assert message in found


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("seed: 0\nreplicates", "seed: -1\nreplicates", 46, "seed: Input should be greater than"),
        ("title:", "titel:", 1, "title: Field required; titel: unknown key. Did you mean 'title'?"),
        (
            "source:",
            "sauce:",
            1,
            "source: Field required; sauce: unknown key. Did you mean 'source'?",
        ),
        ("fvu, epsilon: 0.001", "fvu, epsilon: 0.5", 45, "headline: not among the tolerances"),
        (
            "fvu, epsilon: 0.001",
            "fvu, epsilon: 0.001, epsilo: 1",
            45,
            "headline.epsilo: unknown key. Did you mean 'epsilon'? Known: epsilon, metric.",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(old, new, line, message, tmp_path):
    assert old in TOY
    found = refused(tmp_path, TOY.replace(old, new))
    assert found.startswith(f", line {line}: {message}"), found


@pytest.mark.parametrize(
    ("tolerances", "line", "message"),
    [
        ("  - {metric: mse, epsilons: [0.1, 0.1]}", 1, "tolerances.0.epsilons.1: repeated tol"),
        ("  - {metric: mse, epsilons: [0.1, 1.0e-1]}", 1, "repeated tolerance mse 0.1"),
        (
            "  - {metric: mse, epsilons: [0.1]}\n  - {metric: mse, epsilons: [0.2,\n     0.1]}",
            3,
            "tolerances.1.epsilons.1: repeated tolerance mse 0.1",
        ),
    ],
)
def test_a_tolerance_is_there_once(tolerances, line, message, tmp_path):
    folder = write_tiny_suite(tmp_path / "tiny")
    content = yaml.safe_load((folder / "suite.yaml").read_text())
    content |= {"headline": {"metric": "mse", "epsilon": 0.1}}
    del content["tolerances"]
    text = yaml.safe_dump(content)
    found = refused(folder, f"{text}tolerances:\n{tolerances}\n")
    assert found.startswith(f", line {text.count(chr(10)) + 1 + line}: "), found
    assert message in found
    (folder / "suite.yaml").write_text(f"{text}tolerances:\n  - {{metric: mse, epsilons: [0.1]}}\n")
    assert list(load_suite(folder).limits()) == [("mse", 0.1)]


def test_a_key_may_override_what_is_merged(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\n")
    document = read_yaml(path)
    assert document.content == {"base": {"a": 1, "b": 2}, "other": {"a": 1, "b": 3}}
    assert [document.line_of(place) for place in ((), ("base", "b"), ("other", "b"))] == [1, 1, 4]


def test_aliases_do_not_multiply(tmp_path):
    rounds = "".join(f"x{i + 1}: &x{i + 1} [{', '.join([f'*x{i}'] * 9)}]\n" for i in range(9))
    found = refused(tmp_path, f"x0: &x0 [a, b]\n{rounds}")
    assert re.match(rf", line \d+: more than {MOST_VALUES:,} values, aliases followed", found)
    deep = "".join(f"x{i + 1}: &x{i + 1} [*x{i}]\n" for i in range(DEEPEST))
    assert "nested deeper than" in refused(tmp_path, f"x0: &x0 [a]\n{deep}")


def test_a_file_that_nobody_writes_by_hand_is_not_read(tmp_path):
    assert f"larger than {LARGEST_FILE:,} bytes" in refused(tmp_path, "#" * (LARGEST_FILE + 1))
    assert ", line 2: cannot be read: 'utf-8' codec" in refused(tmp_path, b"name: a\ntitle: \xff\n")


@pytest.mark.parametrize("path", ["x" * 5000, "../../etc/passwd", "a/../../..", "\ud800"])
def test_a_path_of_a_suite_is_within_its_folder(path, tmp_path):
    with pytest.raises(SuiteError, match="suite 'tiny': "):
        tiny_suite(tmp_path / "tiny").path(path)


def npy(header, version=b"\x01\x00", content=b""):
    head = header.encode("latin-1")
    return b"\x93NUMPY" + version + len(head).to_bytes(2, "little") + head + content


def claim(shape, kind="|u1"):
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n")


HUGE = 10**12


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("images.npy.xz", lzma.compress(claim((HUGE, 8, 8)))),
        ("labels.npy.xz", lzma.compress(claim((10**30,)))),
        ("labels.npy.xz", lzma.compress(claim((-1,)))),
        ("images.npy.xz", lzma.compress(npy("(" * 5000 + ")" * 5000))),
        ("images.npy.xz", lzma.compress(npy("{'descr': " + "9" * 5000 + "}"))),
        ("images.npy.xz", lzma.compress(npy("\x00"))),
        ("classifier.safetensors", (HUGE).to_bytes(8, "little") + b"{}"),
        ("classifier.safetensors", (2).to_bytes(8, "little") + b"[]"),
        ("classifier.safetensors", b""),
    ],
)
def test_an_artefact_that_claims_what_it_does_not_hold_is_named(file, content, tmp_path):
    folder = write_tiny_suite(tmp_path / "tiny")
    (folder / file).write_bytes(content)
    with pytest.raises(SuiteError, match=re.escape(file)):
        Images(load_suite(folder))


@pytest.mark.parametrize("file", ["images.npy.xz", "classifier.safetensors"])
def test_an_artefact_is_a_file(file, tmp_path):
    folder = write_tiny_suite(tmp_path / "tiny")
    (folder / file).unlink()
    (folder / file).mkdir()
    with pytest.raises(
        SuiteError, match=rf"{re.escape(file)}: not .*: not a regular file, but a folder"
    ):
        Images(load_suite(folder))


@pytest.mark.parametrize("shape", [(0, 64), (16, 0)])
def test_a_classifier_of_nothing_is_named(shape, tmp_path):
    folder = write_tiny_suite(tmp_path / "tiny")
    weights = {
        "hidden.weight": torch.zeros(shape),
        "hidden.bias": torch.zeros(shape[0]),
        "logits.weight": torch.zeros(10, shape[0]),
        "logits.bias": torch.zeros(10),
    }
    save_file(weights, folder / "classifier.safetensors")
    if shape[1] != 64:
        with pytest.raises(SuiteError, match=r"classifier\.safetensors: reads 0 pixels"):
            Images(load_suite(folder))


def whole_or_refused(folder, content):
    """Load a suite of these bytes; whatever else than `SuiteError` it raises fails the test."""
    (folder / "suite.yaml").write_bytes(content)
    said = None
    try:
        suite = load_suite(folder)
    except SuiteError as error:
        said = str(error)
    assert len(suite.digest) == 64 if said is None else said.startswith(f"{folder}/suite.yaml")
    assert said is None or len(said) < 5000


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
PLACES = [
    (),
    ("source",),
    ("source", "features"),
    ("source", "features", 0),
    ("source", "tokens"),
    ("steps",),
    ("tolerances", 0),
    ("headline",),
    ("saes", 0),
    ("agreement",),
]


@pytest.mark.slow
@SLOW
@given(st.data())
def test_any_value_in_any_place_is_read_or_refused(tmp_path, data):
    content = yaml.safe_load(TOY)
    part = content
    for step in data.draw(st.sampled_from(PLACES)):
        part = part[step] if isinstance(part, list) else part.setdefault(step, {})
    keys = list(range(len(part))) if isinstance(part, list) else [*part, "added"]
    part[data.draw(st.sampled_from(keys))] = data.draw(JSON_LIKE)
    whole_or_refused(tmp_path, yaml.safe_dump(content).encode())


FRAGMENTS = st.sampled_from(
    [
        *(
            "[",
            "]",
            "{",
            "}",
            "- ",
            "? ",
            ": ",
            "&a ",
            "*a ",
            "!!int ",
            "!!set ",
            "<<: ",
            "|\n",
            ">-\n",
        ),
        *(
            "\n",
            "  ",
            "\t",
            '"',
            "'",
            "\\",
            "#",
            "%TAG ",
            "---\n",
            "...\n",
            "\x00",
            "\x85",
            "\ufeff",
        ),
        *("2001-01-01", "1e999", "0o7", "1:60", ".nan", "~", "=", "yes", "\U0001f600", "\u202e"),
    ]
)


@pytest.mark.slow
@SLOW
@given(st.lists(st.tuples(st.integers(0, len(TOY)), st.integers(0, 30), FRAGMENTS), max_size=5))
def test_any_edit_of_the_text_is_read_or_refused(tmp_path, edits):
    text = TOY
    for start, dropped, added in edits:
        text = text[:start] + added + text[start + dropped :]
    whole_or_refused(tmp_path, text.encode())


@pytest.mark.slow
@SLOW
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-16")))
def test_any_bytes_are_refused(tmp_path, content):
    whole_or_refused(tmp_path, content)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_suite(tmp_path_factory.mktemp("artefacts") / "tiny")


@pytest.mark.slow
@SLOW
@given(data=st.data())
def test_any_damage_of_an_artefact_is_harmless_or_named(tiny, data):
    names = ("images.npy.xz", "labels.npy.xz", "classifier.safetensors")
    path = tiny / data.draw(st.sampled_from(names))
    whole = path.read_bytes()
    packed = path.suffix == ".xz"
    content = bytearray(lzma.decompress(whole) if packed else whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content) - 1, 400)))
        content[place] = data.draw(st.integers(0, 255))
    changed = lzma.compress(bytes(content), preset=0) if packed else bytes(content)
    path.write_bytes(changed)
    said = "tiny"
    try:
        Images(load_suite(tiny))
    except SuiteError as error:
        said = str(error)
    finally:
        path.write_bytes(whole)
    assert "tiny" in said


def test_an_artefact_is_read_as_it_was_written(tiny):
    images = np.load(io.BytesIO(lzma.decompress((tiny / "images.npy.xz").read_bytes())))
    assert images.shape == (800, 8, 8)
    assert Images(load_suite(tiny)).n_tokens == {"calibration": 600, "test": 200}
