"""`qwen_scope:FOLDER/layerN.sae.pt` — TopK SAEs of Qwen-Scope; `?k=N` where the path has no L0.

z = the k largest of relu(W_enc x + b_enc), x̂ = W_dec z + b_dec; nothing is subtracted from x. The
file holds the weights alone: the folder's name, such as `SAE-Res-Qwen3-1.7B-Base-W32K-L0_50`, tells
the model and k, the file's name the layer.
"""

from __future__ import annotations

import re
from pathlib import Path

from mdlbench.adapters.checkpoint import (
    as_float32,
    check_k,
    digest_files,
    load_pickle_free,
    matrix_shape,
    only_tensors,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import Decoder, Encoder, LinearCoder, TopK, assemble
from mdlbench.adapters.places import parts, place
from mdlbench.adapters.protocol import FORMAT, Origin, Request
from mdlbench.errors import CheckpointError, UsageError

VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""
RELEASE = re.compile(r"SAE-Res-(.+)-W\d+K-L0_(\d+)")
FILE = re.compile(r"layer(\d+)\.sae\.pt")


class QwenScopeAdapter:
    """Reads the file of one layer."""

    def recognises(self, path: Path) -> int:
        return FORMAT * bool(FILE.fullmatch(path.name))

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options("k")
        (file,) = place(request)
        release = _release(request)
        stem = Path(parts(request)[-1]).name.removesuffix(".sae.pt")
        return CoderIdentity(
            name=f"{release[0]}/{stem}" if release else stem,
            adapter="qwen_scope",
            version=VERSION,
            arguments={"k": _k(request)},
            weights_sha256=digest_files(file),
        )

    def origin(self, request: Request) -> Origin:
        release, layer = _release(request), FILE.fullmatch(parts(request)[-1])
        return Origin(
            model=f"Qwen/{release[1]}" if release else None,
            hook=f"blocks.{layer[1]}.hook_resid_post" if layer else None,
        )

    def load(self, request: Request) -> LinearCoder:
        identity = request.identity or self.identify(request)
        (file,) = place(request)
        tensors = only_tensors(load_pickle_free(file), str(file))
        n, d = matrix_shape(tensors, "W_enc", str(file))
        shapes = {"W_enc": (n, d), "W_dec": (d, n), "b_enc": (n,), "b_dec": (d,)}
        weights = as_float32(tensors, shapes, str(file), "W_enc")
        weights = {name: tensor.to(request.device) for name, tensor in weights.items()}
        k = _k(request)
        check_k(k, n, str(file))
        b_dec = weights["b_dec"]
        return assemble(
            identity,
            Encoder(weights["W_enc"].T, weights["b_enc"], 0 * b_dec, TopK(k)),
            Decoder(weights["W_dec"].T.contiguous(), b_dec),
            architecture="topk",
            origin=self.origin(request),
            promised_l0=k,
            trained_l0=k,
            details={"k": k},
        )


ADAPTER = QwenScopeAdapter


def _release(request: Request) -> re.Match[str] | None:
    return next((found for part in parts(request) if (found := RELEASE.fullmatch(part))), None)


def _k(request: Request) -> int:
    """The k of the path, or of the request where the path has none."""
    release, asked = _release(request), request.options.get("k")
    if asked is None and release is None:
        raise CheckpointError(
            f"{request.argument}: neither its folder (SAE-Res-MODEL-W32K-L0_50) nor an option "
            "says k; say ?k=50 or ?k=100"
        )
    if asked is None and release is not None:
        return int(release[2])
    if asked is None or not asked.isdecimal():
        raise UsageError(f"{request.argument!r}: k must be an integer, not {asked!r}")
    return int(asked)
