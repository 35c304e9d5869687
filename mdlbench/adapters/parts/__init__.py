"""The parts that nearly all published SAEs are made of, to assemble an adapter's coder from.

Latents are an activation of one affine map, and the reconstruction is another affine map of them:

    encoder = Encoder(W_enc, b_enc, centre, TopK(k))    # TopK((x − centre) W_enc + b_enc)
    decoder = Decoder(W_dec, b_dec)                     # z W_dec + b_dec
    coder = assemble(identity, encoder, decoder, LayerNorm(), architecture="topk")

- Activations: `JumpReLU` (a ReLU where its threshold is 0), `TopK`, `GroupMax`, `Gated`,
  `GroupNorm`, `Unrectified`, `OneHot`. Any function of pre-activations that returns `Nonzeros`
  will do.
- Normalisations of the input, whose side information is charged: `Unnormalised` (the default),
  `LayerNorm`, `ConstantNorm`; and `Skip`, the linear path around the latents of a transcoder.
- Encoders: `Encoder`; `TreeEncoder` around one, for latents that are off where their parent is;
  `LookUp`, for latents that are known beforehand.
  Any `SparseEncoder` will do.
- Decoders: `Decoder`; `TreeDecoder`, which ignores latents whose parent is off.
- `assemble` makes them a `LinearCoder`, which is a `SparseCoder`.
- `join` makes several coders one, a `JointCoder`: what each `Part` reads and writes of a source
  with several hook points.
- `block_tokens` says how many tokens an encoder of your own may take at once; `sparse_latents` is
  what an activation makes of them.
"""

from mdlbench.adapters.parts.activations import (
    Activation,
    Gated,
    GroupMax,
    GroupNorm,
    JumpReLU,
    Nonzeros,
    OneHot,
    TopK,
    Unrectified,
)
from mdlbench.adapters.parts.blocks import block_tokens
from mdlbench.adapters.parts.coder import LinearCoder, assemble
from mdlbench.adapters.parts.decoders import Decoder, TreeDecoder
from mdlbench.adapters.parts.encoders import Encoder, SparseEncoder, TreeEncoder, sparse_latents
from mdlbench.adapters.parts.joint import JointCoder, Part, join
from mdlbench.adapters.parts.looked_up import LookUp
from mdlbench.adapters.parts.normalisations import (
    ConstantNorm,
    LayerNorm,
    Normalisation,
    Skip,
    Unnormalised,
)

__all__ = [
    "Activation",
    "ConstantNorm",
    "Decoder",
    "Encoder",
    "Gated",
    "GroupMax",
    "GroupNorm",
    "JointCoder",
    "JumpReLU",
    "LayerNorm",
    "LinearCoder",
    "LookUp",
    "Nonzeros",
    "Normalisation",
    "OneHot",
    "Part",
    "Skip",
    "SparseEncoder",
    "TopK",
    "TreeDecoder",
    "TreeEncoder",
    "Unnormalised",
    "Unrectified",
    "assemble",
    "block_tokens",
    "join",
    "sparse_latents",
]
