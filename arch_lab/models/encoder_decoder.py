"""Encoder–decoders: an encoder reads the source, a causal decoder reads both and writes the target.

Legend: B batch, S source tokens, T target tokens, D decoder width, M encoder width, V vocabulary.
The frame of T5Gemma (cross-attention as a third sub-layer, a table each, sizes may differ) and of T5Gemma 2
(one attention over both, one table). The encoder's layers are those of ``arch_lab.models.decoder`` with
bidirectional mixers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from arch_lab.models.cross_layer import CrossLayerConfig, MergedLayerConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import (
    LONGEST_PROOF,
    Device,
    Kind,
    Model,
    ModelConfig,
    Part,
    building_on,
    check_length,
    layer_parts,
    on_rows,
    size_of,
    tied_table,
)
from blocks.contract import BlockConfig, tokens_seen
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.segments import check, refuse_holes


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """Both stacks, block by block. ``source_embedding`` None: the source is looked up in the decoder's table.

    ``max_tokens`` holds for the source and for the target. ``embedding`` is the decoder's, tied to the head.
    """

    kind: ClassVar[Kind] = "encoder_decoder"

    source_width: int
    source_embedding: BlockConfig | None
    encoder: tuple[LayerConfig, ...]
    encoder_norm: BlockConfig
    embedding: BlockConfig
    decoder: tuple[CrossLayerConfig | MergedLayerConfig, ...]
    decoder_norm: BlockConfig

    def build(self, device: Device = None) -> EncoderDecoder:
        with building_on(device):
            return EncoderDecoder(self)


class Stack(nn.Module):
    """Residual layers and the norm behind them: (B, S, M) -> (B, S, M)."""

    def __init__(self, layers: tuple[LayerConfig, ...], norm: BlockConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer.build() for layer in layers)
        self.norm = norm.build()

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, segments)
        return self.norm(x)  # type: ignore[no-any-return]


class ReadingStack(nn.Module):
    """The decoder's layers and norm: x (B, T, D), memory (B, S, M) -> (B, T, D)."""

    def __init__(self, layers: tuple[CrossLayerConfig | MergedLayerConfig, ...], norm: BlockConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer.build() for layer in layers)
        self.norm = norm.build()

    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor:
        for layer in self.layers:
            x = layer.read(x, memory, segments, memory_segments)  # type: ignore[operator]
        return self.norm(x)  # type: ignore[no-any-return]


