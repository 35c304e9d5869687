"""A bilinear layer, P((Wx + a) ⊙ (Vx + b)) + c, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mdlbench.errors import CheckpointError

NAMES = ("W", "V", "P")
BIASES = ("W_bias", "V_bias", "P_bias")
"""How a `state_dict` calls the weights and, if it has any, the biases."""
GATES = ("gate_proj", "up_proj", "down_proj", "w1.", "w2.", "w3.")
"""In names of gated layers: SwiGLU, GEGLU, ReGLU."""
PROBES = 16
TOLERANCE = 1e-4
"""How far a function may be from a layer, relative to the layer's outputs, and count as it."""

Matrix = Float64[np.ndarray, "_ _"]
Vector = Float64[np.ndarray, " _"]
"""Whose shapes fit together only once they are checked."""


@dataclass(frozen=True, eq=False)
class BilinearLayer:
    """The layer P((Wx + a) ⊙ (Vx + b)) + c.

    Attributes:
        w, v: the two maps of the input, hidden × d_in.
        p: the projection of the hidden units, d_out × hidden.
        w_bias, v_bias: a and b, one number a hidden unit; zero where None.
        p_bias: c, one number an output; zero where None.

    Raises:
        CheckpointError: shapes do not fit, or a weight is NaN or infinite.
    """

    w: Matrix
    v: Matrix
    p: Matrix
    w_bias: Vector | None = None
    v_bias: Vector | None = None
    p_bias: Vector | None = None

    def __post_init__(self) -> None:
        if self.w.shape != self.v.shape:
            raise CheckpointError(
                f"W and V have different shapes, {self.w.shape} and {self.v.shape}: a bilinear "
                "layer multiplies their outputs one by one"
            )
        if self.p.shape[1] != len(self.w):
            raise CheckpointError(
                f"P has shape {self.p.shape}: it must have one column for each of the "
                f"{len(self.w)} hidden units"
            )
        lengths = zip(BIASES, self._biases, (len(self.w), len(self.w), len(self.p)), strict=True)
        for name, bias, length in lengths:
            if bias is not None and bias.shape != (length,):
                raise CheckpointError(f"{name} has shape {bias.shape}, expected {(length,)}")
        for name, tensor in zip(
            (*NAMES, *BIASES), (self.w, self.v, self.p, *self._biases), strict=True
        ):
            if tensor is not None and not np.isfinite(tensor).all():
                raise CheckpointError(f"{name} holds NaN or infinite weights")

    @property
    def _biases(self) -> tuple[Vector | None, ...]:
        return self.w_bias, self.v_bias, self.p_bias

    @property
    def d_in(self) -> int:
        return int(self.w.shape[1])

    @property
    def d_out(self) -> int:
        return len(self.p)

    @property
    def has_biases(self) -> bool:
        return any(bias is not None for bias in self._biases)

    def hidden(self, x: Float64[np.ndarray, "token d_in"]) -> Float64[np.ndarray, "token hidden"]:
        """(Wx + a) ⊙ (Vx + b)."""
        one, other = x @ self.w.T, x @ self.v.T
        if self.w_bias is not None:
            one = one + self.w_bias
        if self.v_bias is not None:
            other = other + self.v_bias
        return np.asarray(one * other)

    def output(self, x: Float64[np.ndarray, "token d_in"]) -> Float64[np.ndarray, "token d_out"]:
        """What the layer computes."""
        projected = self.hidden(x) @ self.p.T
        return np.asarray(projected if self.p_bias is None else projected + self.p_bias)

    def without_biases(self) -> BilinearLayer:
        """The same layer without biases, of the input with a 1 appended (maths §11).

        Biases of W and V become their last columns; that of P becomes a hidden unit that is 1.
        """
        if not self.has_biases:
            return self
        w, v = (
            np.hstack([weights, np.reshape(_or_zero(bias, len(weights)), (-1, 1))])
            for weights, bias in ((self.w, self.w_bias), (self.v, self.v_bias))
        )
        if self.p_bias is None:
            return BilinearLayer(w, v, self.p)
        one = np.zeros((1, w.shape[1]))
        one[0, -1] = 1.0
        p = np.hstack([self.p, self.p_bias[:, None]])
        return BilinearLayer(np.vstack([w, one]), np.vstack([v, one]), p)

    def reading(self, embedding: Float64[np.ndarray, "d_in d"]) -> BilinearLayer:
        """This layer as a function of what an embedding, without a bias, is given.

        Its interaction matrices are EᵀQE: eigenvectors found in the embedding's own space are
        neither unit nor orthogonal in that of its input.

        Raises:
            CheckpointError: the embedding does not end where the layer begins.
        """
        if len(embedding) != self.d_in:
            raise CheckpointError(
                f"the embedding has shape {embedding.shape}: it must have {self.d_in} rows, as "
                "many as the layer reads"
            )
        w, v = self.w @ embedding, self.v @ embedding
        return BilinearLayer(w, v, self.p, self.w_bias, self.v_bias, self.p_bias)

    def then(self, head: Float64[np.ndarray, "d_head d_out"]) -> BilinearLayer:
        """This layer followed by a linear map, as one layer."""
        bias = None if self.p_bias is None else head @ self.p_bias
        return BilinearLayer(self.w, self.v, head @ self.p, self.w_bias, self.v_bias, bias)


