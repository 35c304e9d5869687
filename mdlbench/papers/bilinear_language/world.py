"""The language model on the three texts that the experiment needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from mdlbench.console.stages import OnStage
from mdlbench.errors import UsageError
from mdlbench.papers.bilinear_language.host import Host
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.sources.kinds.language import LanguageConfig
from mdlbench.sources.language.cut import LanguageModel
from mdlbench.sources.language.opener import LanguageOpener
from mdlbench.sources.language.text import Contexts
from mdlbench.sources.protocol import Setting, Split
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import SILENT, UNSAID, Site

SPARE = 1.05
"""More contexts than the tokens need, since some tokens are special."""


class World(NamedTuple):
    """The model where it is trained and where it is scored.

    Attributes:
        training: on the training text, in bfloat16.
        held_out: on contexts of that text that are never trained on.
        scored: on the suite's text, in float32.
        site: of the training text; its hook is the suite's.
        scored_site: the same of the suite's text.
        splits: the contexts of the suite's text.
    """

    training: Host
    held_out: Host
    scored: Host
    site: Site
    scored_site: Site
    splits: Mapping[Split, Contexts]

    @property
    def where(self) -> dict[str, str]:
        """What the layers are and what they are trained on, as JSON has it."""
        return {"training": self.training.sha256, "model": self.scored.model.sha256}


def open_world(plan: Plan, text: str, on_stage: OnStage) -> World:
    """The suite's model on its own text and on a training text.

    Args:
        plan: suite, and how many tokens.
        text: a file or folder, or the name of one of the suite's texts.
        on_stage: told what takes long.

    Raises:
        UsageError: the suite is none of a language model, or the text is not there.
        HubError: the model is not available.
    """
    suite = load_suite(plan.suite)
    config = suite.source
    if not isinstance(config, LanguageConfig):
        raise UsageError(f"suite {plan.suite!r} has no language model")
    training = Setting(text=text, dtype="bfloat16", calibration_tokens=_budget(plan, config))
    opened = LanguageOpener(config, suite, training, on_stage)
    scoring = LanguageOpener(config, suite, Setting(text=plan.scored_text), on_stage)
    site, trained, splits = _opened(opened)
    scored_site, scored, scored_splits = _opened(scoring)
    first = site.first_position or 1
    return World(
        Host(trained, splits["calibration"], first),
        Host(trained, splits["test"], first),
        Host(scored, scored_splits["test"], first),
        site,
        scored_site,
        scored_splits,
    )


def _opened(opener: LanguageOpener) -> tuple[Site, LanguageModel, dict[Split, Contexts]]:
    """The suite's site on an opener's text, the model, and the contexts."""
    site = opener.site_of(SILENT, UNSAID, f"suite {opener.suite.name!r}")
    model = opener.model(site)
    return site, model, opener.contexts(site, model.tokenizer)


def _budget(plan: Plan, config: LanguageConfig) -> int:
    """Tokens of contexts in which so many are measured, or that are trained on together."""
    context = config.place.context or 0
    measured = max(1, context - config.first_position)
    contexts = math.ceil(SPARE * (plan.tokens + plan.held_out) / measured)
    return context * max(contexts, plan.tuning_contexts)
