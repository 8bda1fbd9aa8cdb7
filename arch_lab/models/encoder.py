"""Bidirectional encoders: the frame of BERT-style architectures, and a decoder's layers unmasked.

Legend: B batch, T tokens, D width, V vocabulary.
It is no language model: each output sees the tokens after it, so a perplexity from it would be meaningless.
Its kind is "encoder", which is an error where a decoder is asked for, and the causality certificate fails on
the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from arch_lab.models.decoder import ResidualConfig, ResidualStack
from arch_lab.models.layer import checked_mixer
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
    tied_table,
)
from blocks.bert.embedding import BertEmbeddingConfig
from blocks.contract import BlockConfig
from blocks.errors import ConfigError
from blocks.segments import check, refuse_holes


@dataclass(frozen=True, kw_only=True)
class EncoderLayerConfig:
    """One layer: a sequence mixer, a channel mixer, and the norm after their sum."""

    mixer: BlockConfig
    channel: BlockConfig
    norm: BlockConfig
    mixer_norm: BlockConfig | None = None  # of what the mixer reads

    def build(self) -> EncoderLayer:
        return EncoderLayer(self)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(StackConfig):
    """A whole encoder, block by block. ``embedding`` holds the output table; ``head`` comes before it."""

    kind: ClassVar[Kind] = "encoder"

    embedding: BertEmbeddingConfig
    layers: tuple[EncoderLayerConfig, ...]
    head: BlockConfig

    def build(self, device: Device = None) -> Encoder:
        with building_on(device):
            return Encoder(self)


class EncoderLayer(nn.Module):
    """h = mixer(x), then norm(h + channel(h)): no skip around the mixer, and an optional norm before it."""

    def __init__(self, config: EncoderLayerConfig) -> None:
        super().__init__()
        self.mixer_norm = None if config.mixer_norm is None else config.mixer_norm.build()
        self.mixer = checked_mixer(config.mixer)
        self.channel = config.channel.build()
        self.norm = config.norm.build()

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        h = self.mixer(x if self.mixer_norm is None else self.mixer_norm(x), segments)
        out: Tensor = self.norm(h + self.channel(h))
        return out


class Encoder(Model):
    """Tokens in, logits for every position out: tokens (B, T) int64 -> (B, T, V).

    ``segments`` (B, T) as in blocks.SequenceMixer: documents never meet, padding reaches nothing; outputs at
    padding mean nothing. ``types`` (B, T): sentence A (0) or B (1). Raises: ConfigError when T exceeds
    ``max_tokens``.
    """

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = config.embedding.build()
        self.layers = nn.ModuleList(layer.build() for layer in config.layers)
        self.head = config.head.build()

    def forward(self, tokens: Tensor, segments: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        logits: Tensor = self.embedding.logits(self.head(self.hidden(tokens, segments, types)))
        return logits

    def hidden(self, tokens: Tensor, segments: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """What the last layer returns (B, T, D): the representation that heads of other tasks read."""
        if segments is not None:
            check(segments, tokens)
            refuse_holes(segments)
        x: Tensor = self.embedding(tokens, segments, types)
        for layer in self.layers:
            x = layer(x, segments)
        return x

    @property
    def causal(self) -> bool:
        return False

    def drop_head(self) -> None:
        del self.head
        del self.embedding.bias  # of the logits

    def components(self, tokens: int) -> list[Part]:
        width = self.config.width
        return [
            tied_table("embedding+head", self.embedding, tokens),
            *layer_parts("layers", self.layers, tokens, width),
            on_rows("head", self.head, tokens, width),
        ]

    def end_sizes(self) -> tuple[int, int]:
        """Tables and their norm; transform and output bias (the table of the head is the word table)."""
        bias = self.embedding.bias.numel()
        return size_of(self.embedding) - bias, size_of(self.head) + bias


@dataclass(frozen=True, kw_only=True)
class BidirectionalStackConfig(ResidualConfig):
    """The blocks of a decoder with their masks off."""

    kind: ClassVar[Kind] = "encoder"

    def build(self, device: Device = None) -> BidirectionalStack:
        with building_on(device):
            return BidirectionalStack(self)


class BidirectionalStack(ResidualStack):
    """A decoder's layers without their masks.

    ``hidden`` gives states, ``forward`` logits through the tied table. Its parameters have a decoder's names,
    so that the weights of a trained decoder fit. Raises: ConfigError when a mixer is causal.
    """

    config: BidirectionalStackConfig

    def __init__(self, config: BidirectionalStackConfig) -> None:
        super().__init__(config)
        masked = [type(layer.mixer).__name__ for layer in self.layers if layer.mixer.causal]
        if masked:
            raise ConfigError(
                f"an encoder reads in both directions, but {masked[0]} is causal; configure it with causal: "
                "false"
            )
