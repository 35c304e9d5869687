"""`python:PACKAGE.MODULE:ATTRIBUTE` — any object, class or factory with encode and decode.

They are given torch tensors or numpy arrays, whichever they take.
`encode` takes activations [token, d_in] and returns latents [token, latent]; `decode` takes those
and returns activations. Where decode is affine, as it is for nearly all SAEs, the harness decodes
sparsely with the rows it found; where it is not, it calls `decode` on dense blocks.
"""

from mdlbench.adapters.formats.python.adapter import PythonAdapter
from mdlbench.adapters.formats.python.objects import coder_of, instance_of, origin_of_object

__all__ = ["ADAPTER", "coder_of", "instance_of", "origin_of_object"]

ADAPTER = PythonAdapter
