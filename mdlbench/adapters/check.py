"""Does a loaded coder behave as an SAE should? What `mdlbench check-adapter` prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64

from mdlbench.adapters import checked
from mdlbench.adapters.agreement import described, doubts, is_of_language_model
from mdlbench.adapters.bias import Fit, fit, readings
from mdlbench.adapters.independence import REMEDY, Trial
from mdlbench.adapters.protocol import CoderSpec, SparseCoder
from mdlbench.adapters.sample import first_blocks, sample
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import CoderError
from mdlbench.sources.protocol import ActivationSource
from mdlbench.suite.site import Site

SAMPLE_TOKENS = 2048
DECODE_TOKENS = 256
TOLERANCE = 1e-4
"""Relative error allowed to float32 against float64."""
L0_RATIO = 2.0
"""How far the L0 may be from the one that the checkpoint was trained to."""
L0_EXCESS = 1.6
"""How far above the one that training measured: other text gave up to 1.45, a lost threshold 1.7
and more."""
BETTER = 0.95
"""Share of the unexplained error below which another reading of the bias is the right one."""
MUCH_BETTER = 0.85
"""The same of the whole error, which has more reasons to be less."""
CONSTANT_SHARE = 0.01
"""Share of the error that a constant may take away where the loss is that of training."""
SAMPLING = 4.0
"""So many tokens' share is added to that: the mean of a sample is not that of all."""
K_SHARE = 0.9
"""The share of k that is active if every token has k: the k largest are hardly ever negative."""
SCALE_RATIO = 1.5
"""How far a scale may be from what it should be; the shrinkage of an L1 penalty is less."""
DEAD_SHARE = 0.5
LEAST_SIDE_BITS = 16
"""Fewer bits than this for a number of side information are few."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what, in a word or two.
        passed: True, False, or "warning" where it may be meant so.
        message: what was found, in plain words.
    """

    name: str
    passed: bool | Literal["warning"]
    message: str


@dataclass(frozen=True)
class Allowed:
    """How far an honest SAE may be from its training.

    Attributes:
        loss: how many times the loss of training its own may be.
        constant: share of the error that a constant may take away.
    """

    loss: float
    constant: float


SAME_DATA = Allowed(1.25, 0.03)
OTHER_TEXT = Allowed(8.0, 0.2)
"""The same for a language model, whose text may differ: honest SAEs came to 4 and to 0.115."""


@dataclass(frozen=True)
class TriedCoder:
    """One run of a coder on some activations.

    Attributes:
        x: activations of a source, or standard-normal values.
        target: what a source has the coder reconstruct; None without a source.
    """

    coder: SparseCoder
    x: Float32[torch.Tensor, "token d_in"]
    target: Float32[torch.Tensor, "token d_out"] | None
    latents: SparseLatents
    side: Float32[np.ndarray, "token side"]
    reconstruction: Float[torch.Tensor, "token d_out"]

    @property
    def spec(self) -> CoderSpec:
        return self.coder.spec

    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float32[torch.Tensor, "token d_out"]:
        return checked.decode(self.coder, latents, side, self.x.device)


def check_coder(coder: SparseCoder, source: ActivationSource | None = None) -> list[Check]:
    """What was loaded, and whether it behaves, on the source's activations if there are any.

    Checks that only real activations can answer (L0 against training, dead latents,
    reconstruction) are left out where there are none.
    """
    loaded = Check("loaded", True, _description(coder.spec))
    first = [loaded, *check_origin(coder.spec, source.site if source else None)]
    try:
        trial = _try(coder, source)
        allowed = OTHER_TEXT if source and source.site.model else SAME_DATA
        return [*first, *(check(trial) for check in CHECKS), *_checks_of_data(trial, allowed)]
    except CoderError as error:
        return [*first, Check("runs", False, str(error))]


def check_origin(spec: CoderSpec, site: Site | None) -> list[Check]:
    """Whether a language model's SAE is given what it was trained on; nothing for others."""
    if spec.fitted or not is_of_language_model(spec.origin, site):
        return []
    found = doubts(spec.origin, site)
    message = "; ".join(filter(None, [described(spec.origin), *found]))
    return [Check("trained on", "warning" if found else True, message)]


def check_side(trial: TriedCoder) -> Check:
    """What is charged for that which the decoder is handed beside the latents; never nothing."""
    columns, bits = trial.side.shape[1], trial.spec.side_bits
    message = f"{columns} numbers and {bits:g} bits per token"
    if bits < LEAST_SIDE_BITS * columns:
        message += f": fewer than {LEAST_SIDE_BITS} bits each"
        return Check("side information", "warning", message)
    return Check("side information", True, message)


