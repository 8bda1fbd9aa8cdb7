"""Long convolutions by FFT; their O(T²) definitions are in blocks.convolution.direct.

Legend: B batch, D channels, T tokens, S taps of a kernel, N transform length.
A product of spectra is a *circular* convolution: it equals the linear one on the first T outputs only when
the transform is long enough that nothing wraps round. Causal: N >= T + S - 1; here N >= T + min(S, T), which
is 2T for a kernel as long as the signal (N = 2T - 2 already leaks the last token into the first output).
Memory order: transforms want time contiguous, channels outermost. (B, D, T) arguments may be any strided
view; views of a (D, B, T) array cost no copy and give such a view back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.convolution.direct import check_shapes
from blocks.cost import fft_flops

# points per pass on a CPU thread: one chunk's signal and spectrum (2 MiB in float32) stay in cache, which is
# worth 1.3-4x
CHUNK_POINTS = 2**18
KERNEL_PASSES = 4


def fft_length(tokens: int, taps: int | None = None) -> int:
    """The smallest fast length N >= tokens + taps: even, with prime factors 2, 3 and 5 only.

    ``taps``: of a causal kernel shorter than the signal; None: as many as tokens. At most 12.5 % above 2·tokens
    from 22 tokens on; equal to it for powers of two.
    """
    shortest = tokens + (tokens if taps is None else min(taps, tokens))
    length = max(2, shortest + shortest % 2)
    while not _smooth(length):
        length += 2
    return length


def _smooth(length: int) -> bool:
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    return length == 1


def causal_convolution(u: Tensor, k: Tensor) -> Tensor:
    """y[b, d, t] = sum_{s <= t} k[d, s] u[b, d, t - s].

    Shape: u (B, D, T), k (D, S) -> y (B, D, T). Taps beyond T are ignored, missing ones are zero.
    Precision: float32 inside, float64 when either argument is; y has u's dtype.
    Cost: 2 real transforms of N = fft_length(T, S) points per channel and sequence, 1 a channel for the kernel.
    Raises: ConfigError when the shapes do not fit.
    """
    check_shapes(u, k)
    tokens = u.shape[-1]
    return _convolve(u, k[:, :tokens], fft_length(tokens, k.shape[1]))


def bidirectional_convolution(u: Tensor, k_forward: Tensor, k_reverse: Tensor) -> Tensor:
    """y[t] = sum_{s >= 0} k_forward[s] u[t - s] + sum_{s >= 0} k_reverse[s] u[t + s + 1].

    Lag 0 lives in ``k_forward`` only; ``k_reverse[s]`` is lag -(s + 1). Shapes, precision and cost as
    ``causal_convolution`` (the two kernels are one array for the transform).
    Raises: ConfigError when the shapes do not fit.
    """
    check_shapes(u, k_forward)
    check_shapes(u, k_reverse)
    tokens = u.shape[-1]
    length = fft_length(tokens)
    return _convolve(u, two_sided_taps(k_forward, k_reverse, tokens, length), length)


def two_sided_taps(k_forward: Tensor, k_reverse: Tensor, tokens: int, length: int) -> Tensor:
    """Both kernels on one circle of ``length`` points, (D, length).

    Lag -(s + 1) stands at the point length - 1 - s.
    """
    forward_taps, reverse_taps = k_forward[:, :tokens], k_reverse[:, : tokens - 1]
    gap = forward_taps.new_zeros(len(forward_taps), length - forward_taps.shape[1] - reverse_taps.shape[1])
    return torch.cat([forward_taps, gap, reverse_taps.flip(-1)], dim=1)


def _convolve(u: Tensor, taps: Tensor, length: int) -> Tensor:
    if u.numel() == 0:
        return u
    # half precision would leak the future at 0.5 % of the signal: rounding noise of a transform reaches every
    # output
    dtype = torch.promote_types(torch.promote_types(u.dtype, taps.dtype), torch.float32)
    u_DBT = u.transpose(0, 1).to(dtype).contiguous()  # no copy for the channel-major views the mixers pass
    y_DBT, *_ = _circular_convolution(u_DBT, taps.to(dtype), length, torch.is_grad_enabled())
    return y_DBT.transpose(0, 1).to(u.dtype)


def _chunk(u: Tensor, length: int) -> int:
    """Channels per pass for u (D, B, T)."""
    if u.device.type != "cpu":
        return u.shape[0]
    return max(1, torch.get_num_threads() * CHUNK_POINTS // (u.shape[1] * length))


# One operator, opaque to autograd and compilers, for three reasons: forward and backward go through channels
# in cache-sized groups; torch differentiates a real transform by a complex one of full length; and compiled
# complex graphs guess the memory order of transforms wrong (a silently false gradient). Its FLOPs are
# registered, so counted graphs still see them.


def convolve_in_groups(
    u: Tensor, taps: Tensor, length: int, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """First T outputs of the circular convolution of ``length`` points, and what its gradients need.

    u (D, B, T), taps (D, S) -> (D, B, T), and with ``keep`` the spectra of u and of the taps, see
    ``spectra_shapes``.
    """
    tokens = u.shape[-1]
    if keep and _chunk(u, length) >= len(u):  # one pass: its spectra are kept as they are
        spectra = spectra_of(u, taps, length)
        product = torch.view_as_complex(spectra[0]) * torch.view_as_complex(spectra[1])
        return torch.fft.irfft(product, n=length)[..., :tokens].contiguous(), *spectra
    out, pad = torch.empty_like(u, memory_format=torch.contiguous_format), _Padding(u, length)
    shapes = spectra_shapes(u.shape, length, keep)
    spectrum_u, spectrum_taps = (u.new_empty(shape) for shape in shapes)
    for channels, kernel in _groups(u, taps, length):
        spectrum = pad.transform(u[channels])
        if keep:
            spectrum_u[channels] = torch.view_as_real(spectrum)
            spectrum_taps[channels] = torch.view_as_real(kernel)
        out[channels] = torch.fft.irfft(spectrum.mul_(kernel), n=length)[..., :tokens]
    return out, spectrum_u, spectrum_taps


def spectra_shapes(u_shape: Sequence[int], length: int, keep: bool) -> tuple[list[int], list[int]]:
    """Of the spectra of u (D, B, T) and of the taps: pairs of real numbers, which compilers can handle."""
    if not keep:
        return [0], [0]
    d, b, bins = u_shape[0], u_shape[1], length // 2 + 1
    return [d, b, bins, 2], [d, 1, bins, 2]


def spectra_of(u: Tensor, taps: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The spectra that ``convolve_in_groups`` keeps, all channels at once."""
    spectra = torch.fft.rfft(u, n=length), torch.fft.rfft(taps, n=length).unsqueeze(1)
    return torch.view_as_real(spectra[0]), torch.view_as_real(spectra[1])


