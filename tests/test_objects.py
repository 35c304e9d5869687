"""Objects that people bring: what of them is trusted, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    Transcoder,
    TranscoderConfig,
)
from sae_lens.saes.sae import SAEMetadata

from mdlbench.adapters.formats.python import coder_of, origin_of_object
from mdlbench.adapters.independence import Trial
from mdlbench.adapters.protocol import Origin
from mdlbench.disk.cache import kept
from mdlbench.errors import CheckpointError, CoderError, UsageError
from mdlbench.records.record import parse_record
from mdlbench.scoring.single import evaluate
from mdlbench.scoring.suite_run import Failed, Scored, run
from mdlbench.scoring.targets import target_site, targets
from mdlbench.sources.language import opener
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from tests.plain import WIDTH, BatchTopK, PlainSAE
from tests.quick import MDLBENCH, served
from tests.tiny import D_IN, tiny_suite, write_sae
from tests.tiny_language import decoder, language_suite

WIDE = 16


# --- a token's latents depend on it alone ---------------------------------------------------------


class BatchQuantile(PlainSAE):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = self.pre(x).relu()
        return z * (z > z.quantile(0.9))


class BatchNorm(PlainSAE):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(D_IN)  # in training mode

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre(self.norm(x)).relu()


class BatchMean(PlainSAE):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre(x - x.mean(dim=0)).relu()


class Neighbours(PlainSAE):
    """Adds a little of the token before; blocks of any size agree but for their first token."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre(x + 0.05 * torch.roll(x, 1, dims=0)).relu()


class Positions(PlainSAE):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre(x).relu() * torch.linspace(1, 1.5, len(x))[:, None]


class BatchDecoder(PlainSAE):
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z @ self.W_dec) + z.mean()


class Drifting(PlainSAE):
    """Its threshold follows what it has seen."""

    calls = 0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (self.pre(x) - 0.001 * self.calls).relu()


class Noisy(PlainSAE):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre(x + 0.1 * torch.rand(x.shape)).relu()


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_suite(tmp_path_factory.mktemp("suite"))


def tokens(n: int = 600) -> torch.Tensor:
    return torch.rand(n, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "kind", [BatchTopK, BatchQuantile, BatchNorm, BatchMean, Neighbours, Positions, BatchDecoder]
)
def test_what_looks_at_other_tokens_is_not_scored(kind: Any, suite: Any) -> None:
    with pytest.raises(CoderError, match=r"looks at other tokens of the batch.*eval\(\).*thresh"):
        evaluate(kind(), suite)


@pytest.mark.parametrize("kind", [Drifting, Noisy])
def test_what_is_random_or_remembers_is_not_scored(kind: Any, suite: Any) -> None:
    with pytest.raises(CoderError, match="something in it is random, or it remembers"):
        evaluate(kind(), suite)


def training_sae() -> BatchTopKTrainingSAE:
    torch.manual_seed(0)
    return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=WIDTH, k=5))


def test_saelens_batchtopk_in_training_form_is_read_by_its_threshold(
    suite: Any, tmp_path: Path
) -> None:
    """Its own `encode` chooses over a batch; what it will do at inference is what is scored."""
    sae = training_sae()
    sae.topk_threshold.fill_(0.002)
    sae.save_inference_model(tmp_path / "saved")
    assert evaluate(sae, suite).points == evaluate(str(tmp_path / "saved"), suite).points


def test_it_scores_once_it_is_saved_for_inference(suite: Any, tmp_path: Path) -> None:
    sae = training_sae()
    sae.topk_threshold.fill_(0.002)
    sae.save_inference_model(tmp_path / "saved")
    folder = evaluate(str(tmp_path / "saved"), suite)
    held = evaluate(SAE.load_from_disk(tmp_path / "saved"), suite)
    assert folder.coder.l0 > 0.1
    assert held.points == folder.points


