"""Objects that people bring: what of them is trusted, what is refused, and in which words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, StandardSAE
from sae_lens import StandardSAEConfig, Transcoder, TranscoderConfig
from sae_lens.saes.sae import SAEMetadata

from mdlbench.adapters.formats.python import coder_of, origin_of_object
from mdlbench.adapters.independence import Trial
from mdlbench.errors import CheckpointError, CoderError, UsageError
from mdlbench.records.record import parse_record
from mdlbench.scoring.single import evaluate
from mdlbench.suite.load import load_suite
from tests.tiny import D_IN, tiny_suite, write_sae
from tests.tiny_language import language_suite

WIDTH = 40


class PlainSAE:
    """ReLU SAE on tensors; others change what `encode` does of it."""

    d_in = D_IN

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.W_dec = torch.nn.functional.normalize(
            torch.randn(WIDTH, D_IN, generator=generator), dim=1
        )
        self.bias = torch.full((WIDTH,), -0.1)

    def pre(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() @ self.W_dec.T + self.bias

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre(x).relu()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z.float() @ self.W_dec


# --- a token's latents depend on it alone ---------------------------------------------------------


class BatchTopK(PlainSAE):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = self.pre(x).relu()
        return z * (z >= z.flatten().topk(5 * len(x)).values[-1])


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


def test_saelens_batchtopk_in_training_form_is_told_how_to_be_saved(suite: Any) -> None:
    with pytest.raises(CoderError, match="change when tokens are encoded .*save_inference_model"):
        evaluate(training_sae(), suite)


def test_it_scores_once_it_is_saved_for_inference(suite: Any, tmp_path: Path) -> None:
    sae = training_sae()
    sae.topk_threshold.fill_(0.4)
    sae.save_inference_model(tmp_path / "saved")
    folder = evaluate(str(tmp_path / "saved"), suite)
    held = evaluate(SAE.load_from_disk(tmp_path / "saved"), suite)
    assert folder.coder.l0 > 1
    assert held.points == folder.points


@pytest.mark.parametrize("command", ["eval", "encode", "verify"])
def test_every_command_asks(command: str, tmp_path: Path, suite: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.test_objects import BatchTopK, PlainSAE\n"
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
    from mdlbench.scoring.targets import target_site, targets
    from mdlbench.sources.open import Opener, Setting

    shipped = load_suite(name)
    opener = Opener(shipped, Setting(limit=300))
    wanted = [t for t in targets(shipped, [], None) if "baseline:" not in t.sae.spec]
    source = opener.open(target_site(opener, wanted[0]))
    x = next(iter(source.blocks("calibration"))).given
    for target in wanted[::4]:
        Trial.of(target.sae.load(source), x).check()


def mdlbench(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    here = str(Path(__file__).parent.parent)
    env = os.environ | {"PYTHONPATH": f"{here}:{folder}"} | environment
    return subprocess.run(
        [sys.executable, "-m", "mdlbench", *arguments],
        cwd=folder, env=env, text=True, capture_output=True,
    )  # fmt: skip
