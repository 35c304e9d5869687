import io
import lzma
import os
import tracemalloc

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from mdlbench.errors import SuiteError
from mdlbench.sources.images import Classifier, Images, load_images
from mdlbench.suite.load import load_suite
from tests.tiny import D_IN, N_TEST, N_TRAIN, bars, tiny_suite, write_tiny_suite


@pytest.fixture(scope="module")
def mnist():
    return Images(load_suite("mnist"))


def pixels(source, split):
    return torch.cat([block.activations for block in source.blocks(split)]).numpy()


def test_mnist_is_all_of_mnist(mnist):
    train = pixels(mnist, "calibration").astype(np.float64)
    assert train.shape == (60_000, 784)
    assert mnist.n_tokens == {"calibration": 60_000, "test": 10_000}
    assert train.mean() == pytest.approx(0.1307, abs=5e-5)
    assert train.std() == pytest.approx(0.3081, abs=5e-5)
    assert mnist._labels["calibration"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(mnist._labels["test"]).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


def test_the_shipped_classifier_is_good(mnist):
    images = torch.from_numpy(pixels(mnist, "test"))
    accuracy = (mnist._classifier(images).argmax(1).numpy() == mnist._labels["test"]).mean()
    assert accuracy >= 0.975
    clean = np.concatenate([mnist.clean_ce(block) for block in mnist.blocks("test")])
    assert 0.02 < clean.mean() < 0.12


def test_splits_and_blocks_are_the_same_every_time(tmp_path):
    source = Images(tiny_suite(tmp_path))
    images, _ = bars(N_TRAIN + N_TEST, seed=7)
    expected = images.reshape(-1, D_IN).astype(np.float32) / np.float32(255)
    for _ in range(2):
        assert np.array_equal(pixels(source, "calibration"), expected[:N_TRAIN])
        assert np.array_equal(pixels(source, "test"), expected[N_TRAIN:])
    documents = np.concatenate([block.document for block in source.blocks("test")])
    assert np.array_equal(documents, np.arange(N_TEST))


def test_images_of_another_suite_are_those_of_its_files(tmp_path, monkeypatch):
    """And what tells the data apart follows the other suite's bytes."""
    shipped = write_tiny_suite(tmp_path / "shipped" / "tiny")
    monkeypatch.setattr("mdlbench.suite.folders.suites_folder", lambda: tmp_path / "shipped")
    own = Images(tiny_suite(tmp_path / "own"))
    changes = {"images": "tiny:images.npy.xz", "labels": "tiny:labels.npy.xz"}
    source = yaml.safe_load((shipped / "suite.yaml").read_text())["source"] | changes
    suite = tiny_suite(tmp_path / "own", source=source)
    (tmp_path / "own" / "images.npy.xz").unlink()
    there = Images(suite)
    assert np.array_equal(pixels(there, "test"), pixels(own, "test"))
    assert there.data_sha256 == own.data_sha256
    images, _ = bars(N_TRAIN + N_TEST, seed=8)
    buffer = io.BytesIO()
    np.save(buffer, images)
    (shipped / "images.npy.xz").write_bytes(lzma.compress(buffer.getvalue()))
    assert Images(suite).data_sha256 != own.data_sha256


def test_splicing_the_activation_itself_costs_nothing(tmp_path):
    source = Images(tiny_suite(tmp_path))
    for block in source.blocks("test"):
        loss = source.splice(block, block.activations)
        assert np.allclose(loss.ce, source.clean_ce(block), atol=1e-12)
        assert np.allclose(loss.kl, 0, atol=1e-12)
        blank = source.splice(block, torch.zeros_like(block.activations))
        assert np.allclose(blank.ce, source.ablated_ce(block), atol=1e-12)
        assert (blank.kl >= -1e-12).all()


def test_a_limit_takes_the_first_documents_of_each_split(tmp_path):
    suite = tiny_suite(tmp_path)
    whole, part = Images(suite), Images(suite, limit=30)
    assert part.n_tokens == {"calibration": 30, "test": 30}
    assert np.array_equal(pixels(part, "test"), pixels(whole, "test")[:30])
    assert part.data_sha256 == whole.data_sha256


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images.npy.xz", b"not xz", "not an xz-compressed"),
        ("images.npy.xz", lzma.compress(b"not npy"), "not an xz-compressed"),
        ("classifier.safetensors", b"junk", "not a classifier"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    folder = write_tiny_suite(tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(SuiteError, match=message) as raised:
        Images(load_suite(folder))
    assert file in str(raised.value)


def test_a_label_without_a_class_is_named(tmp_path):
    folder = write_tiny_suite(tmp_path)
    labels = np.full(N_TRAIN + N_TEST, 3, dtype=np.uint8)
    labels[5] = 10
    with lzma.open(folder / "labels.npy.xz", "wb") as file:
        np.save(file, labels)
    with pytest.raises(SuiteError, match=r"labels\.npy\.xz: label 10, expected 0 to 9"):
        Images(load_suite(folder))


def test_a_classifier_of_other_images_is_named(tmp_path):
    folder = write_tiny_suite(tmp_path)
    save_file(Classifier(D_IN + 1).state_dict(), folder / "classifier.safetensors")
    with pytest.raises(SuiteError, match=r"reads 65 pixels, but .*images\.npy\.xz holds .* of 64"):
        Images(load_suite(folder))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_classifier_that_is_not_finite_is_named(tmp_path, value):
    weights = Classifier(D_IN).state_dict()
    weights["logits.bias"][2] = value
    save_file(weights, tmp_path / "classifier.safetensors")
    with pytest.raises(SuiteError, match=r"classifier\.safetensors: logits\.bias holds NaN or inf"):
        Classifier.load(tmp_path / "classifier.safetensors")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "hidden.weight"),
        ({"hidden.weight": torch.zeros(3)}, "not enough values"),
        ({"hidden.weight": torch.zeros(3, 4)}, "Missing key"),
    ],
)
def test_other_weights_are_no_classifier(tmp_path, weights, message):
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(SuiteError, match=rf"(?s)not a classifier checkpoint: .*{message}"):
        Classifier.load(tmp_path / "other.safetensors")


def test_truncated_images_are_named(tmp_path):
    folder = write_tiny_suite(tmp_path)
    whole = (folder / "images.npy.xz").read_bytes()
    (folder / "images.npy.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SuiteError, match=r"images\.npy\.xz"):
        Images(load_suite(folder))


def test_pickled_arrays_are_refused(tmp_path):
    folder = write_tiny_suite(tmp_path)
    with lzma.open(folder / "labels.npy.xz", "wb") as file:
        np.save(file, np.array([object()]), allow_pickle=True)
    with pytest.raises(SuiteError, match=r"labels\.npy\.xz"):
        Images(load_suite(folder))


def packed(*parts):
    """An xz file of these bytes, one after the other."""
    compressor = lzma.LZMACompressor(preset=0)
    return b"".join([*map(compressor.compress, parts), compressor.flush()])


def header(shape, descr="|u1", version=(1, 0)):
    stream = io.BytesIO()
    facts = {"descr": descr, "fortran_order": False, "shape": shape}
    write = {1: np.lib.format.write_array_header_1_0, 2: np.lib.format.write_array_header_2_0}
    write[version[0]](stream, facts)
    return stream.getvalue()


MEGABYTES = [bytes(1 << 20)] * 100
PROMISES = {
    "more than all memory": (
        [header((10**6, 10**3, 10**3))],
        r"shape \(1000000, 1000, 1000\) takes 1,000,000,000,128 bytes, more than 536,870,912",
    ),
    "a vector": (
        [header((100 << 20,)), *MEGABYTES],
        r"expected \[image, row, column\], found shape",
    ),
    "floats": ([header((100, 1024, 1024), "<f4"), *MEGABYTES], "expected uint8, found float32"),
    "more behind it": (
        [header((2, 8, 8)), bytes(128), *MEGABYTES],
        r"does not unpack to the 256 bytes that it promises",
    ),
    "more behind a large one": (
        [header((1, 1024, 1024)), *MEGABYTES],
        r"does not unpack to the 1,048,704 bytes that it promises",
    ),
    "less": ([header((3, 8, 8)), bytes(128)], r"does not unpack to the 320 bytes"),
    "no shape": ([header((-1, 8, 8)), *MEGABYTES], "a negative number in its shape"),
    "a long header": (
        [b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", *MEGABYTES],
        "EOF: reading array header",
    ),
    "no header": (MEGABYTES, "magic string is not correct"),
}


@pytest.mark.parametrize("case", PROMISES)
def test_no_more_is_unpacked_than_a_header_promises(tmp_path, case):
    parts, message = PROMISES[case]
    folder = write_tiny_suite(tmp_path)
    (folder / "images.npy.xz").write_bytes(packed(*parts))
    suite = load_suite(folder)
    tracemalloc.start()
    with pytest.raises(SuiteError, match=rf"images\.npy\.xz: .*{message}"):
        Images(suite)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("shape", [(N_TRAIN + N_TEST, 8, 8), (N_TRAIN + N_TEST, 64, 64)])
def test_images_are_those_of_the_file(tmp_path, shape, version):
    """Files that end within the bytes in which a header may lie, and larger ones."""
    content = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    (tmp_path / "images.xz").write_bytes(packed(header(shape, version=version), content.tobytes()))
    (tmp_path / "labels.xz").write_bytes(packed(header(shape[:1]), bytes(shape[0])))
    images, labels = load_images(tmp_path / "images.xz", tmp_path / "labels.xz")
    assert np.array_equal(images, content)
    assert labels.tolist() == [0] * shape[0]


def test_images_in_fortran_order(tmp_path):
    content = np.random.default_rng(0).integers(0, 255, (5, 3, 4), dtype=np.uint8)
    for name, array in (("images", np.asfortranarray(content)), ("labels", np.zeros(5, np.uint8))):
        with lzma.open(tmp_path / name, "wb") as file:
            np.save(file, array)
    images, _ = load_images(tmp_path / "images", tmp_path / "labels")
    assert np.array_equal(images, content)


@pytest.mark.parametrize("file", ["images.npy.xz", "labels.npy.xz", "classifier.safetensors"])
def test_what_is_no_file_is_named(tmp_path, file):
    folder = write_tiny_suite(tmp_path)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(SuiteError, match=rf"{file}: .*not a regular file, but a FIFO"):
        Images(load_suite(folder))
