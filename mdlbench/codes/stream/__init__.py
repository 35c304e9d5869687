"""Sparse symbols as a range-coded stream: what `bitstream` puts in its payload.

A latent that fires k times in N tokens costs −log₂ π^k(1−π)^(N−k) under the codebook (maths §3).
Coding N Bernoulli variables would take O(N·D); the same bits are spent in O(nnz·log N) as

1. k ~ Binomial(N, π), one count per latent (`counts`),
2. the positions given k, uniform over the C(N, k) subsets (`support`): a block of n tokens that
   holds c firings is halved, and the firings of its first half are Hypergeometric(n, ⌈n/2⌉, c),
3. the magnitudes, each latent's with its own q_i(v | on), and the tails of escapes (`magnitudes`).

Where latents have parents, those of one level of the forest after another are coded in this way, a
child once for the tokens of each of its contexts (`forest`); within a level, siblings that look at
each other are coded one after another. Magnitudes are last. A flat codebook is a forest of one
level.

Models are built from the codebook by addition, multiplication, division and square roots alone, so
that writer and reader build them bit for bit alike on any machine with IEEE arithmetic. One
traversal serves both: the same calls write on a `Writer` and read from a `Reader` (`channel`).
The constants of these modules are part of the file format: a change of one is a new version.
"""
