"""A GPU against the CPU: the same losses and steps, tokens a second, memory.

    python benchmarks/gpu.py | tee benchmarks/results/gpu.txt    # minutes on a large GPU; CPU first
    python benchmarks/gpu.py --device cpu --contexts 8 --small   # a trial of the script itself

1. One SAE of 24,576 latents at layer 8 of a model of GPT-2's size with random weights, on random
   tokens: what `mdlbench eval` does, from activations to the record, once on the CPU and once on
   the device. A bare pass is the model behind the hook and its logits, and nothing of mdlbench.
2. Models of the sizes of GPT-2 small and Gemma 2 2B, random weights, in the middle: tokens a second
   through the prefix and, with the losses, through the suffix, as mdlbench runs them; and the
   memory of an SAE of 65,536 latents, by itself and while a block is encoded and decoded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.load import NamedCoder
from mdlbench.adapters.parts import Decoder, Encoder, LinearCoder, TopK, assemble
from mdlbench.records.record import EvalRecord
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.sources.language.hooks import Hook
from mdlbench.sources.language.source import BLOCK_TOKENS, Language
from mdlbench.sources.open import Setting
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite, Tolerance

LOSSES = ("mse", "fvu", "ce", "delta_ce", "kl")
TOLERANCE = 1e-4
WIDE, K = 65_536, 64
"""Latents of a wide SAE, and how many of them are on."""
GEMMA = {
    "num_hidden_layers": 26,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256_000,
}
"""Gemma 2 2B."""
TINY = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 50_257,
}


@dataclass(frozen=True)
class Size:
    """A model with random weights.

    Attributes:
        name: what to call it.
        make: makes it, on torch's default device.
        dtypes: in which it is measured.
    """

    name: str
    make: Callable[[], Any]
    dtypes: tuple[torch.dtype, ...]


def random_gemma(shape: dict[str, int]) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**shape)).eval().requires_grad_(False)


def sizes(small: bool) -> list[Size]:
    both = (torch.float32, torch.bfloat16)
    gpt2, gemma = (SMALL, TINY) if small else (GPT2, GEMMA)
    of = "small, for a trial" if small else "size"
    return [
        Size(f"GPT-2 {of}", lambda: random_model(gpt2), both),
        Size(f"Gemma 2 2B {of}", lambda: random_gemma(gemma), both),
    ]


def wide_sae(d: int, n_latents: int, device: str) -> LinearCoder:
    """A TopK SAE of random directions."""
    rows = torch.randn(n_latents, d, generator=torch.Generator().manual_seed(0)).to(device)
    rows /= rows.norm(dim=1, keepdim=True)
    none, zeros = torch.zeros(n_latents, device=device), torch.zeros(d, device=device)
    identity = CoderIdentity(
        name="wide", adapter="none", version="1", arguments={}, weights_sha256=""
    )
    encoder, decoder = Encoder(rows.T, none, zeros, TopK(K)), Decoder(rows.clone(), zeros)
    return assemble(identity, encoder, decoder, architecture="topk")


def peak_gigabytes(function: Callable[[], object], device: str) -> float | None:
    """Memory on the device while something is done, the largest; None where nobody counts."""
    if not device.startswith("cuda"):
        function()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e9


def made(size: Size, dtype: torch.dtype, device: str) -> Any:
    """A model made where it computes, in its precision."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return size.make()
    finally:
        torch.set_default_dtype(torch.float32)


def show_size(size: Size, dtype: torch.dtype, device: str, n_contexts: int, wide: int) -> None:
    """Tokens a second of prefix and suffix, and what a wide SAE takes there."""
    whole = made(size, dtype, device)
    n_weights = sum(weights.numel() for weights in whole.parameters())
    model, name = cut(whole, size.name, device), str(dtype).removeprefix("torch.")
    hook, warm = Hook(model.n_layers // 2, "resid_pre"), BLOCK_TOKENS // CONTEXT
    splits = {
        "calibration": random_contexts(warm + n_contexts, seed=2),
        "test": random_contexts(n_contexts, seed=1),
    }
    source = Language(model, splits, Site(hook=hook.name))
    print(f"{size.name}, {name}: {n_weights / 1e9:.3g} · 10⁹ weights, {hook.name}, {device}")
    list(source.blocks("calibration", 0, 1))
    prefix = seconds(lambda: list(source.blocks("calibration", 1)))
    n_tokens = n_contexts * (CONTEXT - 1)
    print(f"  prefix {n_tokens / prefix:12,.0f} tokens a second")
    blocks = list(source.blocks("test"))
    source.splice(blocks[0], blocks[0].activations)
    suffix = seconds(lambda: [source.splice(block, block.activations) for block in blocks])
    print(f"  suffix {n_tokens / suffix:12,.0f} tokens a second, losses included")
    show_wide(blocks[0].given, wide, device)


def show_wide(given: torch.Tensor, n_latents: int, device: str) -> None:
    """Speed and memory of an SAE of so many latents on some activations."""
    d = given.shape[1]
    sae = wide_sae(d, n_latents, device)

    def once() -> None:
        sae.decode(*sae.encode(given))

    once()
    peak, took = peak_gigabytes(once, device), seconds(once)
    weights = (2 * n_latents * d + n_latents + d) * 4 / 1e9
    print(f"  SAE of {n_latents:,} latents: {weights:.2f} GB of float32 weights")
    print(f"  {len(given) / took:19,.0f} tokens a second, encoded and decoded")
    if peak is not None:
        held = torch.cuda.memory_allocated() / 1e9
        print(f"  at most {peak:.2f} GB on the device meanwhile, {held:.2f} GB before and after")


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
    for size in sizes(arguments.small):
        for dtype in size.dtypes:
            wide = 1024 if arguments.small else WIDE
            show_size(size, dtype, arguments.device, arguments.contexts, wide)


if __name__ == "__main__":
    main()
