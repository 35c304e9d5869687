"""`baseline:pca`, `baseline:kmeans?k=N`, `baseline:dense?bits=N`, `baseline:mean`,
`baseline:random?directions=N` — fitted on the calibration split; `baseline:oracle?features=N` — the
true features, where a suite knows them.

Codes to beat, scored through the same path as any SAE.

`pca`: transform coding; signed coefficients of all principal components, the mean as bias.
`kmeans?k=K`: vector quantisation; one latent of value 1, its decoder row the centroid.
`dense?bits=N`: the activations themselves as latents, rounded to N bits first if asked.
`mean`: no latents; everything decodes to the calibration mean.
`random?directions=N&seed=S`: as `pca`, but with N orthonormal directions drawn uniformly at random.
`oracle?features=N`: the N most frequent features; latents are looked up, since no encoder could
tell them from the activation. The bias is what is left on average, parents are the features' own.

Under `normalised` a k-means latent becomes ‖centroid‖ and takes one symbol per centroid, so its
magnitude is nearly free, and the step only moves the length of the decoded centroid; beyond a step
of 2‖centroid‖ it vanishes. Independent support codes charge Σ_i H₂(k_i/N), up to log₂e bits more
than the entropy of the index; `enumerative` charges log₂K + 3 (maths §8).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mdlbench.adapters.identity import BASELINE, CoderIdentity
from mdlbench.adapters.parts import (
    Decoder,
    Encoder,
    LinearCoder,
    LookUp,
    OneHot,
    Unrectified,
    assemble,
)
from mdlbench.adapters.protocol import CoderSpec, Request, SparseCoder
from mdlbench.codes.forest import ROOT, Forest
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError, UsageError, did_you_mean
from mdlbench.sources.protocol import SPLITS, ActivationSource, Block, KnowsFeatures, Split

VERSION = "1"
"""Version of these fits: it changes when the same data come to give another coder."""

KMEANS_TOKENS = 65_536
"""k-means sees this many calibration tokens at most, the first ones."""
KMEANS_EPOCHS = 2
KMEANS_BATCH = 2048


class BaselineAdapter:
    """Fits what its argument names."""

    def identify(self, request: Request) -> CoderIdentity:
        """The identity without the fit, which is a function of the arguments and the data."""
        baseline = _named(request.argument)
        request.reject_unknown_options(*baseline.options)
        source = _source(request)
        arguments = baseline.arguments(request)
        determined_by = {
            "baseline": request.argument,
            "version": VERSION,
            "arguments": arguments,
            "data_sha256": source.data_sha256,
            "calibration_tokens": source.n_tokens["calibration"],
        }
        canonical = json.dumps(determined_by, sort_keys=True, separators=(",", ":"))
        return CoderIdentity(
            name="-".join([request.argument, *(f"{k}{v}" for k, v in arguments.items())]),
            adapter=BASELINE,
            version=VERSION,
            arguments={"baseline": request.argument, **arguments},
            weights_sha256=hashlib.sha256(canonical.encode()).hexdigest(),
        )

    def load(self, request: Request) -> SparseCoder:
        identity = request.identity or self.identify(request)
        fit = _named(request.argument).fit
        return fit(_source(request), _named(request.argument).arguments(request), identity)

    def spec_of(self, identity: CoderIdentity) -> str | None:
        """Every baseline's identity says how it was fitted."""
        options = dict(identity.arguments)
        if "baseline" not in options:
            return None
        name = str(options.pop("baseline"))
        return "?".join([name, "&".join(f"{k}={v}" for k, v in options.items())]).rstrip("?")


ADAPTER = BaselineAdapter


@torch.no_grad()
def fit_pca(
    source: ActivationSource, arguments: dict[str, Any], identity: CoderIdentity
) -> LinearCoder:
    """Eigenvectors of the calibration covariance, in float64, by falling eigenvalue, to its rank.

    The sign of each is such that its largest entry is positive.
    """
    mean, covariance = _moments(source)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    rank = int((eigenvalues > eigenvalues[-1] * source.d_in * np.finfo(np.float64).eps).sum())
    rows = vectors.T[::-1][:rank]
    rows = rows * np.sign(rows[np.arange(rank), np.abs(rows).argmax(axis=1)])[:, None]
    return _projection(rows, mean, source, identity, "pca", {"rank": rank})


@torch.no_grad()
def fit_random(
    source: ActivationSource, arguments: dict[str, Any], identity: CoderIdentity
) -> LinearCoder:
    """Orthonormal directions, uniform on the sphere, and the calibration mean: maths §8."""
    n = arguments["directions"]
    if n > source.d_in:
        raise UsageError(
            f"baseline:random?directions={n}: activations have only {source.d_in} dimensions"
        )
    generator = np.random.default_rng(arguments["seed"])
    q, r = np.linalg.qr(generator.standard_normal((source.d_in, n)))
    rows = (q * np.sign(np.diag(r))).T
    return _projection(rows, _mean(source), source, identity, "random", dict(arguments))


