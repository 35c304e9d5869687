"""How many tokens are computed at once."""

from __future__ import annotations

BLOCK_BYTES = 1 << 24
"""No dense [token, latent] matrix is larger than this."""


def block_tokens(n_latents: int) -> int:
    """Tokens of a block whose float32 [token, latent] matrix is no larger than `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // (4 * max(1, n_latents)))
