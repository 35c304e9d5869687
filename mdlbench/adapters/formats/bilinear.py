"""`bilinear:FOLDER?factors=N&basis=eigen` — the factors that a bilinear network's weights tell.

The input is projected onto the union of the N strongest eigenvectors of every output (`eigen`), or
of every factor that the outputs share (`hosvd`); nothing is fitted to activations. Latents are
signed: z = Vx, with the eigenvectors for the rows of V, unit vectors in the space of the input;
x̂ = V⁺z. The rows of V⁺ are charged as any decoder's. FOLDER holds `bilinear.safetensors`, as
`mdlbench train --bilinear` leaves it.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from mdlbench.adapters.checkpoint import digest_files
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import Decoder, Encoder, LinearCoder, Unrectified, assemble
from mdlbench.adapters.places import parts, place
from mdlbench.adapters.protocol import Request
from mdlbench.bilinear.hosvd import hosvd
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.masks import decoder_of
from mdlbench.bilinear.network import NETWORK_FILE, load_network
from mdlbench.bilinear.spectrum import spectra
from mdlbench.errors import UsageError, did_you_mean

VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""
BASES = ("eigen", "hosvd")
FACTORS, MOST = 10, 4096


class BilinearAdapter:
    """Reads a network of one bilinear layer."""

    recognised_by = (NETWORK_FILE,)

    def identify(self, request: Request) -> CoderIdentity:
        arguments = _arguments(request)
        name = parts(request)[-1]
        return CoderIdentity(
            name=f"{name}-{arguments['basis']}{arguments['factors']}",
            adapter="bilinear",
            version=VERSION,
            arguments=arguments,
            weights_sha256=digest_files(*place(request, NETWORK_FILE)),
        )

    def load(self, request: Request) -> LinearCoder:
        identity, arguments = request.identity or self.identify(request), _arguments(request)
        (file,) = place(request, NETWORK_FILE)
        layer = load_network(file).quadratic()
        if layer.has_biases:
            raise UsageError(
                f"{file}: a network with biases reads the input with a 1 appended, so its "
                "eigenvectors do not lie in the input's space"
            )
        vectors = chosen_factors(layer, arguments["basis"], arguments["factors"])
        rows = decoder_of(vectors)
        nothing = torch.zeros(layer.d_in, device=request.device)
        encoder = Encoder(
            _tensor(vectors.T, request.device),
            torch.zeros(len(vectors), device=request.device),
            nothing,
            Unrectified(),
        )
        return assemble(
            identity,
            encoder,
            Decoder(_tensor(rows, request.device), nothing),
            architecture=f"bilinear-{arguments['basis']}",
        )


ADAPTER = BilinearAdapter


def chosen_factors(
    layer: BilinearLayer, basis: str, factors: int
) -> Float64[np.ndarray, "latent d_in"]:
    """The strongest eigenvectors of every output, or of every shared factor, in that order.

    Raises:
        UsageError: a form has fewer.
    """
    forms = spectra(layer) if basis == "eigen" else hosvd(layer).forms
    return np.stack(list(chain.from_iterable(form.strongest(factors).vectors for form in forms)))


def _arguments(request: Request) -> dict[str, Any]:
    request.reject_unknown_options("factors", "basis")
    basis = request.options.get("basis", BASES[0])
    if basis not in BASES:
        raise UsageError(
            f"{request.argument!r}: unknown basis {basis!r}. {did_you_mean(basis, BASES)}"
        )
    return {"basis": basis, "factors": request.integer("factors", FACTORS, 1, MOST)}


def _tensor(array: Float64[np.ndarray, "row column"], device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)
