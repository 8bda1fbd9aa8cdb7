"""What recipes of image classifiers share: the images, and the body around their layers.

What images there are is an option of the architecture, because its tables are laid out over them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from arch_lab.models.image import ImageClassifierConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import Kind
from arch_lab.models.recipe import ImageSize, Recipe, Shape
from blocks.errors import ConfigError
from blocks.heads.poolers import ClsPoolerConfig, MeanPoolerConfig
from blocks.vision.head import ImageHeadConfig
from blocks.vision.patches import PatchEmbeddingConfig

Pool = Literal[
    "class", "mean"
]  # which vector of an image is classified: its class token, or the mean of all tokens


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe, ABC):
    """Options of an image classifier. Its tokens are the patches of an image, its vocabulary the classes.

    Raises: ConfigError unless the patch divides both sides of the image.
    """

    kind: ClassVar[Kind] = "image_classifier"

    image: tuple[int, int] = (224, 224)  # height, width in pixels
    channels: int = 3
    patch: int = 16

    def __post_init__(self) -> None:
        for name in ("channels", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{self.name}: {name} must be at least 1, got {getattr(self, name)}")
        if len(self.image) != 2:
            raise ConfigError(
                f"{self.name}: image must be two numbers, height and width in pixels, got {self.image}"
            )
        _ = self.image_size.grid

    @property
    def image_size(self) -> ImageSize:
        height, width = self.image
        return ImageSize(height=height, width=width, channels=self.channels, patch=self.patch)

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return self.image_size.tokens

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> ImageClassifierConfig:
        if max_tokens != self.tokens:
            size = " x ".join(map(str, self.image))
            raise ConfigError(
                f"{self.name}: an image of {size} pixels in patches of {self.patch} is {self.tokens} "
                f"tokens, not {max_tokens}"
            )
        return self.classifier(shape, classes=vocabulary)

    @abstractmethod
    def classifier(self, shape: Shape, *, classes: int) -> ImageClassifierConfig:
        """Every block of the model, at this shape. Raises: ConfigError when it does not fit the recipe."""

    def with_layers(
        self, layer: LayerConfig, shape: Shape, *, classes: int, positions: bool, pool: Pool, eps: float
    ) -> ImageClassifierConfig:
        """The model configuration of layers like ``layer``."""
        width = shape.width
        return ImageClassifierConfig(
            width=width,
            image=self.image,
            embedding=PatchEmbeddingConfig(
                width=width,
                patch=self.patch,
                channels=self.channels,
                grid=self.image_size.grid if positions else None,
                class_token=pool == "class",
            ),
            layers=(layer,) * shape.depth,
            pooler=ClsPoolerConfig(width=width, dense=False)
            if pool == "class"
            else MeanPoolerConfig(width=width),
            head=ImageHeadConfig(width=width, classes=classes, eps=eps),
        )
