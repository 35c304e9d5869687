"""The settings that decide a trained bilinear network."""

from __future__ import annotations

from dataclasses import dataclass

from mdlbench.errors import UsageError
from mdlbench.training.claimed import Precision
from mdlbench.training.settings import require_finite, require_types


@dataclass(frozen=True)
class BilinearConfig:
    """One training run. Equal settings on equal data give equal weights.

    Attributes:
        hidden: width of the embedding and of each bilinear layer.
        layers: bilinear layers.
        bias: whether the layers and the head have biases.
        epochs: passes over the training images.
        batch_size: images per step; those that fill no batch are left out of an epoch.
        lr: AdamW's learning rate at the start; it falls to 0 along half a cosine.
        weight_decay: AdamW's, which shrinks each weight by lr·weight_decay a step.
        noise: standard deviation of the Gaussian noise that is added to every pixel in training.
        seed: of the initial weights, the order of the images, and the noise.
        storage: precision of the weights on disk.
    """

    hidden: int
    layers: int = 1
    bias: bool = False
    epochs: int = 20
    batch_size: int = 2048
    lr: float = 1e-3
    weight_decay: float = 0.5
    noise: float = 0.3
    seed: int = 0
    storage: Precision = "float16"

    def __post_init__(self) -> None:
        require_types(type(self), vars(self))
        for name in ("hidden", "layers", "epochs", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "noise"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("lr", "weight_decay", "noise"):
            require_finite(name, getattr(self, name))

    @property
    def key(self) -> str:
        """What a recipe calls the network."""
        layers = "" if self.layers == 1 else f"-l{self.layers}"
        return f"h{self.hidden}{layers}-wd{self.weight_decay:g}-n{self.noise:g}-s{self.seed}"
