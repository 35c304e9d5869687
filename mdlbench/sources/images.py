"""Images as activations: one image is one token and one document; a classifier prices a splice."""

from __future__ import annotations

import hashlib
import lzma
import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from safetensors.torch import load
from torch import nn

from mdlbench.bilinear.network import BilinearNetwork, load_network
from mdlbench.disk import npy
from mdlbench.disk.files import read_regular
from mdlbench.errors import SuiteError, UsageError
from mdlbench.sources.classified import ClassifiedTokens
from mdlbench.sources.kinds.images import PIXELS, ImagesConfig
from mdlbench.sources.protocol import Block, SourceOpener, Split
from mdlbench.suite.artefact import artefact
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite

BLOCK_IMAGES = 1024
N_CLASSES = 10
PACKED_BYTES, ARRAY_BYTES = 2**29, 2**29
"""The most bytes of a file of a suite, and of what a compressed one unpacks to."""
UNPACKING_BYTES = 2**28
"""Memory that decompressing may take beside its result; xz itself takes a quarter at most."""


class Classifier(nn.Module):
    """Two-layer perceptron from pixels in [0, 1] to class logits."""

    def __init__(self, d_in: int, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_in, hidden)
        self.logits = nn.Linear(hidden, N_CLASSES)

    @property
    def d_in(self) -> int:
        return self.hidden.in_features

    def forward(self, x: Float[torch.Tensor, "image pixel"]) -> Float[torch.Tensor, "image class"]:
        return cast(torch.Tensor, self.logits(torch.relu(self.hidden(x))))

    @classmethod
    def load(cls, path: Path) -> Classifier:
        with artefact(path, "a classifier checkpoint"):
            weights = load(read_regular(path, PACKED_BYTES))
            hidden, d_in = weights["hidden.weight"].shape
            model = cls(d_in, hidden)
            model.load_state_dict(weights)
        for name, tensor in model.state_dict().items():
            if not tensor.isfinite().all():
                raise SuiteError(f"{path}: {name} holds NaN or infinite weights")
        return model.eval()


def load_classifier(path: Path) -> Classifier | BilinearNetwork:
    """A suite's classifier: a perceptron, or a bilinear network where its file holds one."""
    with artefact(path, "a classifier checkpoint"):
        is_bilinear = "embed.weight" in load(read_regular(path, PACKED_BYTES))
    return load_network(path) if is_bilinear else Classifier.load(path)


