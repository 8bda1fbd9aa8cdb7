"""Bidirectional encoders with a masked-token head: the frame of every BERT-style architecture, and a decoder's stack unmasked.

Legend: B batch, T tokens, D width, V vocabulary.
It is no language model: each output sees the tokens after it, so a perplexity from it would be meaningless. Recipes of
encoders therefore refuse to build a decoder, and the causality certificate fails on the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from arch_lab.models.decoder import Decoder, DecoderConfig, on_meta
from blocks.bert.embedding import BertEmbeddingConfig
from blocks.contract import BlockConfig, SequenceMixer
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.segments import check, refuse_holes


@dataclass(frozen=True, kw_only=True)
class EncoderLayerConfig:
    """One layer: a sequence mixer, a channel mixer, and the norm after their sum."""

    mixer: BlockConfig
    channel: BlockConfig
    norm: BlockConfig
    mixer_norm: BlockConfig | None = None  # of what the mixer reads


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A whole model, block by block. ``embedding`` holds the output table too, ``head`` what stands before it."""

    width: int
    max_tokens: int
    embedding: BertEmbeddingConfig
    layers: tuple[EncoderLayerConfig, ...]
    head: BlockConfig


class EncoderLayer(nn.Module):
    """h = mixer(x), then norm(h + channel(h)): no skip around the mixer, a norm before it only if asked for."""

    def __init__(self, config: EncoderLayerConfig) -> None:
        super().__init__()
        self.mixer_norm = None if config.mixer_norm is None else config.mixer_norm.build()
        self.mixer = config.mixer.build()
        self.channel = config.channel.build()
        self.norm = config.norm.build()
        if not isinstance(self.mixer, SequenceMixer):
            raise ConfigError(f"{type(self.mixer).__name__} is not a sequence mixer")

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        h = self.mixer(x if self.mixer_norm is None else self.mixer_norm(x), segments)
        out: Tensor = self.norm(h + self.channel(h))
        return out


class Encoder(nn.Module):
    """Tokens in, logits for every position out: tokens (B, T) int64 -> (B, T, V).

    ``segments`` (B, T) as in blocks.SequenceMixer: documents never meet, padding reaches nothing; outputs at padding mean
    nothing. ``types`` (B, T): sentence A (0) or B (1). Raises: ConfigError when T exceeds ``max_tokens``.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = config.embedding.build()
        self.layers = nn.ModuleList(EncoderLayer(layer) for layer in config.layers)
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

    def state_bytes(self, tokens: int) -> int:
        raise ConfigError("an encoder reads whole sequences: it has no decoding state")

    # --- the ledger ---------------------------------------------------------------------------------------------

    def cost(self, tokens: int) -> Cost:
        """Forward cost of one sequence, the tied output table included."""
        return total(cost for _, _, cost in self.components(tokens))

    def components(self, tokens: int) -> list[tuple[str, int, Cost]]:
        """(name, parameters, cost) of every part, in order; the parts sum to the model."""
        rows = [("embedding+head", _size(self.embedding), self.embedding.cost(tokens))]
        for i, layer in enumerate(self.layers):
            rows += [(f"layers.{i}.{name}", _size(child), child.cost(tokens)) for name, child in layer.named_children()]
        return [*rows, ("head", _size(self.head), self.head.cost(tokens))]

    def parameter_counts(self) -> dict[str, int]:
        """embedding (tables and their norm), head (transform and output bias; its table is the word table), body, total."""
        bias = self.embedding.bias.numel()
        embedding, head, everything = _size(self.embedding) - bias, _size(self.head) + bias, _size(self)
        return {"embedding": embedding, "head": head, "body": everything - embedding - head, "total": everything}


class BidirectionalStack(Decoder):
    """A decoder's layers without their masks: ``hidden`` gives states, ``forward`` logits through the tied table.

    It is a Decoder so that a trained one's weights fit by name; what a decoder does token by token is refused.
    Raises: ConfigError when a mixer is causal.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        masked = [type(layer.mixer).__name__ for layer in self.layers if layer.mixer.causal]
        if masked:
            raise ConfigError(f"an encoder reads in both directions, but {masked[0]} is causal; configure it with causal: false")

    def state_bytes(self, tokens: int) -> int:
        raise ConfigError("an encoder reads whole sequences: it has no decoding state")


def build_encoder(config: EncoderConfig | DecoderConfig) -> Encoder | BidirectionalStack:
    """The encoder these blocks make up."""
    return Encoder(config) if isinstance(config, EncoderConfig) else BidirectionalStack(config)


def meta_encoder(config: EncoderConfig | DecoderConfig) -> Encoder | BidirectionalStack:
    """The model without memory: shapes and counts only, on the meta device."""
    with on_meta():
        return build_encoder(config)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
