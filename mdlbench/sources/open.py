"""The activation sources that a suite asks for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mdlbench.errors import HubError, UsageError, did_you_mean
from mdlbench.sources.images import Images
from mdlbench.sources.language import Language
from mdlbench.sources.models import LanguageModel, load_model
from mdlbench.sources.protocol import ActivationSource, Split
from mdlbench.sources.synthetic import Synthetic
from mdlbench.sources.text import Contexts, MissingTextError, Tokenizer, pack, read
from mdlbench.stages import OnStage, silent
from mdlbench.suite.site import Site
from mdlbench.suite.sources import FileText, ImagesConfig, LanguageConfig, SyntheticConfig, Text
from mdlbench.suite.suite import Suite

TEST_SHARE = 0.1
"""Share of a text's contexts in the test split."""
SLACK = 1.1
"""More contexts than the budgets need, since the split is drawn."""
LEAST_CONTEXTS = 200
"""The fewest contexts that are split, so that each split gets enough."""
LEAST_DOCUMENTS: dict[Split, int] = {"calibration": 1, "test": 8}
"""Intervals come from resampled test documents, so a handful of documents is too few."""


@dataclass(frozen=True)
class Setting:
    """How a suite is run.

    Attributes:
        device: where to compute.
        limit: documents of each split, for a quick look.
        text: one of a language suite's texts by name, or a path; by default the suite's first
            that is available.
        dtype: precision of the language model.
        calibration_tokens: for a language suite, instead of its own budget.
    """

    device: str = "cpu"
    limit: int | None = None
    text: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    calibration_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, not {self.limit}")


class Opener:
    """Opens a suite's sources one after the other.

    The last model is kept: it is loaded once for sites with the same options, opened in a row.
    """

    def __init__(
        self, suite: Suite, setting: Setting = Setting(), on_stage: OnStage = silent
    ) -> None:
        self.suite, self.setting = suite, setting
        self._on_stage = on_stage
        self._text: Text | None = None
        self._model: tuple[Site, LanguageModel] | None = None

    def open(self, site: Site) -> ActivationSource:
        """The activations at a site.

        Raises:
            HubError: the model or the text is not available.
            SourceError: what the model computes is not finite.
            UsageError: the model lacks the hook point or cannot read such long contexts, or the
                text is too short.
        """
        config, setting = self.suite.source, self.setting
        if isinstance(config, ImagesConfig):
            return Images(self.suite, setting.device, setting.limit)
        if isinstance(config, SyntheticConfig):
            return Synthetic(config, setting.device, setting.limit)
        model = self._load_model(config, site)
        _refuse_long_contexts(model, site)
        splits = self._contexts(config, site, model.tokenizer)
        return Language(model, splits, site, self._on_stage)

    def choose_text(self) -> None:
        """Settle on which text to measure.

        Raises:
            HubError: none of the suite's texts is available.
            UsageError: the text that was named does not exist.
        """
        if isinstance(self.suite.source, LanguageConfig):
            self.text(self.suite.source)

    def text(self, config: LanguageConfig) -> Text:
        """The text to measure on; by default the suite's first that is available."""
        if self._text is None:
            self._text = self._chosen_text(config)
        return self._text

    def _load_model(self, config: LanguageConfig, site: Site) -> LanguageModel:
        if self._model is not None and self._model[0].model_options == site.model_options:
            return self._model[1]
        self._model = None
        self._on_stage(f"loading {config.model.name}")
        dtype = getattr(torch, self.setting.dtype)
        model = load_model(config.model, site.model_options, self.setting.device, dtype)
        self._model = (site, model)
        return model

    def _chosen_text(self, config: LanguageConfig) -> Text:
        asked, named = self.setting.text, {text.name: text for text in config.texts}
        if asked is None:
            return self._first_text(config.texts)
        if asked in named:
            return named[asked]
        if Path(asked).exists():
            name = re.sub(r"[^a-z0-9]+", "-", Path(asked).stem.lower()).strip("-")[:40]
            return FileText(kind="file", name=name or "text", path=str(Path(asked).resolve()))
        raise UsageError(f"--text {asked}: no such file. {did_you_mean(asked, named)}")

    def _first_text(self, texts: list[Text]) -> Text:
        """The first that is available; a single one is not tried: reading it tells as much."""
        if len(texts) == 1:
            return texts[0]
        reasons: list[str] = []
        for text in texts:
            try:
                next(read(text, self.suite.folder))
            except (HubError, MissingTextError) as error:
                reasons.append(f"{text.name} is not available: {error}")
            except StopIteration:
                reasons.append(f"{text.name} is not available: it is empty")
            else:
                return text
            self._on_stage(reasons[-1])
        raise HubError("; ".join(reasons))

    def _contexts(
        self, config: LanguageConfig, site: Site, tokenizer: Tokenizer
    ) -> dict[Split, Contexts]:
        """The contexts of each split, in an order drawn with the suite's seed.

        The split of a context depends on its place in the text alone, so SAEs trained on
        the calibration split have not seen the test split, whatever the budgets were.
        """
        context = site.context or 0
        budgets: dict[Split, int] = {
            "calibration": self.setting.calibration_tokens or config.tokens.calibration,
            "test": config.tokens.test,
        }
        wanted = {split: max(1, budget // context) for split, budget in budgets.items()}
        packed = pack(
            read(self.text(config), self.suite.folder),
            tokenizer,
            _contexts_for(wanted),
            context,
            bool(site.prepend_bos),
        )
        draw = np.random.default_rng(self.suite.seed).random(len(packed.tokens))
        order = np.argsort(draw)
        is_test = draw[order] < TEST_SHARE
        chosen: dict[Split, np.ndarray] = {"calibration": order[~is_test], "test": order[is_test]}
        for split, n in wanted.items():
            chosen[split] = chosen[split][:n]
            self._require_enough(len(chosen[split]), split, site)
        return {
            split: Contexts(*(array[contexts[: self.setting.limit]] for array in packed))
            for split, contexts in chosen.items()
        }

    def _require_enough(self, n_documents: int, split: Split, site: Site) -> None:
        """Refuse too few documents; with a limit, one is enough."""
        least = 1 if self.setting.limit else LEAST_DOCUMENTS[split]
        if n_documents < least:
            raise UsageError(
                f"text {site.text}: its contexts of {site.context} tokens do not fill two splits: "
                f"the {split} split gets {n_documents} of at least {least}; give a longer text "
                "with --text, or the suite a larger budget of tokens"
            )


def _refuse_long_contexts(model: LanguageModel, site: Site) -> None:
    if (site.context or 0) > model.n_positions:
        raise UsageError(
            f"contexts of {site.context} tokens are longer than the {model.n_positions} that "
            f"{model.name} reads"
        )


def _contexts_for(wanted: dict[Split, int]) -> int:
    """A number of contexts that is likely to fill both splits."""
    share: dict[Split, float] = {"calibration": 1 - TEST_SHARE, "test": TEST_SHARE}
    needed = math.ceil(SLACK * max(n / share[split] for split, n in wanted.items()))
    return max(LEAST_CONTEXTS, needed)