def correlate_in_groups(
    gradient: Tensor, spectrum_u: Tensor, spectrum_taps: Tensor, length: int, taps: int
) -> tuple[Tensor, Tensor]:
    """Gradients of u (D, B, T) and of the first ``taps`` taps (empty for 0).

    Correlations, that is products with conjugate spectra. Those of the forward pass take twice the memory of
    u and save one transform of five.
    """
    du, pad = torch.empty_like(gradient, memory_format=torch.contiguous_format), _Padding(gradient, length)
    dtaps = gradient.new_empty((len(gradient), taps) if taps else 0)
    of_u, of_taps = torch.view_as_complex(spectrum_u), torch.view_as_complex(spectrum_taps)
    for channels in _slices(gradient, _chunk(gradient, length)):
        spectrum = pad.transform(gradient[channels])
        if taps:
            correlation = of_u[channels].conj_physical().mul_(spectrum).sum(dim=1)
            dtaps[channels] = torch.fft.irfft(correlation, n=length)[:, :taps]
        spectrum.mul_(of_taps[channels].conj_physical())
        du[channels] = torch.fft.irfft(spectrum, n=length)[..., : gradient.shape[-1]]
    return du, dtaps


def _groups(u: Tensor, taps: Tensor, length: int) -> Iterator[tuple[slice, Tensor]]:
    """Channels of one pass and their kernels' spectra (d, 1, N/2 + 1)."""
    size = _chunk(u, length)
    # a CPU library plans every call anew: kernels, one row per channel, are transformed for several passes at
    # once
    for first in range(0, u.shape[0], size * KERNEL_PASSES):
        spectra = torch.fft.rfft(taps[first : first + size * KERNEL_PASSES], n=length).unsqueeze(1)
        for i in range(0, len(spectra), size):
            kernel = spectra[i : i + size]
            yield slice(first + i, first + i + len(kernel)), kernel


