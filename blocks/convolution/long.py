"""A long convolution with its filter, its skip and its decoding state.

What every convolution mixer is made of.

Legend: D channels, B batch, T tokens so far, t new tokens. Channel-major (D, B, T), see
blocks.convolution.fft.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import segments as documents_of
from blocks.convolution.algorithms import algorithm_flops, choose, long_convolution
from blocks.convolution.fft import fft_length
from blocks.convolution.filter import FilterStart, ImplicitFilter
from blocks.convolution.gated_causal import gated_causal_conv
from blocks.convolution.online import OnlineKernel, capacity, empty_state, extend, settle
from blocks.convolution.short import ShortConvolution
from blocks.cost import Cost, fft_flops


class LongConvolution(nn.Module):
    """y = kernel * u + skip · u, the kernel from an ImplicitFilter, the skip N(0, 1) a channel as released.

    ``start``: of the kernel and of its rates, see ImplicitFilter.

    Shape: (D, B, T) -> (D, B, T). The skip is added to the kernel's lag 0: the same sum, one pass over u
    less.
    Algorithm: blocks.convolution.algorithms chooses; ``executed_flops`` counts what it runs.
    Cost, canonical whichever runs: 2 transforms of N = fft_length(T) points and 6 FLOPs for each of the N/2 +
    1 bins a channel and sequence; the filter and the kernel's transform once per forward pass; elementwise 1
    a channel for the skip.
    """

    def __init__(
        self,
        width: int,
        max_tokens: int,
        *,
        order: int,
        emb: int,
        sine_frequency: float,
        inner: int = 2,
        train_positions: bool = True,
        bidirectional: bool = False,
        start: FilterStart = "released",
    ) -> None:
        super().__init__()
        self.width, self.bidirectional = width, bidirectional
        self.filter = ImplicitFilter(
            width,
            max_tokens,
            order=order,
            emb=emb,
            sine_frequency=sine_frequency,
            inner=inner,
            train_positions=train_positions,
            reverse=bidirectional,
            start=start,
        )
        self.skip = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.filter.reset_parameters()
        nn.init.normal_(self.skip)

    def kernel_length(self, tokens: int) -> int:
        """Taps of the kernel for a sequence of ``tokens``."""
        return tokens

    def taps(self, tokens: int) -> Tensor:
        """(D, kernel_length(tokens)): the forward kernel with the skip at lag 0."""
        kernel = self.filter(self.kernel_length(tokens)).mT
        return kernel + F.pad(self.skip[:, None].to(kernel.dtype), (0, kernel.shape[1] - 1))

    def forward(self, u: Tensor) -> Tensor:
        tokens = u.shape[-1]
        reverse = self.filter(self.kernel_length(tokens), reverse=True).mT if self.bidirectional else None
        return long_convolution(u.transpose(0, 1), self.taps(tokens), reverse).transpose(0, 1)

    def gated(self, z: Tensor, short: ShortConvolution) -> Tensor:
        """gate_out · self(gate_in · value) with (gate_in, gate_out, value) = short(z), as one operation.
        Causal only.

        Shape: (3D, B, T) -> (D, B, T).
        """
        return gated_causal_conv(z, short.weight.to(z.dtype), short.bias.to(z.dtype), self.taps(z.shape[-1]))

    def executed_flops(self, batch: int, tokens: int) -> int:
        """Forward FLOPs of ``forward`` on the parameters' device, without the filter (``cost`` is
        canonical).
        """
        # a reverse kernel is one tap longer in its causal form
        taps = self.kernel_length(tokens) + self.bidirectional
        causal, device = not self.bidirectional, self.skip.device.type
        choice = choose(batch=batch, tokens=tokens, taps=taps, causal=causal, device=device)
        sizes = {"batch": batch, "channels": self.width, "tokens": tokens, "taps": taps}
        return algorithm_flops(choice.implementation, **sizes, causal=causal)

    def online_kernel(self, tokens: int) -> OnlineKernel:
        """The kernel of a generation of at most ``tokens`` tokens."""
        return OnlineKernel(self.taps(tokens))

    def extend(self, u: Tensor, state: Any, kernels: Kernels) -> tuple[Tensor, Any]:
        """The outputs (D, B, t) for the next t tokens u (D, B, t), and the state after them."""
        y, state = extend(u.transpose(0, 1), state, kernels.of(self))
        return y.transpose(0, 1), state

    def settle(self, state: Any, kernels: Kernels, tokens: int) -> Any:
        """The state for ``tokens`` more tokens without the inputs so far: ``tokens`` numbers per channel."""
        return settle(state, kernels.of(self), tokens)

    def init_state(self, batch: int) -> Any:
        return empty_state(batch, self.width, self.filter.max_tokens, like=self.skip)

    def state_bytes(self, tokens: int) -> int:
        """Bytes of the slots after ``tokens`` tokens of one sequence, float32 at least."""
        dtype = torch.promote_types(self.skip.dtype, torch.float32)
        return self.width * capacity(tokens, self.filter.max_tokens) * dtype.itemsize

    def cost(self, tokens: int) -> Cost:
        taps = self.kernel_length(tokens)
        length = fft_length(tokens, None if self.bidirectional else taps)
        products = 6 * (length // 2 + 1) * self.width
        transforms = Cost(
            fft=fft_flops(length, 2 * self.width) + products,
            shared_fft=fft_flops(length, self.width),
            shared_elementwise=self.width,
        )
        return transforms + self.filter.cost(taps)


class Kernels:
    """Kernels of a decoding state, made once and reused at every step.

    Not a tensor of the state on purpose: kernels belong to the weights, all sequences share them, and their
    size does not grow with what is decoded, so they are no part of ``state_bytes``. Lives as long as the
    state: weights changed in the middle of a generation take effect in the next state.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._kernels: dict[int, OnlineKernel] = {}

    def of(self, convolution: LongConvolution) -> OnlineKernel:
        kernel = self._kernels.get(id(convolution))
        if kernel is None or (
            torch.is_grad_enabled() and not kernel.taps.requires_grad and convolution.skip.requires_grad
        ):
            kernel = self._kernels[id(convolution)] = convolution.online_kernel(self.tokens)
        return kernel


