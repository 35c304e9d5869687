"""Do a token's latents depend on that token alone? Every rate and loss here takes it for granted.

An SAE that looks at its neighbours (the k·B largest of a batch, a threshold over a batch, batch
norm) has another rate for every size of a block, and one that a decoder could not follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError

TOGETHER_TOKENS = 1024
"""Tokens of the run that is encoded in several ways."""
PIECES = (1, 1, 1, 1, 2, 2, 4, 4, 8, 16, 32)
"""Tokens of the blocks in which some of them are encoded by themselves."""
DIFFERING_SHARE = 1e-3
"""Share of latents that rounding may move across a threshold, in float32."""
FEW = 4
"""So many latents may cross a threshold whatever their share: one choice that tips moves two."""
TOLERANCE = 1e-4
"""Relative error allowed to float32, whose products round otherwise in other shapes."""
ROUNDINGS = 4
"""Errors allowed to a dtype of fewer digits, in units of its epsilon."""
EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
REMEDY = (
    "put it into evaluation mode with eval(), give it a threshold of its own, or save it as it is "
    "at inference (SAELens: save_inference_model) and score that"
)


@dataclass(frozen=True)
class Encoding:
    """What a coder makes of some tokens."""

    latents: SparseLatents
    side: Float32[np.ndarray, "token side"]
    decoded: Float32[np.ndarray, "token d_out"]

    def rows(self, order: Int64[np.ndarray, " row"]) -> Encoding:
        """Some of the tokens, in this order."""
        token, latent, value = self.latents.token, self.latents.latent, self.latents.value
        place = np.full(self.latents.n_tokens, -1)
        place[order] = np.arange(len(order))
        kept = place[token] >= 0
        moved = place[token[kept]].astype(np.int32)
        sequence = np.argsort(moved, kind="stable")
        latents = SparseLatents(
            moved[sequence],
            latent[kept][sequence],
            value[kept][sequence],
            len(order),
            self.latents.n_latents,
        )
        return Encoding(latents, self.side[order], self.decoded[order])


@dataclass(frozen=True)
class Trial:
    """Some tokens encoded together, to be compared with the same tokens encoded otherwise."""

    coder: SparseCoder
    x: Float[torch.Tensor, "token d_in"]
    together: Encoding

    @classmethod
    def of(cls, coder: SparseCoder, x: Float[torch.Tensor, "token d_in"]) -> Trial:
        """A trial of the first of these tokens; raises `CoderError` if the coder fails."""
        x = x[:TOGETHER_TOKENS]
        return cls(coder, x, _encoding(coder, x))

    def problem(self) -> str | None:
        """What changes when tokens are encoded in other company, in words; None if nothing does."""
        order = np.random.default_rng(0).permutation(len(self.x))
        try:
            found = _encoding(self.coder, self.x[torch.from_numpy(order)])
            some = order[: sum(PIECES)]
            pieces = self._in_pieces(some)
        except CoderError as error:
            return f"tokens cannot be encoded in blocks of another size or order: {error}"
        return (
            _change(self.together.rows(order), found, "in another order")
            or _change(self.together.rows(some), pieces, "in smaller blocks")
        )  # fmt: skip

    def check(self) -> None:
        """Raise `CoderError`, which says what to do, where latents depend on other tokens."""
        self.check_again("twice")
        problem = self.problem()
        if problem is not None:
            raise CoderError(
                f"{self.coder.spec.name}: {problem}: encode looks at other tokens of the batch, "
                f"so that its rate is that of a batch size; {REMEDY}"
            )

    def check_again(self, how: str = "again after others") -> None:
        """Raise `CoderError` if the same tokens now have other latents."""
        change = _change(self.together, _encoding(self.coder, self.x), how)
        if change is not None:
            raise CoderError(
                f"{self.coder.spec.name}: {change}: something in it is random, or it remembers "
                "earlier calls; put it into evaluation mode with eval()"
            )

    def _in_pieces(self, order: Int64[np.ndarray, " row"]) -> Encoding:
        sizes = np.cumsum(PIECES)[:-1]
        pieces = [
            _encoding(self.coder, self.x[torch.from_numpy(part)])
            for part in np.split(order, sizes[sizes < len(order)])
        ]
        return Encoding(
            concatenate([piece.latents for piece in pieces]),
            np.concatenate([piece.side for piece in pieces]),
            np.concatenate([piece.decoded for piece in pieces]),
        )


def _encoding(coder: SparseCoder, x: Float[torch.Tensor, "token d_in"]) -> Encoding:
    latents, side = checked.encode(coder, x)
    decoded = checked.decode(coder, latents, side, torch.device("cpu"))
    return Encoding(latents, side, decoded.numpy())


def _change(expected: Encoding, found: Encoding, how: str) -> str | None:
    """What is not the same but for rounding, in words."""
    epsilon = max(_epsilon(expected.latents.value), _epsilon(expected.decoded))
    tolerance = max(TOLERANCE, ROUNDINGS * epsilon)
    moved = _moved(expected.latents, found.latents, tolerance)
    share = len(moved) / max(1, expected.latents.nnz)
    if len(moved) > FEW and share > max(DIFFERING_SHARE, ROUNDINGS * epsilon):
        return f"{len(moved)} latents ({share:.1%} of the active ones) change {_when(how)}"
    same = ~np.isin(np.arange(expected.latents.n_tokens), moved)
    for what, one, other in (
        ("side information", expected.side, found.side),
        ("what decode returns", expected.decoded, found.decoded),
    ):
        if _differs(one[same], other[same], tolerance):
            return f"{what} changes {_when(how)}"
    return None


def _when(how: str) -> str:
    return f"when tokens are encoded {how}"


def _moved(
    expected: SparseLatents, found: SparseLatents, tolerance: float
) -> Int64[np.ndarray, " moved"]:
    """The token of each latent that has another value."""
    places = [
        latents.token.astype(np.int64) * latents.n_latents + latents.latent
        for latents in (expected, found)
    ]
    union = np.union1d(*places)
    difference = np.zeros(len(union))
    difference[np.searchsorted(union, places[0])] += expected.value
    difference[np.searchsorted(union, places[1])] -= found.value
    size = np.abs(expected.value).max(initial=0.0)
    moved: np.ndarray = union[np.abs(difference) > tolerance * size] // max(1, found.n_latents)
    return moved


def _differs(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    if one.shape != other.shape:
        return True
    size = np.abs(one).max(initial=0.0)
    return not bool((np.abs(one - other) <= tolerance * size).all())


def _epsilon(values: Float32[np.ndarray, " *shape"]) -> float:
    """That of the dtype of fewest digits that holds them all, in which they were computed."""
    for dtype, epsilon in EPSILON.items():
        numbers = torch.from_numpy(np.ascontiguousarray(values))
        if values.size and torch.equal(numbers.to(getattr(torch, dtype)).float(), numbers):
            return epsilon
    return 0.0
