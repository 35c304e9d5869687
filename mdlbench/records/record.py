"""The result of scoring one SAE on one suite: schema, identity, canonical JSON.

One record is one JSON file. Floats are unrounded; a value that was not measured is absent, never
NaN. The names of the keys are a contract with everyone who reads records.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mdlbench.adapters.identity import CoderIdentity, Facts
from mdlbench.disk.json_text import no_constant, parse_json
from mdlbench.errors import RecordError, UsageError, did_you_mean, first_line, first_problem
from mdlbench.quantisers.modes import MODES, mode_of
from mdlbench.records import seal
from mdlbench.statistics.metrics import METRICS, Metric, metric_of
from mdlbench.suite.base import MetricName
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Headline

if TYPE_CHECKING:
    import pandas as pd

    from mdlbench.records.measured import MeasuredCurve

SCHEMA_VERSION: Literal[3] = 3
PROTOCOL = 2
"""Version of the measurement itself: quantisers, codes and metrics. Numbers of different
protocols are never compared."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63), WithJsonSchema({"type": "integer"})]
"""One of 64 bits, as all tables hold; JSON itself has no bound."""
Interval = tuple[Finite, Finite]
Versioned = TypeVar("Versioned", bound=BaseModel)


def _known_mode(name: str) -> str:
    try:
        return mode_of(name).name
    except UsageError as error:
        raise ValueError(str(error)) from error


def _name_modes(schema: dict[str, Any]) -> None:
    schema["enum"] = list(MODES)


Quantiser = Annotated[str, AfterValidator(_known_mode), Field(json_schema_extra=_name_modes)]
"""The name of an operating mode."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def __dir__(self) -> list[str]:
        """What a part of a record is and does; what pydantic adds is left out."""
        own = {name for kind in type(self).__mro__ if issubclass(kind, Part) for name in vars(kind)}
        held = {*type(self).model_fields, *(self.__pydantic_extra__ or {})}
        return sorted(name for name in own | held if not name.startswith(("_", "model_")))


class MetricKey(NamedTuple):
    """A key that a part of a record has for a metric of the table.

    Attributes:
        kind: of its value: a number, an interval or a text.
        description: what it holds.
        required: whether every record has it, or only those of suites with a tolerance on it.
    """

    kind: type[float] | type[tuple[float, float]] | type[str]
    description: str
    required: bool


def _metric_key(kind: Any, metric: Metric, description: str) -> MetricKey:
    where = "" if metric.always else " It is absent unless the suite sets a tolerance on it."
    return MetricKey(kind, description + where, metric.always)


def _declare_metrics(schema: dict[str, Any], model: type[PerMetric]) -> None:
    """The keys that the table adds to a part, in its JSON Schema."""
    number = {"type": "number"}
    kinds: dict[Any, dict[str, Any]] = {
        float: number,
        tuple: {"type": "array", "prefixItems": [number] * 2, "minItems": 2, "maxItems": 2},
        str: {"type": "string"},
    }
    for key, metric_key in model.metric_keys().items():
        schema["properties"][key] = kinds[metric_key.kind] | {"description": metric_key.description}
        if metric_key.required:
            schema["required"].append(key)
    schema["additionalProperties"] = False


class PerMetric(Part):
    """A part that has keys for metrics beside its own.

    The table of metrics decides which there may be, and which there must be.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=_declare_metrics)
    __pydantic_extra__: dict[str, Finite | Interval | str]

    @classmethod
    def metric_keys(cls) -> dict[str, MetricKey]:
        """The keys that the table of metrics adds to this part's own."""
        return cls._keys_for(tuple(METRICS.values()))

    @classmethod
    def _keys_for(cls, metrics: tuple[Metric, ...]) -> dict[str, MetricKey]:
        """Those that these rows of the table add; each part says which."""
        raise NotImplementedError

    @property
    def by_metric(self) -> dict[str, Any]:
        """What it has under those keys."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="after")
    def _has_the_keys_of_the_table(self) -> Self:
        keys, found = self.metric_keys(), self.__pydantic_extra__
        for key, value in found.items():
            if key not in keys:
                raise _problem(key, f"unknown key. {did_you_mean(key, keys)}")
            if not isinstance(value, keys[key].kind):
                raise _problem(key, f"not a {keys[key].kind.__name__}")
        for key, metric_key in keys.items():
            if metric_key.required and key not in found:
                raise _problem(key, "Field required")
        return self


def _problem(key: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("metric_key", "{message}", {"message": f"{key}: {message}"})


class Identity(Part):
    """All that decides a record's numbers; computed before the run, compared by equality."""

    suite: str
    suite_digest: str
    protocol: Integer
    coder: CoderIdentity
    data_sha256: str
    seed: Integer
    limit: Integer | None = None
    quantiser: Quantiser | None = None
    """The quantiser, if it is not the suite's own."""

    @property
    def id(self) -> str:
        """SHA-256 of the identity's canonical JSON; an absent quantiser is left out."""
        absent = {"quantiser"} if self.quantiser is None else None
        content = self.model_dump(mode="json", exclude=absent)
        return hashlib.sha256(seal.canonical(content).encode()).hexdigest()


