"""A GPU against the CPU: the same losses and steps, tokens a second, what bare passes take.

    python benchmarks/gpu.py                 # about a minute on a large GPU; CPU first
    python benchmarks/gpu.py --device cpu --contexts 8 --small    # a trial of the script itself

One SAE of 24,576 latents at layer 8 of a model of GPT-2's size with random weights, on random
tokens: what `mdlbench eval` does, from activations to the record, once on the CPU and once on the
device. A bare pass is the model behind the hook and its logits, without anything of mdlbench.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from vs_saelens import (
    CONTEXT,
    GPT2,
    HOOK,
    N_LATENTS,
    SMALL,
    SMALL_HOOK,
    Opened,
    activations,
    cut,
    hooked,
    random_contexts,
    random_model,
    suite,
    write_sae,
)

from mdlbench.adapters.load import NamedCoder
from mdlbench.records.record import EvalRecord
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.sources.language.hooks import Hook
from mdlbench.sources.language.source import Language
from mdlbench.sources.open import Setting
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite, Tolerance

LOSSES = ("mse", "fvu", "ce", "delta_ce", "kl")
TOLERANCE = 1e-4


def suite_at(hook: str) -> Suite:
    """A suite like that of `vs_saelens`, with tolerances on the model's losses, too."""
    tolerances = [
        Tolerance(metric="fvu", epsilons=[0.9, 1.0]),
        Tolerance(metric="kl", epsilons=[1.0, 2.0]),
    ]
    return suite(hook).model_copy(update={"tolerances": tolerances})


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes, until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def evaluated(
    shape: dict[str, int], hook: str, sae: Path, device: str, n_contexts: int
) -> tuple[EvalRecord, float, float, int]:
    """A record; seconds of the SAE; seconds of one bare pass; suffix passes in the evaluation."""
    whole = random_model(shape).to(device)
    model, transformer = cut(whole, device=device), hooked(whole)
    splits = {
        "calibration": random_contexts(n_contexts, seed=2),
        "test": random_contexts(n_contexts, seed=1),
    }
    source = Language(model, splits, Site(hook=hook))
    suffixes, splice = [0], source.splice

    def counted(block: object, reconstruction: object) -> object:
        suffixes[0] += 1
        return splice(block, reconstruction)

    source.splice = counted
    bench = Bench.open(InProcess(Opened(suite_at(hook), source, Setting(device))), source.site)
    bench.references()
    named = NamedCoder(f"saelens:{sae}")
    identity = bench.identity(bench.identify(named))
    found: list[EvalRecord] = []
    whole = seconds(lambda: found.append(evaluate_coder(bench, named, identity).record))
    tokens = torch.from_numpy(splits["test"].tokens).to(device)
    residual = model.capture(tokens, [Hook.parse(hook)])[Hook.parse(hook)]
    layer = Hook.parse(hook).layer
    transformer(residual[:4], start_at_layer=layer)
    bare = seconds(lambda: [transformer(part, start_at_layer=layer) for part in residual.split(8)])
    return found[0], whole, bare, suffixes[0] // bench.source.n_blocks["test"]


def compare(one: EvalRecord, other: EvalRecord) -> None:
    steps = [[result.step for result in record.tolerances] for record in (one, other)]
    print(f"  accepted steps {'are the same' if steps[0] == steps[1] else f'DIFFER: {steps}'}")
    worst, where = 0.0, ""
    for a, b in zip(one.points, other.points, strict=True):
        for loss in LOSSES:
            x, y = getattr(a, loss), getattr(b, loss)
            difference = abs(x - y) / max(abs(x), 1e-12)
            if difference > worst:
                worst, where = difference, f"{loss} at step {a.step:.4g}"
    verdict = "within" if worst <= TOLERANCE else "NOT within"
    print(f"  losses differ by {worst:.1e} at most ({where}): {verdict} {TOLERANCE:g}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contexts", type=int, default=64)
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    arguments = parser.parse_args()
    shape, hook = (SMALL, SMALL_HOOK) if arguments.small else (GPT2, HOOK)
    with TemporaryDirectory() as folder:
        x = activations(cut(random_model(shape)), hook)
        width = 1024 if arguments.small else N_LATENTS
        sae = write_sae(Path(folder), x, width, hook=hook)
        records = []
        for device in ("cpu", arguments.device):
            record, whole, bare, passes = evaluated(shape, hook, sae, device, arguments.contexts)
            records.append(record)
            n_tokens = 2 * arguments.contexts * CONTEXT
            print(f"{device}: {n_tokens:,} tokens of both splits, {width:,} latents")
            print(f"  evaluation {whole:.2f} s, {n_tokens / whole:,.0f} tokens a second")
            share = passes * bare / whole
            print(f"  {passes} suffix passes; one bare pass {bare:.3f} s, {share:.0%} of it all")
        compare(*records)


if __name__ == "__main__":
    main()
