"""Arrays of blocks that lie in the cache, as tensors that are read where they are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mdlbench.disk.blocks import Extent, KeptBlocks


def first_array(blocks: KeptBlocks, index: int) -> torch.Tensor | None:
    """The first array of a block; None where it is not there, or no longer.

    It is mapped from the cache's file, which may be removed meanwhile. One that the cache could not
    keep is read.
    """
    place = blocks.place(index)
    if place is not None and (place[1][0].stop > place[1][0].start):
        try:
            return _mapped(place[0], place[1][0])
        except (OSError, RuntimeError):
            pass
    found = blocks.get(index)
    return None if found is None else torch.from_numpy(found[0])


def _mapped(file: Path, extent: Extent) -> torch.Tensor:
    """An array of a file. No file stays open: thousands of blocks may be mapped at once."""
    content = torch.from_file(str(file), shared=False, size=extent.stop, dtype=torch.uint8)
    dtype = torch.from_numpy(np.empty(0, extent.dtype)).dtype
    return content[extent.start :].view(dtype).reshape(extent.shape)
