"""The ``data:`` section of an image study: source, patches and batches.

A set has one size, so patches of it are a fixed number of tokens; ``patch`` is to images what a tokenizer is
to text, the same for every arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from arch_lab.data.paths import data_root
from arch_lab.fields import HeldOutFraction, PathText
from blocks.config import Bounds, Config, Doc
from blocks.errors import ConfigError
from blocks.vision.patches import image_grid

Augmentation = Literal["none", "crop", "crop_flip"]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """What is known of a set before a file is opened."""

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    mirrors: bool  # a mirrored image is an image of the same class


SETS = {
    "mnist": ImageSet(channels=1, height=28, width=28, classes=tuple("0123456789"), mirrors=False),
    "cifar10": ImageSet(
        channels=3,
        height=32,
        width=32,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        mirrors=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(Config):
    """``tune_fraction`` of the training images, the same share of every class, is held out to choose learning
    rates.

    ``augmentation``: none; crop (random crops of the image padded by an eighth of its side); crop_flip (and
    half of them mirrored).
    Raises: ConfigError, also for an unknown key (with the nearest valid one).
    """

    source: Annotated[Literal["mnist", "cifar10"], Doc("The images.")]
    root: Annotated[
        PathText | None, Doc("Folder of the files; null: ARCH_LAB_DATA, else the current one.")
    ] = None
    patch: Annotated[
        int, Bounds(minimum=1, maximum=4096), Doc("Side of a patch in pixels; each patch is one token.")
    ] = 4
    tune_fraction: Annotated[
        HeldOutFraction, Doc("Share of the training images held out to choose learning rates.")
    ] = 0.1
    augmentation: Annotated[
        Augmentation,
        Doc("Random crops of the training images, and mirror images where they do not change the class."),
    ] = "none"

    def __post_init__(self) -> None:
        self.grid  # noqa: B018  refused here, not at the first model
        if self.augmentation == "crop_flip" and not self.set.mirrors:
            raise ConfigError(
                "data.augmentation: crop_flip mirrors images, which changes the meaning of images of "
                f"{self.source!r}; use crop"
            )

    @property
    def set(self) -> ImageSet:
        return SETS[self.source]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return image_grid(self.set.height, self.set.width, self.patch)

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        rows, columns = self.grid
        return rows * columns

    @property
    def folder(self) -> Path:
        """Where the files lie: ``root``, else the variable ARCH_LAB_DATA, else the current folder."""
        return data_root(self.root, "data.root")