def layer_of(state_dict: Mapping[str, Any]) -> BilinearLayer:
    """The layer that a `state_dict` holds under W, V and P, and W_bias, V_bias and P_bias.

    Args:
        state_dict: tensors or arrays by name; `.weight` after a name, or a prefix before it, is
            for the caller to take away.

    Raises:
        CheckpointError: a weight is missing, of a wrong shape, or not finite; or the names are
            those of a gated layer such as SwiGLU or ReGLU.
    """
    _refuse_gated(state_dict)
    missing = [name for name in NAMES if name not in state_dict]
    if missing:
        raise CheckpointError(
            f"there is no {missing[0]}: a bilinear layer has W and V, hidden × d_in, and a "
            f"projection P, d_out × hidden (found: {', '.join(sorted(state_dict)) or 'nothing'})"
        )
    unknown = sorted(set(state_dict) - {*NAMES, *BIASES})
    if unknown:
        raise CheckpointError(
            f"{unknown[0]} is no part of a bilinear layer, which has {', '.join((*NAMES, *BIASES))}"
        )
    weights = (_array(name, state_dict[name], 2) for name in NAMES)
    biases = (_array(name, state_dict[name], 1) if name in state_dict else None for name in BIASES)
    return BilinearLayer(*weights, *biases)


def require_bilinear(
    layer: BilinearLayer,
    function: Callable[[Float64[np.ndarray, "token d_in"]], Any],
    seed: int = 0,
) -> None:
    """Check at random inputs that a function, such as a module's forward, is the layer.

    Raises:
        CheckpointError: it is not, as with a SwiGLU or ReGLU layer of the same weights.
    """
    x = np.random.default_rng(seed).standard_normal((PROBES, layer.d_in))
    expected, found = layer.output(x), np.asarray(function(x), dtype=np.float64)
    if found.shape != expected.shape:
        raise CheckpointError(
            f"the function gives an output of shape {found.shape}, the layer {expected.shape}"
        )
    apart = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-300))
    if not apart <= TOLERANCE:
        raise CheckpointError(
            "the function is not this bilinear layer: at random inputs they differ by "
            f"{apart:.1%} of the largest output; a gate that passes an activation function, as in "
            "SwiGLU or ReGLU, is not a quadratic form of the input: it has no interaction matrix"
        )


def _refuse_gated(state_dict: Mapping[str, Any]) -> None:
    gated = sorted(name for name in state_dict if any(gate in name for gate in GATES))
    if gated:
        raise CheckpointError(
            f"{gated[0]} belongs to a gated layer (SwiGLU, GEGLU, ReGLU): its gate passes an "
            "activation function, so its outputs are not quadratic forms and have no interaction "
            "matrix; if yours has none, call its weights W, V and P"
        )


def _array(name: str, weights: Any, axes: int) -> Float64[np.ndarray, ...]:
    detached = weights.detach().cpu().double().numpy() if hasattr(weights, "detach") else weights
    try:
        array = np.asarray(detached, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name} holds something other than numbers") from error
    if array.ndim != axes:
        raise CheckpointError(f"{name} has shape {array.shape}, expected {axes} axes")
    return array


def _or_zero(bias: Float64[np.ndarray, " n"] | None, n: int) -> Float64[np.ndarray, " n"]:
    return np.zeros(n) if bias is None else bias
