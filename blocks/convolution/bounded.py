"""What stands in for a long convolution: one with a bounded kernel, and none.

Legend: D channels, B batch, T tokens, n lags of a bounded kernel, t new tokens. Channel-major (D, B, T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blocks.convolution.algorithms import long_convolution
from blocks.convolution.long import Kernels, LongConvolution
from blocks.convolution.online import OnlineKernel
from blocks.cost import Cost


@dataclass(frozen=True)
class BoundedState:
    """The last inputs of a bounded convolution, oldest first: (B, D, min(tokens, n - 1))."""

    inputs: Tensor


class BoundedConvolution(LongConvolution):
    """A long convolution whose kernel is zero from lag n on, n below ``max_tokens``.

    Its filter is one for n tokens: time, decay and positions are laid out over n, whatever the sequence. So
    sequences may be of any length, and no parameter grows with it.
    Cost: as LongConvolution with transforms of N = fft_length(T, n) points and a filter of min(T, n) taps.
    State: the last n - 1 inputs, D numbers each. A step is one product with them, several tokens are one
    convolution; states may be used again.
    """

    def __init__(self, width: int, lags: int, **options: Any) -> None:
        super().__init__(width, lags, **options)
        self.lags = lags

    def kernel_length(self, tokens: int) -> int:
        return min(tokens, self.lags)

    def online_kernel(self, tokens: int) -> OnlineKernel:
        return OnlineKernel(self.taps(self.lags), nearest=self.lags)

    def init_state(self, batch: int) -> BoundedState:
        return BoundedState(self.skip.new_empty((batch, self.width, 0)))

    def extend(self, u: Tensor, state: BoundedState, kernels: Kernels) -> tuple[Tensor, BoundedState]:
        kernel, past = kernels.of(self), state.inputs.shape[-1]
        inputs = torch.cat([state.inputs, u.transpose(0, 1).to(state.inputs.dtype)], dim=-1)
        if u.shape[-1] == 1:
            y = torch.bmm(inputs.transpose(0, 1).to(kernel.taps.dtype), kernel.nearest(past + 1))
        else:
            y = long_convolution(inputs, kernel.taps)[..., past:].transpose(0, 1)
        held = inputs[..., max(0, inputs.shape[-1] - self.lags + 1) :].contiguous()
        return y.to(u.dtype), BoundedState(held)

    def settle(self, state: BoundedState, kernels: Kernels, tokens: int) -> BoundedState:
        return state  # no longer than the kernel, whatever came before

    def state_bytes(self, tokens: int) -> int:
        return self.width * min(tokens, self.lags - 1) * self.skip.dtype.itemsize


class Skip(nn.Module):
    """y = skip · u, the term that stays where a long convolution is removed: no kernel, no state.

    Shape: (D, B, T) -> (D, B, T). Initialisation: N(0, 1) a channel, as in LongConvolution.
    Cost: elementwise 1 per channel and token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.skip = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.skip)

    def forward(self, u: Tensor) -> Tensor:
        return u * self.skip[:, None, None].to(u.dtype)

    def init_state(self, batch: int) -> None:
        return None

    def extend(self, u: Tensor, state: None, kernels: Kernels) -> tuple[Tensor, None]:
        return self(u), None

    def settle(self, state: None, kernels: Kernels, tokens: int) -> None:
        return None

    def state_bytes(self, tokens: int) -> int:
        return 0

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=self.width * tokens)
