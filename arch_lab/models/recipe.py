"""Recipes of architectures, with dials, from which the budget solver and the studies build models.

A recipe says *what* the model is (which blocks, in which pattern, which norms); a Shape says *how large*. Its
options are a frozen dataclass, strict like a block's, so a study file cannot misspell one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar

from arch_lab.models.model import Kind, Model, ModelConfig
from blocks.config import Config
from blocks.errors import ConfigError
from blocks.vision.patches import image_grid


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dials. ``ffn_width`` is the hidden width of the channel mixer (one branch of a gated one)."""

    width: int
    depth: int
    ffn_width: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ConfigError(f"shape: {name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class ImageSize:
    """Pixels of an image, and the patches it is cut into."""

    height: int
    width: int
    channels: int
    patch: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches. Raises: ConfigError unless the patch divides both sides."""
        return image_grid(self.height, self.width, self.patch)

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        rows, columns = self.grid
        return rows * columns


@dataclass(frozen=True, kw_only=True)
class Recipe(Config, ABC):
    """Options of one architecture; ``config`` assembles it at a shape."""

    name: ClassVar[str]
    source: ClassVar[str]
    kind: ClassVar[Kind] = "decoder"  # of the models it describes
    # what the solver may turn, and in which steps: multiples that keep head widths and Monarch blocks whole
    width_multiple: ClassVar[int] = 32
    ffn_multiple: ClassVar[int] = 8
    mixed: ClassVar[bool] = (
        False  # layers of one model differ in parameters; a deeper model begins like a shallower one
    )

    @property
    def least_depth(self) -> int:
        """Layers of the shallowest model that has every kind of layer the recipe asks for."""
        return 1

    @abstractmethod
    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> ModelConfig:
        """Every block of the model, at this shape.

        ``vocabulary``: rows of its table, or classes of images; ``max_tokens``: its longest sequence, or
        patches of an image. Raises: ConfigError when the shape does not fit the recipe.
        """

    def model(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> Model:
        """What ``config`` describes, its parameters drawn from torch's global generator."""
        return self.config(shape, vocabulary=vocabulary, max_tokens=max_tokens).build()

    @property
    def image_size(self) -> ImageSize | None:
        """The images that the models read; None for text."""
        return None
