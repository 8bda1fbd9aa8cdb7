"""Rotary position embedding, half-split ("NeoX") layout: channel i turns together with channel i + C/2.

Legend: T tokens, C head width, n rotated pairs of the C/2, p the fraction of them.
Sources: arXiv 2104.09864; google/gemma_pytorch gemma/model.py; p-RoPE: arXiv 2410.06205,
google-deepmind/gemma gemma/gm/math/_positional_embeddings.py. Angles, cosines and the rotation itself are
float32 (float64 for float64 input) and the result is cast last, as gemma_pytorch does.
p-RoPE leaves part of the frequencies out: those pairs stand still, like a position encoding that is not
there. The others keep the exponents they have among all C/2, unlike "partial rotary", which spreads all
frequencies over fewer channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from blocks.dispatch import by_hand, is_plain_eager
from blocks.errors import ConfigError
from blocks.norm import widened
from blocks.segments import positions_of

# the frequencies p-RoPE leaves out: the slow ones, as published, or the fast ones
Drop = Literal["low", "high"]


def check_fraction(owner: str, fraction: float, drop: Drop = "low") -> None:
    """Raises: ConfigError unless ``fraction`` is a fraction and ``drop`` has something to act on."""
    if not 0 <= fraction <= 1:
        raise ConfigError(
            f"{owner}: rope_fraction must be between 0 (no rotation) and 1 (all of it), got {fraction}"
        )
    if drop == "high" and fraction == 1:
        raise ConfigError(
            f"{owner}: rope_drop 'high' drops nothing at rope_fraction 1; "
            "lower the fraction or leave rope_drop out"
        )


def rotated_pairs(head_width: int, fraction: float) -> int:
    """n, rounded down as the released code does: 64 of 256 for p = 0.25 and C = 512."""
    return int(fraction * head_width // 2)


def rope_tables(
    positions: Tensor,
    head_width: int,
    *,
    base: float,
    factor: float = 1.0,
    fraction: float = 1.0,
    drop: Drop = "low",
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles ``position / factor * base^(-2i/C)`` of the pairs i that rotate.

    These are i = 0 .. n-1, the fastest, or with ``drop="high"`` the last n. ``positions``: (..., T) integers.
    ``factor`` stretches positions linearly (8 on the global layers of Gemma 3 4B and up).
    Returns two (..., T, n) tensors in float32, or float64 when ``dtype`` (the activations') is float64.
    """
    wide, n = widened(dtype), rotated_pairs(head_width, fraction)
    first = 0 if drop == "low" else head_width // 2 - n
    exponents = torch.arange(2 * first, 2 * (first + n), 2, device=positions.device, dtype=wide) / head_width
    angles = positions.to(wide)[..., None] * (base**-exponents / factor)
    return angles.cos(), angles.sin()


# Tables of counted positions are kept: a model rebuilds them in every layer of every step otherwise
LARGEST_TABLE = 2**20  # numbers in a table that is kept: 4 MiB in float32
TABLES = 8


def rope_tables_of(
    x: Tensor,
    head_width: int,
    *,
    segments: Tensor | None = None,
    positions: Tensor | None = None,
    start: int = 0,
    base: float,
    factor: float = 1.0,
    fraction: float = 1.0,
    drop: Drop = "low",
) -> tuple[Tensor, Tensor]:
    """``rope_tables`` for the tokens of x (B, T, D), at positions as ``segments.positions_of`` counts them.

    Positions start, start + 1, … come from a table that is kept between calls; read it, never write to it.
    """
    tokens, pairs = x.shape[1], rotated_pairs(head_width, fraction)
    length = 1 << max(0, start + tokens - 1).bit_length()  # few lengths, so that decoding keeps one table
    counted = segments is None and positions is None
    if counted and length * pairs <= LARGEST_TABLE and x.device.type != "meta" and is_plain_eager():
        cos, sin = counted_tables(
            length, head_width, base, factor, fraction, drop, widened(x.dtype), x.device
        )
        return cos[start : start + tokens], sin[start : start + tokens]
    return rope_tables(
        positions_of(x, segments, positions, start=start),
        head_width,
        base=base,
        factor=factor,
        fraction=fraction,
        drop=drop,
        dtype=x.dtype,
    )


@lru_cache(maxsize=TABLES)
def counted_tables(
    length: int,
    head_width: int,
    base: float,
    factor: float,
    fraction: float,
    drop: Drop,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Tables of the positions 0 … length - 1, ordinary tensors even when inference asks first."""
    with torch.inference_mode(False), torch.no_grad():
        return rope_tables(
            torch.arange(length, device=device),
            head_width,
            base=base,
            factor=factor,
            fraction=fraction,
            drop=drop,
            dtype=dtype,
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, drop: Drop = "low") -> Tensor:
    """``x`` (..., T, C) with each pair (i, i + C/2) that the tables cover turned by its angle; dtype kept.

    Pairs outside the tables, at the tail of each half (``drop="high"``: at its head), are passed on
    untouched.
    """
    pairs, n = x.shape[-1] // 2, cos.shape[-1]
    if n == 0:
        return x
    if by_hand("rotation", x, cos, sin) and not (cos.requires_grad or sin.requires_grad):
        first = 0 if drop == "low" else pairs - n
        if torch.is_grad_enabled() and x.requires_grad:
            turned: Tensor = _Rotation.apply(x, cos, sin, first)  # type: ignore[no-untyped-call]
            return turned
        return _turn(x, cos, sin, first)
    half = (n, pairs - n) if drop == "low" else (pairs - n, n)
    parts = list(x.split((*half, *half), dim=-1))
    i = 0 if drop == "low" else 1  # which part of each half turns
    first, second = parts[i].to(cos.dtype), parts[i + 2].to(cos.dtype)
    parts[i], parts[i + 2] = (
        (first * cos - second * sin).to(x.dtype),
        (second * cos + first * sin).to(x.dtype),
    )
    return torch.cat(parts, dim=-1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
    """``rotate`` of the pairs from ``first`` on, each half written where it belongs."""
    pairs, n = x.shape[-1] // 2, cos.shape[-1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if n < pairs:
        y.copy_(x)
    (x_low, x_high), (y_low, y_high) = (
        (t[..., first : first + n], t[..., pairs + first :][..., :n]) for t in (x, y)
    )
    torch.mul(x_low, cos, out=y_low).addcmul_(x_high, sin, value=-1)
    torch.mul(x_high, cos, out=y_high).addcmul_(x_low, sin)
    return y


class _Rotation(torch.autograd.Function):
    """Linear in x: the gradient turns by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.first = first
        return _turn(x, cos, sin, first)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        dx: Tensor = _Rotation.apply(dy, cos, -sin, ctx.first)  # type: ignore[no-untyped-call]
        return dx, None, None, None
