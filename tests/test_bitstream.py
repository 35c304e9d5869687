import hashlib
import itertools
import lzma
import os
import re
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.codes import bitstream
from mdlbench.codes.codelength import BetaPrior, Codebook
from mdlbench.codes.contexts import (
    N_CONTEXTS,
    PARENT_OFF,
    PARENT_ON,
    Contexts,
    Rule,
    n_waves,
    told_apart,
)
from mdlbench.codes.forest import Forest
from mdlbench.codes.grades import GradedMagnitudes, Grades, Kind, count_cells
from mdlbench.codes.stream import channel, forest
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook
from mdlbench.errors import CoderError, OutputError, RecordError, UsageError
from tests.references import forests, symbols_of

GOLDEN = Path(__file__).parent / "golden" / "bitstream-v1.mdlbits"
METADATA = {"sae": "demo", "quantiser": "normalised", "suite_digest": "0" * 64}
PREFIX = struct.Struct("<8sIIIQ")


def codebook_of(dense):
    return Codebook.fit(SymbolCounts.of(symbols_of(dense)))


def encode(symbols, codebook, step=0.5, metadata=METADATA):
    return bitstream.encode(symbols, codebook, step=step, metadata=metadata)


def assert_same(decoded, symbols):
    for name in ("token", "latent", "symbol"):
        found, expected = getattr(decoded, name), getattr(symbols, name)
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
    assert (decoded.n_tokens, decoded.n_latents) == (symbols.n_tokens, symbols.n_latents)


def random_dense(rng, n_tokens, probability, scale=3.0, signed=False):
    """Gamma magnitudes, or Laplace ones, on Bernoulli supports, each latent its own."""
    probability = np.asarray(probability)
    shape = (n_tokens, len(probability))
    spread = scale * np.exp(0.4 * rng.standard_normal(len(probability)))
    size = np.ceil(rng.gamma(2.0, 1.0, shape) * spread)
    size *= rng.choice([-1, 1], shape) if signed else 1
    return (size * (rng.random(shape) < probability)).astype(np.int32)


def zipf(n_latents, l0, exponent=1.0):
    weight = np.arange(1, n_latents + 1) ** -exponent
    return np.minimum(l0 * weight / weight.sum(), 0.95)


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    probability = zipf(12, 3)
    codebook = codebook_of(random_dense(rng, 200, probability))
    symbols = symbols_of(random_dense(rng, 50, probability))
    return symbols, codebook, encode(symbols, codebook)


@settings(max_examples=60)
@given(
    n_tokens=st.integers(0, 40),
    n_latents=st.integers(0, 6),
    n_calibration=st.integers(0, 40),
    density=st.floats(0, 1),
    largest=st.sampled_from([1, 3, 1000, 2**29 - 1]),
    seed=st.integers(0, 999),
)
def test_any_symbols_come_back_whatever_the_codebook_was_fitted_on(
    n_tokens, n_latents, n_calibration, density, largest, seed
):
    rng = np.random.default_rng(seed)

    def draw(n, scale):
        value = rng.integers(-scale, scale, (n, n_latents), endpoint=True)
        return value * (rng.random((n, n_latents)) < density)

    calibration = draw(n_calibration, min(largest, 50))
    if n_calibration and n_latents:
        calibration[0, 0] = -1  # a codebook without signs refuses negative symbols
    symbols = symbols_of(draw(n_tokens, largest))
    decoded = bitstream.decode(encode(symbols, codebook_of(calibration)))
    assert_same(decoded.symbols, symbols)


