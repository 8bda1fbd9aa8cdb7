"""Rotary position embedding, half-split ("NeoX") layout: channel i turns together with channel i + C/2.

Legend: T tokens, C head width.
Source: arXiv 2104.09864; google/gemma_pytorch gemma/model.py. Angles, cosines and the rotation itself are float32
(float64 for float64 input) and the result is cast last, as gemma_pytorch does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.norm import widened


def rope_tables(positions: Tensor, head_width: int, *, base: float, factor: float = 1.0, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles ``position / factor * base^(-2i/C)``, i = 0 .. C/2-1.

    ``positions``: (T,) integers. ``factor`` stretches positions linearly (8 on the global layers of Gemma 3 4B and up).
    Returns two (T, C/2) tensors in float32, or float64 when ``dtype`` (the activations') is float64.
    """
    wide = widened(dtype)
    exponents = torch.arange(0, head_width, 2, device=positions.device, dtype=wide) / head_width
    angles = positions.to(wide)[:, None] * (base**-exponents / factor)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x`` (..., T, C) with each pair (i, i + C/2) turned by its angle; dtype kept."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