def _slices(u: Tensor, size: int) -> Iterator[slice]:
    """Channels of each pass."""
    for first in range(0, len(u), size):
        yield slice(first, min(first + size, len(u)))


class _Padding:
    """One zero-padded buffer for all passes: fresh memory costs more than the copy."""

    def __init__(self, u: Tensor, length: int) -> None:
        self.tokens = u.shape[-1]
        self.buffer = u.new_zeros((min(_chunk(u, length), u.shape[0]), u.shape[1], length))

    def transform(self, x: Tensor) -> Tensor:
        """Spectrum of x (d, B, T), zeros after it."""
        padded = self.buffer[: len(x)]
        padded[..., : self.tokens] = x
        return torch.fft.rfft(padded)


_circular_convolution = torch.library.custom_op(
    "blocks::circular_convolution", convolve_in_groups, mutates_args=()
)
_circular_convolution_backward = torch.library.custom_op(
    "blocks::circular_convolution_backward", correlate_in_groups, mutates_args=()
)


@_circular_convolution.register_fake
def _(u: Tensor, taps: Tensor, length: int, keep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    of_u, of_taps = (u.new_empty(shape) for shape in spectra_shapes(u.shape, length, keep))
    return torch.empty_like(u, memory_format=torch.contiguous_format), of_u, of_taps


@_circular_convolution_backward.register_fake
def _(
    gradient: Tensor, spectrum_u: Tensor, spectrum_taps: Tensor, length: int, taps: int
) -> tuple[Tensor, Tensor]:
    du = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    return du, gradient.new_empty((len(gradient), taps) if taps else 0)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, bool], output: tuple[Tensor, ...]) -> None:
    _, taps, ctx.length, _ = inputs
    ctx.taps = taps.shape[-1]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return None, None, None, None
    taps = ctx.taps if ctx.needs_input_grad[1] else 0
    du, dtaps = _circular_convolution_backward(gradient, *ctx.saved_tensors, ctx.length, taps)
    return du, dtaps if taps else None, None, None


_circular_convolution.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.blocks.circular_convolution)
def _flops(u_shape: torch.Size, taps_shape: torch.Size, length: int, *_: Any, **__: Any) -> int:
    return forward_flops(u_shape, length)


@register_flop_formula(torch.ops.blocks.circular_convolution_backward)
def _backward_flops(
    g_shape: torch.Size,
    u_shape: torch.Size,
    taps_shape: torch.Size,
    length: int,
    taps: int,
    *_: Any,
    **__: Any,
) -> int:
    return backward_flops(g_shape, length, taps > 0)


def forward_flops(u_shape: torch.Size, length: int) -> int:
    """Signals there and back, kernels there, and the products of spectra, for u (D, B, T)."""
    d, b, _tokens = u_shape
    return fft_flops(length, 2 * d * b + d) + 6 * (length // 2 + 1) * d * b


def backward_flops(u_shape: torch.Size, length: int, for_taps: bool) -> int:
    """Gradients there and back, those of kernels back, and the products with the spectra that were kept."""
    d, b, _tokens = u_shape
    transforms = fft_flops(length, 2 * d * b + (d if for_taps else 0))
    return transforms + (2 if for_taps else 1) * 6 * (length // 2 + 1) * d * b
