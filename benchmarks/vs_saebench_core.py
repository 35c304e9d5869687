"""The same SAE on the same tokens by SAEBench's core evaluation, by SAELens and by mdlbench.

    pip install --no-deps sae-bench==0.6.0
    pip install collectibles loguru tabulate
    python benchmarks/vs_saebench_core.py

A model of GPT-2's kind with random weights, a ReLU SAE at its residual stream, 16 contexts of 128
tokens: those of `vs_saelens`, which compares speed, memory, and the figures of SAELens. Here it is
definitions: each figure is given as SAEBench, SAELens and a record of mdlbench have it. Where two
differ, the line below says why, and the figure is computed again from mdlbench's own values of
single tokens under the other's definition. The run fails where that is off by more than 1e-4.

`run_evals` of both are imported, not copied, and given the model and the SAE in memory; in place of
an `ActivationsStore`, which tokenises a dataset, stands a class that hands out the contexts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from vs_saelens import (
    BOS,
    SMALL,
    SMALL_HOOK,
    TOLERANCE,
    Ours,
    Store,
    activations,
    blank_ce,
    by_mdlbench,
    by_saelens,
    cut,
    hooked,
    load_in_saelens,
    measured,
    random_contexts,
    random_model,
    write_sae,
)

from mdlbench.adapters.load import load_coder
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.sources.language.decoder import DecoderModel
from mdlbench.sources.language.text import Contexts

N_CONTEXTS, BATCH, N_LATENTS = 16, 8, 4096


@dataclass(frozen=True)
class Tokens:
    """What mdlbench finds at each measured token: losses in nats, activations, latents.

    Attributes:
        position, document: where the token is.
        clean, spliced, kl: of each token.
        x, reconstruction: [token, d], float64.
        n_active: latents that are on.
    """

    document: np.ndarray
    position: np.ndarray
    clean: np.ndarray
    spliced: np.ndarray
    kl: np.ndarray
    x: np.ndarray
    reconstruction: np.ndarray
    n_active: np.ndarray

    @classmethod
    def of(cls, ours: Ours, model: DecoderModel, coder: SparseCoder, test: Contexts) -> Tokens:
        clean, spliced, kl, x, reconstructions, active = [], [], [], [], [], []
        for block in ours.source.blocks("test"):
            latents, side = coder.encode(block.given)
            reconstruction = coder.decode(latents, side)
            loss = ours.source.splice(block, reconstruction)
            clean.append(ours.source.clean_ce(block))
            spliced.append(loss.ce)
            kl.append(loss.kl)
            x.append(block.activations.double().numpy())
            reconstructions.append(reconstruction.double().numpy())
            active.append(np.bincount(latents.token, minlength=latents.n_tokens))
        columns = [clean, spliced, kl, x, reconstructions, active]
        return cls(
            *np.nonzero(measured(model, test)), *(np.concatenate(column) for column in columns)
        )

    @property
    def followed(self) -> np.ndarray:
        """All but the last token of each context, whose next token the others do not give."""
        found: np.ndarray = self.position < self.position.max()
        return found


def by_saebench(sae: Any, model: Any, tokens: np.ndarray) -> dict[str, float]:
    """SAEBench's own figures, over the contexts in batches."""
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import run_evals
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae

    sae.cfg.metadata.model_name = "random"
    load_and_format_sae("", sae, "cpu")
    n_batches = len(tokens) // BATCH
    asked = CoreEvalConfig(
        model_name="random",
        batch_size_prompts=BATCH,
        n_eval_reconstruction_batches=n_batches,
        n_eval_sparsity_variance_batches=n_batches,
        exclude_special_tokens_from_reconstruction=True,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    store = Store(tokens)
    store.normalize_activations = "none"
    groups, _ = run_evals(sae, store, model, asked, ignore_tokens={BOS})
    return {name: value for group in groups.values() for name, value in group.items()}


def as_saebench_defines(
    found: Tokens, model: DecoderModel, hook: str, test: Contexts
) -> dict[str, float]:
    """From mdlbench's values of single tokens, under SAEBench's definitions."""
    clean, spliced = (values[found.followed].mean() for values in (found.clean, found.spliced))
    ablated = blank_ce(model, hook, test)
    errors = ((found.x - found.reconstruction) ** 2).sum(axis=1)
    legacy, mse, power = [], [], []
    for start in range(0, len(test.tokens), BATCH):
        batch = (found.document >= start) & (found.document < start + BATCH)
        x = found.x[batch]
        legacy.append(1 - errors[batch] / ((x - x.mean(axis=0)) ** 2).sum(axis=1))
        mse.append(errors[batch] / batch.sum())
        power.append([errors[batch].mean(), (x**2).sum(axis=1).mean(), (x**2).mean()])
    error, square, mean_square = np.mean(power, axis=0)
    lengths = np.linalg.norm(found.x, axis=1) * np.linalg.norm(found.reconstruction, axis=1)
    return {
        "ce_loss_without_sae": clean,
        "ce_loss_with_sae": spliced,
        "ce_loss_with_ablation": ablated,
        "ce_loss_score": (ablated - spliced) / (ablated - clean),
        "kl_div_with_sae": found.kl.mean(),
        "explained_variance": 1 - error / (square - mean_square**2),
        "explained_variance_legacy": np.concatenate(legacy).mean(),
        "mse": np.concatenate(mse).mean(),
        "cossim": ((found.x * found.reconstruction).sum(axis=1) / lengths).mean(),
        "l0": found.n_active.mean(),
    }


def recorded(ours: Ours) -> dict[str, float | None]:
    """A record's figures, by the nearest of SAEBench's names."""
    own = ours.recorded
    return {
        "ce_loss_without_sae": own["clean_ce"],
        "ce_loss_with_sae": own["ce"],
        "ce_loss_with_ablation": own["ablated_ce"],
        "ce_loss_score": own["ce_recovered"],
        "kl_div_with_sae": own["kl"],
        "explained_variance": 1 - own["fvu"],
        "explained_variance_legacy": None,
        "mse": own["mse"],
        "cossim": own["cosine"],
        "l0": own["l0"],
    }


WHY = {
    "ce_loss_without_sae": "a record counts each context's last token too, with its next one",
    "ce_loss_with_sae": "as above",
    "ce_loss_with_ablation": "as above; and the others put zeros at BOS, too, which a record "
    "leaves as it is, as the splice does",
    "ce_loss_score": "follows from the three above; the record has it as ce_recovered",
    "kl_div_with_sae": "one definition",
    "explained_variance": "SAEBench takes mean ‖x‖² minus the square of the mean of all x² for the "
    "variation, where the square of the mean of x belongs; SAELens and a record (1 − fvu): "
    "Σ‖x − x̄‖²",
    "explained_variance_legacy": "mean over tokens of 1 − error/variation of that token, around "
    "the mean of its batch; a record does not have it",
    "mse": "SAEBench: summed over dimensions, divided by the batch's tokens, and then averaged "
    "over tokens again; SAELens: summed over dimensions; a record: per dimension",
    "cossim": "one definition",
    "l0": "one definition",
}


def show(
    saebench: Mapping[str, float],
    saelens: Mapping[str, float],
    ours: Mapping[str, float | None],
    again: Mapping[str, float],
) -> bool:
    """The table; whether all that was computed again agrees."""
    agree = True
    print(f"{'':27}{'SAEBench':>13}{'SAELens':>14}{'mdlbench':>14}   our tokens by SAEBench's")
    for name, why in WHY.items():
        off = abs(saebench[name] - again[name]) / max(abs(saebench[name]), 1e-12)
        agree &= off <= TOLERANCE
        cells = "".join(
            f"{'–':>14}" if value is None else f"{value:14.6f}"
            for value in (saebench[name], saelens.get(name), ours[name])
        )
        print(f"{name:26}{cells}   definition: off by {off:.0e}")
        print(f"{'':10}{why}")
    verdict = "all within" if agree else "NOT all within"
    print(f"\n{verdict} {TOLERANCE:g} under one definition")
    return agree


@torch.no_grad()
def main() -> None:
    whole = random_model(SMALL)
    model, transformer = cut(whole), hooked(whole)
    test = random_contexts(N_CONTEXTS, seed=1)
    with TemporaryDirectory() as folder:
        path = write_sae(Path(folder), activations(model, SMALL_HOOK), N_LATENTS, hook=SMALL_HOOK)
        coder, sae = load_coder(f"saelens:{path}"), load_in_saelens(path)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("sae-bench", "sae-lens"))
    print(
        f"{versions}; {N_CONTEXTS} contexts of {test.tokens.shape[1]} tokens, "
        f"{N_LATENTS:,} latents at {SMALL_HOOK} of a model of four layers\n"
    )
    ours = by_mdlbench(model, coder, test, SMALL_HOOK)
    found = Tokens.of(ours, model, coder, test)
    again = as_saebench_defines(found, model, SMALL_HOOK, test)
    theirs = by_saelens(sae, transformer, test.tokens, [BOS], BATCH)
    saelens = theirs | {
        "ce_loss_score": theirs.get("ce_loss_score"), "cossim": theirs.get("cossim"),
    }  # fmt: skip
    if not show(by_saebench(sae, transformer, test.tokens), saelens, recorded(ours), again):
        sys.exit(1)


if __name__ == "__main__":
    main()