class TokenCounts(Part):
    calibration: Integer
    test: Integer


class CoderFacts(Part):
    """What the SAE is and does before quantisation."""

    d_in: Integer
    d_out: Integer
    d_latents: Integer
    architecture: str
    hook: str
    l0: Finite
    """Mean active latents per test token."""
    dead_fraction: Finite
    """Share of latents active on no token of either split."""
    decoder_weight_bits: Integer | None = None
    """Fewest bits per decoder weight that still keep the headline tolerance or, if the SAE does not
    meet that one, the first tolerance that it meets."""
    decoder_bits: Finite | None = None
    """(live rows · d + d) · decoder_weight_bits (maths §3), or `model_bits`."""
    model_bits: Finite | None = None
    """What the decoder takes by the account of its adapter, where it is not rows and a bias."""
    codebook_bits: Finite | None = None
    """Real size of the codebook in the audited bitstream's header, and `header_bits` there."""
    break_even_tokens: Finite | None = None
    """Tokens after which the latents sent have cost as much as decoder and codebook."""
    details: Facts = {}


class Distortion(PerMetric):
    """Losses of a reconstruction (maths §5); CE and KL in nats per token.

    These are in every record. A metric of the table that is none of them is here where the suite
    sets a tolerance on it.
    """

    mse: Finite
    fvu: Finite
    cosine: Finite
    ce: Finite
    delta_ce: Finite
    ce_recovered: Finite | None = None
    kl: Finite

    @classmethod
    @cache
    def _keys_for(cls, metrics: tuple[Metric, ...]) -> dict[str, MetricKey]:
        return {
            metric.name: _metric_key(float, metric, metric.meaning)
            for metric in metrics
            if metric.name not in Distortion.model_fields
        }

    @property
    def losses(self) -> dict[str, float]:
        """By key, without what was not measured."""
        found = {key: getattr(self, key, None) for key in (*Distortion.model_fields, *METRICS)}
        return {key: value for key, value in found.items() if value is not None}

    def loss(self, metric: str) -> float:
        """The value of a metric.

        Raises:
            UsageError: no such metric.
            RecordError: it was not measured: the suite sets no tolerance on it.
        """
        row, losses = metric_of(metric), self.losses
        if row.name not in losses:
            raise RecordError(f"{row.label} was not measured: the suite has no tolerance on it")
        return float(losses[row.name])


class Bits(Part):
    """Rates in bits per token (maths §3)."""

    plugin: Finite
    support: Finite
    """Part of `plugin` that says which latents are active."""
    magnitude: Finite
    """Part of `plugin` that says how active they are."""
    heldout: Finite
    heldout_ci: Interval
    adaptive: Finite
    enumerative: Finite
    bound: Finite
    side: Finite
    total: Finite
    """heldout + side: the headline."""
    coded: Finite | None = None
    """Payload of a real bitstream that was decoded and compared symbol by symbol."""


