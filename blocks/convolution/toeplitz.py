"""Causal convolution as block-Toeplitz matrix products: exactly causal in every precision.

Legend: B batch, D channels, T tokens, S taps, C chunk, n = ceil(T/C) chunks, j lag in chunks.
The sequence is cut into chunks of C tokens; output chunk c is sum_j T_j x[c - j] with T_j[r, s] = k[C·j + r -
s], zero at negative lags. T_j is shared by every chunk and sequence, so each lag is one matrix product a
channel.
Why exactly causal: an output meets the future only inside T_0, as a product with an exact zero, and adding an
exact zero changes no bit (of finite numbers). A transform instead sums all tokens into every bin: its
rounding noise carries the future into the past, 2e-7 of the signal in float32 and 4-7e-3 with bfloat16
intermediates (docs/long_convolution.md).
Source: the two-stage convolutions of StripedHyena 2 (arXiv 2503.01868), as plain matrix products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from blocks.convolution.direct import check_shapes

CHUNK = 64


def toeplitz_convolution(u: Tensor, k: Tensor, *, precision: torch.dtype | None = None) -> Tensor:
    """y[b, d, t] = sum_{s <= t} k[d, s] u[b, d, t - s], with the future's part of every sum exactly zero.

    Shape: u (B, D, T), k (D, S) -> y (B, D, T) in u's dtype.
    Precision: operands are rounded to ``precision`` when it is narrower than float32, sums always run in
    float32 (float64 when either argument is): what a tensor core does. A CPU holds the rounded operands in
    float32, where products of two bfloat16 numbers are exact: its own bfloat16 products are 40 times as slow.
    Cost: ``toeplitz_flops``, about T FLOPs per channel and token; C·min(S, T) numbers of tiles per channel.
    Raises: ConfigError when the shapes do not fit.
    """
    check_shapes(u, k)
    if u.numel() == 0:
        return u
    wide = torch.promote_types(torch.promote_types(u.dtype, k.dtype), torch.float32)
    narrow = wide if precision is None else precision
    tokens = u.shape[-1]
    c, n, lags = _cut(tokens, k.shape[1])
    u_BDT = F.pad(u.to(narrow).to(wide), (0, n * c - tokens))
    x_DSM = rearrange(u_BDT, "b d (n s) -> d s (n b)", s=c)  # M: chunks times sequences
    tiles_DJRS = _tiles(k[:, :tokens].to(narrow).to(wide), c, lags)
    b = u.shape[0]
    y_DRM = torch.bmm(tiles_DJRS[:, 0], x_DSM)
    for j in range(1, lags):
        shifted = torch.baddbmm(y_DRM[..., j * b :], tiles_DJRS[:, j], x_DSM[..., : (n - j) * b])
        y_DRM = torch.cat([y_DRM[..., : j * b], shifted], dim=-1)
    return rearrange(y_DRM, "d r (n b) -> b d (n r)", b=b)[..., :tokens].to(u.dtype)


def toeplitz_flops(*, rows: int, tokens: int, taps: int) -> int:
    """Forward FLOPs over ``rows`` = channels times sequences.

    Tile j meets the n - j chunks it does not push out.
    """
    c, n, lags = _cut(tokens, taps)
    return 2 * rows * c * c * sum(n - j for j in range(lags))


def _cut(tokens: int, taps: int) -> tuple[int, int, int]:
    """Chunk length, number of chunks, and number of tiles that are not all zero."""
    c = min(CHUNK, tokens)
    n = -(-tokens // c)
    return c, n, min(n, (min(taps, tokens) + c - 2) // c + 1)


def _tiles(k: Tensor, c: int, lags: int) -> Tensor:
    """(D, S) -> (D, lags, C, C): row r of tile j is the kernel read backwards from lag C·j + r."""
    padded = F.pad(k, (c - 1, max(0, lags * c - k.shape[1])))
    windows = padded.unfold(-1, c, 1)[:, : lags * c].flip(-1)
    return rearrange(windows, "d (j r) s -> d j r s", r=c)
