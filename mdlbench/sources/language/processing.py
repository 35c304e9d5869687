"""Weights as TransformerLens processes them, for the releases whose SAEs were trained on such.

Only what changes an activation at a hook point is done (maths §5): `center_writing_weights` makes
the residual stream, and what is written to it, sum to zero; `fold_value_biases` takes attention's
value biases out of what its heads put out. What a model computes remains the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mdlbench.errors import UsageError
from mdlbench.sources.language.layout import FINAL_NORM, LAYERS, Block, part_of

CENTRED = "center_writing_weights"
FOLDED_BIASES = "fold_value_biases"
FOLDED_NORMS = "fold_ln"
WITHOUT_EFFECT = (FOLDED_NORMS, "center_unembed")
"""They move factors from one weight to another, or shift all logits alike; `fold_ln` changes what
the MLP reads, and what is a value's bias, but nothing else that can be read."""
OPTIONS = (CENTRED, FOLDED_BIASES, *WITHOUT_EFFECT)
NORM_BEFORE_ATTENTION = ("ln_1", "input_layernorm")
JOINT = ("c_attn", "query_key_value")
"""Layers of queries, keys and values at once, of models with LayerNorms."""

POSITIONS = ("wpe",)
MLP_OUT = ("down_proj", "c_proj", "dense_4h_to_h")


@torch.no_grad()
def process(model: Any, options: frozenset[str]) -> None:
    """Process a model's weights, in place.

    Raises:
        UsageError: they cannot be processed so.
    """
    if CENTRED in options:
        centre_writing_weights(model)
    if FOLDED_BIASES in options:
        for layer in part_of(model.get_decoder(), LAYERS):
            block = Block.of(layer)
            if FOLDED_NORMS in options:
                _fold_norm_bias(block)
            fold_value_biases(block)


def centre_writing_weights(model: Any) -> None:
    """Take the mean over the residual stream from all that is written to it.

    A LayerNorm takes it away before anything is read. A model that has other normalisations is left
    as it is, as by TransformerLens.
    """
    trunk = model.get_decoder()
    if not isinstance(part_of(trunk, FINAL_NORM), nn.LayerNorm):
        return
    unembedding = model.get_output_embeddings()
    unembedding.weight = nn.Parameter(unembedding.weight.clone(), requires_grad=False)
    embeddings = [model.get_input_embeddings()]
    embeddings += [getattr(trunk, name) for name in POSITIONS if hasattr(trunk, name)]
    for embedding in embeddings:
        _centre(embedding.weight, dim=1)
    for layer in part_of(trunk, LAYERS):
        block = Block.of(layer)
        for writing in (block.projection, part_of(block.mlp, MLP_OUT)):
            _centre(writing.weight, dim=1 if _reads_rows(writing) else 0)
            if writing.bias is not None:
                _centre(writing.bias, dim=0)


def fold_value_biases(block: Block) -> None:
    """Add to attention's output bias what the value biases add to its output: b_V W_O.

    Raises:
        UsageError: the attention's weights do not sum to 1, or where the biases are is not known.
    """
    attention: Any = block.attention
    projection: Any = block.projection
    if hasattr(attention, "sinks"):
        raise UsageError(
            f"{FOLDED_BIASES}: attention to a sink does not sum to 1, so value biases are no part "
            "of its output's bias"
        )
    biases = _value_biases(attention)
    if biases is None or not biases.any():
        return
    width = projection.weight.shape[0 if _reads_rows(projection) else 1]
    head = getattr(attention, "head_dim", biases.shape[-1])
    values = biases.reshape(-1, head).repeat_interleave(width // biases.numel(), dim=0).reshape(-1)
    written = projection(values[None])[0]
    biases.zero_()
    _set_bias(projection, written)


def _fold_norm_bias(block: Block) -> None:
    """Make the bias of the LayerNorm before attention one of its queries, keys and values."""
    norm: Any = part_of(block.layer, NORM_BEFORE_ATTENTION)
    if isinstance(norm, nn.LayerNorm):
        joint = part_of(block.attention, JOINT)
        _set_bias(joint, joint(norm.bias[None])[0])
        norm.bias.zero_()


def _reads_rows(layer: nn.Module) -> bool:
    """Whether its weights are [d_in, d_out], as in GPT-2, and not the transpose."""
    return type(layer).__name__ == "Conv1D"


def _set_bias(layer: Any, bias: torch.Tensor) -> None:
    if layer.bias is None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    else:
        layer.bias.copy_(bias)


def _value_biases(attention: Any) -> Any:
    """The value biases, head after head, as a view that can be written to; None if there are none.

    GPT-2 has them after all queries' and keys', GPT-NeoX after those of the same head.
    """
    if hasattr(attention, "v_proj"):
        return attention.v_proj.bias
    if hasattr(attention, "c_attn"):
        return attention.c_attn.bias.chunk(3)[2]
    if hasattr(attention, "query_key_value"):
        joint, size = attention.query_key_value.bias, attention.head_size
        return None if joint is None else joint.view(-1, 3 * size)[:, 2 * size :]
    raise UsageError(f"{FOLDED_BIASES}: {type(attention).__name__} has no known value biases")


def _centre(weights: Any, dim: int) -> None:
    weights.sub_(weights.mean(dim=dim, keepdim=True))