@pytest.mark.parametrize("command", ["eval", "encode", "verify"])
def test_every_command_asks(command: str, tmp_path: Path, suite: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.plain import BatchTopK, PlainSAE\n"
        "import os\n"
        "def make():\n    return BatchTopK() if os.environ.get('BATCH') else PlainSAE()\n"
    )
    name = str(suite.folder)
    if command == "eval":
        result = mdlbench(tmp_path, "eval", "--suite", name, "--sae", "python:mine:make", BATCH="1")
    elif command == "encode":
        result = mdlbench(
            tmp_path, "encode", "python:mine:make", "--suite", name, "-o", "x", BATCH="1"
        )
    else:
        first = mdlbench(tmp_path, "eval", "--suite", name, "--sae", "python:mine:make")
        assert first.returncode == 0, first.stderr
        (record,) = (tmp_path / "results/tiny/records").glob("*.json")
        result = mdlbench(
            tmp_path, "verify", str(record), "--suite", name, "--sae", "python:mine:make", BATCH="1"
        )
    said = result.stdout + result.stderr
    assert result.returncode == 1
    assert "Traceback" not in said
    expected = "its weights_sha256 is" if command == "verify" else "looks at other tokens"
    assert expected in said


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("choice", ["relu", "topk", "jumprelu"])
def test_rounding_is_no_dependence(dtype: torch.dtype, choice: str) -> None:
    class Rounded(torch.nn.Module):
        d_in = D_IN

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder = torch.nn.Linear(D_IN, 512)
            self.decoder = torch.nn.Linear(512, D_IN)

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            z = self.encoder(x).relu()
            if choice == "topk":
                top = z.topk(8)
                return torch.zeros_like(z).scatter(1, top.indices, top.values)
            return z * (z > 0.2) if choice == "jumprelu" else z

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return self.decoder(z)

    coder = coder_of(Rounded().to(dtype))
    trial = Trial.of(coder, 30 * tokens(1200))
    trial.check()
    trial.check_again()


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 70])
def test_short_splits_are_compared_as_far_as_they_go(n_tokens: int) -> None:
    Trial.of(coder_of(PlainSAE()), tokens(n_tokens)).check()


@pytest.mark.parametrize("name", ["mnist", "toy"])
def test_shipped_saes_are_honest(name: str) -> None:
    shipped = load_suite(name)
    opened = Opener(shipped, Setting(limit=300))
    wanted = [t for t in targets(shipped, [], None) if "baseline:" not in t.sae.spec]
    source = opened.open(target_site(opened, wanted[0]))
    x = next(iter(source.blocks("calibration"))).given
    for target in wanted[::4]:
        Trial.of(target.sae.load(source), x).check()


# --- where it belongs -----------------------------------------------------------------------------

PRE, POST = "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"


@pytest.fixture
def language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(opener, "load_model", lambda *given: decoder())
    return language_suite(tmp_path / "suite")


def saelens_object(kind: type = StandardSAE, **metadata: Any) -> Any:
    torch.manual_seed(0)
    facts = {"model_name": "tiny", "context_size": 64, "prepend_bos": True} | metadata
    if kind is Transcoder:
        config = TranscoderConfig(d_in=WIDE, d_out=WIDE, d_sae=WIDTH, apply_b_dec_to_input=False)
    else:
        config = StandardSAEConfig(d_in=WIDE, d_sae=WIDTH)
    config.metadata = SAEMetadata(**facts)
    return kind(config)


def test_an_object_is_scored_where_its_own_config_says(language: Any) -> None:
    for hook in (PRE, POST):
        record = evaluate(saelens_object(hook_name=hook), language, text="own")
        assert (record.site.hook, record.coder.hook) == (hook, hook)