def _projection(
    rows: Float64[np.ndarray, "latent d"],
    mean: Float64[np.ndarray, " d"],
    source: ActivationSource,
    identity: CoderIdentity,
    architecture: str,
    details: dict[str, Any],
) -> LinearCoder:
    """The coder of orthonormal rows: signed coefficients of what differs from the mean."""
    basis, bias = _tensor(rows, source), _tensor(mean, source)
    encoder = Encoder(
        basis.T.contiguous(), torch.zeros(len(rows), device=source.device), bias, Unrectified()
    )
    return assemble(
        identity,
        encoder,
        Decoder(basis, bias),
        architecture=architecture,
        fitted=True,
        details=details,
    )


@torch.no_grad()
def fit_kmeans(
    source: ActivationSource, arguments: dict[str, Any], identity: CoderIdentity
) -> LinearCoder:
    """Mini-batch k-means from random calibration tokens; the nearest centroid of x is that of
    the largest x·c − ‖c‖²/2."""
    from sklearn.cluster import MiniBatchKMeans  # takes seconds to import

    k = arguments["k"]
    tokens = _first_tokens(source, KMEANS_TOKENS)
    if k > len(tokens):
        raise UsageError(f"baseline:kmeans?k={k}: there are only {len(tokens)} calibration tokens")
    model = MiniBatchKMeans(
        k,
        init="random",
        n_init=1,
        batch_size=KMEANS_BATCH,
        max_iter=KMEANS_EPOCHS,
        max_no_improvement=None,
        compute_labels=False,
        random_state=0,
    )
    with threadpool_limits(1):
        centroids = model.fit(tokens).cluster_centers_
    rows = _tensor(centroids, source)
    encoder = Encoder(
        rows.T.contiguous(),
        -rows.square().sum(dim=1) / 2,
        torch.zeros(source.d_in, device=source.device),
        OneHot(),
    )
    decoder = Decoder(rows, torch.zeros(source.d_in, device=source.device))
    details = {"fitted_tokens": len(tokens), "epochs": KMEANS_EPOCHS}
    return assemble(
        identity,
        encoder,
        decoder,
        architecture="kmeans",
        promised_l0=1,
        fitted=True,
        details=details,
    )


@torch.no_grad()
def fit_mean(
    source: ActivationSource, arguments: dict[str, Any], identity: CoderIdentity
) -> LinearCoder:
    bias = _tensor(_mean(source), source)
    none = torch.zeros(source.d_in, 0, device=source.device)
    encoder = Encoder(none, none[0], torch.zeros_like(bias), Unrectified())
    return assemble(
        identity,
        encoder,
        Decoder(none.T, bias),
        architecture="mean",
        promised_l0=0,
        fitted=True,
    )


@torch.no_grad()
def fit_oracle(
    source: ActivationSource, arguments: dict[str, Any], identity: CoderIdentity
) -> LinearCoder:
    """The most frequent of the true features, in the order of the source's own."""
    if not isinstance(source, KnowsFeatures):
        raise UsageError(
            "baseline:oracle: only a suite that knows its features has one, such as superposed-flat"
        )
    truth, n = source.features, arguments["features"]
    if n > len(truth.rates):
        raise UsageError(
            f"baseline:oracle?features={n}: there are only {len(truth.rates)} features"
        )
    kept = np.sort(truth.most_frequent(n))
    latent_of = np.full(len(truth.rates) + 1, ROOT)
    latent_of[kept] = np.arange(n)
    rows = _tensor(truth.directions[kept], source)
    no_bias = Decoder(rows, torch.zeros(source.d_in, device=source.device))
    residual = torch.zeros(source.d_in, dtype=torch.float64, device=source.device)
    tokens, runs = [], []
    for split in SPLITS:
        for block in source.blocks(split):
            run = _true_latents(source, split, block, latent_of, n)
            tokens.append(block.activations.float().cpu().numpy())
            runs.append(run)
            if split == "calibration":
                residual += (block.activations - no_bias(run)).double().sum(dim=0)
    bias = (residual / source.n_tokens["calibration"]).float()
    return assemble(
        identity,
        LookUp.of(source.d_in, tokens, concatenate(runs)),
        Decoder(rows, bias),
        architecture="oracle",
        fitted=True,
        forest=Forest.from_parents(latent_of[truth.parents[kept]]),
        details={"features": n},
    )


def _true_latents(
    source: KnowsFeatures,
    split: Split,
    block: Block,
    latent_of: Int64[np.ndarray, " feature"],
    n_latents: int,
) -> SparseLatents:
    """What fires in a block, of the features that are latents."""
    firing = source.firing(split, block)
    latent = latent_of[firing.feature]
    on = (latent != ROOT) & (firing.magnitude != 0)
    return SparseLatents(
        firing.token[on].astype(np.int32),
        latent[on].astype(np.int32),
        firing.magnitude[on],
        n_tokens=len(block.document),
        n_latents=n_latents,
    )


