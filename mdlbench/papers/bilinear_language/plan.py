"""Which MLPs are turned bilinear, on how much text, and what is read off one of them."""

from __future__ import annotations

from dataclasses import dataclass

from mdlbench.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """What is trained and measured.

    Attributes:
        suite: whose language model is taken.
        scored_text: of the suite's texts, the one that losses are measured on.
        layers: whose MLPs are turned bilinear.
        tokens: of the training text, on which each is trained.
        held_out: further tokens of it, on which errors and correlations are measured.
        epochs, batch_size, lr, warm_up: of the training of one MLP; `warm_up` in steps.
        annealed: the share of the steps over which β falls from 1 to 0.
        tuning_contexts, tuning_epochs, tuning_batch, tuning_lr, tuning_warm_up: of the training of
            all layers together; contexts in all, the epochs that they are divided into, and
            contexts in a batch.
        studied: the layer whose output is explained.
        architecture, width, k: of the SAEs on its input and its output.
        budgets: lengths of the output SAE's training, in `1 / parts` of a pass over the tokens.
        parts: see there.
        features: of an output SAE's features, so many are drawn and explained.
        least_active: tokens on which a feature must be active to be drawn.
        interacting: of those drawn, so many have their interactions with input features counted.
        epsilons, fvus: at which explanations of the output are scored; ΔCE in nats, and FVU.
        test_contexts, code_contexts: of the suite's text, so many are scored, and codebooks and PCA
            are fitted on so many others.
        eigenvectors: so many of each output feature explain the output.
        squares: so many of the layer as a whole.
        directions: of a random projection, for comparison.
        fitted: tokens of the training text on which constants of explanations are fitted.
        replicates: of the bootstrap.
        seed: of every order and draw.
    """

    suite: str = "smollm2-l15"
    scored_text: str = "python-docs"
    layers: tuple[int, ...] = (2, 8, 15, 21, 27)
    tokens: int = 500_000
    held_out: int = 20_000
    epochs: int = 4
    batch_size: int = 1024
    lr: float = 3e-3
    warm_up: int = 50
    annealed: float = 0.5
    tuning_contexts: int = 1024
    tuning_epochs: int = 8
    tuning_batch: int = 4
    tuning_lr: float = 1e-4
    tuning_warm_up: int = 20
    studied: int = 15
    architecture: str = "topk"
    width: int = 1024
    k: int = 32
    budgets: tuple[int, ...] = (1, 2, 4, 8, 16)
    parts: int = 4
    features: int = 200
    least_active: int = 50
    interacting: int = 60
    epsilons: tuple[float, ...] = (0.03, 0.05, 0.075, 0.1)
    fvus: tuple[float, ...] = (0.6,)
    test_contexts: int = 24
    code_contexts: int = 128
    eigenvectors: tuple[int, ...] = (1, 2, 8, 32)
    squares: int = 1024
    directions: int = 288
    fitted: int = 32_768
    replicates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.studied not in self.layers:
            raise UsageError(f"layer {self.studied} cannot be studied: it is not converted")