REGIMES = {
    "narrow": (zipf(32, 3), False),
    "wide": (zipf(1024, 20), False),
    "rare": (zipf(2048, 3, 1.4), False),
    "dense signed": (np.linspace(0.8, 0.97, 60), True),
    "transform codec": (np.minimum(zipf(256, 40, 1.5), 0.97), True),
    "some dead": (zipf(300, 6) * (np.arange(300) % 2), False),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_payload_is_heldout(regime):
    probability, signed = REGIMES[regime]
    rng = np.random.default_rng(1)
    codebook = codebook_of(random_dense(rng, 6000, probability, signed=signed))
    symbols = symbols_of(random_dense(rng, 3000, probability, signed=signed))
    decoded = bitstream.decode(data := encode(symbols, codebook))
    assert_same(decoded.symbols, symbols)
    heldout = codebook.bits(SymbolCounts.of(symbols)).total * symbols.n_tokens
    assert 8 * bitstream.sizes(data).payload_bytes == pytest.approx(heldout, rel=1e-3, abs=64)


def test_payload_is_heldout_on_data_unlike_the_calibration_data():
    rng = np.random.default_rng(2)
    codebook = codebook_of(random_dense(rng, 4000, zipf(400, 12)))
    symbols = symbols_of(random_dense(rng, 2000, zipf(400, 12)[::-1], scale=9.0))
    heldout = codebook.bits(SymbolCounts.of(symbols)).total * symbols.n_tokens
    payload = 8 * bitstream.sizes(encode(symbols, codebook)).payload_bytes
    assert payload == pytest.approx(heldout, rel=5e-3)


def test_payload_is_heldout_where_latents_fire_in_bursts():
    rng = np.random.default_rng(3)
    dense = random_dense(rng, 4096, np.full(64, 0.02))
    bursts = np.sort(dense, axis=0)
    codebook = codebook_of(dense)
    even, burst = (encode(symbols_of(rows), codebook) for rows in (dense, bursts))
    assert bitstream.sizes(burst).payload_bytes == pytest.approx(
        bitstream.sizes(even).payload_bytes, rel=2e-3
    )


@pytest.mark.parametrize(
    "dense",
    [
        np.zeros((0, 0)),
        np.zeros((0, 3)),
        np.zeros((5, 0)),
        np.zeros((7, 4)),
        [[3, 0, 9]],
        np.full((500, 2), 2),
        np.eye(17),
    ],
    ids=["nothing", "no tokens", "no latents", "all off", "one token", "always on", "identity"],
)
def test_extremes(dense):
    symbols = symbols_of(dense)
    for calibration in (dense, np.zeros((3, symbols.n_latents))):
        decoded = bitstream.decode(encode(symbols, codebook_of(calibration)))
        assert_same(decoded.symbols, symbols)


def test_a_latent_that_calibration_never_saw_and_a_symbol_it_never_saw():
    calibration = np.zeros((400, 3), dtype=np.int32)
    calibration[::2, 0] = 5
    test = np.zeros((100, 3), dtype=np.int32)
    test[::2, 0] = 5
    test[3, 0], test[7, 2], test[8, 1] = 70, 5, 1234
    symbols = symbols_of(test)
    assert_same(bitstream.decode(encode(symbols, codebook_of(calibration))).symbols, symbols)


def test_a_file_says_what_it_holds(example):
    symbols, codebook, data = example
    decoded, sizes = bitstream.decode(data), bitstream.sizes(data)
    assert decoded.step == 0.5
    assert decoded.metadata == METADATA
    assert decoded.sizes == sizes
    assert sizes.header_bytes + sizes.payload_bytes == len(data)
    assert 0 < sizes.codebook_bytes < sizes.header_bytes
    assert bitstream.summarise(data).n_nonzeros == symbols.nnz
    assert decoded.codebook.prior == codebook.prior
    assert decoded.codebook.strength == codebook.strength
    for name in ("latent", "symbol", "count"):
        found, expected = getattr(decoded.codebook.counts, name), getattr(codebook.counts, name)
        assert found.tolist() == expected.tolist()


def test_the_codebook_is_a_compact_part():
    """Under 12 bits per distinct (latent, symbol) pair of a realistic calibration run."""
    codebook = codebook_of(random_dense(np.random.default_rng(4), 5000, zipf(300, 12), scale=6.0))
    data = encode(symbols_of(np.zeros((1, 300))), codebook)
    assert 8 * bitstream.sizes(data).codebook_bytes < 12 * len(codebook.counts.count)


def golden_parts():
    dense = np.zeros((40, 5), dtype=np.int32)
    dense[::3, 0], dense[1::7, 1], dense[:, 2], dense[5, 4] = 2, -1, 7, 3
    test = np.roll(dense[:30], 4, axis=0)
    test[11, 3], test[12, 0] = -900, 4
    counts = SymbolCounts.of(symbols_of(dense))
    return symbols_of(test), Codebook.build(counts, BetaPrior(0.25, 3.5), 1.75)


def test_files_of_format_1_are_read_for_ever():
    symbols, codebook = golden_parts()
    golden = GOLDEN.read_bytes()
    assert_same(bitstream.decode(golden).symbols, symbols)
    payload = bitstream.sizes(golden).payload_bytes
    assert encode(symbols, codebook)[-payload:] == golden[-payload:]


@settings(max_examples=300)
@given(at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(example, at, flip):
    damaged = bytearray(example[2])
    damaged[at % len(damaged)] ^= flip
    for look in (bitstream.decode, bitstream.sizes, bitstream.summarise):
        with pytest.raises(RecordError):
            look(bytes(damaged))


def test_no_truncation_or_addition_goes_unnoticed(example):
    data = example[2]
    for damaged in (*(data[:n] for n in range(0, len(data), 7)), data[:-1], data + b"\0", data[1:]):
        with pytest.raises(RecordError):
            bitstream.decode(damaged)


def test_a_newer_version_is_named(example):
    data = bytearray(example[2])
    data[8] = 9
    with pytest.raises(RecordError, match=r"version 9.*upgrade"):
        bitstream.decode(bytes(data))


def parts_of(data):
    _, _, *lengths = PREFIX.unpack_from(data)
    ends = np.cumsum([PREFIX.size + 32, *lengths])
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def forged(parts):
    """A file with a valid checksum whatever its parts say."""
    prefix = PREFIX.pack(b"\x89MDLBITS", bitstream.VERSION, *map(len, parts))
    return prefix + hashlib.sha256(b"".join([prefix, *parts])).digest() + b"".join(parts)


def test_forging_is_faithful(example):
    assert forged(parts_of(example[2])) == example[2]


@settings(max_examples=150)
@given(part=st.integers(0, 2), at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_no_forged_file_decodes_to_other_symbols(example, part, at, flip):
    symbols, _, data = example
    parts = [bytearray(p) for p in parts_of(data)]
    parts[part][at % len(parts[part])] ^= flip
    try:
        decoded = bitstream.decode(forged([bytes(p) for p in parts]))
    except RecordError:
        return
    assert_same(decoded.symbols, symbols)  # only what does not touch them: step, metadata


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_tokens", "2000000000000"),
        ("n_tokens", "2147483647"),
        ("n_tokens", "-1"),
        ("n_tokens", "50.5"),
        ("n_latents", "4000000000"),
        ("n_latents", "2097152"),
        ("n_latents", "3"),
        ("n_nonzeros", "600"),
        ("n_nonzeros", "100000000000"),
        ("calibration_tokens", "3"),
        ("calibration_tokens", "1" + 30 * "0"),
        ("calibration_pairs", "10"),
        ("calibration_pairs", "10000000000"),
        ("step", "NaN"),
        ("step", "0"),
        ("strength", "-1.0"),
        ("prior", "[0.0, 1.0]"),
        ("prior", "[1e-300, 1e300]"),
        ("symbols_sha256", '"abc"'),
        pytest.param("metadata", "[" * 100_000, id="metadata-nested"),
        ("surplus", "1"),
    ],
)
def test_a_hostile_summary_is_refused_without_large_allocations(example, key, value):
    summary, *rest = parts_of(example[2])
    text = summary.decode()
    if f'"{key}":' in text:
        start = text.index(f'"{key}":') + len(key) + 3
        depth = {"prior": "],", "metadata": "}}"}.get(key, ",")
        end = text.index(depth, start) + len(depth) - 1
        text = text[:start] + value + text[end:]
    else:
        text = f'{text[:-1]},"{key}":{value}}}'
    tracemalloc.start()
    with pytest.raises(RecordError):
        bitstream.decode(forged([text.encode(), *rest]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


@settings(max_examples=100)
@given(at=st.integers(0, 10**6), value=st.sampled_from([0, 1, 127, 128, 255]))
def test_no_forged_codebook_decodes_to_other_symbols(example, at, value):
    symbols, _, data = example
    summary, codebook, payload = parts_of(data)
    filters = bitstream._LZMA
    raw = bytearray(lzma.decompress(codebook, format=lzma.FORMAT_RAW, filters=filters))
    raw[at % len(raw)] = value
    packed = lzma.compress(bytes(raw), format=lzma.FORMAT_RAW, filters=filters)
    try:
        decoded = bitstream.decode(forged([summary, packed, payload]))
    except RecordError:
        return
    assert_same(decoded.symbols, symbols)


def always_on(n_tokens, n_latents):
    """Latents that always show the same symbol: they cost next to nothing."""
    token, latent = np.divmod(np.arange(n_tokens * n_latents, dtype=np.int32), n_latents)
    return Symbols(token, latent, np.ones_like(token), n_tokens, n_latents)


def often_on(n_tokens, n_latents):
    """Latents that are on half of the time: the most bits for a position."""
    dense = np.random.default_rng(0).random((n_tokens, n_latents)) < 0.5
    token, latent = np.nonzero(dense)
    ones = np.ones(len(token), dtype=np.int32)
    return Symbols(token.astype(np.int32), latent.astype(np.int32), ones, n_tokens, n_latents)


def seldom_on(n_tokens, n_latents):
    """A firing of each latent for every 2^20 tokens: its block is halved on its own, 6 times."""
    random = np.random.default_rng(0).integers(0, 1 << 20, (n_tokens >> 20, n_latents))
    token, latent = np.divmod(np.arange(random.size), n_latents)
    token = token * (1 << 20) + random.ravel()
    order = np.lexsort((latent, token))
    columns = (column[order].astype(np.int32) for column in (token, latent))
    return Symbols(*columns, np.ones(random.size, np.int32), n_tokens, n_latents)


@pytest.mark.parametrize(
    ("symbols", "most_bytes", "least_bits"),
    [
        pytest.param(always_on(40_000, 10), 50, 0, id="always"),
        pytest.param(often_on(40_000, 10), 90, 2, id="often"),
        pytest.param(seldom_on(1 << 28, 50), 400, 20, id="seldom"),
    ],
)
def test_decoding_takes_memory_in_proportion_to_what_bytes_can_hold(
    symbols, most_bytes, least_bits
):
    """Positions cost bits, which a file must have; those that do not are decoded in little memory.

    So a file of 4 MB asks for less than 2 GB, whatever it claims.
    """
    assert most_bytes * min(bitstream.FREE_NONZEROS, 2**25 / max(least_bits, 1)) < 1.6e9
    data = encode(symbols, Codebook.fit(SymbolCounts.of(symbols)))
    tracemalloc.start()
    decoded = bitstream.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_same(decoded.symbols, symbols)
    assert peak < most_bytes * symbols.nnz + 4e6
    assert least_bits * symbols.nnz <= 8 * len(data)


def test_more_nonzeros_than_bytes_can_hold_are_refused(monkeypatch):
    symbols = often_on(2000, 20)
    fitted = Codebook.fit(SymbolCounts.of(symbols))
    summary, codebook, payload = parts_of(encode(symbols, fitted))
    half = payload[: len(payload) // 8 * 4]
    with pytest.raises(RecordError, match="the payload is too short for what it claims to hold"):
        bitstream.decode(forged([summary, codebook, half]))
    monkeypatch.setattr(bitstream, "FREE_NONZEROS", 0)
    monkeypatch.setattr(bitstream, "NONZEROS_PER_BYTE", 2)
    with pytest.raises(RecordError, match=rf"but at most {2 * len(payload)} fit"):
        bitstream.decode(forged([summary, codebook, payload]))
    monkeypatch.setattr(bitstream, "NONZEROS_PER_BYTE", 4)
    assert_same(bitstream.decode(forged([summary, codebook, payload])).symbols, symbols)


def test_work_that_few_bytes_ask_for_is_refused(monkeypatch):
    """A model for each latent over a large alphabet, which LZMA packs to next to nothing."""
    n_symbols, n_latents = 1 << 18, 1 << 8
    counts = SymbolCounts(
        np.zeros(n_symbols, np.int32),
        np.arange(1, n_symbols + 1, dtype=np.int32),
        np.ones(n_symbols, np.int64),
        n_symbols,
        n_latents,
    )
    symbols = always_on(1, n_latents)
    data = encode(symbols, Codebook.build(counts, BetaPrior(1e7, 1.0), 1.0))
    assert_same(bitstream.decode(data).symbols, symbols)
    assert n_symbols * n_latents > channel.CELLS_PER_BYTE * len(data)
    monkeypatch.setattr(channel, "FREE_CELLS", 0)
    with pytest.raises(RecordError, match="more work than so few bytes are worth"):
        bitstream.decode(data)


def test_a_range_of_counts_that_few_bytes_ask_for_is_refused(example, monkeypatch):
    """Tables of the counts of 2^31 tokens are as wide as the square root of that."""
    monkeypatch.setattr(channel, "FREE_CELLS", 1 << 18)
    summary, codebook, payload = parts_of(example[2])
    text = re.sub(r'"n_tokens":\d+', f'"n_tokens":{2**31 - 1}', summary.decode())
    with pytest.raises(RecordError, match="more work than so few bytes are worth"):
        bitstream.decode(forged([text.encode(), codebook, payload]))
    assert_same(bitstream.decode(example[2]).symbols, example[0])


def test_a_decompression_bomb_is_refused(example):
    summary, _, payload = parts_of(example[2])
    bomb = lzma.compress(bytes(2**25), format=lzma.FORMAT_RAW, filters=bitstream._LZMA)
    tracemalloc.start()
    with pytest.raises(RecordError, match="size"):
        bitstream.decode(forged([summary, bomb, payload]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def priors():
    """Another one for every rule and context."""
    priors = np.full((len(Rule), N_CONTEXTS, 2), 0.5)
    for rule in Rule:
        for context in told_apart(rule):
            priors[rule, context] = 1.2 + rule, 1.7 + context
    priors[Rule.PARENT, PARENT_OFF] = 0.3, 20.0
    priors[Rule.PARENT, PARENT_ON] = 1.2, 1.7
    return priors


def tree_of(dense, parents, rules=(Rule.PARENT,), kinds=(Kind.NOTHING,)):
    """The tree code of all edges, paying or not, of these rules and kinds in turn."""
    forest, symbols, codebook = Forest.from_parents(parents), symbols_of(dense), codebook_of(dense)
    contexts = Contexts.of(forest, codebook.counts.active)
    rule = np.where(forest.is_child, np.resize(rules, len(parents) + 1)[forest.parents], 0)
    contexts = contexts.ruled(np.minimum(contexts.widest, rule))
    book = TreeCodebook.build(codebook, contexts, contexts.firings([symbols]), priors())
    kind = np.where(forest.is_child, np.resize(kinds, len(parents)), 0)
    if not kind.any():
        return book
    grades = Grades.of(codebook)
    cells = count_cells(
        symbols.latent, grades.cells(symbols, forest.parent_at(symbols)), len(parents)
    )
    strengths = np.array([1.0, 20.0, 0.5, 3.0])
    return replace(book, magnitudes=GradedMagnitudes.build(grades, kind, cells, strengths))


def random_tree(n_latents, seed):
    """Parents anywhere before their children, on shuffled latents."""
    rng = np.random.default_rng(seed)
    name = rng.permutation(n_latents)
    parents = np.full(n_latents, -1, dtype=np.int32)
    parents[name[3:]] = [name[rng.integers(i)] for i in range(3, n_latents)]
    return parents


@settings(max_examples=30)
@given(
    parents=forests(),
    n_tokens=st.integers(0, 60),
    n_calibration=st.integers(0, 40),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
    rules=st.permutations(Rule),
    kinds=st.one_of(st.just([Kind.NOTHING]), st.permutations(Kind)),
    seed=st.integers(0, 999),
)
def test_any_symbols_come_back_whatever_the_tree(
    parents, n_tokens, n_calibration, density, rules, kinds, seed
):
    rng = np.random.default_rng(seed)

    def draw(n):
        shape = (n, len(parents))
        return rng.integers(1, 5, shape) * (rng.random(shape) < density)

    symbols, book = symbols_of(draw(n_tokens)), tree_of(draw(n_calibration), parents, rules, kinds)
    decoded = bitstream.decode(encode(symbols, book))
    assert_same(decoded.symbols, symbols)
    if book.forest.n_edges:
        assert decoded.codebook.forest.parents.tolist() == parents.tolist()
        assert decoded.codebook.firing_probability.tolist() == book.firing_probability.tolist()
        assert decoded.codebook.contexts.rule.tolist() == book.contexts.rule.tolist()
        if book.magnitudes is None:
            assert decoded.codebook.magnitudes is None
        else:
            assert decoded.codebook.magnitudes.saved.tolist() == book.magnitudes.saved.tolist()


@pytest.mark.parametrize(
    ("rules", "kinds"),
    [
        ([Rule.PARENT], [Kind.NOTHING]),
        ([Rule.COUNT, Rule.EITHER, Rule.ANY], [Kind.QUARTERS, Kind.ON, Kind.NOTHING, Kind.HALVES]),
    ],
)
@pytest.mark.parametrize("regime", ["narrow", "dense signed", "some dead"])
def test_payload_of_a_tree_is_heldout(regime, rules, kinds):
    probability, signed = REGIMES[regime]
    rng = np.random.default_rng(4)
    parents = random_tree(len(probability), 5)

    def draw(n):
        """Latents that mostly fire with their parents."""
        dense = random_dense(rng, n, probability, signed=signed)
        apart = rng.random(dense.shape) < 0.1
        return np.where((parents < 0) | (dense[:, parents] != 0) | apart, dense, 0)

    book, test = tree_of(draw(6000), parents, rules, kinds), draw(3000)
    symbols = symbols_of(test)
    data = encode(symbols, book)
    assert_same(bitstream.decode(data).symbols, symbols)
    rate = book.bits(SymbolCounts.of(symbols), book.met([symbols]))
    payload = 8 * bitstream.sizes(data).payload_bytes
    assert payload == pytest.approx(rate.total * 3000, rel=1e-3, abs=64)


GOLDEN_TREE = GOLDEN.with_name("bitstream-v2.mdlbits")


def golden_tree():
    """Calibration tokens, test tokens and parents of the file of format 2."""
    token, latent = np.ogrid[:70, :8]
    parents = np.array([-1, 0, 0, 1, -1, 4, 4, 4])
    on = (token * 7 + latent * 5 + token * latent % 11) % 5 < 3
    for child, parent in enumerate(parents):
        on[:, child] &= parent < 0 or on[:, parent]
    dense = (on * (1 + (token + latent) % 3)).astype(np.int32)
    return dense[:40], dense[40:], parents


def test_files_of_format_2_are_read_for_ever():
    calibration, test, parents = golden_tree()
    golden = GOLDEN_TREE.read_bytes()
    decoded = bitstream.decode(golden)
    assert_same(decoded.symbols, symbols_of(test))
    assert PREFIX.unpack_from(golden)[1] == 2
    assert decoded.codebook.forest.parents.tolist() == parents.tolist()
    payload = bitstream.sizes(golden).payload_bytes
    assert encode(symbols_of(test), tree_of(calibration, parents))[-payload:] == golden[-payload:]


@pytest.fixture(scope="module")
def tree_example():
    rng = np.random.default_rng(6)
    book = tree_of(random_dense(rng, 200, zipf(12, 3)), random_tree(12, 7))
    symbols = symbols_of(random_dense(rng, 50, zipf(12, 3)))
    return symbols, book, encode(symbols, book)


def test_the_tree_is_charged_beside_the_codebook(tree_example):
    symbols, book, data = tree_example
    sizes, flat = bitstream.sizes(data), bitstream.sizes(encode(symbols, book.flat))
    assert sizes.codebook_bytes == flat.codebook_bytes
    assert flat.tree_bytes == 0 < sizes.tree_bytes < 9 * 16
    assert sizes == bitstream.decode(data).sizes
    assert sizes.header_bytes + sizes.payload_bytes == len(data)


def edges_of(data):
    parts = parts_of(data)
    end = len(parts[1]) - bitstream.sizes(data).tree_bytes
    raw = lzma.decompress(parts[1][end:], format=lzma.FORMAT_RAW, filters=bitstream._LZMA)
    columns = np.frombuffer(raw, dtype=np.uint8).reshape(16, -1).T
    return columns.reshape(-1).view(bitstream._EDGE).copy()


def with_edges(data, edges):
    """The file with other edges, whatever they are."""
    summary, codebook, payload = parts_of(data)
    before, packed = bitstream.sizes(data).tree_bytes, bitstream._pack(edges)
    text = summary.decode().replace(f'"n_bytes":{before}', f'"n_bytes":{len(packed)}')
    return forged([text.encode(), codebook[: len(codebook) - before] + packed, payload])


def test_forging_edges_is_faithful(tree_example):
    assert with_edges(tree_example[2], edges_of(tree_example[2])) == tree_example[2]


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("parent", 0, "child", "own parent"),
        ("parent", 0, -2, "parent -2"),
        ("parent", 3, 12, "parent 12"),
        ("child", 1, 0, "distinct"),
        ("child", 0, -3, "distinct"),
        ("child", 8, 2**30, "distinct"),
        ("joint", 2, -1, "joint counts"),
        ("joint", 2, 201, "joint counts"),
    ],
)
def test_a_hostile_forest_is_refused(tree_example, column, row, value, message):
    edges = edges_of(tree_example[2])
    edges[column][row] = edges["child"][0] if value == "child" else value
    with pytest.raises(RecordError, match=message):
        bitstream.decode(with_edges(tree_example[2], edges))


def test_a_cycle_in_a_file_is_refused(tree_example):
    edges = edges_of(tree_example[2])
    child = np.cumsum(edges["child"])
    edges["parent"][:3] = child[[1, 2, 0]]
    with pytest.raises(RecordError, match="descend from themselves"):
        bitstream.decode(with_edges(tree_example[2], edges))


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_edges", 0), ("n_edges", 8), ("n_edges", 12), ("n_bytes", 10**9), ("n_bytes", 3)],
)
def test_a_hostile_tree_summary_is_refused(tree_example, key, value):
    summary, *rest = parts_of(tree_example[2])
    text = re.sub(rf'"{key}":\d+', f'"{key}":{value}', summary.decode())
    with pytest.raises(RecordError):
        bitstream.decode(forged([text.encode(), *rest]))


@settings(max_examples=40)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_no_forged_forest_decodes_to_other_symbols(tree_example, at, value):
    symbols, _, data = tree_example
    edges = edges_of(data)
    raw = edges.view(np.uint8)
    raw[at % len(raw)] = value
    try:
        decoded = bitstream.decode(with_edges(data, edges))
    except RecordError:
        return
    assert_same(decoded.symbols, symbols)


@pytest.fixture(scope="module")
def grades_example():
    """A chain, and two children of its first latent; two of the edges tell magnitudes."""
    rng = np.random.default_rng(9)
    parents = np.array([-1, 0, 1, 2, 0, 0])
    kinds = [Kind.NOTHING, Kind.QUARTERS, Kind.ON, Kind.NOTHING, Kind.HALVES, Kind.NOTHING]
    rates = np.full(6, 0.5)
    calibration, test = (random_dense(rng, n, rates) for n in (300, 60))
    book = tree_of(calibration, parents, kinds=kinds)
    return symbols_of(test), book, encode(symbols_of(test), book)


def grades_of(data):
    told = bitstream.summarise(data).tree.grades
    packed = parts_of(data)[1][-told.n_bytes :]
    return bitstream._unpack(packed, bitstream._GRADED, told.n_children).copy()


def with_grades(data, graded):
    summary, codebook, payload = parts_of(data)
    told, packed = bitstream.summarise(data).tree.grades, bitstream._pack(graded)
    text = summary.decode().replace(
        f'"n_bytes":{told.n_bytes},"str', f'"n_bytes":{len(packed)},"str'
    )
    return forged([text.encode(), codebook[: -told.n_bytes] + packed, payload])


def test_magnitudes_given_parents_come_back_from_a_file(grades_example):
    symbols, book, data = grades_example
    assert with_grades(data, grades_of(data)) == data
    decoded = bitstream.decode(data)
    assert_same(decoded.symbols, symbols)
    assert decoded.codebook.magnitudes.kind.tolist() == [0, 3, 1, 0, 2, 0]
    assert decoded.codebook.own.cells.tolist() == book.own.cells.tolist()
    assert decoded.codebook.header_bits == book.header_bits


def test_grades_of_too_many_latents_are_refused(grades_example, monkeypatch):
    monkeypatch.setattr(bitstream, "MOST_LATENTS", 5)
    with pytest.raises(RecordError, match="grades of more than 5 latents"):
        bitstream.decode(grades_example[2])


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("child", 0, 0, "no parent"),
        ("child", 0, -1, "distinct"),
        ("child", 1, 0, "distinct"),
        ("child", 2, 9, "distinct"),
        ("kind", 0, 0, "no kind"),
        ("kind", 1, 4, "no kind"),
        ("4", 0, -1, "not counts"),
        ("5", 0, 2**60, "not counts"),
    ],
)
def test_hostile_grades_are_refused(grades_example, column, row, value, message):
    graded = grades_of(grades_example[2])
    graded[column][row] = value
    with pytest.raises(RecordError, match=message):
        bitstream.decode(with_grades(grades_example[2], graded))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_children", "2"),
        ("n_children", "2000000"),
        ("n_bytes", "9"),
        ("n_bytes", "1000000000"),
        ("strengths", "[1.0]"),
    ],
)
def test_a_hostile_summary_of_grades_is_refused(grades_example, key, value):
    summary, *rest = parts_of(grades_example[2])
    head, tail = summary.decode().split('"grades":')
    tail = re.sub(rf'"{key}":(\d+|\[[^]]*\])', f'"{key}":{value}', tail, count=1)
    with pytest.raises(RecordError):
        bitstream.decode(forged([f'{head}"grades":{tail}'.encode(), *rest]))


@settings(max_examples=40)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_no_forged_grades_decode_to_other_symbols(grades_example, at, value):
    symbols, _, data = grades_example
    graded = grades_of(data)
    raw = graded.view(np.uint8)
    raw[at % len(raw)] = value
    try:
        decoded = bitstream.decode(with_grades(data, graded))
    except RecordError:
        return
    assert_same(decoded.symbols, symbols)


@pytest.fixture(scope="module")
def siblings_example():
    """Two families of five children that look at each other, by different rules."""
    rng = np.random.default_rng(8)
    parents = np.array([-1, -1, *[0] * 5, *[1] * 5])
    book = tree_of(random_dense(rng, 200, zipf(12, 5)), parents, [Rule.EITHER, Rule.ANY])
    symbols = symbols_of(random_dense(rng, 50, zipf(12, 5)))
    return symbols, book, encode(symbols, book)


def siblings_of(data):
    """Rules, and counts, as a file packs them."""
    codebook = parts_of(data)[1]
    told = bitstream.summarise(data).tree.siblings
    packed = codebook[len(codebook) - told.n_bytes :]
    pieces = packed[: told.family_bytes], packed[told.family_bytes :]
    kinds = bitstream._FAMILY, bitstream._SIBLING
    counts = told.n_families, told.n_children
    return [bitstream._unpack(*each).copy() for each in zip(pieces, kinds, counts, strict=True)]