class Resamples(PerMetric):
    """A point's rate and losses when test documents are drawn anew (maths §7).

    Base64 of little-endian float16, one value a draw: how far the draw lies above the point's
    `bits.heldout`, `mse` and, for ΔCE, `ce`, as a share of it. The draws are the same for every SAE
    of a suite, so that differences of curves are paired.
    """

    bits: str

    @classmethod
    @cache
    def _keys_for(cls, metrics: tuple[Metric, ...]) -> dict[str, MetricKey]:
        return {
            metric.name: _metric_key(str, metric, f"Shares of `{metric.share_of}`.")
            for metric in metrics
            if metric.keeps_draws
        }

    @classmethod
    def of(
        cls, point: Mapping[str, float], drawn: Mapping[str, Float64[np.ndarray, " replicate"]]
    ) -> Resamples:
        """From the draws' values, of `bits` and of metrics by name, and the point's.

        Args:
            point: its `bits` and all its losses.
            drawn: their values in every draw.
        """
        return cls.model_validate(
            {
                name: _shares(
                    values - point[name],
                    point["bits"] if name == "bits" else _unit(metric_of(name), point),
                )
                for name, values in drawn.items()
            }
        )


LEAST_SHARE = 2.0**-10
"""The smallest share of a metric that shares are taken of."""


def _unit(metric: Metric, losses: Mapping[str, float]) -> float:
    """What draws of a metric are kept as shares of: `share_of`, unless that is next to nothing.

    Shares of nothing would be none, or too large for half precision.
    """
    share_of = losses.get(metric.share_of, 0.0)
    return max(share_of, LEAST_SHARE * abs(losses.get(metric.name, 0.0)))


class OperatingPoint(Distortion):
    """One operating point: a quantiser at one step."""

    quantiser: str
    step: Finite
    top_k: Integer | None = None
    l0: Finite
    """Mean nonzero symbols per test token."""
    header_bits: Finite | None = None
    """Bits that a decoder needs once beside codebook and step; not in `bits`."""
    bits: Bits
    resamples: Resamples | None = None

    @classmethod
    @cache
    def _keys_for(cls, metrics: tuple[Metric, ...]) -> dict[str, MetricKey]:
        intervals = {
            interval_key(metric.name): _metric_key(
                tuple, metric, f"95% interval of `{metric.name}`."
            )
            for metric in metrics
            if metric.keeps_draws
        }
        return super()._keys_for(metrics) | intervals

    def interval(self, metric: str) -> Interval:
        """The 95% interval of a metric; raises `RecordError` where the record has none."""
        key = interval_key(metric_of(metric).name)
        if key not in self.by_metric:
            raise RecordError(f"the point at step {self.step:g} has no {key}")
        low, high = self.by_metric[key]
        return low, high

    def has_draws(self, metric: str) -> bool:
        """Whether it says what a metric is in every draw."""
        found = {} if self.resamples is None else self.resamples.by_metric
        return metric_of(metric).drawn_as in found

    def resampled_bits(self) -> Float64[np.ndarray, " replicate"]:
        """Total bits per token in every draw; raises `RecordError` where the record has none."""
        return self.bits.total + self.bits.heldout * self.drawn_shares("bits")

    def resampled(self, metric: str) -> Float64[np.ndarray, " replicate"]:
        """A loss in every draw; raises `RecordError` where the record has none."""
        return self.loss(metric) + self.unit(metric) * self.drawn_shares(metric_of(metric).drawn_as)

    def unit(self, metric: str) -> float:
        """What `resamples` has shares of for a metric."""
        return _unit(metric_of(metric), self.losses)

    def drawn_shares(self, key: str) -> Float64[np.ndarray, " replicate"]:
        """As `Resamples` holds them under a key; raises `RecordError` where it does not."""
        text = getattr(self.resamples, key, None)
        if text is None:
            raise RecordError(f"the point at step {self.step:g} has no bootstrap resamples")
        try:
            data = base64.b64decode(text, validate=True)
            return np.frombuffer(data, dtype="<f2").astype(np.float64)
        except ValueError as error:
            raise RecordError(
                f"the bootstrap resamples of {key} at step {self.step:g} cannot be read: "
                f"{first_line(error)}"
            ) from error


def interval_key(metric: str) -> str:
    """The key of a metric's interval at a point."""
    return f"{metric}_ci"


def _shares(deviations: Float64[np.ndarray, " replicate"], of: float) -> str:
    shares = deviations / of if of else np.zeros_like(deviations)
    return base64.b64encode(shares.astype("<f2").tobytes()).decode()


