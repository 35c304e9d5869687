"""Where activations come from, what splicing a reconstruction back in costs, and who opens them.

A kind of source is three classes: its `SourceConfig` (`mdlbench.suite.source`), which is what a
suite says; its `SourceOpener`, which settles where an SAE is scored and opens the activations
there; and its `ActivationSource`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64

from mdlbench.console.stages import OnNotice, OnStage, silent
from mdlbench.disk.cache import kept
from mdlbench.errors import UsageError, did_you_mean, first_line, heed_shortage
from mdlbench.hub.items import Item
from mdlbench.suite.site import Origin, Place, Site
from mdlbench.suite.source import SourceConfig
from mdlbench.suite.suite import Suite

Split = Literal["calibration", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True)
class Block:
    """A run of whole documents.

    Attributes:
        index: position of the block within its split, from 0.
        document: the document of each token, numbered through the split, non-decreasing.
        activations: what is to be reconstructed, float32, on the source's device.
        inputs: what the SAE is given, if that is something else, as for a transcoder.
    """

    index: int
    document: Int64[np.ndarray, " token"]
    activations: Float[torch.Tensor, "token d_out"]
    inputs: Float[torch.Tensor, "token d_in"] | None = None

    @property
    def given(self) -> Float[torch.Tensor, "token d_in"]:
        """What the SAE is given."""
        return self.activations if self.inputs is None else self.inputs

    @cached_property
    def norms(self) -> Float64[torch.Tensor, " token"]:
        """‖x‖ of each token."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.activations, dim=1)
        return norms.double()


class SpliceLoss(NamedTuple):
    """Losses of the model on a block whose activations are replaced, in nats per token."""

    ce: Float64[np.ndarray, " token"]
    kl: Float64[np.ndarray, " token"]


@dataclass(frozen=True)
class SourceFacts:
    """What is known of a source without its activations, which may lie elsewhere.

    Attributes are those of `ActivationSource`; `n_blocks` are the blocks of each split.
    """

    site: Site
    hook: str
    d_in: int
    d_out: int
    n_documents: dict[Split, int]
    n_tokens: dict[Split, int]
    n_blocks: dict[Split, int]
    data_sha256: str
    image_shape: tuple[int, int] | None
    device: str

    @classmethod
    def of(cls, source: ActivationSource) -> SourceFacts:
        return cls(
            site=source.site,
            hook=source.hook,
            d_in=source.d_in,
            d_out=source.d_out,
            n_documents=dict(source.n_documents),
            n_tokens=dict(source.n_tokens),
            n_blocks={split: source.n_blocks(split) for split in SPLITS},
            data_sha256=source.data_sha256,
            image_shape=source.image_shape,
            device=str(source.device),
        )

    def difference(self, other: SourceFacts) -> str | None:
        """The first fact that differs, in words; the device is none of them."""
        for fact in fields(self):
            mine, theirs = (getattr(facts, fact.name) for facts in (self, other))
            if fact.name != "device" and mine != theirs:
                return f"{fact.name} is {_short(theirs)}, not {_short(mine)}"
        return None


def _short(fact: object) -> str:
    """A fact as a message shows it; twelve letters of a digest tell enough."""
    text = str(fact)
    return text[:12] if len(text) == 64 else text


@dataclass(frozen=True)
class Setting:
    """How a suite is run.

    Attributes:
        device: where to compute, as whoever computes knows it.
        limit: documents of each split, for a quick look.
        text: one of a language suite's texts by name, or a path; by default the suite's first
            that is available.
        dtype: of the language model.
        calibration_tokens: of a language suite or one of features in superposition, instead of its
            own budget.
        cache: whether a language model's activations are kept for later runs.
    """

    device: str = "cpu"
    limit: int | None = None
    text: str | None = None
    dtype: Dtype = "float32"
    calibration_tokens: int | None = None
    cache: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, not {self.limit}")
        if self.cache:
            kept()


def known_dtype(name: str) -> Dtype:
    """A dtype that language models compute in; raises `UsageError` for another."""
    for dtype in DTYPES:
        if name == dtype:
            return dtype
    raise UsageError(f"unknown dtype {name!r}. {did_you_mean(name, DTYPES)}")