class EncoderDecoder(Model):
    """Next-token logits of a target, given a source: source (B, S), target (B, T) integer -> (B, T, V).

    ``source_segments`` (B, S) and ``target_segments`` (B, T): ids, 0 = padding; a target document reads the
    source of its own id, or all of it but padding where only one side has ids. Raises: ConfigError when
    either exceeds ``max_tokens``.
    """

    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.source_embedding: nn.Module | None = (
            config.source_embedding.build() if config.source_embedding is not None else None
        )
        self.encoder = Stack(config.encoder, config.encoder_norm)
        self.embedding = config.embedding.build()
        self.decoder = ReadingStack(config.decoder, config.decoder_norm)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_segments: Tensor | None = None,
        target_segments: Tensor | None = None,
    ) -> Tensor:
        hidden = self.hidden(source, target, source_segments, target_segments)
        return self.embedding.logits(hidden)  # type: ignore[no-any-return]

    def hidden(
        self,
        source: Tensor,
        target: Tensor,
        source_segments: Tensor | None = None,
        target_segments: Tensor | None = None,
    ) -> Tensor:
        """Final normed states of the decoder (B, T, D)."""
        memory = self.encode(source, source_segments)
        self._check(target, target_segments)
        x: Tensor = self.decoder(self.embedding(target), memory, target_segments, source_segments)
        return x

    def encode(self, source: Tensor, source_segments: Tensor | None = None) -> Tensor:
        """Final normed states of the encoder (B, S, M); those at padding mean nothing."""
        self._check(source, source_segments)
        table = self.embedding if self.source_embedding is None else self.source_embedding
        return self.encoder(table(source), source_segments)  # type: ignore[no-any-return]

    def _check(self, tokens: Tensor, segments: Tensor | None) -> None:
        check_length(tokens.shape[1], self.config.max_tokens)
        if segments is not None:
            check(segments, tokens)
            refuse_holes(segments)

    # --- decoding -------------------------------------------------------------------------------------------

    def init_state(
        self, source: Tensor, source_segments: Tensor | None = None, max_tokens: int | None = None
    ) -> list[Any]:
        """Encodes the source, once; then feed the target with ``prefill`` and ``step``."""
        memory = self.encode(source, source_segments)
        return [
            layer.init_state(memory, max_tokens or self.config.max_tokens, source_segments)
            for layer in self.decoder.layers
        ]  # type: ignore[operator]

    def prefill(self, tokens: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (B, t, V) of the next t target tokens (B, t), and the state after them.

        Raises: ConfigError when the target grows beyond ``max_tokens``.
        """
        check_length(tokens_seen(state) + tokens.shape[1], self.config.max_tokens)
        x, states = self.embedding(tokens), []
        for layer, s in zip(self.decoder.layers, state, strict=True):
            x, s = layer.prefill(x, s)  # type: ignore[operator]
            states.append(s)
        return self.embedding.logits(self.decoder.norm(x)), states

    def step(self, tokens: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (B, V) after one more target token (B,), and the next state."""
        logits, states = self.prefill(tokens[:, None], state)
        return logits[:, 0], states

    # --- the ledger -----------------------------------------------------------------------------------------

    @property
    def causal(self) -> bool:
        return False  # of its row: the decoder reads the whole source

    def components(self, tokens: int) -> list[Part]:
        """The parts for a row of ``tokens`` tokens, split in ``halves``.

        Raises: ConfigError for a row of one token.
        """
        return self.pair_components(*halves(tokens))

    def pair_components(self, source_tokens: int, target_tokens: int) -> list[Part]:
        """The parts for one source and one target of these lengths."""
        width, source_width = self.config.width, self.config.source_width
        table = tied_table("embedding+head", self.embedding, target_tokens)
        ends: list[Part] = []
        if self.source_embedding is None:
            table = replace(table, cost=table.cost + _look_up(self.embedding, source_tokens))
        else:
            ends.append(self._source_table(source_tokens))
        return [
            *ends,
            *layer_parts("encoder.layers", self.encoder.layers, source_tokens, source_width),
            on_rows("encoder.norm", self.encoder.norm, source_tokens, source_width),
            table,
            *layer_parts("decoder.layers", self.decoder.layers, target_tokens, width, memory=source_tokens),
            on_rows("decoder.norm", self.decoder.norm, target_tokens, width),
        ]

    def _source_table(self, tokens: int) -> Part:
        """The embedding table of the source, a look-up without the matmul of a head."""
        table: Any = self.source_embedding
        return Part(
            name="source_embedding",
            block=table,
            cost=_look_up(table, tokens),
            run=lambda batch: table(torch.zeros(batch, tokens, dtype=torch.long, device="meta")),
        )

    def pair_cost(self, source_tokens: int, target_tokens: int) -> Cost:
        """Forward cost of one pair, head included (also when tied)."""
        return total(component.cost for component in self.pair_components(source_tokens, target_tokens))

    def state_bytes(self, tokens: int) -> int:
        """Bytes of a row of ``tokens`` tokens, split in ``halves``, after its target."""
        source_tokens, target_tokens = halves(tokens)
        return self.pair_state_bytes(source_tokens, target_tokens)

    def pair_state_bytes(self, source_tokens: int, target_tokens: int) -> int:
        """Bytes of one pair after ``target_tokens`` tokens."""
        layers: Any = self.decoder.layers
        return sum(layer.state_bytes(target_tokens, source_tokens) for layer in layers)

    def end_sizes(self) -> tuple[int, int]:
        """Both tables, where there are two; the head is tied to the decoder's."""
        tables = (self.embedding, self.source_embedding)
        return sum(size_of(table) for table in tables if table is not None), 0

    def proof_length(self, tokens: int) -> int:
        """An odd row, so that source and target differ: a product of the two could pass for a square."""
        return min(tokens, 2 * LONGEST_PROOF) | 1


def halves(tokens: int) -> tuple[int, int]:
    """(source, target) tokens of a row split in two, the longer half to the decoder (arXiv 2504.06225).

    Raises: ConfigError for a row too short to split.
    """
    if tokens < 2:
        raise ConfigError(
            "an encoder–decoder splits its tokens between source and target, so it needs 2 or more, "
            f"got {tokens}"
        )
    return tokens // 2, tokens - tokens // 2


def _look_up(table: Any, tokens: int) -> Cost:
    """Elementwise cost of a look-up: the product with sqrt(width)."""
    return Cost(elementwise=tokens * table.config.width if table.config.scale else 0)
