"""Which object it is, as far as its numbers are concerned."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from jaxtyping import Float32

from mdlbench.adapters.formats.python.foreign import Foreign
from mdlbench.adapters.formats.python.seen import Seen, seen
from mdlbench.adapters.parts import Decoder


def digest_of(foreign: Foreign, decoder: Decoder, z: Float32[torch.Tensor, "token latent"]) -> Seen:
    """SHA-256 of all that can be seen of the object, and of what it does with a sample.

    What it does are the rows of its decoder and what became of the sample, `z`.
    """
    found = seen(foreign.target)
    digest = hashlib.sha256(found.digest.encode())
    update(digest, {"rows": decoder.W_dec, "bias": decoder.b_dec})
    update(digest, {"encoded": z, "decoded": foreign.decode(z)})
    return Seen(digest.hexdigest(), found.unseen)


def update(digest: Any, arrays: dict[str, Any]) -> None:
    for name, array in sorted(arrays.items()):
        tensor = torch.as_tensor(array).detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
