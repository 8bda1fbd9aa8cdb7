"""Pre-norm residual layers, shared by decoders, encoders and image classifiers.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from blocks.contract import BlockConfig, SequenceMixer
from blocks.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One residual layer: a sequence mixer, a channel mixer, and the norm used around both."""

    mixer: BlockConfig
    channel: BlockConfig
    norm: BlockConfig
    sandwich: bool = False  # norm also what each mixer returns (Gemma 2 on)
    scale: BlockConfig | None = None  # acts on what the whole layer returns (Gemma 4: one scalar)

    def build(self) -> Layer:
        return SandwichLayer(self) if self.sandwich else Layer(self)


class Layer(nn.Module):
    """Pre-norm residual layer: x + mixer(norm(x)), then x + channel(norm(x))."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.mixer_norm = config.norm.build()
        self.mixer = checked_mixer(config.mixer)
        self.channel_norm = config.norm.build()
        self.channel = config.channel.build()
        self.scale = None if config.scale is None else config.scale.build()

    def after_mixer(self, y: Tensor) -> Tensor:
        return y

    def after_channel(self, y: Tensor) -> Tensor:
        return y

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.after_mixer(mixed)
        x = x + self.after_channel(self.channel(self.channel_norm(x)))
        return x if self.scale is None else self.scale(x)

    def forward(self, x: Tensor, segments: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        options = {} if positions is None else {"positions": positions}
        return self._finish(x, self.mixer(self.mixer_norm(x), segments, **options))

    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        mixed, state = self.mixer.prefill(self.mixer_norm(x), state)
        return self._finish(x, mixed), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        mixed, state = self.mixer.step(self.mixer_norm(x), state)
        return self._finish(x, mixed), state


class SandwichLayer(Layer):
    """Gemma 2 and later: what each mixer returns is normed too, before it is added (arXiv 2408.00118, §2)."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__(config)
        self.mixer_out_norm = config.norm.build()
        self.channel_out_norm = config.norm.build()

    def after_mixer(self, y: Tensor) -> Tensor:
        return self.mixer_out_norm(y)

    def after_channel(self, y: Tensor) -> Tensor:
        return self.channel_out_norm(y)


def checked_mixer(config: BlockConfig) -> SequenceMixer:
    """The sequence mixer of a layer. Raises: ConfigError for a block of another kind."""
    mixer = config.build()
    if not isinstance(mixer, SequenceMixer):
        raise ConfigError(f"{type(mixer).__name__} is not a sequence mixer")
    return mixer