def check_shapes(trial: TriedCoder) -> Check:
    """What `checked` has let through, for the reader."""
    latents = trial.latents
    return Check(
        "shapes",
        True,
        f"{list(trial.x.shape)} → latents [{latents.n_tokens}, {latents.n_latents}], "
        f"side {list(trial.side.shape)} → {list(trial.reconstruction.shape)}",
    )


def check_finite(trial: TriedCoder) -> Check:
    finite = bool(trial.reconstruction.isfinite().all())
    message = "all values are finite" if finite else "reconstruction: NaN or infinite"
    return Check("finite", finite, message)


def check_deterministic(trial: TriedCoder) -> Check:
    again, _ = checked.encode(trial.coder, trial.x)
    same = (
        np.array_equal(again.token, trial.latents.token)
        and np.array_equal(again.latent, trial.latents.latent)
        and np.array_equal(again.value, trial.latents.value)
    )
    said = "gives the same latents" if same else "gives other latents: something in it is random"
    return Check("deterministic", same, f"encoding twice {said}")


def check_independent(trial: TriedCoder) -> Check:
    """Tokens in other company than the whole run's; every evaluation asks the same."""
    tried = Trial.of(trial.coder, trial.x)
    problem = tried.problem()
    if problem is None:
        message = (
            f"{len(tried.x)} tokens in another order and in small blocks have the same latents"
        )
        return Check("token by token", True, message)
    return Check(
        "token by token", False, f"{problem}: encode looks at other tokens of the batch; {REMEDY}"
    )


def check_l0(trial: TriedCoder) -> Check:
    active = np.bincount(trial.latents.token, minlength=len(trial.x))
    mean, most, promised = float(active.mean()), int(active.max()), trial.spec.promised_l0
    found = f"L0 is {mean:.1f} on average, {most} at most"
    if promised is not None and most > promised:
        return Check("L0", False, f"{found}, but {promised:g} is promised: loaded as another kind")
    if mean == 0 and trial.spec.d_latents:
        return Check("L0", False, "no latent is ever active")
    expected, furthest = _expected_l0(trial)
    least = K_SHARE if _is_topk(trial.spec) else 1 / L0_RATIO
    if expected is not None and mean / expected > furthest:
        message = f"{found}, but it was trained to {expected:.4g}"
        return Check("L0", "warning", f"{message}: a threshold is lost, or a bias is wrong")
    if expected is not None and mean / expected < least:
        return Check("L0", "warning", f"{found}, but it was trained to {expected:.4g}")
    if promised is not None:
        return Check("L0", True, f"{found}; {promised:g} is promised")
    return Check("L0", True, found if expected is None else f"{found}; trained to {expected:.4g}")


def _expected_l0(trial: TriedCoder) -> tuple[float | None, float]:
    """The L0 of training, and how far above it is too far; None without activations."""
    if trial.target is None:
        return None, L0_RATIO
    if trial.spec.measured_l0 is not None:
        return trial.spec.measured_l0, L0_EXCESS
    return trial.spec.trained_l0, L0_RATIO


def check_bias(trial: TriedCoder) -> Check:
    """decode(0) is one vector, whatever the token."""
    nothing = _nothing(trial, DECODE_TOKENS)
    side = np.repeat(trial.side[:1], nothing.n_tokens, axis=0)
    decoded = trial.decode(nothing, side)
    same = bool((decoded == decoded[:1]).all()) and bool(decoded.isfinite().all())
    norm = float(decoded[0].double().norm())
    message = f"no latents decode to the bias, norm {norm:.4g}"
    return Check("decode(0)", same, message if same else "no latents decode to differing vectors")


def check_decoder(trial: TriedCoder) -> Check:
    """decode(z) − decode(0) against z times the decoder rows, in float64."""
    run = trial.latents.rows(0, min(DECODE_TOKENS, len(trial.x)))
    side = trial.side[: run.n_tokens]
    nothing = trial.decode(_nothing(trial, run.n_tokens), side)
    decoded = (trial.decode(run, side) - nothing).double().cpu().numpy()
    rows = checked.decoder_rows(trial.coder).astype(np.float64)
    expected = run.to_dense().astype(np.float64) @ rows
    if trial.side.shape[1]:
        expected = expected * _scale(decoded, expected)
    size = np.abs(expected).max(initial=0.0) + float(nothing.abs().max())
    error = float(np.abs(decoded - expected).max(initial=0.0)) / max(size, 1e-30)
    if error <= TOLERANCE:
        return Check("decoder", True, f"decode is the weighted sum of its rows to {error:.0e}")
    if not trial.spec.affine:
        return Check(
            "decoder",
            "warning",
            "decode is not affine: decoder norms are those of single latents, and its weights "
            "are not priced",
        )
    return Check("decoder", False, f"decode differs from the weighted sum of its rows: {error:.0e}")


