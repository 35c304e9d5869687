"""What a suite of a language model says of the model, its texts and the place to measure at."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from mdlbench.suite.base import Key, Strict, repeated
from mdlbench.suite.site import Place
from mdlbench.suite.source import SourceConfig, TokenBudget


class HubModel(Strict):
    """A language model on the model hub."""

    kind: Literal["hub"]
    name: str
    """As SAEs' configs call it, such as `gpt2`; an owner's repository as `owner/name`."""
    revision: str | None = None


class PackagedModel(Strict):
    """A language model as a GGUF file inside a wheel of the package index."""

    kind: Literal["package"]
    name: str
    """As SAEs' configs call it."""
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
    file: Annotated[str, Field(pattern=r"^\w[\w.+-]*(/\w[\w.+-]*)*$")]
    """Path inside the wheel, with `/` between folders."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class HubText(Strict):
    """A text dataset that `datasets` can load."""

    kind: Literal["hub"]
    name: Key
    dataset: str
    config: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    wikitext_spacing: bool = False
    """Undo the spacing of wikitext's tokenisation (` @-@ `, ` ,`), and drop its `<unk>`."""


class FileText(Strict):
    """Text, JSON lines or Parquet in a file, or in all files of a folder."""

    kind: Literal["file"]
    name: Key
    path: str
    """Relative to the suite's folder."""
    column: str = "text"
    wikitext_spacing: bool = False


class PythonDocs(Strict):
    """The language reference that every Python carries; it differs between versions."""

    kind: Literal["python-docs"]
    name: Key


Model = Annotated[HubModel | PackagedModel, Field(discriminator="kind")]

Text = Annotated[HubText | FileText | PythonDocs, Field(discriminator="kind")]


class LanguageConfig(SourceConfig):
    """Activations of a language model; the spliced-in loss is its next-token cross-entropy."""

    opener: ClassVar[str] = "mdlbench.sources.language.opener:LanguageOpener"

    kind: Literal["language"]
    model: Model
    texts: Annotated[list[Text], Field(min_length=1)]
    """The first one that is available is used, unless the user names one."""
    place: Place = Place()
    tokens: TokenBudget
    first_position: Annotated[int, Field(ge=1)] = 1
    """Positions before it are excluded, as special tokens are: from splice, metrics and rate."""

    @field_validator("texts")
    @classmethod
    def _told_apart(cls, texts: list[Text]) -> list[Text]:
        names = [text.name for text in texts]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise repeated(f"name {name!r}", i, "name")
        return texts

    @property
    def fixed_site(self) -> dict[str, Any]:
        fixed = {
            "model": self.model.name,
            "first_position": self.first_position,
            "context": self.place.context,
            "prepend_bos": self.place.prepend_bos,
        }
        return {key: value for key, value in fixed.items() if value is not None}

    @property
    def most_tokens(self) -> dict[str, int]:
        """Contexts are whole, so there may be fewer."""
        return dict(self.tokens)

    @property
    def text_names(self) -> list[str]:
        return [text.name for text in self.texts]


CONFIG = LanguageConfig