def fit_dense(
    source: ActivationSource, arguments: dict[str, Any], identity: CoderIdentity
) -> DenseCoder:
    """With `bits`, the step is that at which the calibration range takes all 2^bits levels."""
    bits = arguments.get("bits", 0)
    spec = CoderSpec(
        identity,
        architecture="dense",
        hook=source.hook,
        d_in=source.d_in,
        d_out=source.d_in,
        d_latents=source.d_in,
        decoder_norms=np.ones(source.d_in, dtype=np.float32),
        fitted=True,
        details={"bits": bits} if bits else {},
    )
    return DenseCoder(spec, _level_step(source, bits) if bits else None, source.device)


@dataclass(frozen=True)
class DenseCoder:
    """The identity dictionary: latent i is activation i.

    Attributes:
        step: activations are rounded to its multiples; None for none.
    """

    spec: CoderSpec
    step: float | None
    device: torch.device

    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        z = x.float().cpu().numpy()
        if self.step is not None:
            z = (np.rint(z / self.step) * self.step).astype(np.float32)
        return SparseLatents.from_dense(z), np.zeros((len(z), 0), dtype=np.float32)

    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        if latents.n_latents != self.spec.d_latents:
            raise CoderError(
                f"decode: {latents.n_latents} latents given to a dictionary of "
                f"{self.spec.d_latents}"
            )
        return torch.from_numpy(latents.to_dense()).to(self.device)

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        return np.eye(self.spec.d_latents, dtype=np.float32)

    def with_decoder_precision(self, bits: int) -> None:
        """None: the identity costs nothing to send."""
        return


Fit = Callable[[ActivationSource, dict[str, Any], CoderIdentity], SparseCoder]


@dataclass(frozen=True)
class Baseline:
    """A fit and its integer options: name → (default, least, most); default 0 means absent."""

    fit: Fit
    options: dict[str, tuple[int, int, int]]

    def arguments(self, request: Request) -> dict[str, Any]:
        return {
            name: request.integer(name, *bounds)
            for name, bounds in self.options.items()
            if name in request.options or bounds[0] >= bounds[1]
        }


BASELINES = {
    "pca": Baseline(fit_pca, {}),
    "kmeans": Baseline(fit_kmeans, {"k": (1024, 1, 65_536)}),
    "dense": Baseline(fit_dense, {"bits": (0, 1, 16)}),
    "mean": Baseline(fit_mean, {}),
    "random": Baseline(fit_random, {"directions": (100, 1, 65_536), "seed": (0, 0, (1 << 31) - 1)}),
    "oracle": Baseline(fit_oracle, {"features": (256, 1, 1 << 20)}),
}


def _named(name: str) -> Baseline:
    if name not in BASELINES:
        raise UsageError(f"unknown baseline {name!r}. {did_you_mean(name, BASELINES)}")
    return BASELINES[name]


def _source(request: Request) -> ActivationSource:
    if request.source is None:
        raise UsageError(
            f"baseline:{request.argument} is fitted to activations: name a suite with --suite"
        )
    site = request.source.site
    if site.hook_out is not None:
        raise UsageError(
            f"baseline:{request.argument}: baselines reconstruct what they read, but here "
            f"{site.hook} is read and {site.hook_out} is to be reconstructed"
        )
    return request.source


def _mean(source: ActivationSource) -> Float64[np.ndarray, " d"]:
    """The mean of the calibration activations."""
    total = torch.zeros(source.d_in, dtype=torch.float64, device=source.device)
    for block in source.blocks("calibration"):
        total += block.activations.double().sum(dim=0)
    return np.asarray((total / source.n_tokens["calibration"]).cpu())


def _moments(
    source: ActivationSource,
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, "d d"]]:
    """Mean and covariance of the calibration activations."""
    total = torch.zeros(source.d_in, dtype=torch.float64, device=source.device)
    products = torch.zeros(source.d_in, source.d_in, dtype=torch.float64, device=source.device)
    for block in source.blocks("calibration"):
        x = block.activations.double()
        total += x.sum(dim=0)
        products.addmm_(x.T, x)
    n = source.n_tokens["calibration"]
    mean = total / n
    covariance = products / n - torch.outer(mean, mean)
    return mean.cpu().numpy(), covariance.cpu().numpy()


def _level_step(source: ActivationSource, bits: int) -> float:
    """The step at which 2^bits levels, zero among them, span the calibration activations."""
    low = high = 0.0
    for block in source.blocks("calibration"):
        low = min(low, float(block.activations.min()))
        high = max(high, float(block.activations.max()))
    if low == 0:
        return high / ((1 << bits) - 1)
    if bits < 2:
        raise UsageError("baseline:dense?bits=1: activations of both signs need 2 bits")
    return max(high, -low) / ((1 << (bits - 1)) - 1)


def _first_tokens(source: ActivationSource, limit: int) -> Float32[np.ndarray, "token d"]:
    parts: list[np.ndarray] = []
    missing = limit
    for block in source.blocks("calibration"):
        parts.append(block.activations[:missing].float().cpu().numpy())
        missing -= len(parts[-1])
        if missing == 0:
            break
    return np.concatenate(parts)


def _tensor(array: np.ndarray, source: ActivationSource) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(source.device)
