"""The image classifier every image architecture is an instance of.

Legend: B batch, C channels, H x W pixels, P patch, T = (H/P)·(W/P) patches, D width, N classes.
One body for all of them, as for decoders: patches, the pre-norm residual layers a decoder has too, pooling,
norm and head are the same code for every arm of a comparison. A *token* of an image is a patch: a class token
works for all of them and is charged to them, so costs per token of models with and without one compare.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import (
    Device,
    Kind,
    Model,
    Part,
    StackConfig,
    building_on,
    layer_parts,
    on_rows,
    size_of,
)
from blocks.contract import BlockConfig
from blocks.errors import ConfigError
from blocks.vision.head import ImageHeadConfig
from blocks.vision.patches import PatchEmbeddingConfig, image_grid


@dataclass(frozen=True, kw_only=True)
class ImageClassifierConfig(StackConfig):
    """A whole classifier, block by block, of images of ``image`` = (H, W) pixels.

    ``max_tokens``: patches of an image. Raises: ConfigError unless the patch divides both sides of the image.
    """

    kind: ClassVar[Kind] = "image_classifier"

    max_tokens: int = field(init=False)
    image: tuple[int, int]
    embedding: PatchEmbeddingConfig
    layers: tuple[LayerConfig, ...]
    pooler: BlockConfig  # one vector per image, e.g. the class token
    head: ImageHeadConfig

    def __post_init__(self) -> None:
        h, w = image_grid(*self.image, self.embedding.patch)
        object.__setattr__(self, "max_tokens", h * w)

    def inside(self, tokens: int) -> int:
        """Positions that the layers read for ``tokens`` patches, a class token included."""
        return tokens + self.embedding.class_token

    def build(self, device: Device = None) -> ImageClassifier:
        with building_on(device):
            return ImageClassifier(self)


class ImageClassifier(Model):
    """Images in, class scores out: (B, C, H, W) floating -> (B, N).

    Raises: ConfigError for images of another size or with other channels than it was built for.
    """

    config: ImageClassifierConfig

    def __init__(self, config: ImageClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = config.embedding.build()
        self.layers = nn.ModuleList(layer.build() for layer in config.layers)
        self.pooler = config.pooler.build()
        self.head = config.head.build()

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(images))
        return scores

    def features(self, images: Tensor) -> Tensor:
        """One vector per image (B, D), before the head's norm."""
        x: Tensor = self.pooler(self.hidden(images))
        return x

    def hidden(self, images: Tensor) -> Tensor:
        """Output of the last layer: (B, T, D), with a class token (B, T + 1, D)."""
        if tuple(images.shape[-2:]) != self.config.image:
            have, built = (" x ".join(map(str, size)) for size in (images.shape[-2:], self.config.image))
            raise ConfigError(f"images of {have} pixels, this model was built for {built}")
        x: Tensor = self.embedding(images)
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def causal(self) -> bool:
        return False  # whatever its mixers are: there is no next token to predict

    def drop_head(self) -> None:
        del self.head

    def components(self, tokens: int) -> list[Part]:
        positions, width = self.config.inside(tokens), self.config.width
        return [
            self._patches(tokens),
            *layer_parts("layers", self.layers, positions, width),
            on_rows("pooler", self.pooler, positions, width),
            on_rows("head", self.head, 1, width),  # one pooled vector per image
        ]

    def _patches(self, tokens: int) -> Part:
        embedding: Any = self.embedding
        size = (embedding.config.channels, *self.config.image)
        return Part(
            name="embedding",
            block=embedding,
            cost=embedding.cost(tokens),
            run=lambda batch: embedding(torch.empty(batch, *size, device="meta")),
        )

    def end_sizes(self) -> tuple[int, int]:
        """Patches, positions and class token; pooler, norm and head."""
        return size_of(self.embedding), size_of(self.pooler) + size_of(self.head)

    def proof_length(self, tokens: int) -> int:
        """The number of patches, independent of ``tokens``."""
        return self.config.max_tokens