def test_activations_are_kept_when_asked(
    language: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    evaluate(saelens_object(hook_name=PRE), language, text="own", limit=4)
    assert kept().held() == []
    evaluate(saelens_object(hook_name=PRE), language, text="own", limit=4, cache=True)
    assert {(one.kind, one.what) for one in kept().held()} == {("activations", f"tiny at {PRE}")}


def test_an_object_meets_the_refusals_of_a_folder(language: Any) -> None:
    with pytest.raises(CheckpointError, match="trained on model 'pythia-70m', but the suite's is"):
        evaluate(saelens_object(model_name="pythia-70m", hook_name=PRE), language, text="own")
    with pytest.raises(CheckpointError, match=rf"hook is '{PRE}', but the suite's is '{POST}'"):
        evaluate(saelens_object(hook_name=PRE), language, text="own", hook=POST)
    with pytest.raises(UsageError, match="neither its config nor the suite says its hook;"):
        evaluate(saelens_object(), language, text="own")
    with pytest.raises(UsageError, match="neither its config nor the suite says its hook_out"):
        evaluate(saelens_object(Transcoder, hook_name=PRE), language, text="own")


def test_a_transcoder_object_is_scored_as_one(language: Any) -> None:
    sae = saelens_object(Transcoder, hook_name=PRE, hook_name_out=POST)
    record = evaluate(sae, language, text="own")
    assert (record.site.hook, record.site.hook_out) == (PRE, POST)


def test_a_training_object_and_a_derived_one_say_where_they_belong(language: Any) -> None:
    class Mine(StandardSAE):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return super().encode(x) * 2

    with pytest.raises(CheckpointError, match="model 'gpt2'"):
        evaluate(saelens_object(Mine, model_name="gpt2", hook_name=PRE), language, text="own")
    unfolded = training_sae()
    unfolded.cfg.normalize_activations = "expected_average_only_in"
    with pytest.raises(CheckpointError, match="its activations has not been folded in"):
        evaluate(unfolded, language, text="own", hook=PRE)


def test_a_config_in_a_dict_counts_too() -> None:
    sae = PlainSAE()
    sae.cfg = {"model_name": "gpt2-small", "hook_point": PRE, "top_k": 32}  # type: ignore[attr-defined]
    origin = origin_of_object(sae, "mine")
    assert (origin.model, origin.hook, origin.context) == ("gpt2-small", PRE, None)
    assert origin_of_object(PlainSAE(), "mine") == Origin()


def test_a_spec_of_python_says_where_it_belongs(
    tmp_path: Path, language: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_placed.py").write_text(
        "from tests.test_objects import saelens_object\n"
        f"def make(): return saelens_object(hook_name={POST!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluate("python:mine_placed:make", language, text="own").site.hook == POST


def test_what_the_config_leaves_open_is_said_to_evaluate(language: Any) -> None:
    class Small(PlainSAE):
        d_in = WIDE

        def __init__(self) -> None:
            self.W_dec = torch.randn(WIDTH, WIDE, generator=torch.Generator().manual_seed(0))
            self.bias = torch.zeros(WIDTH)

    record = evaluate(Small(), language, text="own", hook=POST, dtype="bfloat16")
    assert (record.site.hook, record.site.dtype) == (POST, "bfloat16")
    with pytest.raises(UsageError, match="context is 9 here, but the suite fixes 8"):
        evaluate(Small(), language, text="own", hook=POST, context=9)
    with pytest.raises(UsageError, match=r"unknown dtype 'float23'\. Did you mean 'float32'"):
        evaluate(Small(), language, text="own", hook=POST, dtype="float23")


def test_images_have_no_other_hook(suite: Any) -> None:
    with pytest.raises(UsageError, match=r"hook is 'blocks\.1' here, but suite 'tiny' measures at"):
        evaluate(PlainSAE(), suite, hook="blocks.1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_a_device_that_is_not_there_is_one_sentence(suite: Any) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(PlainSAE(), suite, device="cuda")
    assert str(caught.value).startswith("--device cuda: not available: ")
    assert "\n" not in str(caught.value)
    assert ". " not in str(caught.value)


def test_an_infeasible_tolerance_says_so(suite: Any, tmp_path: Path) -> None:
    record = evaluate(str(write_sae(tmp_path / "bars")), suite)
    result = record.at("mse", 0.001)
    words = r"bars is infeasible at mse 0\.001: its floor, .* is 0\.00\d+"
    assert re.match(words, str(result))
    with pytest.warns(UserWarning, match=words):
        assert result.bits is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not result.feasible
        assert result == record.result("mse", 0.001)
        assert record.to_json() == parse_record(record.to_json(), "x").to_json()
        assert json.loads(result.model_dump_json())["bits"] is None
        assert record.at("mse", 0.004).bits > 0


# --- what makes two objects the same --------------------------------------------------------------


class Slotted:
    __slots__ = ("weights",)

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights = weights


@dataclasses.dataclass
class Held:
    weights: torch.Tensor


class Keeping(PlainSAE):
    """Silences latents by a mask that is kept somewhere: `keep` puts it there, `find` gets it."""

    def __init__(self, keep: Any, find: Any, mask: torch.Tensor) -> None:
        super().__init__()
        self.kept, self.find = keep(mask), find

    def pre(self, x: torch.Tensor) -> torch.Tensor:
        """The last latent is off on the sample, so that nothing but the mask tells them apart."""
        return super().pre(x) - 1000.0 * (torch.arange(WIDTH) == WIDTH - 1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(x) * self.find(self.kept)


def buffered(mask: torch.Tensor) -> torch.nn.Module:
    module = torch.nn.Module()
    module.register_buffer("mask", mask, persistent=False)
    return module


def cyclic(mask: torch.Tensor) -> list[Any]:
    ring: list[Any] = [mask]
    ring.append(ring)
    return ring


def objects(mask: torch.Tensor) -> np.ndarray:
    array = np.empty(1, dtype=object)
    array[0] = mask.tolist()
    return array


KEEPERS = {
    "dict": (lambda mask: {"a": {"b": mask}}, lambda kept: kept["a"]["b"]),
    "list": (lambda mask: [mask], lambda kept: kept[0]),
    "tuple": (lambda mask: (1, (mask,)), lambda kept: kept[1][0]),
    "dataclass": (Held, lambda kept: kept.weights),
    "object": (lambda mask: SimpleNamespace(weights=mask), lambda kept: kept.weights),
    "slots": (Slotted, lambda kept: kept.weights),
    "closure": (lambda mask: lambda z: z * mask, lambda kept: kept(1)),
    "default": (lambda mask: lambda z, mask=mask: z * mask, lambda kept: kept(1)),
    "partial": (lambda mask: functools.partial(torch.mul, mask), lambda kept: kept(1)),
    "bound method": (lambda mask: mask.mul, lambda kept: kept(1)),
    "buffer": (buffered, lambda kept: kept.mask),
    "cycle": (cyclic, lambda kept: kept[1][1][0]),
    "array of objects": (objects, lambda kept: torch.tensor(kept[0])),
    "sparse": (lambda mask: mask.to_sparse(), lambda kept: kept.to_dense()),
}


def identity(sae: Any) -> Any:
    return coder_of(sae).spec.identity


@pytest.mark.parametrize(("keep", "find"), KEEPERS.values(), ids=KEEPERS.keys())
def test_weights_are_seen_wherever_they_are_kept(keep: Any, find: Any) -> None:
    first, same, other = torch.ones(WIDTH), torch.ones(WIDTH), torch.ones(WIDTH)
    other[-1] = 0
    known, again, silenced = (identity(Keeping(keep, find, m)) for m in (first, same, other))
    assert known == again
    assert known.unseen == ""
    assert known.weights_sha256 != silenced.weights_sha256


def test_code_that_the_sample_does_not_reach_counts() -> None:
    made = []
    for limit in ("1e9", "1e8"):
        namespace: dict[str, Any] = {"Base": PlainSAE, "__name__": "somebody"}
        exec(
            f"LIMIT = {limit}\ndef helper(z): return z.clamp(max=LIMIT)\n"
            "class Mine(Base):\n    def encode(self, x): return helper(Base.encode(self, x))\n",
            namespace,
        )
        made.append(identity(namespace["Mine"]()))
    assert made[0].weights_sha256 != made[1].weights_sha256


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (lambda: (i for i in range(3)), "part (a generator)"),
        (threading.Lock, "part (a _thread.lock)"),
        (lambda: memoryview(b"abc"), "part (a memoryview)"),
        (lambda: io.TextIOWrapper(io.BytesIO()), "part (a _io.TextIOWrapper)"),
        (lambda: lambda: os.environ["X"], "its code uses environ"),
        (lambda: lambda: Path("weights.pt").read_bytes(), "its code uses read_bytes"),
        (lambda: functools.reduce(lambda a, _: [a], range(500), 1), "more than is looked at"),
    ],
)
def test_what_cannot_be_seen_is_named(part: Any, named: str) -> None:
    sae = PlainSAE()
    sae.part = part()  # type: ignore[attr-defined]
    assert named in identity(sae).unseen


def test_a_record_of_what_cannot_be_seen_is_not_kept(tmp_path: Path, suite: Any) -> None:
    (tmp_path / "hiding.py").write_text(
        "from tests.plain import PlainSAE\n"
        "def make():\n    sae = PlainSAE()\n    sae.rows = iter(lambda: 1, 2)\n"
        "    sae.stream = (i for i in [1])\n    return sae\n"
        "def plain(): return PlainSAE()\n"
    )
    command = ["eval", "--suite", str(suite.folder), "--json"]
    for spec, again in (("python:hiding:make", True), ("python:hiding:plain", False)):
        first, second = (mdlbench(tmp_path, *command, "--sae", spec) for _ in range(2))
        assert first.returncode == second.returncode == 0
        assert "scored again" not in first.stderr
        said = f"{spec}: scored again: not all of it can be seen: stream (a generator)"
        assert (said in second.stderr) == again
        one, other = (json.loads(r.stdout)["records"][0]["provenance"] for r in (first, second))
        assert (one == other) == (not again) or one["date"] == other["date"]


# --- what encode returns --------------------------------------------------------------------------


class EncoderOutput(NamedTuple):
    top_acts: torch.Tensor
    top_indices: torch.Tensor
    pre_acts: torch.Tensor


class TopK(PlainSAE):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        top = self.pre(x).relu().topk(5)
        return torch.zeros(len(x), WIDTH).scatter(1, top.indices, top.values)


class Pairs(TopK):
    def encode(self, x: torch.Tensor) -> Any:
        pre = self.pre(x).relu()
        return EncoderOutput(*pre.topk(5), pre)

    def decode(self, top_acts: torch.Tensor, top_indices: torch.Tensor) -> torch.Tensor:
        return (top_acts[:, :, None] * self.W_dec[top_indices]).sum(dim=1)


class PairsOfOne(Pairs):
    def decode(self, z: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return z @ self.W_dec


class Swapped(Pairs):
    def decode(self, indices: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
        return super().decode(acts, indices)


def returning(wrap: Any) -> type:
    class Returning(TopK):
        def encode(self, x: torch.Tensor) -> Any:
            return wrap(super().encode(x), self.pre(x), x)

    return Returning


@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
    codes: torch.Tensor
    loss: torch.Tensor


RETURNS = {
    "info": (lambda z, pre, x: (z, {"loss": z.sum()}), "item 0 of tuple"),
    "none": (lambda z, pre, x: (z, None), "item 0 of tuple"),
    "one": (lambda z, pre, x: (z,), "item 0 of tuple"),
    "norms": (lambda z, pre, x: (z, x.mean(1), x.std(1)), "item 0 of tuple"),
    "pre first": (lambda z, pre, x: (pre, z), "item 1 of tuple"),
    "pre last": (lambda z, pre, x: [z, pre], "item 0 of list"),
    "input": (lambda z, pre, x: (x, z), "item 1 of tuple"),
    "mask": (lambda z, pre, x: (z > 0, z), "item 1 of tuple"),
    "dict": (lambda z, pre, x: {"pre": pre, "latents": z}, "latents of dict"),
    "dataclass": (lambda z, pre, x: Output(pre, z, z.sum()), "codes of Output"),
    "nested": (lambda z, pre, x: ({"z": z}, x.sum()), "item 0.z of tuple"),
}


@pytest.mark.parametrize(("wrap", "taken"), RETURNS.values(), ids=RETURNS.keys())
def test_latents_are_found_in_what_encode_returns(wrap: Any, taken: str) -> None:
    coder, plain, x = coder_of(returning(wrap)()), coder_of(TopK()), tokens(100)
    assert coder.spec.details["latents_from"].startswith(taken)
    np.testing.assert_array_equal(coder.encode(x)[0].to_dense(), plain.encode(x)[0].to_dense())
    assert "latents_from" not in plain.spec.details


@pytest.mark.parametrize("kind", [Pairs, PairsOfOne, Swapped])
def test_active_latents_by_value_and_index(kind: type) -> None:
    coder, plain, x = coder_of(kind()), coder_of(TopK()), tokens(100)
    assert coder.spec.details["latents_from"].startswith("top_acts and top_indices of Encoder")
    np.testing.assert_array_equal(coder.encode(x)[0].to_dense(), plain.encode(x)[0].to_dense())
    np.testing.assert_allclose(coder.decoder_rows(), plain.decoder_rows(), atol=1e-6)
    decoded = coder.decode(*coder.encode(x))
    torch.testing.assert_close(decoded, plain.decode(*plain.encode(x)), atol=1e-4, rtol=1e-4)


def test_decode_may_return_more_than_the_reconstruction() -> None:
    class Chatty(TopK):
        def decode(self, z: torch.Tensor) -> Any:
            return super().decode(z), {"norm": z.norm()}

    coder, x = coder_of(Chatty()), tokens(20)
    torch.testing.assert_close(
        coder.decode(*coder.encode(x)), TopK().decode(TopK().encode(x)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (
            lambda z, pre, x: ("ok", None),
            r"returned tuple \(item 0|returned tuple \(0: str, 1: None",
        ),
        (lambda z, pre, x: (z, 0.99 * z.roll(1, 1).roll(-1, 1)), r"0: \[\d+, 40\], 1: \[\d+, 40\]"),
        (lambda z, pre, x: z.sum(), r"returned an array \[\]"),
        (lambda z, pre, x: z[None], r"returned an array \[1, \d+, 40\]"),
        (lambda z, pre, x: None, "returned NoneType"),
    ],
)
def test_what_cannot_be_told_is_shown_and_how_to_wrap_it(wrap: Any, said: str) -> None:
    with pytest.raises(CoderError, match=said) as caught:
        coder_of(returning(wrap)())
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "class Wrapped:",
        "    def encode(self, x): return sae.encode(x)[0]  # the latents, [token, latent]",
        "    def decode(self, z): return sae.decode(z)     # [token, d_in]",
    ]


# --- what it does beside --------------------------------------------------------------------------

CHATTY = """
import atexit, ctypes, os, sys
from tests.plain import PlainSAE
print("import")
os.write(1, b"os\\n")
atexit.register(print, "exit")

class Chatty(PlainSAE):
    made = 0
    def __init__(self):
        super().__init__()
        Chatty.made += 1
        assert Chatty.made == 1, "made twice"
        print("made")
    def encode(self, x):
        print("encode")
        os.system("echo system")
        ctypes.CDLL(None).puts(b"puts")
        return super().encode(x)
    def decode(self, z):
        sys.stdout.write("decode")
        return super().decode(z)
"""


@pytest.mark.parametrize("command", ["eval", "check-adapter", "verify"])
def test_json_is_alone_on_stdout(command: str, tmp_path: Path, suite: Any) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    spec, name = "python:chatty:Chatty", str(suite.folder)
    if command == "check-adapter":
        result = mdlbench(tmp_path, command, spec, "--suite", name, "--json")
    else:
        result = mdlbench(tmp_path, "eval", "--suite", name, "--sae", spec, "--json")
    if command == "verify":
        (record,) = (tmp_path / "results/tiny/records").glob("*.json")
        result = mdlbench(tmp_path, "verify", str(record), "--suite", name, "--sae", spec, "--json")
    assert result.returncode == 0, result.stderr
    json.loads(result.stdout)
    for said in ("import", "os", "made", "encode", "system", "puts", "exit"):
        assert f"{said}\n" in result.stderr


@pytest.mark.parametrize("ending", ["sys.exit(0)", "raise Quit('now')", "raise GeneratorExit"])
@pytest.mark.parametrize("place", ["import", "init", "encode", "decode", "late", "property"])
def test_who_ends_the_process_fails_alone(
    ending: str, place: str, tmp_path: Path, suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("quitting", None)

    def at(where: str) -> str:
        return ending if where == place else "pass"

    (tmp_path / "quitting.py").write_text(
        "import sys\nfrom tests.plain import PlainSAE\nclass Quit(BaseException): pass\n"
        f"{at('import')}\n"
        "class Mine(PlainSAE):\n    calls = 0\n    def __init__(self):\n"
        f"        super().__init__()\n        {at('init')}\n"
        "    def encode(self, x):\n        Mine.calls += 1\n        if Mine.calls > 9:\n"
        f"            {at('late')}\n        {at('encode')}\n        return super().encode(x)\n"
        f"    def decode(self, z):\n        {at('decode')}\n        return super().decode(z)\n"
        f"    @property\n    def cfg(self):\n        {at('property')}\n"
    )
    found = list(
        run(Opener(suite), targets(suite, ["python:quitting:Mine", "mean"], None), tmp_path / "out")
    )
    failed, scored = sorted(found, key=lambda outcome: isinstance(outcome, Scored))
    assert isinstance(failed, Failed)
    assert isinstance(scored, Scored)
    kind = {"s": "SystemExit", "Q": "Quit", "G": "GeneratorExit"}[ending.replace("raise ", "")[0]]
    assert kind in failed.message


def test_no_latents_at_all_are_refused(suite: Any, tmp_path: Path) -> None:
    class Empty(PlainSAE):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :0]

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(z), D_IN)

    with pytest.raises(CheckpointError, match="Empty: it has no latents, so there is nothing to"):
        evaluate(Empty(), suite)
    (tmp_path / "empty.py").write_text(
        "import torch\nd_in = 64\ndef encode(x): return x[:, :0]\n"
        "def decode(z): return torch.zeros(len(z), 64)\n"
    )
    result = mdlbench(
        tmp_path, "eval", "--suite", str(suite.folder), "--sae", "python:empty", "--sae", "mean"
    )
    assert result.returncode == 1
    assert "empty: it has no latents" in result.stderr
    assert "mean" in result.stdout


def mdlbench(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    here = str(Path(__file__).parent.parent)
    env = os.environ | {"PYTHONPATH": f"{here}:{folder}"} | environment
    return subprocess.run(
        [*MDLBENCH, *arguments],
        cwd=folder, env=served(env), text=True, capture_output=True,
    )  # fmt: skip
