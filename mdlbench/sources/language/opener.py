"""Opens a language suite's sources: text, model, and the contexts of each split."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mdlbench.errors import HubError, UsageError, did_you_mean
from mdlbench.hub.items import Item
from mdlbench.sources.kinds.language import FileText, LanguageConfig, Text
from mdlbench.sources.language.cut import LanguageModel
from mdlbench.sources.language.hooks import READ, parsed
from mdlbench.sources.language.load import load_model
from mdlbench.sources.language.needs import needs
from mdlbench.sources.language.processing import FOLDED_NORMS
from mdlbench.sources.language.site import site_of
from mdlbench.sources.language.source import Language
from mdlbench.sources.language.text import Contexts, MissingTextError, Tokenizer, pack, read
from mdlbench.sources.protocol import Setting, SourceOpener, Split
from mdlbench.suite.site import Origin, Place, Site

TEST_SHARE = 0.1
"""The share of a text's contexts that is for testing."""
SLACK = 1.1
"""More contexts than the budgets need, since the split is drawn."""
LEAST_CONTEXTS = 200
"""So many are split even for the smallest budgets, which leaves enough for each split."""
LEAST_DOCUMENTS: dict[Split, int] = {"calibration": 1, "test": 8}
"""Intervals come from resampled test documents, so a handful of documents is too few."""


class LanguageOpener(SourceOpener[LanguageConfig]):
    """Opens a language model's activations, site after site.

    The last model is kept: sites with the same options, opened in a row, have it loaded once.
    """

    _text: Text | None = None
    _model: tuple[Site, LanguageModel] | None = None

    def open(self, site: Site) -> Language:
        """The activations at a site.

        Raises:
            HubError: the model or the text is not available.
            SourceError: what the model computes is not finite.
            UsageError: the model lacks the hook point or cannot read such long contexts, or the
                text does not suffice.
        """
        _refuse_folded(site)
        model = self.model(site)
        _refuse_long_contexts(model, site)
        splits = self.contexts(site, model.tokenizer)
        return Language(model, splits, site, self.on_stage, self.setting.cache)

    def settle(self) -> None:
        """Settle what text is measured on.

        Raises:
            HubError: none of the suite's texts is available.
            UsageError: the text asked for is not there.
        """
        self.text()

    def settled(self) -> Setting:
        """The setting with the text that was settled on."""
        named = f"{self.suite.name}:{self.text().name}"
        return replace(self.setting, text=self.setting.text or named)

    def site_of(self, origin: Origin, place: Place, name: str) -> Site:
        return site_of(self.config, self.text().name, self.setting.dtype, origin, place, name)

    def needs(self) -> Iterator[Item]:
        return needs(self.config, self.suite.folder)

    def text(self) -> Text:
        """The text to measure on; by default the suite's first that is available."""
        if self._text is None:
            self._text = self._chosen_text()
        return self._text

    def model(self, site: Site) -> LanguageModel:
        """The language model as a site has it; raises as `open` does."""
        if self._model is not None and self._model[0].model_options == site.model_options:
            return self._model[1]
        self._model = None
        self.on_stage(f"loading {self.config.model.name}")
        dtype = getattr(torch, self.setting.dtype)
        model = load_model(self.config.model, site.model_options, self.setting.device, dtype)
        self._model = (site, model)
        return model

    def _chosen_text(self) -> Text:
        asked, named = self.setting.text, {text.name: text for text in self.config.texts}
        if asked is None:
            return self._first_text(self.config.texts)
        suite, _, key = asked.partition(":")
        if key in named and suite == self.suite.name:
            return named[key]
        if asked in named:
            self._refuse_path(asked)
            return named[asked]
        if Path(asked).exists():
            name = re.sub(r"[^a-z0-9]+", "-", Path(asked).stem.lower()).strip("-")[:40]
            return FileText(kind="file", name=name or "text", path=str(Path(asked).resolve()))
        raise UsageError(f"--text {asked}: no such file. {did_you_mean(asked, named)}")

    def _refuse_path(self, name: str) -> None:
        """Raise `UsageError` where a text's name is also a path, as for suites and keys."""
        if Path(name).exists():
            raise UsageError(
                f"--text {name}: a text of suite {self.suite.name!r} and a path here: write "
                f"{self.suite.name}:{name} for the one, ./{name} for the other"
            )

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
                for reason in reasons:
                    self.on_notice(f"{reason}; measured on {text.name} instead")
                return text
            self.on_stage(reasons[-1])
        raise HubError("; ".join(reasons))

    def contexts(self, site: Site, tokenizer: Tokenizer) -> dict[Split, Contexts]:
        """The contexts of each split, in an order drawn with the suite's seed.

        Which split a context falls to depends on its place in the text alone, so SAEs trained on
        the calibration split have not seen the test split, whatever the budgets were.
        """
        context = site.context or 0
        budgets: dict[Split, int] = {
            "calibration": self.setting.calibration_tokens or self.config.tokens.calibration,
            "test": self.config.tokens.test,
        }
        wanted = {split: max(1, budget // context) for split, budget in budgets.items()}
        packed = pack(
            read(self.text(), self.suite.folder),
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
        """Unless a limit was asked for: then one will do."""
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
            f"{model.name} reads; write `place: {{context: {model.n_positions}}}` into the suite"
        )


def _refuse_folded(site: Site) -> None:
    reads_mlp = any(hook.kind == "mlp_in" for hook in parsed(site.hook))
    if FOLDED_NORMS in site.model_options and reads_mlp:
        raise UsageError(
            f"{site.hook} with {FOLDED_NORMS}: with this option, what the MLP is given is without "
            f"the normalisation's gain; give the hook {READ['mlp_normalised']} without the option"
        )


def _contexts_for(wanted: dict[Split, int]) -> int:
    """So many contexts that both splits are likely to be filled."""
    share: dict[Split, float] = {"calibration": 1 - TEST_SHARE, "test": TEST_SHARE}
    needed = math.ceil(SLACK * max(n / share[split] for split, n in wanted.items()))
    return max(LEAST_CONTEXTS, needed)
