"""The same SAE on the same tokens by SAELens' `run_evals` and by mdlbench, in one run.

    python benchmarks/vs_saelens.py

The model has the shapes of GPT-2 small and random weights, its SAE 24,576 ReLU latents of which
some 65 are on: no hub is needed, and what a pass costs does not depend on weights. Both sides are
given the same model in memory, the same SAE from the same files, the same 16 contexts of 128
tokens, and all of torch's threads; loading is timed on neither.

`run_evals` is imported, not copied, and asked for no more than is compared: CE, KL, L0 and
variance. It runs at the batch size at which it is fastest here. In place of its `ActivationsStore`,
which tokenises a dataset, stands a class that hands out the contexts.

mdlbench runs its own path: `Language`, `measure.reference`, `measure.encode_split`.
Where the two define a figure differently, the figure is also computed from mdlbench's losses of
single tokens under SAELens' definition. The run fails if any of these is off by more than 1e-4.

Sides take turns and medians are compared. Memory is the peak resident size of child processes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from clock import Clock
from safetensors.torch import save_file

from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes.symbols import PlainStep
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.rounds import CoderRounds, EncodedSplit, LatentRounds, Rounds
from mdlbench.scoring.worker import HeldSae
from mdlbench.sources.language.decoder import DecoderModel
from mdlbench.sources.language.hooks import Hook, HookEntry
from mdlbench.sources.language.losses import cross_entropies
from mdlbench.sources.language.source import BLOCK_TOKENS, Language
from mdlbench.sources.language.text import Contexts
from mdlbench.sources.open import USUAL, Setting
from mdlbench.statistics.distortion import Reference
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite

GPT2 = {"n_layers": 12, "d_model": 768, "n_heads": 12, "d_head": 64, "d_mlp": 3072}
SMALL = {"n_layers": 4, "d_model": 128, "n_heads": 4, "d_head": 32, "d_mlp": 512}
VOCABULARY, CONTEXT, BOS = 50_257, 128, 50_256
HOOK, SMALL_HOOK = Hook(8, "resid_pre").name, Hook(2, "resid_pre").name
N_CONTEXTS, N_LATENTS, WIDEST, L0 = 16, 24_576, 98_304, 65
N_SAES, TURNS, BATCH_SIZES = 8, 3, (16, 8, 4)
TOKENIZER = SimpleNamespace(all_special_ids=[BOS], padding_side="right")
TOLERANCE = 1e-4
FINEST = 2.0**-10
MEMORY_TOKENS = 4096
"""The fewest tokens at which memory is looked at."""


# --- what is measured ---------------------------------------------------------------------------


def random_model(shape: Mapping[str, int]) -> Any:
    """A model as GPT-2 is; its unembedding is large enough for predictions not to be uniform."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=shape["n_layers"],
        n_embd=shape["d_model"],
        n_head=shape["n_heads"],
        n_inner=shape["d_mlp"],
        n_positions=1024,
        vocab_size=VOCABULARY,
        initializer_range=0.8 / shape["d_model"] ** 0.5,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config)
    model.lm_head.weight.data *= 4
    return model.eval().requires_grad_(False)


def cut(model: Any, name: str = "random", device: str = "cpu") -> DecoderModel:
    """That model as mdlbench cuts it."""
    return DecoderModel(name, model, TOKENIZER, device)


def hooked(model: Any) -> Any:
    """The same model as TransformerLens computes it, for SAELens."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
    given = model.config
    config = HookedTransformerConfig(
        n_layers=given.n_layer,
        d_model=given.n_embd,
        n_heads=given.n_head,
        d_head=given.n_embd // given.n_head,
        d_mlp=given.n_inner,
        n_ctx=given.n_positions,
        d_vocab=given.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        device=str(model.device),
    )
    transformer = HookedTransformer(config)
    weights = convert_gpt2_weights(model, transformer.cfg)
    weights["unembed.b_U"] = torch.zeros(VOCABULARY, device=model.device)
    off = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    transformer.load_and_process_state_dict(weights, **dict.fromkeys(off, False))
    transformer.tokenizer = TOKENIZER
    return transformer.eval().requires_grad_(False)


def random_contexts(n: int, seed: int) -> Contexts:
    """BOS, then words whose frequencies are those of Zipf's law."""
    weight = 1 / np.arange(1, BOS + 1)
    stream = np.random.default_rng(seed).choice(
        BOS, size=n * (CONTEXT - 1) + 1, p=weight / weight.sum()
    )
    tokens, labels = (s.reshape(n, CONTEXT - 1) for s in (stream[:-1], stream[1:]))
    first = np.full((n, 1), BOS)
    return Contexts(np.hstack([first, tokens]), np.hstack([tokens[:, :1], labels]))


