"""What a suite of images says of them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mdlbench.suite.site import Site
from mdlbench.suite.source import SourceConfig

PIXELS = "pixels"
"""The hook point of an image suite."""


class ImagesConfig(SourceConfig):
    """Images as activations; the spliced-in loss is a classifier's cross-entropy."""

    opener: ClassVar[str] = "mdlbench.sources.images:ImagesOpener"

    kind: Literal["images"]
    images: str
    """xz-compressed `.npy` of uint8 [image, row, column], relative to the suite's folder; a file of
    a shipped suite, here and below, is written `SUITE:FILE`: `mnist:data/images.npy.xz`."""
    labels: str
    """xz-compressed `.npy` of uint8 [image]."""
    classifier: str
    """safetensors of the classifier that reads the reconstructions."""
    n_test: Annotated[int, Field(gt=0)]
    """The last `n_test` images are the test split; all before them are for calibration."""

    @property
    def fixed_site(self) -> dict[str, Any]:
        return Site(hook=PIXELS).model_dump()

    @property
    def exact_tokens(self) -> dict[str, int]:
        """How many images the calibration split has only their file says."""
        return {"test": self.n_test}


CONFIG = ImagesConfig
