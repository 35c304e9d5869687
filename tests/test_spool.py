import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.codes.latents import SparseLatents
from mdlbench.disk.blocks import BlockFile
from mdlbench.errors import SpoolError
from mdlbench.scoring.spool import LatentSpool


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
        for index in reversed(range(len(blocks))):
            assert index not in spool
            spool.put(index, *blocks[index])
            assert index in spool
        for _ in range(2):
            for index, (latents, side, document) in enumerate(blocks):
                run = spool.read(index)
                assert np.array_equal(run.latents.to_dense(), latents.to_dense())
                assert np.array_equal(run.side, side)
                assert np.array_equal(run.document, document)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = LatentSpool(3)
    spool.put(0, *one_token())
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_no_temporary_folder_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    with pytest.raises(SpoolError, match="TMPDIR"):
        LatentSpool(3)


def one_token():
    latents = SparseLatents.from_dense(np.ones((1, 3), dtype=np.float32))
    return latents, np.zeros((1, 0), dtype=np.float32), np.zeros(1, dtype=np.int64)


def test_a_block_file_gives_arrays_back_in_any_order_as_they_were():
    generator, file = np.random.default_rng(5), BlockFile("activations")
    blocks = [
        [
            generator.normal(size=(3, 4)).astype(np.float32).T,
            generator.integers(9, size=7),
            np.zeros((0, 5)),
        ],
        [generator.normal(size=(2, 2, 2))],
        [],
    ]
    for index in (2, 0, 1):
        assert index not in file
        file.put(index, blocks[index])
        assert index in file
    assert len(file) == len(blocks)
    for index in (1, 0, 2, 0):
        found = file.read(index)
        assert [array.dtype for array in found] == [array.dtype for array in blocks[index]]
        for array, expected in zip(found, blocks[index], strict=True):
            np.testing.assert_array_equal(array, expected)


def test_a_block_file_is_closed_with_what_keeps_it():
    """A source keeps its own and nobody closes a source."""
    kept = BlockFile("activations")
    file = kept._file
    assert not file.closed
    del kept
    assert file.closed