def check_norms(trial: TriedCoder) -> Check:
    rows = checked.decoder_rows(trial.coder).astype(np.float64)
    norms = np.sqrt((rows**2).sum(axis=1))
    fits = np.allclose(norms, trial.spec.decoder_norms, rtol=TOLERANCE, atol=1e-12)
    zero = int((norms == 0).sum())
    message = f"from {norms.min():.3g} to {norms.max():.3g}" if len(norms) else "no rows"
    if not fits:
        return Check("decoder norms", False, "spec.decoder_norms are not those of the rows")
    if zero:
        return Check("decoder norms", "warning", f"{message}; {zero} rows are zero")
    return Check("decoder norms", True, message)


CHECKS: tuple[Callable[[TriedCoder], Check], ...] = (
    check_shapes,
    check_side,
    check_finite,
    check_deterministic,
    check_independent,
    check_l0,
    check_bias,
    check_decoder,
    check_norms,
)


def check_dead(trial: TriedCoder) -> Check:
    d_latents = trial.spec.d_latents
    dead = d_latents - len(np.unique(trial.latents.latent))
    share = dead / d_latents if d_latents else 0.0
    message = f"{dead} of {d_latents} latents ({share:.1%}) are off on all {len(trial.x)} tokens"
    return Check("dead latents", True if share <= DEAD_SHARE else "warning", message)


def check_reconstruction(trial: TriedCoder, target: Float64[torch.Tensor, "token d_out"]) -> Check:
    error = (target - trial.reconstruction.double()).square().sum()
    fvu = float(error / (target - target.mean(dim=0)).square().sum())
    message = f"fraction of variance unexplained is {fvu:.4f}"
    if fvu > 1 + TOLERANCE and trial.spec.d_latents:
        return Check(
            "reconstruction",
            "warning",
            f"{message}: worse than the mean; wrong hook point, or a normalisation is missing",
        )
    return Check("reconstruction", True, message)


def check_scale(trial: TriedCoder, target: Float64[torch.Tensor, "token d_out"]) -> Check:
    """The factor a that minimises ‖y − a·ŷ‖², both centred: far from 1, a scale is missing."""
    centred = trial.reconstruction.double()
    centred = centred - centred.mean(dim=0)
    power = float(centred.square().sum())
    if power == 0:
        return Check("scale", True, "the reconstruction is the same for all tokens")
    factor = float((centred * (target - target.mean(dim=0))).sum()) / power
    message = f"activations are best matched by {factor:.3g} times the reconstruction"
    if 1 / SCALE_RATIO <= factor <= SCALE_RATIO:
        return Check("scale", True, message)
    return Check(
        "scale",
        "warning",
        f"{message}: a scale was not folded into its weights, or its normalisation not undone",
    )


def check_loss(
    trial: TriedCoder, target: Float64[torch.Tensor, "token d_out"], allowed: Allowed
) -> list[Check]:
    """Whether the error is that of training, where training tells."""
    expected = trial.spec.measured_mse
    if expected is None:
        return []
    mse = _mse(trial, target)
    message = f"MSE is {mse:.4g} per dimension; {expected:.4g} in training"
    if mse <= allowed.loss * expected:
        return [Check("loss", True, message)]
    cause = "loaded otherwise than trained (bias, threshold, normalisation), or other activations"
    return [Check("loss", "warning", f"{message}: {cause}")]


def check_bias_place(
    trial: TriedCoder, target: Float64[torch.Tensor, "token d_out"], allowed: Allowed
) -> list[Check]:
    """Whether the bias is right, on the input and at the output; see `bias`.

    Only where the input is what is reconstructed, and nothing but a bias is added to the latents.
    """
    vector = trial.decode(_nothing(trial, 1), trial.side[:1])[0].to(trial.x.device)
    if not _has_bias_to_try(trial, target, vector):
        return []
    loaded = fit(trial.coder, trial.x, vector)
    best, words = _better_reading(trial, vector, loaded)
    if words:
        message = f"another bias explains more ({best:.1%} of the error remains): {words}"
        return [Check("bias", "warning", message)]
    expected = trial.spec.measured_mse
    at_home = expected is not None and loaded.error <= SAME_DATA.loss * expected
    most = (CONSTANT_SHARE if at_home else allowed.constant) + SAMPLING / len(trial.x)
    message = f"a constant would take away {loaded.constant:.1%} of the error"
    if loaded.constant > most:
        cause = "the bias is not that of training, or a threshold is lost"
        return [Check("bias", "warning", f"{message}: {cause}")]
    return [Check("bias", True, f"{message}, no other use of it more")]


