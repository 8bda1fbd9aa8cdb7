"""Gated causal convolution, the sequence half of Monarch Mixer between its projections:

    gate_in, gate_out, value = short(z)        y = gate_out · (kernel * (gate_in · value)), causal

Legend: D channels, B sequences, T tokens, W taps of the short convolution, S taps of the kernel.
Channel-major, see blocks.convolution.fft.
The skip of the mixer stands in the kernel's lag 0. Sums of the long convolution run in float32 at least,
whatever z's dtype: a transform in low precision would carry the future into the past by rounding. Which
algorithm plain torch takes: blocks.convolution.algorithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.convolution import fft
from blocks.convolution.algorithms import choose_by_rule, long_convolution
from blocks.convolution.direct import shifted_sum, shifted_sum_backward
from blocks.convolution.short import shifted_taps, shifted_taps_backward, short_flops
from blocks.convolution.toeplitz import toeplitz_convolution
from blocks.dispatch import Choice, is_plain_eager, log_once
from blocks.dispatch.operations import Operation, Sizes, run_kernel, triton
from blocks.errors import ConfigError
from blocks.ops.gradients import attach, or_empty, with_saved
from blocks.ops.inputs import check_alike, check_rank


def _choose(batch: int, tokens: int, taps: int, device: str) -> Choice:
    return choose_by_rule(
        batch=batch, tokens=tokens, taps=min(taps, tokens), causal=True, narrow=False, device=device
    )


def _cpu_reason(sizes: Sizes) -> str:
    choice = _choose(sizes["batch"], sizes["tokens"], sizes["taps"], "cpu")
    return f"gates fused with the {choice.implementation} convolution, {choice.reason}"


OPERATION = Operation(
    name="causal_conv",
    example={"channels": 256, "batch": 4, "tokens": 1024, "taps": 1024, "short_taps": 3},
    cpu_reason=_cpu_reason,
    kernels={"triton": triton("causal_conv", "gated", "gated_forward", "gated_backward")},
)


def gated_causal_conv(
    z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor, *, implementation: str | None = None
) -> Tensor:
    """z (3D, B, T), short_weight (3D, W), short_bias (3D,), kernel (D, S) -> (D, B, T) in z's dtype.

    Taps beyond T are ignored.

    Raises: ConfigError when shapes, dtypes or devices do not fit, or ``implementation`` cannot run. The
    kernel may be wider than z.
    """
    sizes = _check(z, short_weight, short_bias, kernel)
    kernel = kernel[:, : z.shape[2]]
    choice = OPERATION.choose(z.device.type, z.dtype, sizes, implementation)
    log_once(OPERATION.name, choice)
    if choice.implementation == "reference":
        return reference(z, short_weight, short_bias, kernel)
    if choice.implementation == "cpu" and z.device.type == "cpu" and is_plain_eager():
        return _Gated.apply(z, short_weight, short_bias, kernel)  # type: ignore[no-any-return, no-untyped-call]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (z, short_weight, short_bias, kernel))
    y: Tensor = _operator(z, short_weight, short_bias, kernel, choice.token, keep)[0]
    return y


def _check(z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor) -> dict[str, int]:
    name = "gated causal convolution"
    check_rank(
        name,
        z=(z, "3D B T"),
        short_weight=(short_weight, "3D W"),
        short_bias=(short_bias, "3D"),
        kernel=(kernel, "D S"),
    )
    check_alike(name, z, short_weight=short_weight, short_bias=short_bias)
    check_alike(name, z, same_dtype=False, kernel=kernel)
    if not (z.is_floating_point() and kernel.is_floating_point()):
        raise ConfigError(f"{name}: z and kernel must be floating, got {z.dtype} and {kernel.dtype}")
    (three, batch, tokens), (channels, taps), short_taps = z.shape, kernel.shape, short_weight.shape[1]
    if not three == short_weight.shape[0] == short_bias.shape[0] == 3 * channels:
        got = f"{three}, {short_weight.shape[0]}, {short_bias.shape[0]}"
        raise ConfigError(
            f"{name}: a kernel of {channels} channels needs z, short_weight and short_bias of "
            f"{3 * channels}, got {got}"
        )
    if not (taps and short_taps):
        raise ConfigError(f"{name}: both kernels need at least one tap, got {short_taps} and {taps}")
    return {
        "channels": channels,
        "batch": batch,
        "tokens": tokens,
        "taps": min(taps, tokens),
        "short_taps": short_taps,
    }


def reference(z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor) -> Tensor:
    """What every implementation must equal.

    Its long convolution is the library's own, held to the O(T²) sum by tests: a transform left to torch's
    differentiation gets silently false gradients in compiled graphs (blocks.convolution.fft).
    """
    padded = F.pad(rearrange(z, "c b t -> b c t"), (short_weight.shape[1] - 1, 0))
    c = F.conv1d(padded, rearrange(short_weight, "c w -> c 1 w"), short_bias, groups=len(short_weight))
    gate_in, gate_out, value = rearrange(c, "b (three d) t -> three b d t", three=3)
    return rearrange(gate_out * long_convolution(gate_in * value, kernel), "b d t -> d b t")


# --- cpu ----------------------------------------------------------------------------------------------------


def gated_forward(
    z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor, keep: bool = False
) -> tuple[Tensor, ...]:
    """y, and what the backward pass would compute again.

    The short convolution (3D, B, T), the long one (D, B, T), and with ``keep`` the spectra of its arguments.
    """
    short = shifted_taps(z.contiguous(), short_weight, short_bias)
    gate_in, gate_out, value = short.chunk(3)
    long, *spectra = _convolve(value * gate_in, kernel, keep)
    return long * gate_out, short, long, *spectra


def gated_backward(
    gradient: Tensor,
    z: Tensor,
    short_weight: Tensor,
    short_bias: Tensor,
    kernel: Tensor,
    need: Sequence[bool],
    short: Tensor,
    long: Tensor,
    *spectra: Tensor,
) -> tuple[Tensor | None, ...]:
    if not short.numel():
        _, short, long, *again = gated_forward(z, short_weight, short_bias, kernel, keep=True)
        spectra = tuple(again)
    gradient = gradient.contiguous()  # a projection's arrives transposed, and four passes follow
    gate_in, gate_out, value = short.chunk(3)
    u = value * gate_in if not spectra[0].numel() else None
    du, dkernel = _correlate(gradient * gate_out, u, kernel, spectra, need[3])
    if not any(need[:3]):
        return None, None, None, dkernel
    dshort = torch.empty_like(short)
    for out, a, b in zip(dshort.chunk(3), (du, gradient, du), (value, long, gate_in), strict=True):
        torch.mul(a, b, out=out)
    dz, dweight, dbias = shifted_taps_backward(dshort, z, short_weight)
    return dz, dweight, dbias, dkernel


def _convolve(u: Tensor, kernel: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """u (D, B, T), kernel (D, S <= T) -> (D, B, T) in u's dtype, and the spectra of both for ``_correlate``,
    empty where no transform runs or nothing is to be kept.
    """
    wide, nothing = _wide(u, kernel), (u.new_empty(0), u.new_empty(0))
    algorithm = _algorithm(u, kernel)
    if algorithm == "toeplitz":
        return toeplitz_convolution(u.transpose(0, 1), kernel).transpose(0, 1).contiguous(), *nothing
    if algorithm == "direct":
        return shifted_sum(u.to(wide), kernel.to(wide)).to(u.dtype), *nothing
    if algorithm == "none":
        return torch.empty_like(u), *nothing
    length = fft.fft_length(u.shape[2], kernel.shape[1])
    y, of_u, of_kernel = fft.convolve_in_groups(u.to(wide), kernel.to(wide), length, keep)
    return y.to(u.dtype), of_u, of_kernel


def _correlate(
    gradient: Tensor, u: Tensor | None, kernel: Tensor, spectra: tuple[Tensor, ...], for_taps: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of u, in its dtype, and of the kernel (None unless ``for_taps``). No block-Toeplitz form:
    these need not be causal. ``u``: where its spectrum was not kept.
    """
    wide, algorithm = _wide(gradient, kernel), _algorithm(gradient, kernel)
    if algorithm == "none":
        return torch.empty_like(gradient), torch.zeros_like(kernel) if for_taps else None
    if u is not None and algorithm == "direct":
        du, dkernel = shifted_sum_backward(gradient.to(wide), u.to(wide), kernel.to(wide), for_taps)
    else:
        length = fft.fft_length(gradient.shape[2], kernel.shape[1])
        if u is not None:
            spectra = fft.spectra_of(u.to(wide), kernel.to(wide), length)
        taps = kernel.shape[1] if for_taps else 0
        of_u, of_kernel = spectra
        du, dkernel = fft.correlate_in_groups(gradient.to(wide), of_u, of_kernel, length, taps)
    return du.to(gradient.dtype), dkernel.to(kernel.dtype) if for_taps else None