class Images(ClassifiedTokens):
    """The `ActivationSource` of an image suite: pixels divided by 255, flattened."""

    def __init__(self, suite: Suite, device: str = "cpu", limit: int | None = None) -> None:
        config = suite.source
        if not isinstance(config, ImagesConfig):
            raise UsageError(f"suite {suite.name!r} is not an image suite")
        files = [suite.path(name) for name in (config.images, config.labels, config.classifier)]
        images, labels = load_images(files[0], files[1])
        if not 0 < config.n_test < len(images):
            raise SuiteError(
                f"suite {suite.name!r}: n_test={config.n_test} does not split {len(images)} images"
            )
        if limit is not None and limit < 1:
            raise UsageError(f"--limit must be at least 1, not {limit}")
        n_train = len(images) - config.n_test
        self._images = {
            "calibration": images[:n_train][:limit],
            "test": images[n_train:][:limit],
        }
        self._labels = {
            "calibration": labels[:n_train][:limit],
            "test": labels[n_train:][:limit],
        }
        self.site = Site(hook=PIXELS)
        self.hook = PIXELS
        self.image_shape: tuple[int, int] | None = (images.shape[1], images.shape[2])
        self.d_in = self.d_out = images.shape[1] * images.shape[2]
        self.n_documents: dict[Split, int] = {
            "calibration": len(self._images["calibration"]),
            "test": len(self._images["test"]),
        }
        self.n_tokens = dict(self.n_documents)
        self.device = torch.device(device)
        classifier = load_classifier(files[2])
        self.data_sha256 = _digest(files)
        if classifier.d_in != self.d_in:
            raise SuiteError(
                f"{files[2]}: reads {classifier.d_in} pixels, but {files[0]} holds "
                f"images of {self.d_in}"
            )
        self._classifier = classifier.to(self.device)
        self._test_blocks: dict[int, Block] = {}
        self._clean: dict[int, torch.Tensor] = {}

    def n_blocks(self, split: Split) -> int:
        return math.ceil(len(self._images[split]) / BLOCK_IMAGES)

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """See `ActivationSource`; test blocks are kept, since every SAE is run on them often."""
        for index in range(self.n_blocks(split))[start:stop]:
            if split == "calibration":
                yield self._block(split, index)
                continue
            if index not in self._test_blocks:
                self._test_blocks[index] = self._block(split, index)
            yield self._test_blocks[index]

    def _block(self, split: Split, index: int) -> Block:
        first = index * BLOCK_IMAGES
        images = self._images[split][first : first + BLOCK_IMAGES]
        pixels = torch.from_numpy(images).to(self.device)
        return Block(
            index=index,
            document=np.arange(first, first + len(images), dtype=np.int64),
            activations=pixels.reshape(len(pixels), self.d_in).float() / 255.0,
        )

    def _clean_log_probabilities(self, block: Block) -> Float64[torch.Tensor, "token class"]:
        if block.index not in self._clean:
            self._clean[block.index] = self._log_probabilities(block.activations)
        return self._clean[block.index]

    @torch.no_grad()
    def _log_probabilities(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> Float64[torch.Tensor, "token class"]:
        return torch.log_softmax(self._classifier(x).double(), dim=-1)

    def _classes(self, block: Block) -> Int64[torch.Tensor, " token"]:
        classes = np.asarray(self._labels["test"][block.document], dtype=np.int64)
        return torch.from_numpy(classes).to(self.device)


class ImagesOpener(SourceOpener[ImagesConfig]):
    """Reads a suite's images."""

    def open(self, site: Site) -> Images:
        return Images(self.suite, self.setting.device, self.setting.limit)


def load_images(
    images: Path, labels: Path
) -> tuple[UInt8[np.ndarray, "image row column"], UInt8[np.ndarray, " image"]]:
    """Two xz-compressed `.npy` files; raises `SuiteError` naming the one that cannot be read."""
    pixels, classes = (
        _load_npy_xz(images, ("image", "row", "column")),
        _load_npy_xz(labels, ("image",)),
    )
    if len(pixels) != len(classes):
        raise SuiteError(
            f"{images}: expected as many labels as images, found {len(pixels)} images and "
            f"{len(classes)} labels"
        )
    if (highest := int(classes.max(initial=0))) >= N_CLASSES:
        raise SuiteError(f"{labels}: label {highest}, expected 0 to {N_CLASSES - 1}")
    return pixels, classes


def _load_npy_xz(path: Path, axes: tuple[str, ...]) -> UInt8[np.ndarray, ...]:
    with artefact(path, "an xz-compressed .npy file"):
        packed = read_regular(path, PACKED_BYTES)
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACKING_BYTES)
        beginning = unpacker.decompress(packed, npy.LONGEST_HEADER)
        header = npy.read_header(beginning)
        _check_promise(header, axes, path)
        # one byte more than promised shows that there is more, without unpacking all of it
        missing = max(header.ends - len(beginning) + 1, 0)
        content = bytearray(beginning)
        content += b"" if unpacker.eof else unpacker.decompress(b"", missing)
    if len(content) != header.ends or not unpacker.eof:
        raise SuiteError(f"{path}: does not unpack to the {header.ends:,} bytes that it promises")
    array = np.frombuffer(content, np.uint8, offset=header.begins)
    return array.reshape(header.shape, order=header.order)


def _check_promise(header: npy.Header, axes: tuple[str, ...], path: Path) -> None:
    """Refuse what no images or labels are, before it is unpacked."""
    if header.dtype != np.uint8:
        raise SuiteError(f"{path}: expected uint8, found {header.dtype}")
    if len(header.shape) != len(axes):
        raise SuiteError(f"{path}: expected [{', '.join(axes)}], found shape {header.shape}")
    if header.ends > ARRAY_BYTES:
        raise SuiteError(
            f"{path}: shape {header.shape} takes {header.ends:,} bytes, more than {ARRAY_BYTES:,}"
        )


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with artefact(file, "a file that can be read"):
            digest.update(hashlib.sha256(read_regular(file, PACKED_BYTES)).digest())
    return digest.hexdigest()