def _has_bias_to_try(
    trial: TriedCoder, target: Float64[torch.Tensor, "token d_out"], vector: torch.Tensor
) -> bool:
    spec = trial.spec
    return (
        bool(spec.d_latents and spec.affine and not spec.fitted)
        and trial.side.shape[1] == 0
        and trial.x.shape == target.shape
        and torch.equal(trial.x.double(), target)
        and bool(vector.any())
    )


def _better_reading(trial: TriedCoder, vector: torch.Tensor, loaded: Fit) -> tuple[float, str]:
    """The share of the error under the best reading, and its words if it is clearly better."""
    tried = {reading.words: fit(trial.coder, trial.x, vector, reading) for reading in readings()}
    words = min(tried, key=lambda name: tried[name].error)
    best = tried[words]
    share = best.error / max(loaded.error, 1e-30)
    unexplained = best.unexplained / max(loaded.unexplained, 1e-30)
    clearly = share < 1 and (unexplained < BETTER or share < MUCH_BETTER)
    return share, words if clearly else ""


def _mse(trial: TriedCoder, target: Float64[torch.Tensor, "token d_out"]) -> float:
    return float((target - trial.reconstruction.double()).square().mean())


def check_input_norm(trial: TriedCoder) -> list[Check]:
    """Whether inputs have the norm of training, where activations were scaled to √d on average."""
    s = trial.spec.input_scale
    if s is None:
        return []
    expected = trial.spec.d_in**0.5 / s
    norm = float(trial.x.norm(dim=1).mean())
    message = f"‖x‖ is {norm:.3g} on average; the scale folded in was set where it was"
    if 1 / SCALE_RATIO <= norm / expected <= SCALE_RATIO:
        return [Check("input norm", True, f"{message} {expected:.3g}")]
    where = "of another model or hook point, or the model is processed otherwise"
    return [Check("input norm", "warning", f"{message} {expected:.3g}: {where}")]


def _checks_of_data(trial: TriedCoder, allowed: Allowed) -> list[Check]:
    if trial.target is None:
        return []
    target = trial.target.double()
    return [
        check_dead(trial),
        check_reconstruction(trial, target),
        *check_loss(trial, target, allowed),
        check_scale(trial, target),
        *check_bias_place(trial, target, allowed),
        *check_input_norm(trial),
    ]


def _try(coder: SparseCoder, source: ActivationSource | None) -> TriedCoder:
    x = sample(coder.spec.d_in, source, SAMPLE_TOKENS)
    target = None
    if source is not None:
        blocks = first_blocks(source, SAMPLE_TOKENS)
        target = torch.cat([block.activations for block in blocks])[:SAMPLE_TOKENS].float()
    latents, side = checked.encode(coder, x)
    reconstruction = checked.decode(coder, latents, side, x.device)
    return TriedCoder(coder, x, target, latents, side, reconstruction)


def _nothing(trial: TriedCoder, n_tokens: int) -> SparseLatents:
    index, value = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
    return SparseLatents(index, index, value, n_tokens, trial.spec.d_latents)


def _scale(
    decoded: Float64[np.ndarray, "token d_out"], expected: Float64[np.ndarray, "token d_out"]
) -> Float64[np.ndarray, "token 1"]:
    """The factor of each token by which its side information stretches the decoder."""
    power = (expected**2).sum(axis=1, keepdims=True)
    factor: np.ndarray = (decoded * expected).sum(axis=1, keepdims=True) / np.maximum(power, 1e-30)
    return factor


def _is_topk(spec: CoderSpec) -> bool:
    """Whether every token has k active latents, not the average one as in a BatchTopK SAE."""
    return spec.promised_l0 is not None and spec.promised_l0 == spec.trained_l0


def _description(spec: CoderSpec) -> str:
    promised = f"at most {spec.promised_l0:g} active; " if spec.promised_l0 is not None else ""
    side = f"{spec.side_bits:g} side bits per token; " if spec.side_bits else ""
    hook = f"hook {spec.hook}; " if spec.hook else ""
    facts = ", ".join(f"{key}={value}" for key, value in spec.details.items())
    return (
        f"{spec.name}: {spec.architecture} by adapter {spec.adapter} {spec.identity.version}; "
        f"{spec.d_in} → {spec.d_latents} → {spec.d_out}; {hook}{promised}{side}"
        f"weights {spec.weights_sha256[:12]}; {facts}"
    ).rstrip("; ")
