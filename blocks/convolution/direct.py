"""Long convolutions by their definition.

The readable reference, and a direct sum that wins when the kernel is short.

Legend: B batch, D channels, T tokens, S taps of a kernel. (B, D, T) arguments may be strided views of (D, B,
T) arrays.
The direct sum is one multiply-add of the whole signal a tap: no transform, no rounding from the future,
O(T·S) work at the speed of memory. It is exactly causal: an output is a sum of products of its own past and
nothing else.
Source: the definition; written as blocks.convolution.short is, whose three taps are its smallest case.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.errors import ConfigError


def causal_convolution_direct(u: Tensor, k: Tensor) -> Tensor:
    """y[b, d, t] = sum_{s <= t} k[d, s] u[b, d, t - s], as a (T, T) Toeplitz matrix a channel.

    O(T²), for tests.
    """
    tokens = u.shape[-1]
    time = torch.arange(tokens, device=u.device)
    return torch.einsum("bds,dts->bdt", u, _taps_at(k, time[:, None] - time[None, :]))


def bidirectional_convolution_direct(u: Tensor, k_forward: Tensor, k_reverse: Tensor) -> Tensor:
    """The causal sum over ``k_forward`` plus sum_{s >= 0} k_reverse[s] u[t + s + 1]: O(T²), for tests."""
    time = torch.arange(u.shape[-1], device=u.device)
    lag = time[:, None] - time[None, :]
    return torch.einsum("bds,dts->bdt", u, _taps_at(k_forward, lag) + _taps_at(k_reverse, -lag - 1))


def _taps_at(k: Tensor, lag: Tensor) -> Tensor:
    """k[:, lag], zero where the kernel has no such lag: (D, S), (T, T) -> (D, T, T)."""
    in_kernel = (lag >= 0) & (lag < k.shape[1])
    return k[:, lag.clamp(0, k.shape[1] - 1)] * in_kernel


def check_shapes(u: Tensor, k: Tensor) -> None:
    """Raises: ConfigError unless u is (B, D, T) and k (D, S)."""
    if u.dim() != 3 or k.dim() != 2 or u.shape[1] != k.shape[0]:
        raise ConfigError(
            f"convolution: expected u (B, D, T) and a kernel (D, S), got {tuple(u.shape)} and "
            f"{tuple(k.shape)}"
        )


def direct_convolution(u: Tensor, k: Tensor) -> Tensor:
    """``causal_convolution_direct`` as min(S, T) shifted multiply-adds.

    Shape: u (B, D, T), k (D, S) -> y (B, D, T). Precision: float32 inside, float64 when either argument is; y
    has u's dtype.
    Cost: 2 FLOPs for each tap that meets a token, ``direct_flops``. Raises: ConfigError when the shapes do
    not fit.
    """
    check_shapes(u, k)
    if u.numel() == 0:
        return u
    dtype = torch.promote_types(torch.promote_types(u.dtype, k.dtype), torch.float32)
    u_DBT = u.transpose(0, 1).to(dtype).contiguous()
    return _direct(u_DBT, k[:, : u.shape[-1]].to(dtype)).transpose(0, 1).to(u.dtype)


def direct_flops(*, rows: int, tokens: int, taps: int) -> int:
    """Forward FLOPs over ``rows`` = channels times sequences.

    The first tap meets T tokens, the next T - 1, …
    """
    reached = min(taps, tokens)
    return 2 * rows * (reached * tokens - reached * (reached - 1) // 2)


# One operator, so that its multiply-adds are counted as the product they are and not passed over as
# elementwise work.


def shifted_sum(u: Tensor, k: Tensor) -> Tensor:
    """u (D, B, T), k (D, S <= T) -> (D, B, T)."""
    y = u * k[:, 0, None, None]
    for lag in range(1, k.shape[1]):
        y[..., lag:].addcmul_(u[..., :-lag], k[:, lag, None, None])
    return y


def shifted_sum_backward(gradient: Tensor, u: Tensor, k: Tensor, for_taps: bool) -> tuple[Tensor, Tensor]:
    """Gradients of u and of k (empty unless ``for_taps``): the same sums, run backwards in time."""
    du = gradient * k[:, 0, None, None]
    for lag in range(1, k.shape[1]):
        du[..., :-lag].addcmul_(gradient[..., lag:], k[:, lag, None, None])
    if not for_taps:
        return du, k.new_empty(0)
    tokens = u.shape[-1]
    dk = [(gradient[..., lag:] * u[..., : tokens - lag]).sum((1, 2)) for lag in range(k.shape[1])]
    return du, torch.stack(dk, dim=1)


_direct = torch.library.custom_op("blocks::direct_convolution", shifted_sum, mutates_args=())
_direct_backward = torch.library.custom_op(
    "blocks::direct_convolution_backward", shifted_sum_backward, mutates_args=()
)


@_direct.register_fake
def _(u: Tensor, k: Tensor) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@_direct_backward.register_fake
def _(gradient: Tensor, u: Tensor, k: Tensor, for_taps: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u, memory_format=torch.contiguous_format), k.new_empty(k.shape if for_taps else 0)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    du, dk = _direct_backward(gradient, *ctx.saved_tensors, ctx.needs_input_grad[1])
    return du, dk if ctx.needs_input_grad[1] else None


_direct.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.blocks.direct_convolution)
def _flops(u_shape: torch.Size, k_shape: torch.Size, *_: Any, **__: Any) -> int:
    return direct_flops(rows=u_shape[0] * u_shape[1], tokens=u_shape[2], taps=k_shape[1])


@register_flop_formula(torch.ops.blocks.direct_convolution_backward)
def _backward_flops(
    g_shape: torch.Size, u_shape: torch.Size, k_shape: torch.Size, for_taps: bool, *_: Any, **__: Any
) -> int:
    return (1 + for_taps) * direct_flops(rows=u_shape[0] * u_shape[1], tokens=u_shape[2], taps=k_shape[1])