class ToleranceResult(Part):
    """What an SAE costs at one tolerance, or the fact that it does not meet it (maths §6)."""

    metric: MetricName
    epsilon: Finite
    feasible: bool
    step: Finite | None = None
    """The accepted step: the coarsest whose loss is within ε with 95% confidence."""
    bits: Finite | None = None
    """Total bits per token at ε, on the lower hull of the points: the score."""
    bits_ci: Interval | None = None
    """95% interval of `bits`; each resample meets ε on its own curve."""
    l0: Finite | None = None
    """Mean nonzero symbols per test token at ε."""
    ranked: bool = False
    non_monotone: bool = False
    """The loss returns within ε at a coarser step than where it first left it."""
    at_coarsest: bool = False
    """No step's loss exceeds ε, so the rate shown is not the smallest."""
    replicates: list[Finite] = []
    """Bootstrap replicates of `bits`, in single precision; the same resampled documents for every
    SAE of a suite, so that differences are paired."""


class Infeasible(ToleranceResult):
    """A result at a tolerance that the finest step misses; says so to whoever asks for its bits."""

    _why: str = PrivateAttr("")

    def __getattribute__(self, name: str) -> Any:
        if name in ("step", "bits", "bits_ci", "l0"):
            warnings.warn(self._why, stacklevel=2)
        return super().__getattribute__(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToleranceResult) and self.model_dump() == other.model_dump()

    __hash__ = ToleranceResult.__hash__

    def __str__(self) -> str:
        return self._why


class Pictures(Part):
    """Decoder rows of the latents that cost most bits, where activations are images."""

    latents: list[Integer]
    """In the order of the tiles: left to right, then down."""
    png: str
    """Base64 of a PNG; each tile has its own scale, red positive, blue negative, white zero."""


class LatentProfile(Part):
    """How bits and firing are spread over latents, at the audited step, on test tokens.

    For firing rates latents are sorted by rate, for bits by bits, descending. Where there are many
    latents, both are given at some `ranks` only, spaced evenly in their logarithm.
    """

    step: Finite
    ranks: list[Integer]
    """Ranks from 1 to D: all of them, or some where there are many."""
    firing_rates: list[Finite]
    """Share of tokens on which the latent of that rank has a nonzero symbol."""
    bits: list[Finite]
    """Bits per token of the latent of that rank: its part of `heldout`."""
    cumulative_bits: list[Finite]
    """Bits per token of all latents up to that rank."""
    pictures: Pictures | None = None

    @model_validator(mode="after")
    def _has_a_value_a_rank(self) -> Self:
        values = self.firing_rates, self.bits, self.cumulative_bits
        if not self.ranks or any(len(of_each) != len(self.ranks) for of_each in values):
            raise ValueError("expected a rank or more, and as many rates and bits as ranks")
        return self


MOST_RANKS = 64
"""A record with more latents keeps only some ranks."""


def profile_ranks(n_latents: int) -> Int64[np.ndarray, " rank"]:
    """All ranks 1 to D; above `MOST_RANKS` only some, evenly spaced in their logarithm."""
    if n_latents <= MOST_RANKS:
        return np.arange(1, n_latents + 1)
    spaced = np.geomspace(1, n_latents, MOST_RANKS)
    return np.unique(np.rint(spaced).astype(np.int64))


class Environment(Part):
    """Where the measurement ran; not part of the identity."""

    device: str
    dtype: str
    """Precision in which SAEs compute; the site has the model's."""
    threads: Integer
    seconds: Finite
    versions: dict[str, str]


class Provenance(Part):
    """Which code ran, and when; dirty if code or suites differed from that commit."""

    commit: str | None = None
    dirty: bool | None = None
    date: str
    sae: str | None = None
    """Where the SAE was, as it was asked for; absent where its suite lists it. Only the end
    of an absolute path is kept."""


class TruthScores(Part):
    """How well latents and decoder rows find known features, from 0 to 1 (maths §5)."""

    f1: Finite
    precision: Finite
    recall: Finite
    mcc: Finite
    uniqueness: Finite


class TruthFacts(TruthScores):
    """The SAE's own scores, and those that chance gives."""

    features: Integer
    """How many features there are."""
    null: TruthScores
    """Scores of the same latents with a random dictionary for decoder rows."""


