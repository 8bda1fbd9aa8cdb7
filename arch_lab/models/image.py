"""The image classifier every image architecture is an instance of.

Legend: B batch, C channels, H x W pixels, P patch, T = (H/P)·(W/P) patches, D width, N classes.
One body for all of them, as for decoders: patches, the pre-norm residual layers a decoder has too, pooling, norm and head are the
same code for every arm of a comparison. A *token* of an image is a patch: a class token works for all of them and is charged to
them, so costs per token of models with and without one compare.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from arch_lab.models.decoder import Layer, LayerConfig, on_meta
from blocks.contract import BlockConfig
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.vision.head import ImageHeadConfig
from blocks.vision.patches import PatchEmbeddingConfig, image_grid


@dataclass(frozen=True, kw_only=True)
class ImageClassifierConfig:
    """A whole model, block by block, for images of ``image`` = (H, W) pixels."""

    width: int
    image: tuple[int, int]
    embedding: PatchEmbeddingConfig
    layers: tuple[LayerConfig, ...]
    pooler: BlockConfig  # one vector an image, e.g. the class token
    head: ImageHeadConfig

    @property
    def max_tokens(self) -> int:
        """T, the patches of an image: every one has as many."""
        h, w = image_grid(*self.image, self.embedding.patch)
        return h * w

    def inside(self, tokens: int) -> int:
        """What the layers read of ``tokens`` patches."""
        return tokens + self.embedding.class_token


class ImageClassifier(nn.Module):
    """Images in, class scores out: (B, C, H, W) floating -> (B, N).

    Raises: ConfigError for images of another size or with other channels than it was built for.
    """

    def __init__(self, config: ImageClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = config.embedding.build()
        self.layers = nn.ModuleList(Layer(layer) for layer in config.layers)
        self.pooler = config.pooler.build()
        self.head = config.head.build()

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(images))
        return scores

    def features(self, images: Tensor) -> Tensor:
        """One vector an image (B, D), before the head's norm."""
        x: Tensor = self.pooler(self.hidden(images))
        return x

    def hidden(self, images: Tensor) -> Tensor:
        """What the last layer returns: (B, T, D), with a class token (B, T + 1, D)."""
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

    def state_bytes(self, tokens: int) -> int:
        raise ConfigError("an image classifier reads whole images: it has no decoding state")

    # --- the ledger ---------------------------------------------------------------------------------------------

    def cost(self, tokens: int) -> Cost:
        """Forward cost of one image of ``tokens`` patches."""
        return total(cost for _, _, cost in self.components(tokens))

    def components(self, tokens: int) -> list[tuple[str, int, Cost]]:
        """(name, parameters, cost) of every part, in order; the parts sum to the model."""
        rows = [("embedding", _size(self.embedding), self.embedding.cost(tokens))]
        inside = self.config.inside(tokens)
        for i, layer in enumerate(self.layers):
            rows += [(f"layers.{i}.{name}", _size(child), child.cost(inside)) for name, child in layer.named_children()]  # type: ignore[operator]
        rows.append(("pooler", _size(self.pooler), self.pooler.cost(inside)))
        return [*rows, ("head", _size(self.head), self.head.cost(1))]  # one pooled vector an image

    def parameter_counts(self) -> dict[str, int]:
        """embedding (patches, positions, class token), head (pooler and norm included), body, total."""
        embedding, head, everything = _size(self.embedding), _size(self.pooler) + _size(self.head), _size(self)
        return {"embedding": embedding, "head": head, "body": everything - embedding - head, "total": everything}


def meta_image_classifier(config: ImageClassifierConfig) -> ImageClassifier:
    """The model without memory: shapes and counts only, on the meta device."""
    with on_meta():
        return ImageClassifier(config)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
