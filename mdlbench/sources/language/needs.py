"""What a language suite needs of the hub and of package indices: its model and its texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mdlbench.errors import HubError
from mdlbench.hub.hub import hub_file, hub_files
from mdlbench.hub.items import Item, datasets_cache, snapshots
from mdlbench.sources.kinds.language import HubModel, HubText, LanguageConfig, PackagedModel
from mdlbench.sources.language.load import official_name
from mdlbench.sources.language.text import read
from mdlbench.sources.packaged import ensure, installed_file, package_folder

MODEL_FILE = re.compile(r"[^/]+\.(json|txt|safetensors)|tokenizer\.model")
"""Files of a model's repository that `transformers` reads."""
OLD_WEIGHTS = re.compile(r"pytorch_model[^/]*\.bin")
"""Weights of repositories that have no safetensors."""


def needs(config: LanguageConfig, folder: Path) -> Iterator[Item]:
    """The model, then the texts that are on the hub."""
    yield _model(config.model)
    local = [text.name for text in config.texts if not isinstance(text, HubText)]
    for text in config.texts:
        if isinstance(text, HubText):
            yield _text(text, folder, instead=next(iter(local), None))


def _model(model: HubModel | PackagedModel) -> Item:
    label = f"model {model.name}"
    if isinstance(model, PackagedModel):
        wanted = (model.package, model.version, model.file, model.sha256)
        places, has = ((package_folder(*wanted[:2]), ""),), installed_file(*wanted[:3]) is not None
        return Item(label, lambda: ensure(*wanted), places, installed=has)
    repo = model.name if "/" in model.name else official_name(model.name)
    return Item(label, lambda: _get_model(repo, model.revision), ((snapshots(repo), ""),))


def _get_model(repo: str, revision: str | None) -> None:
    names = hub_files(repo, revision=revision)
    wanted = [name for name in names if MODEL_FILE.fullmatch(name)]
    weights = [name for name in wanted if name.endswith(".safetensors")]
    weights = weights or [name for name in names if OLD_WEIGHTS.fullmatch(name)]
    if not weights:
        raise HubError(f"{repo}: no weights among its files: {', '.join(names) or 'none'}")
    for name in {*wanted, *weights}:
        hub_file(repo, name, revision=revision)


def _text(text: HubText, folder: Path, instead: str | None) -> Item:
    from datasets.naming import camelcase_to_snakecase

    *owner, name = text.dataset.split("/")
    prepared = datasets_cache() / "___".join([*owner, camelcase_to_snakecase(name)])
    places = ((snapshots(text.dataset, "dataset"), ""), (prepared, ""))
    return Item(f"text {text.name}", lambda: next(read(text, folder)), places, instead)