def write_sae(
    folder: Path, x: torch.Tensor, n_latents: int, seed: int = 0, hook: str = HOOK
) -> Path:
    """A ReLU SAE in SAELens' layout for activations like x, [token, d]; L0 latents are on.

    Its rows are random mixtures of half of the activations; by the other half, L0 latents are on
    and its scale is that of the least error.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = x.mean(dim=0)
    mixed, held = (x - centre).chunk(2)
    rows = torch.randn(n_latents, len(mixed), generator=generator) @ mixed
    rows /= rows.norm(dim=1, keepdim=True)
    overlaps = held @ rows.T
    bias = -overlaps.flatten().topk(L0 * len(held), sorted=False).values.min()
    reconstruction = torch.relu(overlaps + bias) @ rows
    rows *= (reconstruction * held).sum() / reconstruction.square().sum()
    directions = rows / rows.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": directions.T.contiguous(),
        "b_enc": bias.expand(n_latents).contiguous(),
        "W_dec": rows,
        "b_dec": centre,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config(x.shape[1], n_latents, hook)))
    return folder


def config(d_in: int, n_latents: int, hook: str) -> dict[str, Any]:
    return {
        "architecture": "standard",
        "d_in": d_in,
        "d_sae": n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": metadata.version("sae-lens"),
            "hook_name": hook,
            "hook_head_index": None,
            "prepend_bos": True,
        },
    }


@torch.no_grad()
def activations(model: DecoderModel, hook: str = HOOK, n: int = 8) -> torch.Tensor:
    """[token, d] of a few contexts of their own, BOS left out."""
    tokens = torch.from_numpy(random_contexts(n, seed=9).tokens)
    captured = model.capture(tokens, [Hook.parse(hook)])
    return captured[Hook.parse(hook)][:, 1:].flatten(0, 1)


# --- SAELens ------------------------------------------------------------------------------------


class Store:
    """What `run_evals` asks of an `ActivationsStore`: the contexts, in order."""

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens, self._next = torch.from_numpy(tokens), 0
        self.context_size = tokens.shape[1]

    def get_batch_tokens(self, batch_size: int) -> torch.Tensor:
        self._next += batch_size
        return self._tokens[self._next - batch_size : self._next]

    def reset_input_dataset(self) -> None:
        self._next = 0


def by_saelens(
    sae: Any, model: Any, tokens: np.ndarray, special: list[int], batch_size: int
) -> dict[str, float]:
    """`run_evals`' own figures, over the contexts in batches of so many."""
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    n_batches = len(tokens) // batch_size
    asked = EvalConfig(
        batch_size_prompts=batch_size,
        n_eval_reconstruction_batches=n_batches,
        n_eval_sparsity_variance_batches=n_batches,
        compute_kl=True,
        compute_ce_loss=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    groups, _ = run_evals(
        sae, Store(tokens), model, ActivationScaler(), asked, exclude_special_tokens=special
    )
    return {name: value for group in groups.values() for name, value in group.items()}


def load_in_saelens(folder: Path) -> Any:
    from sae_lens import SAE

    return SAE.load_from_disk(folder, device="cpu").eval().requires_grad_(False)


# --- mdlbench -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """An evaluation by mdlbench, as far as SAELens goes."""

    source: Language
    reference: Reference
    encoded: EncodedSplit

    @property
    def recorded(self) -> dict[str, float]:
        """The figures of a record."""
        metrics = self.encoded.floor.metrics(self.reference)
        n_tokens = self.source.n_tokens["test"]
        return metrics | {
            "clean_ce": self.reference.clean_ce.sum() / n_tokens,
            "ablated_ce": self.reference.ablated_ce.sum() / n_tokens,
            "l0": self.encoded.n_active / n_tokens,
        }


def open_source(model: DecoderModel, test: Contexts, hook: str = HOOK) -> Language:
    splits = {"calibration": Contexts(*(array[:1] for array in test)), "test": test}
    return Language(model, splits, Site(hook=hook))


@dataclass(frozen=True)
class Opened:
    """An opener of activations that are open already."""

    suite: Suite
    source: Language
    setting: Setting = USUAL

    def open(self, site: Site) -> Language:
        return self.source


def rounds_of(source: Language) -> Rounds:
    """Rounds in this process over activations that are open."""
    return Rounds.at(InProcess(Opened(suite(source.hook), source)), source.site)


def latents_of(rounds: Rounds, coder: SparseCoder) -> LatentRounds:
    held = HeldSae(lambda source: coder)
    return LatentRounds(CoderRounds.of(rounds, held), normalised=True, finest=FINEST)


def by_mdlbench(model: DecoderModel, coder: SparseCoder, test: Contexts, hook: str = HOOK) -> Ours:
    source = open_source(model, test, hook)
    rounds = rounds_of(source)
    return Ours(source, rounds.reference(), latents_of(rounds, coder).encode("test"))


def as_saelens_defines(
    ours: Ours, model: DecoderModel, coder: SparseCoder, test: Contexts
) -> dict[str, float]:
    """mdlbench's figures, from its losses of single tokens, under the definitions of `run_evals`.

    There the last token of a context has no CE, squared errors are summed over dimensions, and
    the ablation blanks excluded tokens too.
    """
    clean, spliced, kl = [], [], []
    for block in ours.source.blocks("test"):
        loss = ours.source.splice(block, coder.decode(*coder.encode(block.given)))
        clean.append(ours.source.clean_ce(block))
        spliced.append(loss.ce)
        kl.append(loss.kl)
    position = np.nonzero(measured(model, test))[1]
    followed = position < test.tokens.shape[1] - 1
    recorded = ours.recorded
    return {
        "ce_loss_without_sae": float(np.concatenate(clean)[followed].mean()),
        "ce_loss_with_sae": float(np.concatenate(spliced)[followed].mean()),
        "ce_loss_with_ablation": blank_ce(model, ours.source.hook, test),
        "kl_div_with_sae": float(np.concatenate(kl).mean()),
        "mse": recorded["mse"] * ours.source.d_out,
        "explained_variance": 1 - recorded["fvu"],
        "l0": recorded["l0"],
    }


def blank_ce(model: DecoderModel, hook: str, test: Contexts) -> float:
    """CE with zeros at all positions, of a residual stream."""
    blank = torch.zeros(*test.tokens.shape, model.d_model)
    followed = measured(model, test)
    followed[:, -1] = False
    hidden = model.suffix(blank, HookEntry(Hook.parse(hook).layer))[torch.from_numpy(followed)]
    labels = torch.from_numpy(test.labels[followed])
    return float(cross_entropies(model.head, hidden, labels, torch.arange(len(labels))).mean())


def measured(model: DecoderModel, contexts: Contexts) -> np.ndarray:
    """[document, position]: all but special tokens, of which BOS is the first."""
    allowed: np.ndarray = ~np.isin(contexts.tokens, model.tokenizer.all_special_ids)
    return allowed


# --- comparisons --------------------------------------------------------------------------------

RECORDED = {
    "ce_loss_without_sae": "clean_ce",
    "ce_loss_with_sae": "ce",
    "ce_loss_with_ablation": "ablated_ce",
    "kl_div_with_sae": "kl",
    "mse": "mse",
    "explained_variance": "fvu",
    "l0": "l0",
}
DIFFERENCES = {
    "ce_loss_without_sae": "a record counts each context's last token too, with its next one",
    "ce_loss_with_sae": "as above",
    "ce_loss_with_ablation": "as above; a record leaves BOS as it is, as the splice does",
    "kl_div_with_sae": "none",
    "mse": "a record's is per dimension",
    "explained_variance": "a record holds fvu = 1 − explained variance",
    "l0": "none",
}


def require_equal(theirs: Mapping[str, float], ours: Mapping[str, float]) -> None:
    """Raise `AssertionError` where a figure under one definition differs."""
    for name, value in ours.items():
        difference = abs(theirs[name] / value - 1)
        assert difference <= TOLERANCE, f"{name}: {theirs[name]} and {value}: {difference:.1e} off"


def print_figures(
    theirs: Mapping[str, float], same: Mapping[str, float], recorded: Mapping[str, float]
) -> None:
    print(f"  {'':22}{'run_evals':>12}{'mdlbench':>12}{'off by':>9}{'record':>12}  definition")
    for name, value in same.items():
        print(
            f"  {name:22}{theirs[name]:12.6f}{value:12.6f}{abs(theirs[name] / value - 1):9.0e}"
            f"{recorded[RECORDED[name]]:12.6f}  {DIFFERENCES[name]}"
        )


@dataclass(frozen=True)
class Subjects:
    """What both sides are given."""

    whole: Any
    transformer: Any
    model: DecoderModel
    test: Contexts
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Subjects:
        whole = random_model(GPT2)
        model = cut(whole, "gpt2")
        write_sae(folder / "sae", activations(model), N_LATENTS)
        return cls(whole, hooked(whole), model, random_contexts(N_CONTEXTS, seed=1), folder / "sae")


def compare_evaluations(subjects: Subjects) -> None:
    model, test = subjects.model, subjects.test
    sae, coder = load_in_saelens(subjects.folder), load_coder(f"saelens:{subjects.folder}")

    def theirs(batch_size: int) -> dict[str, float]:
        return by_saelens(sae, subjects.transformer, test.tokens, [BOS], batch_size)

    clock = Clock()
    for batch_size in BATCH_SIZES:
        clock.time(f"batches of {batch_size}", lambda size=batch_size: theirs(size))
    fastest = min(BATCH_SIZES, key=lambda size: clock.median(f"batches of {size}"))
    for _ in range(TURNS):
        figures = clock.time("run_evals", lambda: theirs(fastest))
        ours = clock.time("mdlbench", lambda: by_mdlbench(model, coder, test))
    same = as_saelens_defines(ours, model, coder, test)
    require_equal(figures, same)
    print(f"1. one SAE: clean, ablated and spliced CE, KL, MSE, explained variance, L0\n{LINE}")
    print_figures(figures, same, ours.recorded)
    print(f"  all equal within {TOLERANCE:.0e}: asserted")
    for name in [f"batches of {size}" for size in BATCH_SIZES]:
        print(f"  run_evals, {name:20}{clock.median(name):9.3f} s    (once)")
    print(f"  run_evals, batches of {fastest:<9}{clock.median('run_evals'):9.3f} s")
    print(f"  mdlbench{'':23}{clock.median('mdlbench'):9.3f} s")
    print(f"  faster by{'':22}{clock.ratio('run_evals', 'mdlbench'):9.2f} ×    (at least 2)\n")


@torch.no_grad()
def compare_operating_points(subjects: Subjects) -> None:
    """Further steps of one SAE, each spliced, against a pass from the hook to the logits."""
    coder = load_coder(f"saelens:{subjects.folder}")
    source = open_source(subjects.model, subjects.test)
    layer = Hook.parse(HOOK).layer
    tokens = torch.from_numpy(subjects.test.tokens)
    residual = subjects.model.capture(tokens, [Hook.parse(HOOK)])[Hook.parse(HOOK)]
    latents = latents_of(rounds_of(source), coder)
    latents.encode("test")
    clock = Clock()
    for turn in range(2 * TURNS):
        step = FINEST * 2**turn
        clock.time("pass", lambda: subjects.transformer(residual, start_at_layer=layer))
        clock.time("point", lambda step=step: latents.distortions([PlainStep(step)]))
    print(f"2. each further operating point\n{LINE}")
    print(f"  one bare pass from the hook to logits{clock.median('pass'):12.3f} s")
    print(f"  quantised, decoded, spliced, compared{clock.median('point'):12.3f} s")
    print(f"  {'':37}{clock.ratio('point', 'pass'):12.2f} ×    (at most 1.15)\n")


def compare_eight_saes(subjects: Subjects) -> None:
    """Eight SAEs at one hook on one source, and how often the model's first block runs."""
    passes: list[int] = []
    attention = subjects.whole.transformer.h[0].attn
    handle = attention.register_forward_pre_hook(lambda *_: passes.append(1))
    x = activations(subjects.model)
    clock = Clock()
    passes.clear()
    source = clock.time("open", lambda: open_source(subjects.model, subjects.test))
    n_opening = len(passes)
    rounds = rounds_of(source)
    clock.time("reference", rounds.reference)
    for seed in range(N_SAES):
        coder = load_coder(f"saelens:{write_sae(subjects.folder, x, N_LATENTS, seed)}")
        latents = latents_of(rounds, coder)
        clock.time("SAE", lambda latents=latents: latents.encode("test"))
    handle.remove()
    shared = clock.median("open") + clock.median("reference")
    one, all_eight = shared + clock.seconds["SAE"][0], shared + sum(clock.seconds["SAE"])
    n_prefixes = len(passes) - n_opening
    assert n_prefixes == 1, f"{n_prefixes} passes through the prefix"
    print(f"3. {N_SAES} SAEs at one hook\n{LINE}")
    print(f"  prefix passes over the tokens{n_prefixes:16}      for 1 SAE and for {N_SAES}")
    print(f"  prefix, clean and ablated, for all{shared:13.3f} s")
    print(f"  each SAE, encoded and spliced{clock.median('SAE'):18.3f} s")
    print(f"  1 SAE{one:42.3f} s")
    print(f"  {N_SAES} SAEs{all_eight:41.3f} s    × {all_eight / one:.2f}\n")


# --- memory -------------------------------------------------------------------------------------


def suite(hook: str) -> Suite:
    """A language suite at default settings, with a coarse grid where `latent_rms` is the unit."""
    return Suite.model_validate(
        {
            "name": "memory",
            "title": "memory",
            "source": {
                "kind": "language",
                "model": {"kind": "hub", "name": "gpt2"},
                "texts": [{"kind": "python-docs", "name": "unused"}],
                "place": {"hook": hook, "context": CONTEXT, "prepend_bos": True},
                "tokens": {"calibration": MEMORY_TOKENS, "test": MEMORY_TOKENS},
            },
            "steps": {"finest": 0.0625, "octaves": 7, "unit": "latent_rms"},
            "tolerances": [{"metric": "fvu", "epsilons": [1.0]}],
            "headline": {"metric": "fvu", "epsilon": 1.0},
        }
    )


def evaluate_whole(
    model: DecoderModel, sae: Path, hook: str, n_calibration: int, n_test: int
) -> None:
    """A record, from contexts on, as `mdlbench eval` makes it."""
    splits = {
        "calibration": random_contexts(n_calibration // CONTEXT, seed=2),
        "test": random_contexts(n_test // CONTEXT, seed=1),
    }
    source = Language(model, splits, Site(hook=hook))
    bench = Bench.open(InProcess(Opened(suite(hook), source)), source.site)
    bench.references()
    named = NamedCoder(f"saelens:{sae}")
    evaluate_coder(bench, named, bench.identity(bench.identify(named)))


def evaluate_small(n_tokens: str) -> None:
    """In a child process: a small model with GPT-2's vocabulary, on so many test tokens."""
    model = cut(random_model(SMALL))
    with TemporaryDirectory() as folder:
        sae = write_sae(Path(folder), activations(model, SMALL_HOOK), 4096, hook=SMALL_HOOK)
        evaluate_whole(model, sae, SMALL_HOOK, MEMORY_TOKENS, int(n_tokens))


def evaluate_widest(folder: str) -> None:
    """In a child process: GPT-2's shapes and the widest SAE, on one full block of tokens."""
    model = cut(random_model(GPT2))
    evaluate_whole(model, Path(folder), HOOK, MEMORY_TOKENS // 4, MEMORY_TOKENS)


def write_widest(folder: str) -> None:
    """In a child process, whose memory is not counted."""
    write_sae(Path(folder), activations(cut(random_model(GPT2))), WIDEST)


CHILDREN = {child.__name__: child for child in (evaluate_small, evaluate_widest, write_widest)}


def peak_of(child: Callable[[str], None], argument: object) -> float:
    """MiB that a function needs in a process of its own."""
    command = [sys.executable, __file__, child.__name__, str(argument)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.split()[-1])


def compare_memory() -> None:
    """Before this process grows, whose size a child would start from."""
    print(f"4. peak memory of whole evaluations, in blocks of {BLOCK_TOKENS:,} tokens\n{LINE}")
    sizes = [MEMORY_TOKENS, 2 * MEMORY_TOKENS, 8 * MEMORY_TOKENS]
    peaks = [peak_of(evaluate_small, size) for size in sizes]
    for size, peak in zip(sizes, peaks, strict=True):
        print(f"  small model, {size:7,} test tokens{peak:11.0f} MiB   × {peak / peaks[0]:.3f}")
    with TemporaryDirectory() as folder:
        peak_of(write_widest, folder)
        peak = peak_of(evaluate_widest, folder)
    print(f"  GPT-2 size, {WIDEST:,} latents{peak:15.0f} MiB    (at most 6 GB: 5,722 MiB)\n")


LINE = "-" * 96


def main() -> None:
    started, load = time.perf_counter(), os.getloadavg()[0]
    print(
        f"{N_CONTEXTS} contexts of {CONTEXT} tokens, GPT-2 small's shapes, {N_LATENTS:,} latents; "
        f"{torch.get_num_threads()} threads\nof {os.cpu_count()} cores, medians of {TURNS} turns; "
        f"load average before the run: {load:.1f}\n"
    )
    compare_memory()
    with TemporaryDirectory() as folder:
        subjects = Subjects.make(Path(folder))
        compare_evaluations(subjects)
        compare_operating_points(subjects)
        compare_eight_saes(subjects)
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        CHILDREN[sys.argv[1]](*sys.argv[2:])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        main()
