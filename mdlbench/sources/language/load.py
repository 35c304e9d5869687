"""A suite's language model, from the hub or from a package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from mdlbench.disk.cache import Recipe, kept
from mdlbench.errors import HubError, UsageError, did_you_mean, first_line, heed_shortage, listed
from mdlbench.hub.hub import explained, from_cache_if_unreachable, is_hub_error
from mdlbench.sources.kinds.language import HubModel, Model, PackagedModel
from mdlbench.sources.language.cut import LanguageModel
from mdlbench.sources.language.decoder import DecoderModel
from mdlbench.sources.language.processing import OPTIONS, process
from mdlbench.sources.language.text import Tokenizer
from mdlbench.sources.packaged import ensure
from mdlbench.suite.site import Scalar

CONVERTERS = ("transformers", "gguf", "tokenizers", "torch")
"""Libraries that decide what a GGUF file becomes."""

UNAVAILABLE = (LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError)
"""What the hub's client raises, and `transformers` says less precisely; gated repositories too."""


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing of what libraries print as they load: stdout is for results."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@_silence()
def load_model(
    config: Model, options: Mapping[str, Scalar], device: str, dtype: torch.dtype
) -> LanguageModel:
    """The suite's language model, loaded with the options that SAEs were trained with.

    Raises:
        HubError: it is not available.
        SourceError: what it computes is not finite.
        UsageError: it cannot be cut, or takes no such options.
    """
    asked = _asked(config.name, options)
    loaded_as = torch.float32 if asked else dtype
    if isinstance(config, HubModel):
        model, tokenizer = _load_from_hub(config, loaded_as)
    else:
        model, tokenizer = _load_packaged(config, loaded_as)
    if asked:
        try:
            process(model, asked)
        except UsageError as error:
            raise UsageError(f"model {config.name}: {error}") from error
        model = model.to(dtype)
    return DecoderModel(config.name, model, tokenizer, device)


def official_name(name: str) -> str:
    """A model's name on the hub for any name that TransformerLens knows it by; else the name."""
    return name if "/" in name else _aliases().get(name.lower(), name)


def same_model(name: str, other: str) -> bool:
    """Whether two names mean one model, whoever owns it on the hub."""
    if name == other:
        return True
    one, two = (official_name(n).rpartition("/")[2] for n in (name, other))
    return one == two


@cache
def _aliases() -> dict[str, str]:
    """Official names by every alias, in lower case."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    known = {name.lower(): name for name in OFFICIAL_MODEL_NAMES}
    short = {alias.lower(): name for name, all in MODEL_ALIASES.items() for alias in all}
    return short | known


def _asked(name: str, options: Mapping[str, Scalar]) -> frozenset[str]:
    """How the weights are to be processed."""
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise UsageError(
            f"model {name}: unknown option {unknown[0]!r}. " + did_you_mean(unknown[0], OPTIONS)
        )
    return frozenset(option for option, value in options.items() if value)


def _load_from_hub(config: HubModel, dtype: torch.dtype) -> tuple[Any, Tokenizer]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = official_name(config.name)
    options: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
    with _loading_errors(config.name):
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **options)
        model, found = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    _require_all_weights(config.name, found)
    return model, tokenizer


def _require_all_weights(name: str, found: Mapping[str, Any]) -> None:
    """Raise `HubError` where the library has drawn weights that it has not found."""
    drawn = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if drawn:
        raise HubError(
            f"model {name}: its files lack {len(drawn)} of its weights, or have them in other "
            f"shapes than its config says ({listed(drawn)}); name a repository that has all"
        )


@contextmanager
def _loading_errors(name: str) -> Iterator[None]:
    """Whatever the libraries raise while they load a model of the hub, as errors that name it."""
    try:
        with from_cache_if_unreachable(name):
            yield
    except HubError:
        raise
    except Exception as error:
        heed_shortage(error)
        if isinstance(error.__cause__, UNAVAILABLE):
            raise explained(error.__cause__, name) from error
        if is_hub_error(error):
            raise explained(error, name) from error
        if isinstance(error, SafetensorError):
            raise HubError(
                f"model {name}: a file of its weights is damaged ({first_line(error)}); run "
                "`mdlbench fetch`, which gets it again"
            ) from error
        if isinstance(error, OSError):
            raise HubError(
                f"model {name}: not available ({first_line(error)}); run `mdlbench fetch` where "
                "the hub can be reached"
            ) from error
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UsageError:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return UsageError(
        f"model {name} cannot be loaded: {kind}{first_line(error).rstrip(' :.')}; if files of it "
        "are missing or damaged, `mdlbench fetch` gets them, and its own code is never run"
    )


def _load_packaged(config: PackagedModel, dtype: torch.dtype) -> tuple[Any, Tokenizer]:
    path = ensure(config.package, config.version, config.file, config.sha256)
    try:
        return _load_converted(config, path, dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        heed_shortage(error)
        raise HubError(f"{path}: not a GGUF model that can be read: {error}") from error


def _load_converted(config: PackagedModel, path: Path, dtype: torch.dtype) -> tuple[Any, Tokenizer]:
    """The model of a GGUF file, whose conversion takes long and is kept in the cache."""
    versions = {library: metadata.version(library) for library in CONVERTERS}
    facts = {"sha256": config.sha256, "dtype": str(dtype), "converted by": versions}
    recipe = Recipe("weights", f"{config.name}, {str(dtype).removeprefix('torch.')}", facts)
    entry = kept().find(recipe)
    if entry is None:
        model, tokenizer = _load(path.parent, dtype, gguf_file=path.name)
        entry = kept().keep(recipe, lambda folder: _save(model, tokenizer, folder))
        if entry is None:
            return model, tokenizer
    return _load(entry.folder, dtype, local_files_only=True, use_safetensors=True)


def _load(folder: Path, dtype: torch.dtype, **options: Any) -> tuple[Any, Tokenizer]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    return model, tokenizer


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model that was read from a GGUF file; its weights are plain ones by now."""
    model.hf_quantizer = model.config.quantization_config = None
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
