import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.scoring import token_errors
from mdlbench.scoring.token_errors import errors_and_cosines
from mdlbench.statistics.distortion import DistortionSums, ErrorSums, Reference, document_sums
from mdlbench.statistics.metrics import metric_of


def sums_of(generator, n_documents):
    return DistortionSums(*generator.random((4, n_documents)))


def test_against_an_independent_computation():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 60, 9)).astype(np.float32)
    ce, clean, ablated, kl = generator.random((4, 60))
    document = np.repeat(np.arange(12), 5)
    reference = Reference(
        tokens=np.full(12, 5.0),
        d=9,
        variation=float(((x - x.mean(0)).astype(np.float64) ** 2).sum()),
        clean_ce=document_sums(clean, document, 12),
        ablated_ce=document_sums(ablated + 5, document, 12),
        eigenvalues=np.zeros(9),
    )
    per_token = (
        *errors_and_cosines(
            torch.from_numpy(x), torch.from_numpy(x).double().norm(dim=1), torch.from_numpy(y)
        ),
        ce,
        kl,
    )
    metrics = DistortionSums(*(document_sums(v, document, 12) for v in per_token)).metrics(
        reference
    )

    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    error = ((wide_x - wide_y) ** 2).sum()
    norms = np.linalg.norm(wide_x, axis=1) * np.linalg.norm(wide_y, axis=1)
    expected = {
        "mse": error / x.size,
        "fvu": error / ((wide_x - wide_x.mean(0)) ** 2).sum(),
        "cosine": ((wide_x * wide_y).sum(1) / norms).mean(),
        "ce": ce.mean(),
        "delta_ce": (ce - clean).mean(),
        "ce_recovered": (ablated.sum() + 300 - ce.sum()) / (ablated.sum() + 300 - clean.sum()),
        "kl": kl.mean(),
    }
    assert metrics == pytest.approx(expected, rel=1e-6)


@given(
    n_tokens=st.integers(0, 40),
    d=st.integers(1, 33),
    at_once=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_errors_and_cosines_are_those_of_all_tokens_at_once(n_tokens, d, at_once, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n_tokens, d, generator=generator)
    x[::7], y[::5] = 0.0, 0.0
    norms = torch.linalg.vector_norm(x, dim=1).double()
    errors = torch.linalg.vector_norm(x - y, dim=1, dtype=torch.float64).square().numpy()
    both = (norms * torch.linalg.vector_norm(y, dim=1)).clamp_min(torch.finfo(torch.float32).tiny)
    cosines = (torch.linalg.vecdot(x, y).double() / both).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_errors, "CACHED_BYTES", at_once * 4 * d)
        found = token_errors.errors_and_cosines(x, norms, y)
        assert np.array_equal(found[0], errors)
        assert np.array_equal(found[1], cosines)
        assert np.array_equal(token_errors.squared_errors(x, y), errors)


def test_recovery_is_undefined_when_ablation_costs_nothing():
    reference = Reference(np.ones(3), 2, 1.0, np.ones(3), np.ones(3), np.zeros(2))
    assert DistortionSums.zeros(3).metrics(reference)["ce_recovered"] is None


def test_sums_keep_their_kind():
    errors = ErrorSums(np.array([1.0, 2.0]), np.array([0.5, 1.0]))
    whole = DistortionSums(errors.squared_error, errors.cosine, np.ones(2), np.zeros(2))
    assert type(errors + errors) is ErrorSums
    assert type(whole + whole) is DistortionSums
    assert (whole + whole).ce.tolist() == [2.0, 2.0]
    assert (errors + ErrorSums.zeros(2)).cosine.tolist() == [0.5, 1.0]
    reference = Reference(np.ones(2), 4, 1.0, np.ones(2), np.ones(2), np.zeros(4))
    for sums in (errors, whole):
        assert metric_of("mse").sums(sums, reference).tolist() == [0.25, 0.5]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.permutations(range(4)))
def test_shards_of_documents_merge_in_any_order(seed, order):
    generator = np.random.default_rng(seed)
    parts = [sums_of(generator, 8) for _ in range(4)]
    masked = [
        DistortionSums(*(np.where(np.arange(8) % 4 == i, v, 0) for v in vars(part).values()))
        for i, part in enumerate(parts)
    ]
    total = DistortionSums.zeros(8)
    for i in order:
        total = total + masked[i]
    for name, value in vars(total).items():
        expected = np.choose(np.arange(8) % 4, [vars(part)[name] for part in parts])
        assert np.array_equal(value, expected)