def available_device(name: str) -> str:
    """The device, if torch can compute on it; raises `UsageError` otherwise."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        heed_shortage(error)
        reason = first_line(error).partition(". ")[0].rstrip(".")
        raise UsageError(f"--device {name}: not available: {reason}") from error
    return name


class Activations(Protocol):
    """Activations in blocks of documents: all that training an SAE asks for.

    Attributes:
        site: where activations are taken.
        d_in: width of what an SAE is given.
        n_tokens: sizes of each split.
        device: where activations live.
    """

    site: Site
    d_in: int
    n_tokens: dict[Split, int]
    device: torch.device

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """The blocks of a split from `start` up to `stop`, as a slice would have them; all of them.

        A block is the same whichever range it is asked for in, and at every call.
        """
        ...


class ActivationSource(Activations, Protocol):
    """Activations, and the loss of a model into which they are spliced.

    Attributes:
        hook: the hook point's name.
        d_out: width of what an SAE reconstructs.
        n_documents: sizes of each split.
        data_sha256: digest of the data and the model that the numbers depend on.
        image_shape: rows and columns where an activation is an image, else None.
    """

    hook: str
    d_out: int
    n_documents: dict[Split, int]
    data_sha256: str
    image_shape: tuple[int, int] | None

    def n_blocks(self, split: Split) -> int:
        """How many blocks a split has."""
        ...

    def clean_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        """CE of the untouched model, nats per token."""
        ...

    def ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        """CE with the activation set to zero, nats per token."""
        ...

    def splice(
        self, block: Block, reconstruction: Float[torch.Tensor, "token d_out"]
    ) -> SpliceLoss:
        """CE and KL(clean ‖ spliced) with the reconstruction in the activation's place."""
        ...


@runtime_checkable
class Harvests(Protocol):
    """A source that can keep what its activations are on disk, for whoever reads them often."""

    def harvest(
        self, split: Split, dtype: torch.dtype
    ) -> Iterator[Float[torch.Tensor, "token d_out"]] | None:
        """The activations of each block of a split, computed when it is first asked for.

        They are read from disk where they are used, rounded to `dtype`, and must not be changed.

        Returns:
            The blocks' activations, one by one; None if nothing is to be kept.
        """
        ...


class Firing(NamedTuple):
    """The features that fire on the tokens of a block, sorted by token, then by feature."""

    token: Int64[np.ndarray, " fires"]
    feature: Int64[np.ndarray, " fires"]
    magnitude: Float32[np.ndarray, " fires"]


@dataclass(frozen=True, eq=False)
class TrueFeatures:
    """The features that activations are made of.

    Attributes:
        directions: what each adds to an activation where its magnitude is 1; of norm 1.
        parents: index of each feature's parent, −1 for none; a feature is off where it is.
        rates: share of the tokens on which each fires; expected, not counted.
    """

    directions: Float64[np.ndarray, "feature d_out"]
    parents: Int64[np.ndarray, " feature"]
    rates: Float64[np.ndarray, " feature"]

    def most_frequent(self, n: int) -> Int64[np.ndarray, " n"]:
        """Indices of the n of highest rate, that rate falling."""
        return np.argsort(-self.rates, kind="stable")[:n]


@runtime_checkable
class KnowsFeatures(Protocol):
    """A source that can tell which features its activations are made of."""

    features: TrueFeatures

    def firing(self, split: Split, block: Block) -> Firing:
        """Which of them fire in a block of a split, and how strongly."""
        ...


Config = TypeVar("Config", bound=SourceConfig)


class SourceOpener(ABC, Generic[Config]):
    """Opens the sources of one suite, site after site.

    Args:
        config: what the suite says of its source.
        suite: it, for its seed and its folder.
        setting: how it is run.
        on_stage: told what is done, where it takes long.

    Attributes:
        on_notice: told what a reader of the results must know.
    """

    on_notice: OnNotice = staticmethod(silent)

    def __init__(
        self, config: Config, suite: Suite, setting: Setting, on_stage: OnStage = silent
    ) -> None:
        self.config, self.suite, self.setting, self.on_stage = config, suite, setting, on_stage

    @abstractmethod
    def open(self, site: Site) -> ActivationSource:
        """The activations at a site."""

    def settle(self) -> None:
        """Settle what every site shares, before anything is scored; by default there is nothing.

        Raises:
            MdlbenchError: no site could be opened.
        """

    def settled(self) -> Setting:
        """The setting with what was settled, for whoever opens the same suite elsewhere."""
        return self.setting

    def site_of(self, origin: Origin, place: Place, name: str) -> Site:
        """The site at which an SAE is scored; by default the one that the suite fixes.

        Args:
            origin: what the SAE's own config says.
            place: what the suite's entry for the SAE says.
            name: the SAE, in messages.

        Raises:
            CheckpointError: the SAE is for another site than the suite's.
            UsageError: something that decides the site is said nowhere, or otherwise than the
                suite has it.
        """
        site = Site(**self.config.fixed_site)
        for key, value in place.model_dump(exclude_none=True).items():
            if getattr(site, key) != value:
                raise UsageError(
                    f"{name}: {key} is {value!r} here, but suite {self.suite.name!r} measures at "
                    f"{site.label} only"
                )
        return site

    def needs(self) -> Iterable[Item]:
        """What must be fetched before the suite can run without a network; by default nothing."""
        return ()
