"""Layers of a decoder that reads an encoder: cross-attention as a third sub-layer, or merged attention.

Legend: B batch, S source tokens, T target tokens, D decoder width, M encoder width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from arch_lab.models.layer import LayerConfig, SandwichLayer
from blocks.contract import BlockConfig, CrossMixer
from blocks.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CrossLayerConfig(LayerConfig):
    """A causal layer with a third sub-layer between its two, which reads the encoder."""

    cross: BlockConfig
    sandwich: bool = True

    def build(self) -> CrossLayer:
        return CrossLayer(self)


@dataclass(frozen=True, kw_only=True)
class MergedLayerConfig:
    """A causal layer whose one mixer reads the encoder too."""

    mixer: BlockConfig  # of a CrossMixer
    channel: BlockConfig
    norm: BlockConfig

    def build(self) -> MergedLayer:
        return MergedLayer(self)


class CrossLayer(SandwichLayer):
    """x + norm(mixer(norm(x))), then the same with ``cross`` over the memory and with ``channel``.

    Source: arXiv 2504.06225.
    """

    def __init__(self, config: CrossLayerConfig) -> None:
        super().__init__(config)
        self.cross_norm = config.norm.build()
        self.cross = _checked_mixer(config.cross)
        self.cross_out_norm = config.norm.build()

    def read(
        self, x: Tensor, memory: Tensor, segments: Tensor | None, memory_segments: Tensor | None
    ) -> Tensor:
        """The whole layer: x (B, T, D), memory (B, S, M) -> (B, T, D)."""
        x = x + self.after_mixer(self.mixer(self.mixer_norm(x), segments))
        x = x + self.cross_out_norm(self.cross(self.cross_norm(x), memory, segments, memory_segments))
        return self._after_reading(x)

    def _after_reading(self, x: Tensor) -> Tensor:
        return x + self.after_channel(self.channel(self.channel_norm(x)))

    def init_state(self, memory: Tensor, max_tokens: int, memory_segments: Tensor | None) -> tuple[Any, Any]:
        return self.mixer.init_state(memory.shape[0], max_tokens), self.cross.init_state(
            memory, max_tokens, memory_segments
        )

    def prefill(self, x: Tensor, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        mixed, self_state = self.mixer.prefill(self.mixer_norm(x), state[0])
        x = x + self.after_mixer(mixed)
        y, cross_state = self.cross.prefill(self.cross_norm(x), state[1])
        return self._after_reading(x + self.cross_out_norm(y)), (self_state, cross_state)

    def state_bytes(self, tokens: int, memory_tokens: int) -> int:
        return int(self.mixer.state_bytes(tokens) + self.cross.state_bytes(tokens, memory_tokens))


class MergedLayer(nn.Module):
    """x + norm(mixer(norm(x), memory)), then x + norm(channel(norm(x))) (arXiv 2512.14856)."""

    def __init__(self, config: MergedLayerConfig) -> None:
        super().__init__()
        self.mixer_norm = config.norm.build()
        self.mixer = _checked_mixer(config.mixer)
        self.mixer_out_norm = config.norm.build()
        self.channel_norm = config.norm.build()
        self.channel = config.channel.build()
        self.channel_out_norm = config.norm.build()

    def read(
        self, x: Tensor, memory: Tensor, segments: Tensor | None, memory_segments: Tensor | None
    ) -> Tensor:
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


def _checked_mixer(config: BlockConfig) -> CrossMixer:
    """The mixer of a layer that reads a source. Raises: ConfigError for a block of another kind."""
    mixer = config.build()
    if not isinstance(mixer, CrossMixer):
        raise ConfigError(f"{type(mixer).__name__} is not a cross mixer")
    return mixer
