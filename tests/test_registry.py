import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdlbench.adapters.checked import check_spec
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.protocol import CoderSpec, Request
from mdlbench.adapters.registry import ADAPTERS, find_adapter
from mdlbench.errors import CheckpointError, CoderError, MdlbenchError, UsageError
from mdlbench.sources.images import Images
from tests.tiny import D_IN, tiny_suite, write_sae

PLUGIN = Path(__file__).parent / "plugin_package"
FORMATS = [
    "batchtopk",
    "bilinear",
    "circuit_tracer",
    "cross_layer",
    "dictionary_learning",
    "gemma_scope",
    "llama_scope",
    "openai",
    "qwen_scope",
    "saelens",
    "sparsify",
    "state_dict",
]


def run_python(code: str, *search: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*map(str, search), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin package, really built and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(source)],
        check=True,
        capture_output=True,
    )
    return folder


def test_the_built_in_adapters_are_listed_without_importing_torch() -> None:
    code = (
        "import sys; from mdlbench.adapters.registry import ADAPTERS;"
        "print([entry.name for entry in ADAPTERS.plugins()], 'torch' in sys.modules)"
    )
    names = sorted([*FORMATS, "baseline", "python"])
    assert run_python(code).stdout == f"{names} False\n"


def test_every_built_in_adapter_can_be_imported_and_described() -> None:
    from mdlbench.adapters.load import import_adapter

    for entry in ADAPTERS.plugins():
        assert entry.description
        assert callable(import_adapter(entry).load)


@pytest.fixture(scope="module")
def seen(plugin: Path) -> dict[str, Any]:
    """What a process that has the plugin installed sees of it."""
    code = """
import json, torch
from mdlbench.adapters.load import load_coder
from mdlbench.adapters.registry import ADAPTERS, find_adapter
from mdlbench.errors import MdlbenchError

def failure(spec):
    try:
        load_coder(spec)
    except MdlbenchError as error:
        return [type(error).__name__, str(error)]

entry = next(entry for entry in ADAPTERS.plugins() if entry.name == "scaled")
coder = load_coder("scaled:4?width=3")
latents, side = coder.encode(torch.tensor([[1.0, -1.0, 0.5]]))
print(json.dumps({
    "listed": [entry.distribution, entry.version, entry.description, entry.target],
    "latents": latents.to_dense().tolist(),
    "decoded": coder.decode(latents, side).tolist(),
    "by class": load_coder("4", adapter="mdlbench_tiny:ScaledAdapter").spec.name,
    "absent": failure("absent:x"),
    "failing": failure("scaled:four"),
    "saelens": find_adapter("saelens").distribution,
    "shadow": [[e.usable, e.description] for e in ADAPTERS.plugins() if e.name == "saelens"][1],
}))
"""
    run = run_python(code, plugin)
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def test_an_installed_plugin_is_listed(seen: dict[str, Any]) -> None:
    assert seen["listed"] == [
        "mdlbench-tiny",
        "2.5",
        "Scales activations by what its argument says",
        "mdlbench_tiny:ScaledAdapter",
    ]


def test_an_installed_plugin_loads(seen: dict[str, Any]) -> None:
    assert seen["latents"] == [[4.0, 0.0, 2.0]]
    assert seen["decoded"] == [[1.0, 0.0, 0.5]]


def test_a_plugin_class_can_be_named_without_its_entry_point(seen: dict[str, Any]) -> None:
    assert seen["by class"] == "scaled-4"


def test_a_plugin_that_cannot_be_imported_is_named(seen: dict[str, Any]) -> None:
    kind, message = seen["absent"]
    assert kind == "MdlbenchError"
    assert "'absent' of package 'mdlbench-tiny'" in message
    assert "mdlbench_tiny.absent:Adapter" in message
    assert "No module named 'mdlbench_tiny.absent'" in message


def test_a_plugin_that_fails_to_load_is_an_expected_error(seen: dict[str, Any]) -> None:
    kind, message = seen["failing"]
    assert kind == "CheckpointError"
    assert message.startswith("four: adapter 'scaled' (mdlbench_tiny:ScaledAdapter) fails: ValueE")


def test_a_plugin_that_fails_to_identify_is_an_expected_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty_plugin.py").write_text(
        "class Adapter:\n"
        "    def identify(self, request): return {}[request.argument]\n"
        "    def load(self, request): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        NamedCoder("mine", adapter="faulty_plugin:Adapter").identify()
    assert str(raised.value) == (
        "mine: adapter 'faulty_plugin:Adapter' (faulty_plugin:Adapter) fails: KeyError: 'mine'"
    )


def test_a_plugin_does_not_shadow_a_built_in_adapter(seen: dict[str, Any]) -> None:
    assert seen["saelens"] == "mdlbench"
    assert seen["shadow"] == [False, "ignored: mdlbench has a built-in adapter of this name"]


def test_an_unknown_adapter_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown adapter 'sealens'.*Did you mean 'saelens'"):
        load_coder("sealens:somewhere")
    with pytest.raises(UsageError, match=r"unknown adapter 'baselin'.*Did you mean 'baseline'"):
        find_adapter("baselin")
    with pytest.raises(UsageError, match=r"neither a folder nor ADAPTER:ARGUMENT.*'baseline'"):
        load_coder("baselines")


