"""A model of two stacks: a bidirectional encoder reads the source, a causal decoder writes the target and reads the encoder.

Legend: B batch, S source tokens, T target tokens, D decoder width, M encoder width, V vocabulary.
The frame of T5Gemma (cross-attention as a third sub-layer, a table each, sizes may differ) and of T5Gemma 2 (one attention
over both, one table). The encoder's layers are those of ``arch_lab.models.decoder`` with bidirectional mixers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from arch_lab.models.decoder import Layer, LayerConfig, SandwichLayer, check_length, on_meta
from blocks.contract import BlockConfig, CrossMixer, tokens_seen
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.segments import check, refuse_holes


@dataclass(frozen=True, kw_only=True)
class CrossLayerConfig(LayerConfig):
    """A causal layer with a third sub-layer between its two, which reads the encoder."""

    cross: BlockConfig
    sandwich: bool = True


@dataclass(frozen=True, kw_only=True)
class MergedLayerConfig:
    """A causal layer whose one mixer reads the encoder too."""

    mixer: BlockConfig  # of a CrossMixer
    channel: BlockConfig
    norm: BlockConfig


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """Both stacks, block by block. ``source_embedding`` None: the source is looked up in the decoder's table.

    ``max_tokens`` holds for the source and for the target. ``embedding`` is the decoder's, tied to the head.
    """

    width: int
    source_width: int
    max_tokens: int
    source_embedding: BlockConfig | None
    encoder: tuple[LayerConfig, ...]
    encoder_norm: BlockConfig
    embedding: BlockConfig
    decoder: tuple[CrossLayerConfig | MergedLayerConfig, ...]
    decoder_norm: BlockConfig


class CrossLayer(SandwichLayer):
    """x + norm(mixer(norm(x))), then the same with ``cross`` over the memory, then with ``channel`` (arXiv 2504.06225)."""

    def __init__(self, config: CrossLayerConfig) -> None:
        super().__init__(config)
        self.cross_norm = config.norm.build()
        self.cross = config.cross.build()
        self.cross_out_norm = config.norm.build()
        if not isinstance(self.cross, CrossMixer):
            raise ConfigError(f"{type(self.cross).__name__} is not a cross mixer")

    def read(self, x: Tensor, memory: Tensor, segments: Tensor | None, memory_segments: Tensor | None) -> Tensor:
        """The whole layer: x (B, T, D), memory (B, S, M) -> (B, T, D)."""
        x = x + self.after_mixer(self.mixer(self.mixer_norm(x), segments))
        x = x + self.cross_out_norm(self.cross(self.cross_norm(x), memory, segments, memory_segments))
        return self._after_reading(x)

    def _after_reading(self, x: Tensor) -> Tensor:
        return x + self.after_channel(self.channel(self.channel_norm(x)))

    def init_state(self, memory: Tensor, max_tokens: int, memory_segments: Tensor | None) -> tuple[Any, Any]:
        return self.mixer.init_state(memory.shape[0], max_tokens), self.cross.init_state(memory, max_tokens, memory_segments)

    def prefill(self, x: Tensor, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        mixed, own = self.mixer.prefill(self.mixer_norm(x), state[0])
        x = x + self.after_mixer(mixed)
        y, read = self.cross.prefill(self.cross_norm(x), state[1])
        return self._after_reading(x + self.cross_out_norm(y)), (own, read)

    def state_bytes(self, tokens: int, memory_tokens: int) -> int:
        return int(self.mixer.state_bytes(tokens) + self.cross.state_bytes(tokens, memory_tokens))


class MergedLayer(nn.Module):
    """x + norm(mixer(norm(x), memory)), then x + norm(channel(norm(x))) (arXiv 2512.14856)."""

    def __init__(self, config: MergedLayerConfig) -> None:
        super().__init__()
        self.mixer_norm = config.norm.build()
        self.mixer = config.mixer.build()
        self.mixer_out_norm = config.norm.build()
        self.channel_norm = config.norm.build()
        self.channel = config.channel.build()
        self.channel_out_norm = config.norm.build()
        if not isinstance(self.mixer, CrossMixer):
            raise ConfigError(f"{type(self.mixer).__name__} is not a cross mixer")

    def read(self, x: Tensor, memory: Tensor, segments: Tensor | None, memory_segments: Tensor | None) -> Tensor:
        """The whole layer: x (B, T, D), memory (B, S, D) -> (B, T, D)."""
        return self._finish(x, self.mixer(self.mixer_norm(x), memory, segments, memory_segments))

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.mixer_out_norm(mixed)
        return x + self.channel_out_norm(self.channel(self.channel_norm(x)))  # type: ignore[no-any-return]

    def init_state(self, memory: Tensor, max_tokens: int, memory_segments: Tensor | None) -> Any:
        return self.mixer.init_state(memory, max_tokens, memory_segments)

    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        mixed, state = self.mixer.prefill(self.mixer_norm(x), state)
        return self._finish(x, mixed), state

    def state_bytes(self, tokens: int, memory_tokens: int) -> int:
        return self.mixer.state_bytes(tokens, memory_tokens)


class Stack(nn.Module):
    """Residual layers and the norm behind them: (B, S, M) -> (B, S, M)."""

    def __init__(self, layers: tuple[LayerConfig, ...], norm: BlockConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList((SandwichLayer if layer.sandwich else Layer)(layer) for layer in layers)
        self.norm = norm.build()

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, segments)
        return self.norm(x)  # type: ignore[no-any-return]


class ReadingStack(nn.Module):
    """The decoder's layers and norm: x (B, T, D), memory (B, S, M) -> (B, T, D)."""

    def __init__(self, layers: tuple[CrossLayerConfig | MergedLayerConfig, ...], norm: BlockConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(c) if isinstance(c, CrossLayerConfig) else MergedLayer(c) for c in layers)
        self.norm = norm.build()

    def forward(self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer.read(x, memory, segments, memory_segments)  # type: ignore[operator]
        return self.norm(x)  # type: ignore[no-any-return]


class EncoderDecoder(nn.Module):
    """Next-token logits of a target, given a source: source (B, S), target (B, T) integer -> (B, T, V).

    ``source_segments`` (B, S) and ``target_segments`` (B, T): ids, 0 = padding; a target document reads the source of its own
    id, or all of it but padding where only one side has ids. Raises: ConfigError when either exceeds ``max_tokens``.
    """

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.source_embedding: nn.Module | None = config.source_embedding.build() if config.source_embedding is not None else None
        self.encoder = Stack(config.encoder, config.encoder_norm)
        self.embedding = config.embedding.build()
        self.decoder = ReadingStack(config.decoder, config.decoder_norm)

    def forward(
        self, source: Tensor, target: Tensor, source_segments: Tensor | None = None, target_segments: Tensor | None = None
    ) -> Tensor:
        memory = self.encode(source, source_segments)
        self._check(target, target_segments)
        hidden = self.decoder(self.embedding(target), memory, target_segments, source_segments)
        return self.embedding.logits(hidden)  # type: ignore[no-any-return]

    def encode(self, source: Tensor, source_segments: Tensor | None = None) -> Tensor:
        """What the decoder reads (B, S, M): final normed states of the encoder; those at padding mean nothing."""
        self._check(source, source_segments)
        table = self.embedding if self.source_embedding is None else self.source_embedding
        return self.encoder(table(source), source_segments)  # type: ignore[no-any-return]

    def _check(self, tokens: Tensor, segments: Tensor | None) -> None:
        check_length(tokens.shape[1], self.config.max_tokens)
        if segments is not None:
            check(segments, tokens)
            refuse_holes(segments)

    # --- decoding -----------------------------------------------------------------------------------------------

    def init_state(self, source: Tensor, source_segments: Tensor | None = None, max_tokens: int | None = None) -> list[Any]:
        """Encodes the source, once; then feed the target with ``prefill`` and ``step``."""
        memory = self.encode(source, source_segments)
        return [layer.init_state(memory, max_tokens or self.config.max_tokens, source_segments) for layer in self.decoder.layers]  # type: ignore[operator]

    def prefill(self, tokens: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (B, t, V) of the next t target tokens (B, t), and the state after them.

        Raises: ConfigError when the target grows beyond ``max_tokens``.
        """
        check_length(tokens_seen(state) + tokens.shape[1], self.config.max_tokens)
        x, after = self.embedding(tokens), []
        for layer, s in zip(self.decoder.layers, state, strict=True):
            x, s = layer.prefill(x, s)  # type: ignore[operator]
            after.append(s)
        return self.embedding.logits(self.decoder.norm(x)), after

    def step(self, tokens: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits (B, V) after one more target token (B,), and the next state."""
        logits, after = self.prefill(tokens[:, None], state)
        return logits[:, 0], after

    def state_bytes(self, tokens: int, source_tokens: int) -> int:
        return sum(layer.state_bytes(tokens, source_tokens) for layer in self.decoder.layers)  # type: ignore[operator, misc]

    # --- the ledger ---------------------------------------------------------------------------------------------

    def cost(self, source_tokens: int, target_tokens: int) -> Cost:
        """Forward cost of one pair, head included (also when tied)."""
        return total(cost for _, _, cost in self.components(source_tokens, target_tokens))

    def components(self, source_tokens: int, target_tokens: int) -> list[tuple[str, int, Cost]]:
        """(name, parameters, cost) of every part, in order; the parts sum to the model."""
        rows = []
        if self.source_embedding is not None:
            looked_up = self.source_embedding.config  # a look-up alone: no head, so no matmul
            rows.append(("source_embedding", _size(self.source_embedding), _scaling(looked_up, source_tokens)))
            read = Cost()
        else:
            read = _scaling(self.embedding.config, source_tokens)
        for i, layer in enumerate(self.encoder.layers):
            rows += [(f"encoder.layers.{i}.{name}", _size(c), c.cost(source_tokens)) for name, c in layer.named_children()]  # type: ignore[operator]
        rows.append(("encoder.norm", _size(self.encoder.norm), self.encoder.norm.cost(source_tokens)))
        rows.append(("embedding+head", _size(self.embedding), self.embedding.cost(target_tokens) + read))
        for i, layer in enumerate(self.decoder.layers):
            for name, child in layer.named_children():
                lengths = (target_tokens, source_tokens) if isinstance(child, CrossMixer) else (target_tokens,)
                rows.append((f"decoder.layers.{i}.{name}", _size(child), child.cost(*lengths)))  # type: ignore[operator]
        return [*rows, ("decoder.norm", _size(self.decoder.norm), self.decoder.norm.cost(target_tokens))]

    def parameter_counts(self) -> dict[str, int]:
        """embedding (both tables, where there are two), head (0: tied to the decoder's), body, total."""
        embedding = _size(self.embedding) + (0 if self.source_embedding is None else _size(self.source_embedding))
        everything = _size(self)
        return {"embedding": embedding, "head": 0, "body": everything - embedding, "total": everything}


def _scaling(config: Any, tokens: int) -> Cost:
    """Elementwise cost of a look-up: the product with sqrt(width)."""
    return Cost(elementwise=tokens * config.width if config.scale else 0)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def meta_encoder_decoder(config: EncoderDecoderConfig) -> EncoderDecoder:
    """The model without memory: shapes and counts only, on the meta device."""
    with on_meta():
        return EncoderDecoder(config)
