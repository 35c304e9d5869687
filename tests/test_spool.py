import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.latents import SparseLatents
from mdlbench.spool import LatentSpool


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), max_size=5), st.integers(0, 2))
def test_what_goes_in_comes_out_as_often_as_asked(seed, lengths, side_columns):
    generator = np.random.default_rng(seed)
    blocks = []
    for n_tokens in lengths:
        dense = generator.normal(size=(n_tokens, 5)) * (generator.random((n_tokens, 5)) < 0.4)
        side = generator.normal(size=(n_tokens, side_columns)).astype(np.float32)
        latents = SparseLatents.from_dense(dense.astype(np.float32))
        blocks.append((latents, side, np.arange(n_tokens, dtype=np.int64)))
    with LatentSpool(5) as spool:
        for block in blocks:
            spool.append(*block)
        for _ in range(2):
            runs = list(spool.runs())
            assert len(runs) == len(blocks)
            for run, (latents, side, document) in zip(runs, blocks, strict=True):
                assert np.array_equal(run.latents.to_dense(), latents.to_dense())
                assert np.array_equal(run.side, side)
                assert np.array_equal(run.document, document)


def test_nothing_is_left_behind():
    with LatentSpool(3) as spool:
        folder = spool._path("value").parent
        assert folder.is_dir()
    assert not folder.exists()