class EvalRecord(Part):
    """One SAE scored on one suite."""

    schema_version: Literal[3] = SCHEMA_VERSION
    id: str
    identity: Identity
    site: Site
    n_tokens: TokenCounts
    coder: CoderFacts
    floor: Distortion
    """Losses of the unquantised reconstruction."""
    points: list[OperatingPoint]
    tolerances: list[ToleranceResult]
    latents: LatentProfile | None = None
    """Absent where the SAE has no latents."""
    truth: TruthFacts | None = None
    """How well it finds the true features; absent where its suite does not know them."""
    partial: bool
    environment: Environment
    provenance: Provenance
    status: Literal["complete"] = "complete"
    _edited: bool = PrivateAttr(default=False)
    _found_again: str = PrivateAttr(default="")

    def __repr__(self) -> str:
        from mdlbench.records.face import line_of

        return line_of(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """A small table and one curve, as notebooks show it."""
        from mdlbench.records.face import html_of

        return html_of(self)

    @property
    def is_edited(self) -> bool:
        """Whether it was read from a file that was changed after it was written."""
        return self._edited

    @property
    def last_found(self) -> str:
        """When its SAE was last what was measured: then, or in a later run into its folder."""
        return max(self.provenance.date, self._found_again)

    @property
    def name(self) -> str:
        return self.identity.coder.name

    @property
    def label(self) -> str:
        """The SAE's name, its quantiser where that is not the suite's own, and "(edited)"."""
        name = with_quantiser(self.name, self.identity.quantiser)
        return f"{name} (edited)" if self.is_edited else name

    @property
    def family(self) -> str:
        """Its architecture, and its quantiser where that is not the suite's own."""
        return with_quantiser(self.coder.architecture, self.identity.quantiser)

    @property
    def is_baseline(self) -> bool:
        """Whether the coder was fitted rather than trained."""
        return self.identity.coder.is_baseline

    @property
    def measurement(self) -> Measurement:
        return Measurement(**{key: getattr(self.identity, key) for key in Measurement.model_fields})

    @property
    def metrics(self) -> list[str]:
        """The metrics that its suite sets tolerances on, in order."""
        return list(dict.fromkeys(result.metric for result in self.tolerances))

    def curve(self, metric: str = "mse") -> MeasuredCurve:
        """Total rate against one metric, over all operating points.

        Raises:
            UsageError: no such metric.
            RecordError: it was not measured.
        """
        from mdlbench.records.measured import MeasuredCurve

        return MeasuredCurve.of_record(self, metric)

    def at(self, metric: str, epsilon: float) -> ToleranceResult:
        """The result at one tolerance.

        If it is infeasible, its `bits` are None, and reading them gives a warning with the floor.

        Raises:
            UsageError: no such metric.
            RecordError: the suite did not ask for it.
        """
        result = self.result(metric, epsilon)
        if result.feasible:
            return result
        floor = metric_of(metric).written(self.floor.loss(metric))
        infeasible = Infeasible(**result.model_dump())
        infeasible._why = (
            f"{self.label} is infeasible at {metric} {epsilon:g}: its floor, the loss before "
            f"quantisation, is {floor}"
        )
        return infeasible

    def result(self, metric: str, epsilon: float) -> ToleranceResult:
        """The result at one tolerance, as the file has it; raises as `at` does."""
        metric_of(metric)
        for result in self.tolerances:
            if result.metric == metric and result.epsilon == epsilon:
                return result
        known = ", ".join(f"{r.metric} {r.epsilon:g}" for r in self.tolerances)
        raise RecordError(f"{self.name}: no tolerance {metric} {epsilon:g}. Known: {known}.")

    def to_frame(self) -> pd.DataFrame:
        """One row per operating point; its bits are columns `bits_plugin`, `bits_heldout`, …"""
        import pandas as pd

        rows = []
        for point in self.points:
            row = point.model_dump()
            bits = row.pop("bits")
            rows.append({"name": self.name, **row, **{f"bits_{k}": v for k, v in bits.items()}})
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no NaN, sealed by its `checksum`, a newline at the end."""
        content = self.model_dump(mode="json", exclude_none=True)
        return canonical_lines(content | {seal.CHECKSUM: seal.checksum_of(content)})

    @property
    def checksum(self) -> str:
        """SHA-256 of the canonical JSON of all other keys."""
        return seal.checksum_of(self.model_dump(mode="json", exclude_none=True))


def operating_point(record: EvalRecord, result: ToleranceResult) -> OperatingPoint | None:
    """The record's point at the step that a tolerance accepted, if there is one."""
    for point in record.points:
        if point.step == result.step and point.top_k is None:
            return point
    return None


def other_quantisers(records: Iterable[EvalRecord]) -> list[str]:
    """Names of the quantisers that are not the suite's own, sorted."""
    found = {record.identity.quantiser for record in records}
    return sorted(name for name in found if name is not None)


def with_quantiser(name: str, quantiser: str | None) -> str:
    """A name as on boards: "NAME [QUANTISER]" if the quantiser is not the suite's own."""
    return name if quantiser is None else f"{name} [{quantiser}]"


def shortened(value: object) -> str:
    """A digest by its start; any other value whole."""
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text


class Measurement(Part):
    """What all results in one folder have in common."""

    suite: str
    suite_digest: str
    protocol: Integer
    limit: Integer | None = None

    def describe(self) -> str:
        limited = "" if self.limit is None else f" limited to {self.limit} documents"
        digest = self.suite_digest[:12]
        return f"suite {self.suite} (digest {digest}, protocol {self.protocol}){limited}"


class SiteReferences(Part):
    """What the curves at one site are drawn against; computed once from its data."""

    site: Site
    data_sha256: str
    d: Integer
    eigenvalues: list[Finite]
    """Eigenvalues of the test activations' covariance, descending, for the Gaussian reference
    (maths §8)."""
    dense: list[tuple[Integer, Finite]]
    """(n, MSE) when every dimension is sent as n fixed-length bits over its calibration range."""


class References(Measurement):
    """What a results folder holds results of, and what their curves are drawn against."""

    schema_version: int = SCHEMA_VERSION
    headline: Headline
    sites: list[SiteReferences]

    def of_data(self, data_sha256: str) -> SiteReferences | None:
        """The references computed from some data, if there are any."""
        return next((site for site in self.sites if site.data_sha256 == data_sha256), None)

    @property
    def measurement(self) -> Measurement:
        return Measurement(**{key: getattr(self, key) for key in Measurement.model_fields})

    def to_json(self) -> str:
        content = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(content, sort_keys=True, allow_nan=False) + "\n"


def canonical_lines(content: dict[str, Any]) -> str:
    """JSON with sorted keys, a line for each, no NaN, and a newline at the end."""
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"


def parse_record(text: str, where: Path | str) -> EvalRecord:
    """A record from its JSON text, marked as edited where its seal is broken.

    Raises:
        RecordError: it is not a record, has a newer schema, or its id does not match its identity.
    """
    try:
        record = EvalRecord.model_validate_json(seal.without_line(text))
    except ValidationError:
        record = _model(EvalRecord, seal.unsealed(_content(text, where)), where)
    record._edited = not seal.is_intact(text)
    if record.id != record.identity.id:
        raise RecordError(f"{where}: the id does not match the record's identity")
    return record


def parse_references(text: str, where: Path | str) -> References:
    """References from their JSON text; raises `RecordError` as `parse_record` does."""
    return parse_versioned(References, text, where)


def parse_versioned(model: type[Versioned], text: str, where: Path | str) -> Versioned:
    """A file of this schema's version from its JSON text; raises `RecordError`."""
    return _model(model, _content(text, where), where)


def _content(text: str, where: Path | str) -> dict[str, Any]:
    """The object in a file of this schema's version; raises `RecordError`."""
    try:
        content = parse_json(text, no_constant)
    except ValueError as error:
        raise RecordError(f"{where}: not JSON: {error}") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise RecordError(f"{where}: not written by mdlbench: it has no schema_version")
    version = content["schema_version"]
    if type(version) is not int or version < 1:
        raise RecordError(f"{where}: schema_version {version!r} is not one that mdlbench ever had")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{where}: schema_version {version} is newer than this mdlbench reads "
            f"({SCHEMA_VERSION}); upgrade mdlbench"
        )
    if version < SCHEMA_VERSION:
        raise RecordError(
            f"{where}: schema_version {version} belongs to a development version of mdlbench; "
            "score the SAE again"
        )
    return content


def _model(model: type[Versioned], content: dict[str, Any], where: Path | str) -> Versioned:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise RecordError(f"{where}: {first_problem(error)}") from error