def over_documents(
    mix: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, segments: Tensor | None
) -> Tensor:
    """``mix(x, None)``, or ``mix(documents, valid)`` on one row per document when ``segments`` are given.

    A transform sees its whole row, so documents are isolated by never sharing one. The price: N documents of
    at most L tokens cost N·L, which is more than B·T when their lengths differ much.
    """
    if segments is None:
        return mix(x, None)
    documents_of.check(segments, x)
    documents, valid, index = documents_of.unpack(x, segments)
    mixed = mix(documents, valid) if documents.numel() else documents
    return documents_of.repack(mixed, valid, index, x.shape)


def project_in(linear: nn.Linear, x: Tensor) -> Tensor:
    """``linear`` of x (B, T, D), channel-major (O, B, T), in one GEMM and without a transposing copy."""
    b, t, d = x.shape
    return torch.addmm(linear.bias[:, None], linear.weight, x.reshape(b * t, d).mT).view(-1, b, t)


def project_out(linear: nn.Linear, y: Tensor) -> Tensor:
    """``linear`` of y, channel-major (D, B, T), back to (B, T, O) in one GEMM."""
    d, b, t = y.shape
    return linear(y.reshape(d, b * t).mT).view(b, t, -1)


def linear_cost(linear: nn.Linear, tokens: int) -> Cost:
    return Cost(matmul=2 * linear.weight.numel() * tokens, elementwise=linear.out_features * tokens)


def reset_linear(linear: nn.Linear) -> None:
    """Weight N(0, 1/fan_in), bias 0.

    The rule of every dense map here, so that arms of a comparison start alike.
    """
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    nn.init.zeros_(linear.bias)
