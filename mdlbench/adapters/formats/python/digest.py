"""Which object it is, as far as its numbers are concerned."""

from __future__ import annotations

import hashlib
import json
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float32

from mdlbench.adapters.formats.python.foreign import Foreign, arrays
from mdlbench.adapters.parts import Decoder


def digest_of(foreign: Foreign, decoder: Decoder, z: Float32[torch.Tensor, "token latent"]) -> str:
    """SHA-256 of the object's type, plain settings and arrays, and of what they do.

    Its code counts by the rows of its decoder and by what became of the sample, `z`.
    """
    target = foreign.target
    kind = target if isinstance(target, ModuleType) else type(target)
    settings = {
        name: value
        for name, value in sorted(getattr(target, "__dict__", {}).items())
        if isinstance(value, bool | int | float | str) and not name.startswith("__")
    }
    described = [getattr(kind, "__module__", ""), kind.__name__, settings]
    digest = hashlib.sha256(json.dumps(described).encode())
    update(digest, dict(arrays(target)))
    update(digest, {"rows": decoder.W_dec, "bias": decoder.b_dec})
    update(digest, {"encoded": z, "decoded": foreign.decode(z)})
    return digest.hexdigest()


def update(digest: Any, arrays: dict[str, Any]) -> None:
    for name, array in sorted(arrays.items()):
        tensor = torch.as_tensor(array).detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