def with_siblings(data, families, counts):
    summary, codebook, payload = parts_of(data)
    told = bitstream.summarise(data).tree.siblings
    packed = [bitstream._pack(families), bitstream._pack(counts)]
    text = summary.decode()
    text = text.replace(
        f'"n_bytes":{told.n_bytes},"family', f'"n_bytes":{len(b"".join(packed))},"family'
    )
    text = text.replace(f'bytes":{told.family_bytes},"pri', f'bytes":{len(packed[0])},"pri')
    kept = codebook[: len(codebook) - told.n_bytes]
    return forged([text.encode(), kept + b"".join(packed), payload])


def test_the_work_of_waves_is_charged(siblings_example, monkeypatch):
    """Each wave goes through all tokens that its families list: a small file may have many."""
    assert_same(bitstream.decode(siblings_example[2]).symbols, siblings_example[0])
    monkeypatch.setattr(forest, "KEY_CELLS", channel.FREE_CELLS)
    with pytest.raises(RecordError, match="more work than so few bytes are worth"):
        bitstream.decode(siblings_example[2])


def test_siblings_come_back_from_a_file(siblings_example):
    symbols, book, data = siblings_example
    assert with_siblings(data, *siblings_of(data)) == data
    decoded = bitstream.decode(data)
    assert_same(decoded.symbols, symbols)
    assert decoded.codebook.firings.tolist() == book.firings.tolist()
    assert n_waves(book.contexts) == 6
    alone = encode(symbols, tree_of(np.zeros((9, 12)), book.forest.parents))
    assert bitstream.sizes(data).tree_bytes > bitstream.sizes(alone).tree_bytes + 9


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "message"),
    [
        (0, "parent", 0, -1, "distinct"),
        (0, "parent", 1, 0, "distinct"),
        (0, "parent", 1, 5, "another number of children"),
        (0, "parent", 1, 12, "distinct"),
        (0, "rule", 0, 0, "no rule"),
        (0, "rule", 1, 4, "no rule"),
        (1, "4", 2, -1, "not counts"),
        (1, "5", 2, 2**60, "not counts"),
        (1, "4", 0, 1, "different tokens"),
    ],
)
def test_hostile_siblings_are_refused(siblings_example, table, column, row, value, message):
    data = siblings_example[2]
    tables = siblings_of(data)
    tables[table][column][row] = value
    with pytest.raises(RecordError, match=message):
        bitstream.decode(with_siblings(data, *tables))


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_families", 1), ("n_children", 9), ("n_bytes", 10**9), ("family_bytes", 10**9)],
)
def test_a_hostile_summary_of_siblings_is_refused(siblings_example, key, value):
    summary, *rest = parts_of(siblings_example[2])
    head, tail = summary.decode().split('"siblings":')
    tail = re.sub(rf'"{key}":\d+', f'"{key}":{value}', tail, count=1)
    with pytest.raises(RecordError):
        bitstream.decode(forged([f'{head}"siblings":{tail}'.encode(), *rest]))


