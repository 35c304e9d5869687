"""A complete image suite small enough for tests: 8 × 8 images of bars, an untrained classifier."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from mdlbench.sources.images import Classifier
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite

SIDE = 8
N_TRAIN, N_TEST = 600, 200
D_IN = SIDE * SIDE


def bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of one to three bright rows or columns with noise; the label counts the rows."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 12, size=(n, SIDE, SIDE)).astype(np.float64)
    labels = np.zeros(n, dtype=np.uint8)
    for i in range(n):
        for _ in range(generator.integers(1, 4)):
            line, brightness = generator.integers(SIDE), generator.uniform(80, 230)
            if generator.random() < 0.5:
                images[i, line, :] += brightness
                labels[i] += 1
            else:
                images[i, :, line] += brightness
    return np.clip(images, 0, 255).astype(np.uint8), labels


def write_tiny_suite(folder: Path, **changes: object) -> Path:
    """A suite folder named `tiny`; `changes` replace keys of its YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = bars(N_TRAIN + N_TEST, seed=7)
    for name, array in (("images", images), ("labels", labels)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        (folder / f"{name}.npy.xz").write_bytes(lzma.compress(buffer.getvalue()))
    torch.manual_seed(3)
    classifier = Classifier(D_IN, hidden=16)
    save_file(classifier.state_dict(), folder / "classifier.safetensors")
    content = {
        "name": "tiny",
        "title": "Bars",
        "source": {
            "kind": "images",
            "images": "images.npy.xz",
            "labels": "labels.npy.xz",
            "classifier": "classifier.safetensors",
            "n_test": N_TEST,
        },
        "steps": {"finest": 0.03125, "octaves": 6},
        "tolerances": [
            {"metric": "mse", "epsilons": [0.001, 0.004]},
            {"metric": "delta_ce", "epsilons": [0.05]},
        ],
        "headline": {"metric": "mse", "epsilon": 0.004},
        "seed": 0,
        "replicates": 200,
        "saes": [
            {"key": "pca", "spec": "baseline:pca"},
            {"key": "kmeans", "spec": "baseline:kmeans?k=8"},
            {"key": "mean", "spec": "baseline:mean"},
        ],
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(content | changes))
    return folder


def tiny_suite(folder: Path, **changes: object) -> Suite:
    return load_suite(write_tiny_suite(folder, **changes))


def write_sae(folder: Path, seed: int = 0, d_in: int = D_IN, dead: int = 8) -> Path:
    """A JumpReLU SAE in the SAELens layout that knows the bars, and some latents that never fire.

    Only for d_in = 64 do its latents mean anything.
    """
    lines = np.zeros((2 * SIDE, SIDE, SIDE))
    for i in range(SIDE):
        lines[i, i, :] = 1
        lines[SIDE + i, :, i] = 1
    rows = np.zeros((2 * SIDE + dead, d_in))
    rows[: 2 * SIDE, :D_IN] = lines.reshape(2 * SIDE, -1)[:, :d_in]
    rows[2 * SIDE :] = np.random.default_rng(seed).normal(size=(dead, d_in))
    bias = np.where(np.arange(len(rows)) < 2 * SIDE, -0.02, -100.0)
    encoder = np.zeros((d_in, len(rows)))
    encoder[:, : 2 * SIDE] = np.linalg.pinv(rows[: 2 * SIDE])
    arrays = {
        "W_enc": encoder,
        "b_enc": bias,
        "W_dec": rows,
        "b_dec": np.full(d_in, 6 / 255),
        "threshold": np.full(len(rows), 0.05),
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    save_file(weights, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu",
        "d_in": d_in,
        "d_sae": len(rows),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": "pixels"},
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder
