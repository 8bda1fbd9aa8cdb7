"""Implicit filter: a long convolution kernel written by a small network from its time index.

Legend: T tokens (taps), D width (channels), E features of a position, R order (hidden width of the network),
n inner maps.
Source: arXiv 2302.10866, section 3.3; HazyResearch/m2, bert/src/mm/hyena_utils.py (HyenaFilter, Sin,
ExponentialModulation), whose numbers this file reproduces. Its dropout argument is never applied there and
absent here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from math import log, pi
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import EMBEDDING, FILTERS, ParameterGroup
from blocks.init import fan_in_uniform_

FilterStart = Literal["zero", "released"]

# kernels decay to this share of their start after 0.3 (slowest channel: 1.5) times max_tokens
DECAY_TARGET, FAST_DECAY, SLOW_DECAY = 0.01, 0.3, 1.5


def check_filter(
    *, width: int, max_tokens: int, filter_order: int, filter_emb: int, filter_inner: int = 2
) -> None:
    """Raises: ConfigError for sizes no implicit filter has."""
    for name, value in (("width", width), ("max_tokens", max_tokens), ("filter_order", filter_order)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if filter_inner < 0:
        raise ConfigError(
            f"filter_inner must be 0 or more (maps between the first and the last), got {filter_inner}"
        )
    if filter_emb < 3 or filter_emb % 2 == 0:
        raise ConfigError(
            "filter_emb must be odd and at least 3 (time, then cosine and sine of each band), "
            f"got {filter_emb}"
        )


class ImplicitFilter(nn.Module):
    """kernel[t, d] = MLP(z[t])[d] · exp(-t/(max_tokens - 1) · |delta[d]|).

    ``forward(tokens) -> (tokens, D)``; ``forward(tokens, reverse=True)`` is the second kernel of a
    bidirectional filter. z is [t, cos, -sin] over (E - 1)/2 bands, or with ``train_positions`` a trained table
    that starts there (max_tokens·E parameters). The MLP is E -> R, then ``inner`` maps R -> R (2 in the
    released language models, 1 in Hyena's image model), then R -> D, with sin(frequency ·) after all but the
    last; one ``frequency`` vector serves all of them, in both directions; the last map has no bias.
    Time is normalised by ``max_tokens``, so the kernel of a shorter sequence is a prefix of the longer one's.
    Precision: float32 inside whatever the parameters' dtype (float64 stays): a kernel rounded to bf16 forgets
    its phase.
    Cost: ``cost(tokens)`` is paid once per forward pass, whatever the batch; elementwise 3 (bias, frequency,
    sine) a hidden value and 3 (product with the rate, exponential, product) a kernel value.
    Raises: ConfigError when more than ``max_tokens`` taps are asked for.
    """

    positions: Tensor

    def __init__(
        self,
        width: int,
        max_tokens: int,
        *,
        order: int = 64,
        emb: int = 5,
        sine_frequency: float = 10.0,
        inner: int = 2,
        train_positions: bool = True,
        reverse: bool = False,
        start: FilterStart = "released",
    ) -> None:
        super().__init__()
        check_filter(
            width=width, max_tokens=max_tokens, filter_order=order, filter_emb=emb, filter_inner=inner
        )
        self.width, self.max_tokens = width, max_tokens
        self.sine_frequency, self.start = sine_frequency, start
        positions = torch.empty(max_tokens, emb)
        if train_positions:
            self.positions = nn.Parameter(positions)
        else:
            self.register_buffer("positions", positions)
        self.frequency = nn.Parameter(torch.empty(order))
        self.ahead = _maps(emb, order, width, inner)
        self.behind = _maps(emb, order, width, inner) if reverse else None
        self.reset_parameters()

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        """ "zero": slow filters. "released": matrices, as what trained the released models.

        (M2 tags its filters with rates of their own and loses the tags when it copies its layers.)
        """
        if self.start == "zero":
            return {"": FILTERS}
        return {"positions": EMBEDDING} if isinstance(self.positions, nn.Parameter) else {}

    def reset_parameters(self) -> None:
        """z and the frequency at their fixed starts.

        Every map U(±1/sqrt(fan_in)), as the released class draws them; with ``start="zero"`` the last map is
        zero, and so is the kernel: at first the skip around the convolution carries the signal (measured in
        docs/long_convolution.md).
        """
        if self.positions.is_meta:
            return  # shapes only: the fixed starts would be computed for nothing
        with torch.no_grad():
            self.positions.copy_(default_positions(self.max_tokens, self.positions.shape[1]))
            self.frequency.fill_(self.sine_frequency)
        for layer in _layers(self.ahead) + _layers(self.behind):
            fan_in_uniform_(layer.weight, layer.in_features)
            if layer.bias is not None:
                fan_in_uniform_(layer.bias, layer.in_features)
        if self.start == "zero":
            for maps in (self.ahead, self.behind):
                for last in _layers(maps)[-1:]:
                    nn.init.zeros_(last.weight)

    def forward(self, tokens: int, *, reverse: bool = False) -> Tensor:
        if tokens > self.max_tokens:
            raise ConfigError(
                f"{tokens} tokens exceed max_tokens = {self.max_tokens}, "
                "the longest kernel this filter was built for"
            )
        maps = self.behind if reverse else self.ahead
        if maps is None:
            raise ConfigError("this filter was built without a reverse kernel")
        device = self.positions.device
        dtype = torch.promote_types(self.positions.dtype, torch.float32)
        with _without_autocast(device):
            h, frequency = self.positions[:tokens].to(dtype), self.frequency.to(dtype)
            *hidden, last = _layers(maps)
            for layer in hidden:
                h = torch.sin(frequency * F.linear(h, layer.weight.to(dtype), layer.bias.to(dtype)))
            # (D, T): the order the transform wants, so the result is its transpose
            kernel = last.weight.to(dtype) @ h.mT
            # the grid is float32 as in the released buffers, so that float64 runs use the very same numbers
            time = torch.linspace(0, 1, self.max_tokens, device=device, dtype=torch.float32)[:tokens].to(
                dtype
            )
            return (kernel * torch.exp(-decay_rates(self.width, device).to(dtype)[:, None] * time)).mT

    def cost(self, tokens: int) -> Cost:
        weights = sum(layer.weight.numel() for layer in _layers(self.ahead))
        hidden = (len(self.ahead) - 1) * self.frequency.numel()
        directions = 1 if self.behind is None else 2
        return directions * Cost(
            shared_matmul=2 * tokens * weights, shared_elementwise=tokens * (3 * hidden + 3 * self.width)
        )


def default_positions(max_tokens: int, emb: int) -> Tensor:
    """(max_tokens, E): time in [0, 1], then cos and -sin of 2·pi·f·t/max_tokens for each band f from 1e-4 to
    bands - 1.
    """
    bands = (emb - 1) // 2
    time = torch.linspace(0, 1, max_tokens, dtype=torch.float32)[:, None]
    angle = 2 * pi * torch.linspace(0, max_tokens - 1, max_tokens, dtype=torch.float32)[:, None] / max_tokens
    phase = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float32) * angle
    return torch.cat([time, torch.cos(phase), -torch.sin(phase)], dim=1)


def decay_rates(width: int, device: torch.device | None = None) -> Tensor:
    """(D,) |delta|: evenly spaced from the slowest channel to the fastest."""
    return torch.linspace(
        log(DECAY_TARGET) / SLOW_DECAY,
        log(DECAY_TARGET) / FAST_DECAY,
        width,
        dtype=torch.float32,
        device=device,
    ).abs()


def _maps(emb: int, order: int, width: int, inner: int) -> nn.ModuleList:
    sizes = (emb, *(order,) * (inner + 1))
    hidden = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.ModuleList([*hidden, nn.Linear(order, width, bias=False)])


def _layers(maps: nn.ModuleList | None) -> list[nn.Linear]:
    return [cast(nn.Linear, layer) for layer in maps or ()]


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    # the meta device, where shapes are counted, knows no autocast
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