def test_a_prior_too_many_is_refused(siblings_example):
    summary, *rest = parts_of(siblings_example[2])
    text = summary.decode().replace('"priors":[[', '"priors":[[1.0,1.0],[')
    with pytest.raises(RecordError, match="codebook"):
        bitstream.decode(forged([text.encode(), *rest]))


@settings(max_examples=60)
@given(table=st.integers(0, 1), at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_no_forged_siblings_decode_to_other_symbols(siblings_example, table, at, value):
    symbols, _, data = siblings_example
    tables = siblings_of(data)
    raw = tables[table].view(np.uint8)
    raw[at % len(raw)] = value
    try:
        decoded = bitstream.decode(with_siblings(data, *tables))
    except RecordError:
        return
    assert_same(decoded.symbols, symbols)


def test_too_many_siblings_are_refused(siblings_example, monkeypatch):
    monkeypatch.setattr(bitstream, "MAX_WAVES", 2)
    with pytest.raises(RecordError, match="6 siblings to code one after another"):
        bitstream.decode(siblings_example[2])
    with pytest.raises(CoderError, match="a file holds at most 2"):
        encode(*siblings_example[:2])


def test_too_deep_a_forest_is_refused(tree_example, monkeypatch):
    monkeypatch.setattr(bitstream, "MAX_LEVELS", 2)
    with pytest.raises(RecordError, match="levels"):
        bitstream.decode(tree_example[2])
    with pytest.raises(CoderError, match=r"levels; a file holds at most 2"):
        encode(tree_example[0], tree_example[1])


def test_what_a_codebook_cannot_code_is_refused():
    positive = codebook_of([[1, 0], [2, 1]])
    with pytest.raises(CoderError, match="negative"):
        encode(symbols_of([[-4, 0]]), positive)
    with pytest.raises(CoderError, match="2 latents cannot code 3"):
        encode(symbols_of([[1, 0, 0]]), positive)


@pytest.mark.parametrize(
    ("token", "latent", "symbol"),
    [
        ([0, 0], [1, 0], [1, 1]),
        ([0, 0], [0, 0], [1, 1]),
        ([0, 1], [0, 0], [1, 0]),
        ([0, 2], [0, 0], [1, 1]),
        ([0, 1], [0, 2], [1, 1]),
        ([-1, 0], [0, 0], [1, 1]),
    ],
    ids=["unsorted", "repeated", "zero", "no such token", "no such latent", "negative"],
)
def test_symbols_that_break_their_promises_are_refused(token, latent, symbol):
    columns = (np.array(column, dtype=np.int32) for column in (token, latent, symbol))
    with pytest.raises(CoderError, match="sorted"):
        encode(Symbols(*columns, n_tokens=2, n_latents=2), codebook_of([[1, 1], [1, 1]]))


def test_a_step_that_is_not_a_positive_number_is_refused(example):
    symbols, codebook, _ = example
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="step"):
            encode(symbols, codebook, step=step)


