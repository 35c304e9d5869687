"""The language model with one bilinear MLP: a source of activations like any other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mdlbench.console.stages import OnStage
from mdlbench.errors import UsageError
from mdlbench.papers.bilinear_language.gated import Gated
from mdlbench.papers.bilinear_language.host import Host, replaced
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.papers.bilinear_language.world import World
from mdlbench.sources.kinds.language import LanguageConfig
from mdlbench.sources.language.cut import (
    NOTHING,
    Activation,
    Change,
    Heads,
    Logits,
    Residual,
    TokenIds,
    Written,
)
from mdlbench.sources.language.hooks import Hook, HookEntry
from mdlbench.sources.language.source import Language
from mdlbench.sources.language.text import Contexts, measured
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import Split
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Headline, Steps, Suite, Tolerance

STEPS = Steps(finest=0.0625, octaves=7, unit="latent_rms")
"""Squares cancel each other, so that they are to be sent finer than an SAE's latents."""


class Converted:
    """A language model one of whose MLPs is another layer, where the suite measures.

    Special tokens and positions before the host's first one keep the model's own MLP. It is a
    `LanguageModel`, and is cut behind that MLP.

    Args:
        host: the model.
        layer: whose MLP is replaced.
        change: what stands in its place.
    """

    def __init__(self, host: Host, layer: int, change: Gated) -> None:
        model = host.model
        self._model, self._mlp = model, host.mlp(layer)
        self._layer, self._change, self._first_position = layer, change, host.first_position
        self.name = f"{model.name} with a bilinear MLP {layer}"
        self.tokenizer, self.device = model.tokenizer, model.device
        self.d_model, self.n_layers = model.d_model, model.n_layers
        self.n_positions, self.is_parallel = model.n_positions, model.is_parallel
        self.head, self.settings = model.head, model.settings
        facts = f"{model.sha256} {layer} {change.sha256} {host.first_position}"
        self.sha256 = hashlib.sha256(facts.encode()).hexdigest()
        self.accepted: set[Hook] = set()

    @property
    def module(self) -> Any:
        """The model with its own MLP."""
        return self._model.module

    def logits(self, tokens: TokenIds) -> Logits:
        with self._converted(tokens):
            return self._model.logits(tokens)

    def changed(self, tokens: TokenIds, changes: Mapping[Hook, Change]) -> Logits:
        with self._converted(tokens):
            return self._model.changed(tokens, changes)

    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        with self._converted(tokens):
            return self._model.capture(tokens, hooks)

    def write_z(self, layer: int, z: Heads) -> Written:
        return self._model.write_z(layer, z)

    def suffix(
        self, residual: Residual, entry: HookEntry, changes: Mapping[Hook, Change] = NOTHING
    ) -> Residual:
        """See `LanguageModel`; raises `UsageError` before the MLP: which tokens are they?"""
        if entry.layer <= self._layer:
            raise UsageError(f"{self.name} is cut behind that MLP only, not in layer {entry.layer}")
        return self._model.suffix(residual, entry, changes)

    @contextmanager
    def _converted(self, tokens: TokenIds) -> Iterator[None]:
        """While the layer stands in the MLP's place at the tokens that are measured."""
        numbers = tokens.cpu().numpy()
        mask = measured(Contexts(numbers, numbers), self.tokenizer, self._first_position)
        where = torch.from_numpy(np.ascontiguousarray(mask)).to(self.device)
        with replaced(self._mlp, where, self._change):
            yield


class ConvertedOpener(Opener):
    """Opens sites of a model with one bilinear MLP; what they compute is kept in the cache.

    Args:
        suite: what is measured.
        model: the model.
        splits: the contexts of each split.
        text: their name.
        on_stage: told what takes long.
    """

    def __init__(
        self,
        suite: Suite,
        model: Converted,
        splits: dict[Split, Contexts],
        text: str,
        on_stage: OnStage,
    ) -> None:
        super().__init__(suite, Setting(text=text), on_stage)
        self._converted, self._splits, self._on_stage = model, splits, on_stage

    def open(self, site: Site) -> Language:
        """The activations at a site; raises as `Language` does."""
        return Language(self._converted, self._splits, site, self._on_stage, cache=True)


def suite_of(plan: Plan) -> Suite:
    """The plan's suite with the plan's tolerances, at no hook point, without SAEs.

    Raises:
        UsageError: it is none of a language model.
    """
    base = load_suite(plan.suite)
    if not isinstance(base.source, LanguageConfig):
        raise UsageError(f"suite {plan.suite!r} has no language model")
    place = base.source.place.model_copy(update={"hook": None})
    return base.model_copy(
        update={
            "name": f"{base.name}-bilinear-{plan.studied}",
            "source": base.source.model_copy(update={"place": place}),
            "steps": STEPS,
            "tolerances": [
                Tolerance(metric="delta_ce", epsilons=list(plan.epsilons)),
                Tolerance(metric="fvu", epsilons=list(plan.fvus)),
            ],
            "headline": Headline(metric="delta_ce", epsilon=plan.epsilons[-1]),
            "replicates": plan.replicates,
            "saes": [],
        }
    )


def open_converted(world: World, layer: Gated, plan: Plan, on_stage: OnStage) -> ConvertedOpener:
    """The model with the studied layer, on as many of the suite's contexts as are planned."""
    wanted: dict[Split, int] = {"calibration": plan.code_contexts, "test": plan.test_contexts}
    splits = {
        split: Contexts(*(array[:n] for array in world.splits[split]))
        for split, n in wanted.items()
    }
    model = Converted(world.scored, plan.studied, layer)
    return ConvertedOpener(suite_of(plan), model, splits, plan.scored_text, on_stage)


def output_site(world: World, plan: Plan) -> Site:
    """Where the MLP's output is read and reconstructed."""
    return world.scored_site.model_copy(update={"hook": Hook(plan.studied, "mlp_out").name})


def transcoder_site(world: World, plan: Plan) -> Site:
    """Where the MLP's input is read, and its output reconstructed."""
    hooks = {
        "hook": Hook(plan.studied, "mlp_in").name,
        "hook_out": Hook(plan.studied, "mlp_out").name,
    }
    return world.scored_site.model_copy(update=hooks)
