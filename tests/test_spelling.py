"""How people write an SAE: understood, or answered with the right spelling."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.places import HubPath, hub_path
from mdlbench.errors import CheckpointError, UsageError
from tests.surrogate_hub import write_repository
from tests.test_adapters import write_checkpoint

RES_JB = "gpt2-small-res-jb"
ID = "blocks.8.hook_resid_pre"


@pytest.mark.parametrize("text", [f"{RES_JB} {ID}", f"{RES_JB}, {ID}", f"{RES_JB}/{ID}"])
def test_saelens_own_two_arguments_are_answered(text: str) -> None:
    with pytest.raises(UsageError, match=f"write 'saelens:{RES_JB}/{ID}'"):
        load_coder(text)


def test_saelens_own_two_arguments_are_understood_with_the_adapter() -> None:
    place = NamedCoder(f"saelens:{RES_JB} {ID}").hub_place()
    assert place == NamedCoder(f"saelens:{RES_JB}/{ID}").hub_place()
    assert place is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://ann/saes", HubPath("ann/saes", ())),
        ("hf://ann/saes/a/b", HubPath("ann/saes", ("a", "b"))),
        ("hf://ann/saes@v2/a/b", HubPath("ann/saes", ("a", "b"), "v2")),
        ("hf://ann/saes/a/b@v2", HubPath("ann/saes", ("a", "b"), "v2")),
        ("hf://ann/saes@refs%2Fpr%2F1/a", HubPath("ann/saes", ("a",), "refs/pr/1")),
    ],
)
def test_places_on_the_hub_with_a_revision(text: str, expected: HubPath) -> None:
    assert hub_path(text) == expected
    assert hub_path(str(expected).replace("refs/pr/1", "refs%2Fpr%2F1")) == expected


def test_two_revisions_are_refused() -> None:
    with pytest.raises(UsageError, match="two revisions, 'v1' and 'v2'"):
        hub_path("hf://ann/saes@v1/a@v2")


def test_a_bare_place_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "sae")
    files = {
        f"exp/a/{file.name}": file.read_bytes() for file in sorted((tmp_path / "sae").iterdir())
    }
    write_repository(tmp_path / "cache", "ann/saes", {**files, "exp/README.md": b""})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    expected = load_coder(str(tmp_path / "sae")).spec.weights_sha256
    for spec in (
        "hf://ann/saes/exp/a",
        "hf://ann/saes@main/exp/a",
        "hf://ann/saes/exp/a@main",
        "hf://ann/saes/exp/a/cfg.json",
        "saelens:hf://ann/saes/exp/a/sae_weights.safetensors",
    ):
        spec_found = load_coder(spec).spec
        assert (spec_found.weights_sha256, spec_found.name) == (expected, "a")
    with pytest.raises(CheckpointError, match="as in saelens:hf://ann/saes/exp"):
        load_coder("hf://ann/saes/exp")
