"""Depth-wise causal convolution of queries, keys and values over a few tokens, before norms and rotation.

Legend: B batch, T tokens, C channels of one projection, W taps. Token-major (B, T, C): projections write this
order and attention reads it, so nothing is transposed (blocks.convolution.short is channel-major for the same
reason).
Sources: arXiv 2109.08668 (Primer, "multi-dconv-head attention": 3 taps on q, k and v, no bias, no
activation); arXiv 2512.17351 (Canon-B, the same with a residual, which the tap of the token itself can hold).
Causal in bidirectional attention too, as the released M2-BERT keeps its short convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from blocks.convolution.short import short_flops
from blocks.cost import Cost
from blocks.dispatch import is_plain_eager, override
from blocks.groups import TAPS, ParameterGroup
from blocks.init import fan_in_uniform_
from blocks.segments import positions

Projections = tuple[Tensor, ...]  # of queries, keys and values; of two where one gives keys and values

# One operator, so that its multiply-adds are counted as the product they are.


def shifted_rows(z: Tensor, weight: Tensor, position: Tensor | None) -> Tensor:
    """z (B, T, C), weight (C, W), position (B, T) of each token in its document -> (B, T, C).

    ``position=None``: one document per row.
    """
    taps = weight.mT.contiguous()  # (W, C): rows that a vector unit reads
    out = z * taps[-1]
    for lag in range(1, min(len(taps), z.shape[1])):
        out[:, lag:].addcmul_(_same_document(z[:, :-lag], position, lag), taps[-1 - lag])
    return out


def shifted_rows_backward(
    gradient: Tensor, z: Tensor, weight: Tensor, position: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of z and weight."""
    taps, tokens = weight.mT.contiguous(), z.shape[1]
    dz, dtaps = gradient * taps[-1], [(gradient * z).sum((0, 1))]
    for lag in range(1, len(taps)):
        if lag >= tokens:  # a lag no token has
            dtaps.append(torch.zeros_like(dtaps[0]))
            continue
        reached = _same_document(gradient[:, lag:], position, lag)
        dz[:, :-lag].addcmul_(reached, taps[-1 - lag])
        dtaps.append((reached * z[:, :-lag]).sum((0, 1)))
    return dz, torch.stack(dtaps[::-1], dim=1)


def _same_document(rows: Tensor, position: Tensor | None, lag: int) -> Tensor:
    """``rows`` (B, T - lag, C), zero where the token ``lag`` earlier belongs to another document."""
    return rows if position is None else rows.masked_fill((position[:, lag:] < lag)[..., None], 0)


def _last_rows(z: Tensor, weight: Tensor, past: int) -> Tensor:
    """The convolution of z (B, past + t, C) at its last t tokens; one token reads W rows."""
    if z.shape[1] - past > 1:
        return shifted_rows(z, weight, None)[:, past:]
    read = min(weight.shape[1], past + 1)
    return (z[:, -read:] * weight.mT[-read:]).sum(1, keepdim=True)


_short = torch.library.custom_op("blocks::short_convolution_rows", shifted_rows, mutates_args=())


@_short.register_fake
def _(z: Tensor, weight: Tensor, position: Tensor | None) -> Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    return *shifted_rows_backward(gradient, *ctx.saved_tensors), None


_short.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.blocks.short_convolution_rows)
def _flops(z_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
    return short_flops(z_shape, weight_shape[1])


class _Rows(torch.autograd.Function):
    """The operator without the calls around it: a third of its time at small sizes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, position: Tensor | None) -> Tensor:
        ctx.save_for_backward(z, weight, position)
        return shifted_rows(z, weight, position)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return _backward(ctx, gradient)


class ProjectionConvolution(nn.Module):
    """c[t] = sum_{i < W} weight[:, i] z[t - W + 1 + i] of each projection z, zeros before its document.

    ``channels``: width of each projection, by the name of its weight. Shape: (B, T, C) each -> the same.
    Initialisation: U(±1/sqrt(W)), as torch draws a depth-wise convolution, M2 its short one and
    fla-org/flash-linear-attention those of its q, k and v. Primer's and an identity were worse
    (docs/attention.md).
    Cost: W weights per channel, 2·W FLOPs per channel and token.
    Decoding keeps the last W - 1 inputs of each projection.
    """

    def __init__(self, channels: Mapping[str, int], taps: int) -> None:
        super().__init__()
        self.taps = taps
        for name, width in channels.items():
            self.register_parameter(name, nn.Parameter(torch.empty(width, taps)))
        self.reset_parameters()

    @property
    def weights(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.parameters())

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"": TAPS}

    def reset_parameters(self) -> None:
        for weight in self.weights:
            fan_in_uniform_(weight, self.taps)

    def forward(self, projections: Projections, segments: Tensor | None = None) -> Projections:
        """``segments`` (B, T): document ids."""
        position = None if segments is None else positions(segments)
        pairs = zip(projections, self.weights, strict=True)
        return tuple(self._convolve(z, weight.to(z.dtype), position) for z, weight in pairs)

    def _convolve(self, z: Tensor, weight: Tensor, position: Tensor | None) -> Tensor:
        # one operator where graphs are counted or compiled; plain torch on request
        requested, _ = override("short_convolution")
        if requested == "reference" and not z.is_meta:
            return shifted_rows(z, weight, position)
        if requested is None and z.device.type == "cpu" and is_plain_eager():
            y: Tensor = _Rows.apply(z, weight, position)  # type: ignore[no-untyped-call]
            return y
        return _short(z, weight, position)

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=sum(2 * weight.numel() for weight in self.weights) * tokens)

    # --- decoding -------------------------------------------------------------------------------------------

    def empty_tails(self, batch: int, reserve: int | None) -> Projections:
        """Nothing seen yet; zeros for the tokens ``reserve`` makes room for (None: grow)."""
        size = 0 if reserve is None else self._held(reserve)
        return tuple(weight.new_zeros((batch, size, len(weight))) for weight in self.weights)

    def extend(
        self, projections: Projections, tails: Projections, reserve: int | None
    ) -> tuple[Projections, Projections]:
        """The outputs for the next tokens (B, t, C) of each projection, and the tails after them."""
        joined = [torch.cat((tail, z.to(tail.dtype)), 1) for tail, z in zip(tails, projections, strict=True)]
        held = self._held(joined[0].shape[1] if reserve is None else reserve)
        pairs, past = zip(joined, self.weights, strict=True), tails[0].shape[1]
        outputs = (_last_rows(z, weight, past).to(projections[0].dtype) for z, weight in pairs)
        return tuple(outputs), tuple(z[:, z.shape[1] - held :].contiguous() for z in joined)

    def _held(self, tokens: int) -> int:
        return min(tokens, self.taps - 1)

    def state_numbers(self, tokens: int) -> int:
        """Numbers kept per sequence after ``tokens`` tokens."""
        return self._held(tokens) * sum(len(weight) for weight in self.weights)