def _algorithm(u: Tensor, kernel: Tensor) -> str:
    """What runs for u (D, B, T); "none" where there is nothing to compute."""
    if u.numel() == 0:
        return "none"
    _, batch, tokens = u.shape
    return _choose(batch, tokens, kernel.shape[1], u.device.type).implementation


def _wide(u: Tensor, kernel: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(u.dtype, kernel.dtype), torch.float32)


def _empty_spectra(z: Tensor, kernel: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Shapes and dtype of the spectra that ``gated_forward`` keeps, for z (3D, B, T)."""
    if not keep or _algorithm(z, kernel) != "fft":
        return z.new_empty(0), z.new_empty(0)
    length = fft.fft_length(z.shape[2], kernel.shape[1])
    sizes = fft.spectra_shapes((kernel.shape[0], *z.shape[1:]), length, keep)
    wide = _wide(z, kernel)
    return z.new_empty(sizes[0], dtype=wide), z.new_empty(sizes[1], dtype=wide)


# --- the operator -------------------------------------------------------------------------------------------


def _run(
    z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor, choice: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    saves = keep and choice == "cpu"
    plain = partial(gated_forward, keep=saves)
    outputs = run_kernel(OPERATION, "forward", choice, plain, z, short_weight, short_bias, kernel)
    return with_saved(outputs, saves, z, 4)  # type: ignore[return-value]


def _run_backward(
    gradient: Tensor,
    z: Tensor,
    short_weight: Tensor,
    short_bias: Tensor,
    kernel: Tensor,
    short: Tensor,
    long: Tensor,
    spectrum_u: Tensor,
    spectrum_kernel: Tensor,
    need: Sequence[bool],
    choice: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def plain(*inputs: Any) -> tuple[Tensor | None, ...]:
        return gated_backward(*inputs, short, long, spectrum_u, spectrum_kernel)

    gradients = run_kernel(
        OPERATION, "backward", choice, plain, gradient, z, short_weight, short_bias, kernel, tuple(need)
    )
    needed_gradients = (g if needed else None for g, needed in zip(gradients, need, strict=True))
    return or_empty(needed_gradients, z)  # type: ignore[return-value]


_operator = torch.library.custom_op("blocks::causal_conv", _run, mutates_args=())
_backward = torch.library.custom_op("blocks::causal_conv_backward", _run_backward, mutates_args=())


@_operator.register_fake
def _(
    z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor, choice: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = (kernel.shape[0], *z.shape[1:])
    saves = keep and choice == "cpu"
    short, long = z.new_empty(z.shape if saves else 0), z.new_empty(shape if saves else 0)
    return z.new_empty(shape), short, long, *_empty_spectra(z, kernel, saves)


attach(_operator, _backward, reference, tensors=4, saved=4)


class _Gated(torch.autograd.Function):
    """The cpu implementation without the operators, whose calls take 0.2 ms in a step of training."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor) -> Tensor:
        keep = any(ctx.needs_input_grad)
        y, *extra = gated_forward(z, short_weight, short_bias, kernel, keep)
        ctx.save_for_backward(z, short_weight, short_bias, kernel, *extra)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # a second derivative needs the operator, which knows its own gradient
        body: Any = _backward if torch.is_grad_enabled() else _run_backward
        need = list(ctx.needs_input_grad)
        gradients = body(gradient, *ctx.saved_tensors, need, "cpu")
        return tuple(g if needed else None for g, needed in zip(gradients, need, strict=True))


@register_flop_formula(torch.ops.blocks.causal_conv)
def _flops(
    z_shape: torch.Size, short_shape: torch.Size, bias: Any, kernel_shape: torch.Size, *_: Any, **__: Any
) -> int:
    """Canonical, as a transform whatever runs (docs/accounting.md): of it ``short_flops`` are a product's."""
    shape = torch.Size((kernel_shape[0], *z_shape[1:]))
    length = fft.fft_length(z_shape[2], kernel_shape[1])
    return short_flops(z_shape, short_shape[1]) + fft.forward_flops(shape, length)


@register_flop_formula(torch.ops.blocks.causal_conv_backward)
def _backward_flops(
    gradient_shape: torch.Size,
    z_shape: Any,
    short_shape: Any,
    bias: Any,
    kernel_shape: torch.Size,
    short: Any,
    long: Any,
    spectrum_u: Any,
    spectrum_kernel: Any,
    need: Sequence[bool],
    *_: Any,
    **__: Any,
) -> int:
    return fft.backward_flops(gradient_shape, fft.fft_length(gradient_shape[2], kernel_shape[1]), need[3])
