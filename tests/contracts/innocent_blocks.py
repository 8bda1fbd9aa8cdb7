"""Third-party blocks that look suspicious and are right: a checker that fails one of them is broken.

Legend: B batch, T tokens, D width, N transform length.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import Cost, SequenceMixer
from blocks.cost import fft_flops
from blocks.errors import ConfigError
from tests.contracts.third_party import (
    ByHistory,
    Long,
    Width,
    Windowed,
    dense_attention_cost,
    softmax_attention,
    third_party,
    time,
    wide,
)


@third_party(Windowed)
class WindowAttention(ByHistory):
    """Softmax attention written out, w keys including the query's own."""

    def allowed(self, x: Tensor) -> Tensor:
        distance = time(x)[:, None] - time(x)[None, :]
        return (distance >= 0) & (distance < self.config.window)

    def mix(self, x: Tensor) -> Tensor:
        return softmax_attention(x, self.weight, self.allowed(x))

    def cost(self, tokens: int) -> Cost:
        return dense_attention_cost(tokens, self.config.width)


@third_party(Long)
class DoubledTransform(ByHistory):
    """A long convolution in the time domain, transform padded to 2T."""

    def make(self, config: Any) -> None:
        self.kernel = nn.Parameter(torch.empty(config.width, config.max_tokens))
        self.weight.requires_grad_(False)

    def length(self, tokens: int) -> int:
        return 2 * tokens

    def mix(self, x: Tensor) -> Tensor:
        tokens, n = x.shape[1], self.length(x.shape[1])
        spectrum = torch.fft.rfft(wide(x).mT, n=n) * torch.fft.rfft(wide(self.kernel[:, :tokens]), n=n)
        return torch.fft.irfft(spectrum, n=n)[..., :tokens].mT.to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        n, d = self.length(tokens), self.config.width
        return Cost(fft=fft_flops(n, 2 * d) + 6 * (n // 2 + 1) * d, shared_fft=fft_flops(n, d))


@third_party(Long)
class ShortestTransform(DoubledTransform):
    """Padded to 2T-1: the smallest transform that does not wrap."""

    def length(self, tokens: int) -> int:
        return 2 * tokens - 1


@third_party()
class CumulativeNorm(ByHistory):
    """Each output is divided by the root mean square of everything up to it."""

    def mix(self, x: Tensor) -> Tensor:
        squares = wide(x).square().mean(dim=-1, keepdim=True).cumsum(dim=1)
        return (wide(x) * (squares / (time(x) + 1)[:, None] + 1e-6).rsqrt()).to(x.dtype) @ self.weight


@third_party()
class RunningMaximum(ByHistory):
    """A gate from the running maximum within chunks of 4: what a chunk's maximum becomes when it is made legal."""

    def mix(self, x: Tensor) -> Tensor:
        chunks = F.pad(x, (0, 0, 0, -x.shape[1] % 4)).unflatten(1, (-1, 4))
        return torch.sigmoid(chunks.cummax(dim=2).values.flatten(1, 2)[:, : x.shape[1]]) * (x @ self.weight)


@third_party()
class LeftPaddedConvolution(ByHistory):
    """A short depth-wise convolution, padded on the left by its taps minus one."""

    def make(self, config: Any) -> None:
        self.taps = nn.Parameter(torch.empty(config.width, 1, 3))

    def mix(self, x: Tensor) -> Tensor:
        return F.conv1d(F.pad((x @ self.weight).mT, (2, 0)), self.taps, groups=x.shape[2]).mT

    def cost(self, tokens: int) -> Cost:
        return super().cost(tokens) + Cost(matmul=2 * 3 * tokens * self.config.width)


@third_party()
class OneDocumentOnly(ByHistory):
    """Cannot tell documents apart, says so and refuses them."""

    not_applicable: ClassVar[dict[str, str]] = {"isolation": "its state has no reset"}

    def mix(self, x: Tensor) -> Tensor:
        return (x @ self.weight).cumsum(dim=1) / (time(x) + 1).to(x.dtype)[:, None]

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is not None:
            raise ConfigError("OneDocumentOnly: one document a row, please")
        return self.mix(x)


@third_party(Width)
class BothWays(ByHistory):
    """Full attention in both directions: not causal, and it does not say it is."""

    causal: ClassVar[bool] = False  # type: ignore[assignment]

    def mix(self, x: Tensor) -> Tensor:
        return softmax_attention(
            x, self.weight, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        )

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is None:
            return self.mix(x)
        rows = [self._row(row, ids) for row, ids in zip(x, segments, strict=True)]
        return torch.stack(rows)

    def _row(self, x: Tensor, segments: Tensor) -> Tensor:
        values, lengths = torch.unique_consecutive(segments, return_counts=True)
        parts = x.split(lengths.tolist())
        return torch.cat(
            [self.mix(part[None])[0] if v else part * 0 for part, v in zip(parts, values, strict=True)]
        )

    def init_state(self, batch: int, max_tokens: int) -> Tensor:
        raise self.refuse_decoding()

    def cost(self, tokens: int) -> Cost:
        return dense_attention_cost(tokens, self.config.width)


INNOCENT: tuple[type[SequenceMixer], ...] = (
    WindowAttention,
    DoubledTransform,
    ShortestTransform,
    CumulativeNorm,
    RunningMaximum,
    LeftPaddedConvolution,
    OneDocumentOnly,
    BothWays,
)
