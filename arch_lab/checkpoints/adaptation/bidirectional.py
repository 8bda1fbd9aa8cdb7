"""A causal decoder as a bidirectional stack, and back, with its weights.

Sources: arXiv 2503.02656 (Gemma Encoder: the fully visible mask alone makes the encoder); arXiv 2504.06225;
for the M2 mixer arXiv 2310.12109 and HazyResearch/m2 (HyenaFilter, bidirectional).

Attention changes its mask and keeps every weight. The M2 mixer changes its kernel: the causal one stays the
forward kernel, tap for tap, with its skip, and a reverse kernel joins it, whose tap r reads r + 1 tokens
ahead. Its short convolution is causal in both forms, as in the released bidirectional model, so it stays. On
the way back the reverse kernel is dropped. The reverse kernel starts as one of

- "zeros": the last map of its network is 0 and the others are the forward one's, so the function is that of
  the decoder and the first gradient reaches the last map;
- "copy": the forward network, so a token reads as far ahead as back, with the same taps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from arch_lab.models.decoder import Decoder, ResidualStack
from arch_lab.models.direction import bidirectional_layer, bidirectional_stack, causal_mixer, causal_stack
from arch_lab.models.encoder import BidirectionalStack
from arch_lab.models.layer import LayerConfig
from blocks.attention.masks import Radius
from blocks.convolution.long import LongConvolution
from blocks.convolution.mixer import M2Mixer
from blocks.errors import ConfigError

Reverse = Literal["zeros", "copy"]


def bidirectional(
    decoder: Decoder, *, radius: Radius | None = None, reverse: Reverse | None = None
) -> BidirectionalStack:
    """A bidirectional copy of ``decoder``.

    Its ``hidden`` (B, T, D) is an encoder's output; its logits have no meaning.

    ``radius``: keys a local layer sees on each side, in the place of its window. ``reverse``: how the reverse
    kernels of M2 mixers start. Raises: ConfigError when a layer needs one of the two and it is not given, or
    has no bidirectional form.
    """
    layers = tuple(bidirectional_layer(layer, radius=radius) for layer in decoder.config.layers)
    state = {name: value for name, value in decoder.state_dict().items() if not name.startswith("layers.")}
    state |= {
        f"layers.{name}": value
        for name, value in bidirectional_state(decoder.layers, reverse=reverse).items()
    }
    return _filled(bidirectional_stack(decoder.config, layers).build("meta"), state, decoder)


def causal(encoder: BidirectionalStack, *, window: int | None = None) -> Decoder:
    """The causal decoder of a bidirectional stack.

    ``window`` replaces the radius of a local layer. Reverse kernels are dropped.

    Raises: ConfigError when a local layer gets no window, or a layer has no causal form here.
    """
    layers = tuple(_causal_layer(layer, window) for layer in encoder.config.layers)
    state = {name: value for name, value in encoder.state_dict().items() if ".filter.behind." not in name}
    return _filled(causal_stack(encoder.config, layers).build("meta"), state, encoder)


def bidirectional_state(layers: nn.ModuleList, *, reverse: Reverse | None = None) -> dict[str, Tensor]:
    """State dict of the bidirectional form of causal ``layers``.

    Names are those of ``layers`` (arch_lab.models.layer.Layer).

    Raises: ConfigError when an M2 mixer is among them and ``reverse`` is not given.
    """
    state = dict(layers.state_dict())
    for i, layer in enumerate(layers):
        mixer = layer.mixer
        if not isinstance(mixer, M2Mixer):
            continue
        if reverse is None:
            raise ConfigError(
                f"layer {i}: an M2 mixer needs a reverse kernel; "
                "choose reverse 'zeros' (same function) or 'copy'"
            )
        for name, convolution in (("long", mixer.long), ("residual", mixer.residual)):
            if isinstance(convolution, LongConvolution):
                state |= _reverse_filter(
                    state, f"{i}.mixer.{name}.filter.", len(convolution.filter.ahead) - 1, reverse
                )
    return state


def _reverse_filter(state: dict[str, Tensor], prefix: str, last: int, reverse: Reverse) -> dict[str, Tensor]:
    """The reverse network's tensors, made of the forward one's."""
    tensors = {}
    for name, value in state.items():
        if name.startswith(f"{prefix}ahead."):
            zero = reverse == "zeros" and name == f"{prefix}ahead.{last}.weight"
            tensors[name.replace(".filter.ahead.", ".filter.behind.")] = (
                torch.zeros_like(value) if zero else value
            )
    return tensors


def _causal_layer(layer: LayerConfig, window: int | None) -> LayerConfig:
    return replace(layer, mixer=causal_mixer(layer.mixer, window=window))


M = TypeVar("M", bound=ResidualStack)


def _filled(model: M, state: dict[str, Tensor], source: ResidualStack) -> M:
    """``model`` with a copy of ``state``, in the mode of ``source``."""
    model.load_state_dict({name: value.detach().clone() for name, value in state.items()}, assign=True)
    return model.train(source.training)