def test_files_are_written_whole_and_read_back(example, tmp_path):
    path = tmp_path / "new" / "latents.mdlbits"
    bitstream.write(path, example[2])
    assert bitstream.read(path) == example[2]
    assert [p.name for p in path.parent.iterdir()] == ["latents.mdlbits"]


def test_an_unwritable_place_is_an_output_error(example, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        bitstream.write(tmp_path / "file" / "x", example[2])


def test_errors_of_reading_name_the_file(example, tmp_path):
    path = tmp_path / "x.mdlbits"
    with pytest.raises(RecordError, match=r"x\.mdlbits.*cannot be read"):
        bitstream.read(path)
    path.write_bytes(example[2][:-5])
    with pytest.raises(RecordError, match=r"x\.mdlbits.*truncated"):
        bitstream.read(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(RecordError, match=r"x\.mdlbits.*not a file of mdlbench"):
        bitstream.read(path)


def test_what_is_no_file_of_bits_is_named_at_once(example, tmp_path):
    os.mkfifo(tmp_path / "fifo.bits")
    with pytest.raises(
        RecordError, match=r"fifo\.bits: cannot be read: not a regular file, but a FI"
    ):
        bitstream.read(tmp_path / "fifo.bits")
    (tmp_path / "zero.bits").symlink_to("/dev/zero")
    with pytest.raises(
        RecordError, match=r"zero\.bits: cannot be read: not a regular file, but a de"
    ):
        bitstream.read(tmp_path / "zero.bits")
    with (tmp_path / "large.bits").open("wb") as file:
        file.truncate(bitstream.MAX_BYTES + 1)
    with pytest.raises(
        RecordError, match=r"large\.bits: cannot be read: larger than 536,870,912 by"
    ):
        bitstream.read(tmp_path / "large.bits")


def test_a_file_that_could_not_be_read_is_not_written(example, monkeypatch):
    symbols, codebook, data = example
    lengths = PREFIX.unpack_from(data)[2:]
    monkeypatch.setattr(bitstream, "MAX_BYTES", len(data))
    assert encode(symbols, codebook) == data
    monkeypatch.setattr(bitstream, "MAX_BYTES", len(data) - 1)
    with pytest.raises(UsageError, match=rf"cannot be written: {len(data)} bytes, {lengths[0]} of"):
        encode(symbols, codebook)
    monkeypatch.undo()
    monkeypatch.setattr(bitstream, "MAX_SUMMARY_BYTES", lengths[0] - 1)
    with pytest.raises(UsageError, match=rf"and a summary of {lengths[0] - 1}"):
        encode(symbols, codebook)
    with pytest.raises(RecordError, match=rf"and a summary of {lengths[0] - 1}"):
        bitstream.decode(data)
