"""The causal language model every decoder architecture is an instance of.

Legend: B batch, T tokens, D width, V vocabulary.
One body for all of them on purpose: embedding, residual layers, final norm and head are the same code for
every arm of a comparison, so what differs between two arms is their blocks and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import (
    Device,
    Kind,
    Model,
    Part,
    StackConfig,
    building_on,
    check_length,
    layer_parts,
    on_rows,
    size_of,
    tied_table,
)
from blocks.contract import BlockConfig, tokens_seen
from blocks.errors import ConfigError
from blocks.segments import check, refuse_holes


@dataclass(frozen=True, kw_only=True)
class ResidualConfig(StackConfig):
    """Residual layers between a table and a norm.

    ``embedding`` is tied to the head (blocks.embedding.TiedEmbedding).
    """

    layers: tuple[LayerConfig, ...]
    norm: BlockConfig


class ResidualStack(Model):
    """Tokens in, logits out, through the tied table: tokens (B, T) int64 -> (B, T, V).

    ``segments`` (B, T) as in blocks.SequenceMixer. ``positions`` (B, T) int64: where each token stands, None
    for counting in each document. Raises: ConfigError when T exceeds ``max_tokens``, for padding inside a
    document, and for positions where a mixer takes none.
    """

    config: ResidualConfig

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = config.embedding.build()
        self.layers = nn.ModuleList(layer.build() for layer in config.layers)
        self.norm = config.norm.build()

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        return self.embedding.logits(self.hidden(tokens, segments, positions))

    def hidden(
        self, tokens: Tensor, segments: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Final normed hidden states (B, T, D), what the head multiplies."""
        check_length(tokens.shape[1], self.config.max_tokens)
        if segments is not None:
            check(segments, tokens)
            refuse_holes(segments)
        if positions is not None:
            self._check_positions()
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, segments, positions)
        return self.norm(x)

    def _check_positions(self) -> None:
        """Raises: ConfigError when a mixer takes no positions."""
        for i, layer in enumerate(self.layers):
            if not layer.mixer.takes_positions:
                raise ConfigError(
                    f"layer {i}: {type(layer.mixer).__name__} takes no positions; leave them out"
                )

    @property
    def causal(self) -> bool:
        return all(layer.mixer.causal for layer in self.layers)

    def components(self, tokens: int) -> list[Part]:
        width = self.config.width
        return [
            tied_table("embedding+head", self.embedding, tokens),
            *layer_parts("layers", self.layers, tokens, width),
            on_rows("norm", self.norm, tokens, width),
        ]

    def end_sizes(self) -> tuple[int, int]:
        return size_of(
            self.embedding
        ), 0  # the table is counted once, as embedding; its matmul is counted in ``cost``


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(ResidualConfig):
    """A whole decoder, block by block."""

    kind: ClassVar[Kind] = "decoder"

    def build(self, device: Device = None) -> Decoder:
        with building_on(device):
            return Decoder(self)


class Decoder(ResidualStack):
    """Next-token logits: tokens (B, T) int64 -> (B, T, V), and the same token by token."""

    config: DecoderConfig

    def init_state(self, batch: int, max_tokens: int | None = None, *, reserve: bool = False) -> list[Any]:
        """One state per layer.

        ``reserve``: take the memory of ``max_tokens`` tokens at once (SequenceMixer.reserve_state).
        """
        limit = max_tokens or self.config.max_tokens
        mixers = [layer.mixer for layer in self.layers]
        return [
            mixer.reserve_state(batch, limit) if reserve else mixer.init_state(batch, limit)
            for mixer in mixers
        ]

    def prefill(
        self, tokens: Tensor, state: list[Any], *, last_only: bool = False
    ) -> tuple[Tensor, list[Any]]:
        """Logits (B, t, V) of the next t tokens (B, t), and the state after them.

        ``last_only``: those of the last token alone, (B, 1, V); the others of a long prompt take most of the
        memory.
        Raises: ConfigError when the sequence grows beyond ``max_tokens``.
        """
        check_length(tokens_seen(state) + tokens.shape[1], self.config.max_tokens)
        x, states = self.embedding(tokens), []
        for layer, s in zip(self.layers, state, strict=True):
            x, s = layer.prefill(x, s)
            states.append(s)
        x = x[:, -1:] if last_only else x
        return self.embedding.logits(self.norm(x)), states

    def step(self, tokens: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (B, V) after one more token (B,), and the next state."""
        check_length(tokens_seen(state) + 1, self.config.max_tokens)
        x, states = self.embedding(tokens), []
        for layer, s in zip(self.layers, state, strict=True):
            x, s = layer.step(x, s)
            states.append(s)
        return self.embedding.logits(self.norm(x)), states

    def settle(self, state: list[Any], tokens: int) -> list[Any]:
        """After the prompt: the state for at most ``tokens`` more tokens (blocks.SequenceMixer.settle)."""
        return [layer.mixer.settle(s, tokens) for layer, s in zip(self.layers, state, strict=True)]

    def state_bytes(self, tokens: int) -> int:
        return sum(layer.mixer.state_bytes(tokens) for layer in self.layers) if self.causal else 0
