"""A learned polynomial product with and without its degree cap: the second is what the meta-test must catch.

Legend: B batch, T tokens, D width; n = s·b padded length, N = 2n transform length.
Both multiply polynomials modulo Z^N - 1, as the complex Monarch path does; with the cap no product reaches
Z^N, without it the highest terms come back as the lowest ones, and the last tokens reach the first outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.monarch.polynomial import DigitTriangular, Factors, apply, digits_for
from tests.contracts.third_party import ByHistory, Long, third_party, wide

BASE = 4


@third_party(Long)
class CappedPolynomial(ByHistory):
    """Multiplies (Q [u; 0]) and k modulo Z^N - 1, the top factor of Q block-diagonal: degrees below n for inputs below n."""

    def make(self, config: Any) -> None:
        self.kernel = nn.Parameter(torch.empty(config.width, config.max_tokens))
        self.matrix = DigitTriangular(digits_for(2 * config.max_tokens + 2 * BASE, 2, BASE), groups=1)

    def factors(self, blocks: int) -> Factors:
        lower, top = self.matrix.factors(2 * blocks * BASE)
        far = torch.arange(2 * blocks) >= blocks
        return lower, top.masked_fill(far[:, None] & ~far, 0.0)

    def mix(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        blocks = -(-tokens // BASE)
        length = 2 * blocks * BASE
        u = F.pad(wide(x @ self.weight).permute(2, 0, 1), (0, length - tokens))
        values = torch.fft.rfft(apply(u, self.factors(blocks)), n=length)
        values = values * torch.fft.rfft(wide(self.kernel[:, :tokens]), n=length)[:, None]
        return torch.fft.irfft(values, n=length)[..., :tokens].permute(1, 2, 0).to(x.dtype)


@third_party(Long)
class UncappedPolynomial(CappedPolynomial):
    """The same with the cap removed: a lower triangular top factor of twice the size."""

    def factors(self, blocks: int) -> Factors:
        return self.matrix.factors(2 * blocks * BASE)
