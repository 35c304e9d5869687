"""A source without its test split: an epoch is chosen on calibration tokens that train nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Never

from mdlbench.errors import SourceError, UsageError
from mdlbench.sources.protocol import ActivationSource, Block, Split


class HeldOut:
    """The `ActivationSource` whose two splits are parts of another one's calibration split.

    Its calibration split are the first blocks, its test split the last ones. It has no model to
    splice into: a training run asks for none.

    Args:
        source: the other one, whose test split is never asked for.
        share: of the calibration blocks that are held out; at least one is.

    Raises:
        UsageError: there are not two blocks to share out.
    """

    def __init__(self, source: ActivationSource, share: float) -> None:
        n_blocks = source.n_blocks("calibration")
        if n_blocks < 2:
            raise UsageError(
                "a study holds out some blocks of calibration tokens, and there is "
                f"{'1' if n_blocks else 'none'} here: take a suite with more training data"
            )
        self._source = source
        self._first = n_blocks - min(max(1, round(share * n_blocks)), n_blocks - 1)
        held = list(source.blocks("calibration", self._first))
        n_tokens = sum(len(block.document) for block in held)
        n_documents = source.n_documents["calibration"] - int(held[0].document[0])
        self.site = source.site
        self.hook = source.hook
        self.d_in, self.d_out = source.d_in, source.d_out
        self.n_tokens: dict[Split, int] = {
            "calibration": source.n_tokens["calibration"] - n_tokens,
            "test": n_tokens,
        }
        self.n_documents: dict[Split, int] = {
            "calibration": source.n_documents["calibration"] - n_documents,
            "test": n_documents,
        }
        self.data_sha256 = source.data_sha256
        self.image_shape = source.image_shape
        self.device = source.device

    def n_blocks(self, split: Split) -> int:
        if split == "calibration":
            return self._first
        return self._source.n_blocks("calibration") - self._first

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        inside = range(self.n_blocks(split))[start:stop]
        before = 0 if split == "calibration" else self._first
        yield from self._source.blocks("calibration", before + inside.start, before + inside.stop)

    def clean_ce(self, block: Block) -> Never:
        raise SourceError("held-out calibration tokens have no model to splice into")

    ablated_ce = clean_ce

    def splice(self, block: Block, reconstruction: object) -> Never:
        self.clean_ce(block)
