"""The activation sources that a suite asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mdlbench.errors import HubError, UsageError, did_you_mean
from mdlbench.sources import ActivationSource, Split
from mdlbench.sources.images import ImageSource
from mdlbench.sources.language import LanguageActivations
from mdlbench.sources.models import LanguageModel, load_model
from mdlbench.sources.text import Contexts, Tokenizer, pack, read
from mdlbench.suite import FileText, LanguageSource, Site, Suite, Text

Report = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """How a suite is run.

    Attributes:
        device: where to compute.
        limit: documents of each split, for a quick look.
        text: one of a language suite's texts by name, or a path; by default the suite's first
            that can be had.
        dtype: of the language model.
        calibration_tokens: of a language suite, instead of its own budget.
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
    """Opens a suite's sources one after the other; a model is loaded once for all its sites."""

    def __init__(
        self, suite: Suite, setting: Setting = Setting(), report: Report = lambda stage: None
    ) -> None:
        self.suite, self.setting = suite, setting
        self._report = report
        self._text: Text | None = None
        self._model: tuple[Site, LanguageModel] | None = None

    def open(self, site: Site) -> ActivationSource:
        """The activations at a site.

        Raises:
            HubError: the model or the text cannot be had.
            UsageError: the model lacks the hook point, or the text does not suffice.
        """
        config, setting = self.suite.source, self.setting
        if not isinstance(config, LanguageSource):
            return ImageSource(self.suite, setting.device, setting.limit)
        model = self._load_model(config, site)
        splits = self._contexts(config, site, model.tokenizer)
        return LanguageActivations(model, splits, site, self._report)

    def text(self, config: LanguageSource) -> Text:
        """The text to measure on; the suite's first that can be had, unless one was asked for."""
        if self._text is None:
            self._text = self._chosen_text(config)
        return self._text

    def _load_model(self, config: LanguageSource, site: Site) -> LanguageModel:
        if self._model is not None and self._model[0].model_options == site.model_options:
            return self._model[1]
        self._model = None
        self._report(f"loading {config.model.name}")
        dtype = getattr(torch, self.setting.dtype)
        model = load_model(config.model, site.model_options, self.setting.device, dtype)
        self._model = (site, model)
        return model

    def _chosen_text(self, config: LanguageSource) -> Text:
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
        for text in texts[:-1]:
            try:
                next(read(text, self.suite.folder))
            except (HubError, StopIteration) as error:
                self._report(f"{text.name} cannot be had: {error}")
            else:
                return text
        return texts[-1]

    def _contexts(
        self, config: LanguageSource, site: Site, tokenizer: Tokenizer
    ) -> dict[Split, Contexts]:
        """Contexts in an order drawn with the suite's seed; the test split first, then the rest."""
        context = site.context or 0
        wanted = self.setting.calibration_tokens or config.tokens.calibration
        n_test, n_calibration = (max(1, n // context) for n in (config.tokens.test, wanted))
        packed = pack(
            read(self.text(config), self.suite.folder),
            tokenizer,
            n_test + n_calibration,
            context,
            bool(site.prepend_bos),
        )
        n_found = len(packed.tokens)
        if n_found < 2:
            raise UsageError("the text fills a single context, and two splits need two")
        order = np.random.default_rng(self.suite.seed).permutation(n_found)
        n_test = min(n_test, n_found // 2)
        chosen = {"test": order[:n_test], "calibration": order[n_test:]}
        return {
            split: Contexts(*(array[chosen[split][: self.setting.limit]] for array in packed))
            for split in ("calibration", "test")
        }