def test_a_class_that_is_no_adapter_is_refused() -> None:
    with pytest.raises(MdlbenchError, match=r"'pathlib:Path' has no method load"):
        load_coder("x", adapter="pathlib:Path")
    with pytest.raises(MdlbenchError, match="cannot be imported from 'no_such_module:Class'"):
        load_coder("x", adapter="no_such_module:Class")


def test_a_folder_is_recognised_by_its_files(tmp_path: Path) -> None:
    write_sae(tmp_path / "runs" / "mine")
    by_path = load_coder("runs/mine", folder=tmp_path).spec
    by_name = load_coder("saelens:runs/mine", folder=tmp_path).spec
    by_option = load_coder("runs/mine", folder=tmp_path, adapter="saelens").spec
    absolute = load_coder(str(tmp_path / "runs" / "mine")).spec
    assert by_path.identity == by_name.identity == by_option.identity == absolute.identity
    assert by_path.name == "mine"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(
        CheckpointError,
        match=r"not a checkpoint .*\(expected bilinear\.safetensors \(bilinear\), "
        r"W_enc_0\.safetensors \(cross_layer\), ae\.pt \(dictionary_learning\), "
        r"params\.npz \(gemma_scope\), hyperparams\.json \(llama_scope\), "
        r"sae_weights\.safetensors \(saelens\), sae\.safetensors \(sparsify\), "
        r"params_layer_0\.safetensors \(cross_layer\), "
        r"params\.safetensors \(gemma_scope\), cfg\.json \(saelens\)\)",
    ):
        load_coder("other", folder=tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_coder("runs/absent", folder=tmp_path)


def test_an_unknown_home_is_refused() -> None:
    for spec in ("~nouser/x", "saelens:~nouser/x"):
        with pytest.raises(UsageError, match="'~nouser/x': there is no such user"):
            load_coder(spec)


def test_options_are_checked() -> None:
    request = Request("kmeans", {"k": "12"}, Path(), "cpu", None)
    assert request.integer("k", 5, 1, 100) == 12
    assert request.integer("other", 5, 1, 100) == 5
    for value in ("0", "101", "-3", "1e2", "", "٣"):
        with pytest.raises(UsageError, match="k must be an integer from 1 to 100"):
            Request("kmeans", {"k": value}, Path(), "cpu", None).integer("k", 5, 1, 100)
    with pytest.raises(UsageError, match=r"unknown option 'kk'.*Did you mean 'k'"):
        Request("kmeans", {"kk": "1"}, Path(), "cpu", None).reject_unknown_options("k")
    with pytest.raises(UsageError, match="options are written"):
        load_coder("baseline:kmeans?k")


def test_another_width_is_refused(tmp_path: Path) -> None:
    source = Images(tiny_suite(tmp_path / "tiny"))
    write_sae(tmp_path / "wide", d_in=D_IN + 1)
    with pytest.raises(CheckpointError, match=rf"width {D_IN + 1}, .*'pixels' have width {D_IN}"):
        load_coder("wide", folder=tmp_path, source=source)


def odd_spec(norms: list[float], parents: list[int] | None = None) -> CoderSpec:
    """The spec of a coder with three latents."""
    identity = CoderIdentity(
        name="odd", adapter="test", version="1", arguments={}, weights_sha256=""
    )
    return CoderSpec(
        identity,
        "linear",
        "",
        4,
        4,
        3,
        np.array(norms, dtype=np.float32),
        parents=None if parents is None else np.array(parents, dtype=np.int32),
    )


@pytest.mark.parametrize("norms", [[1.0, 2.0], [1.0, 2.0, float("nan")]])
def test_decoder_norms_are_one_finite_number_a_latent(norms: list[float]) -> None:
    with pytest.raises(CoderError, match="odd: expected 3 finite decoder norms, found 2"):
        check_spec(odd_spec(norms), None)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([-1, 0], "odd: expected the parents of 3 latents, found 2"),
        ([-1, 2, 1], "odd: parents: latents descend from themselves"),
        ([-1, 0, 3], "odd: parents: latent 2 has parent 3"),
    ],
)
def test_parents_are_a_forest_of_the_latents(parents: list[int], message: str) -> None:
    with pytest.raises(CoderError, match=message):
        check_spec(odd_spec([1.0] * 3, parents), None)
    check_spec(odd_spec([1.0] * 3, [-1, 0, 1]), None)


def test_an_identity_tells_weights_apart_and_not_places(tmp_path: Path) -> None:
    write_sae(tmp_path / "a" / "sae", seed=1)
    write_sae(tmp_path / "b" / "sae", seed=1)
    write_sae(tmp_path / "c" / "sae", seed=2)
    a, b, c = (NamedCoder(f"saelens:{x}/sae", tmp_path).identify() for x in "abc")
    assert a == b
    assert a.weights_sha256 != c.weights_sha256
    assert a == load_coder("a/sae", folder=tmp_path).spec.identity
