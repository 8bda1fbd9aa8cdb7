"""One long convolution, several algorithms: which one runs, why, and what it costs.

Legend: B batch, D channels, T tokens, S taps of the longer kernel.
``long_convolution`` computes the same sums whichever algorithm it takes; ``choose`` says which and gives the
reason. One rule is not about speed: a causal convolution in low precision never goes through a transform,
because its rounding noise would carry the future into the past (blocks.convolution.toeplitz).
The thresholds were measured; numbers and command: docs/long_convolution.md. Requests and the log of
decisions: blocks.dispatch.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.convolution.direct import check_shapes, direct_convolution, direct_flops
from blocks.convolution.fft import bidirectional_convolution, causal_convolution, fft_length, two_sided_taps
from blocks.convolution.monarch_fft import monarch_causal, monarch_circular, monarch_flops
from blocks.convolution.toeplitz import toeplitz_convolution, toeplitz_flops
from blocks.cost import fft_flops
from blocks.dispatch import Choice, log_once, override
from blocks.errors import ConfigError, did_you_mean

Algorithm = Literal["direct", "fft", "monarch", "toeplitz"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
TRANSFORMS: tuple[Algorithm, ...] = ("fft", "monarch")  # every output holds rounding noise of every token
# plain products, differentiated by torch, exactly causal in every precision
REFERENCE: Algorithm = "toeplitz"

DIRECT_TAPS = 16  # on a CPU, up to here shifted multiply-adds beat a transform of a much longer signal
TINY_TOKENS = 8  # on a CPU, up to here one matrix per channel beats a transform even for a single sequence
# and up to here when the batch gives its product enough columns: one for every two tokens
TOEPLITZ_TOKENS = 32


def _choice(algorithm: Algorithm, reason: str) -> Choice:
    return Choice(implementation=algorithm, reason=reason)


SHAPES_ONLY = _choice("fft", "only shapes are wanted: counted as the canonical algorithm")
EXACTLY_CAUSAL = _choice(
    "toeplitz", "exactly causal in low precision; a transform would leak the future by rounding"
)
LOW_PRECISION = _choice("monarch", "products in low precision, and every output may depend on every token")
FEW_TOKENS = _choice("toeplitz", "few tokens: one small matrix product a channel")
FEW_TAPS = _choice("direct", "few taps: multiply-adds at the speed of memory")
FASTEST = _choice("fft", "fastest measured on a CPU beyond a few tokens or taps")


def choose(
    *,
    batch: int,
    tokens: int,
    taps: int,
    causal: bool,
    precision: torch.dtype | None = None,
    device: str = "cpu",
) -> Choice:
    """The algorithm for these sizes. ``precision`` narrower than float32 asks for products in that precision.

    Raises: ConfigError for a ``precision`` that is no floating type, or an override that would leak the
    future.
    """
    narrow = _is_narrow(precision)
    choice = _choose(batch, tokens, taps, causal, narrow, device)
    if choice.requested:
        _check_precision(choice.implementation, causal, narrow, precision)
    return choice


def _choose(batch: int, tokens: int, taps: int, causal: bool, narrow: bool, device: str) -> Choice:
    requested, source = override("long_convolution")
    if requested is not None and device != "meta":
        name = REFERENCE if requested == "reference" else requested
        return Choice(implementation=name, reason=f"named by {source}", requested=True)
    return choose_by_rule(
        batch=batch, tokens=tokens, taps=min(taps, tokens), causal=causal, narrow=narrow, device=device
    )


def choose_by_rule(*, batch: int, tokens: int, taps: int, causal: bool, narrow: bool, device: str) -> Choice:
    """The fastest measured algorithm, without regard to requests.

    ``taps``: at most ``tokens``.
    """
    if device == "meta":
        return SHAPES_ONLY
    if narrow and causal:
        return EXACTLY_CAUSAL
    if narrow:
        return LOW_PRECISION
    if device != "cpu":
        return _choice("fft", f"nothing else has been measured on {device}")
    if tokens <= TINY_TOKENS or (tokens <= TOEPLITZ_TOKENS and 2 * batch >= tokens):
        return FEW_TOKENS
    if taps <= DIRECT_TAPS and tokens >= 4 * taps:
        return FEW_TAPS
    return FASTEST


def long_convolution(
    u: Tensor,
    k: Tensor,
    k_reverse: Tensor | None = None,
    *,
    algorithm: Algorithm | None = None,
    precision: torch.dtype | None = None,
) -> Tensor:
    """Causal convolution with ``k``, or bidirectional with ``k_reverse`` too (lags as
    ``bidirectional_convolution``).

    Shape: u (B, D, T), kernels (D, S) and (D, S') -> (B, D, T) in u's dtype; sums in float32, or float64 when
    an argument is. ``algorithm=None`` takes what ``choose`` says.
    Raises: ConfigError for an unknown algorithm, for a transform in low precision where causality is
    promised, for an algorithm that cannot round to ``precision``, or when the shapes do not fit.
    """
    check_shapes(u, k)
    causal, narrow = k_reverse is None, _is_narrow(precision)
    if algorithm is None:
        taps = max(k.shape[1], 0 if k_reverse is None else k_reverse.shape[1] + 1)
        choice = _choose(u.shape[0], u.shape[2], taps, causal, narrow, u.device.type)
        log_once("long_convolution", choice)
        name = choice.implementation
    elif algorithm not in ALGORITHMS:
        raise ConfigError(f"unknown convolution algorithm {algorithm!r}{did_you_mean(algorithm, ALGORITHMS)}")
    else:
        name = algorithm
    _check_precision(name, causal, narrow, precision)
    rounding = precision if narrow else None
    if k_reverse is None:
        return _causal(u, k, name, rounding)
    check_shapes(u, k_reverse)
    return _bidirectional(u, k, k_reverse, name, rounding)


def convolve_by_transform(u: Tensor, k: Tensor) -> Tensor:
    """``causal_convolution``, unless another algorithm is requested for every long convolution."""
    requested, _ = override("long_convolution")
    return causal_convolution(u, k) if requested is None else long_convolution(u, k)


def _bidirectional(
    u: Tensor, k: Tensor, k_reverse: Tensor, algorithm: str, precision: torch.dtype | None
) -> Tensor:
    if algorithm == "fft":
        return bidirectional_convolution(u, k, k_reverse)
    if algorithm == "monarch":
        length = fft_length(u.shape[-1])
        return monarch_circular(
            u, two_sided_taps(k, k_reverse, u.shape[-1], length), length, precision=precision
        )
    # the reverse kernel is a causal one read backwards in time; it begins at lag -1, so a zero stands at lag
    # 0
    future = _causal(u.flip(-1), F.pad(k_reverse, (1, 0)), algorithm, precision).flip(-1)
    return _causal(u, k, algorithm, precision) + future


def _causal(u: Tensor, k: Tensor, algorithm: str, precision: torch.dtype | None) -> Tensor:
    if algorithm == "fft":
        return causal_convolution(u, k)
    if algorithm == "monarch":
        return monarch_causal(u, k, precision=precision)
    if algorithm == "toeplitz":
        return toeplitz_convolution(u, k, precision=precision)
    return direct_convolution(u, k)


def algorithm_flops(
    algorithm: str, *, batch: int, channels: int, tokens: int, taps: int, causal: bool
) -> int:
    """Exact forward FLOPs that ``algorithm`` executes.

    Bidirectional: both kernels have ``taps`` taps, a zero at lag 0 included.
    """
    rows, length = batch * channels, fft_length(tokens)
    if algorithm == "fft":
        length = fft_length(tokens, taps) if causal else length
        return fft_flops(length, 2 * rows + channels) + 6 * (length // 2 + 1) * rows
    if algorithm == "monarch":
        used = min(taps, tokens) if causal else length  # two kernels fill the whole circle
        return monarch_flops(rows=rows, channels=channels, tokens=tokens, taps=used, length=length)
    one_way = toeplitz_flops if algorithm == "toeplitz" else direct_flops
    return (1 if causal else 2) * one_way(rows=rows, tokens=tokens, taps=taps)


def _check_precision(algorithm: str, causal: bool, narrow: bool, precision: torch.dtype | None) -> None:
    if narrow and causal and algorithm in TRANSFORMS:
        raise ConfigError(
            f"algorithm {algorithm!r} in {precision} is not causal: rounding leaks the future; "
            "use 'toeplitz' or float32"
        )
    if narrow and algorithm in ("direct", "fft"):
        raise ConfigError(
            f"algorithm {algorithm!r} computes in float32 or wider, not in {precision}; "
            "use 'toeplitz' or 'monarch'"
        )


def _is_narrow(precision: torch.dtype | None) -> bool:
    if precision is None:
        return False
    if not precision.is_floating_point:
        raise ConfigError(f"precision must be a floating type, got {precision}")
    return torch.finfo(precision).bits < 32
