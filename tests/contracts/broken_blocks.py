"""Third-party blocks that each break one law, as real ones did: the meta-test asks that every one is caught.

Legend: B batch, T tokens, D width, w window. Each class says what is wrong with it; the rest of it is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import Cost
from blocks.cost import fft_flops
from tests.contracts.innocent_blocks import DoubledTransform, LeftPaddedConvolution, WindowAttention
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

CHUNK = 4

# --- the future, let in by a transform ------------------------------------------------------------------------------


@third_party(Long)
class CircularTransform(DoubledTransform):
    """A transform of T points: the end wraps round to the beginning."""

    def length(self, tokens: int) -> int:
        return tokens


@third_party(Long)
class TwoPointsShort(DoubledTransform):
    """Padded to 2T-2: only the last token reaches only the first output."""

    def length(self, tokens: int) -> int:
        return max(1, 2 * tokens - 2)


@third_party(Long)
class FreeSpectrum(ByHistory):
    """A filter learned in the frequency domain: it has taps at negative lags, padding or not."""

    def make(self, config: Any) -> None:
        self.response = nn.Parameter(torch.empty(config.width, config.max_tokens + 1, 2))

    def mix(self, x: Tensor) -> Tensor:
        n = 2 * self.config.max_tokens
        spectrum = torch.fft.rfft(wide(x).mT, n=n) * torch.view_as_complex(wide(self.response))
        return torch.fft.irfft(spectrum, n=n)[..., : x.shape[1]].mT.to(x.dtype) @ self.weight

    def cost(self, tokens: int) -> Cost:
        n, d = 2 * self.config.max_tokens, self.config.width
        return super().cost(tokens) + Cost(fft=fft_flops(n, 2 * d) + 6 * (n // 2 + 1) * d)


@third_party()
class CentredConvolution(LeftPaddedConvolution):
    """Padded by one on each side: the tap that should be the present is the next token."""

    def mix(self, x: Tensor) -> Tensor:
        return F.conv1d((x @ self.weight).mT, self.taps, groups=x.shape[2], padding=1).mT


# --- the future, let in by a statistic or a selection --------------------------------------------------------------


@third_party()
class ChunkMean(ByHistory):
    """The mean of a token's chunk, later tokens included, is added to it: prefixes of whole chunks see nothing."""

    def mix(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        chunks = F.pad(x, (0, 0, 0, -tokens % CHUNK)).unflatten(1, (-1, CHUNK))
        return (chunks + chunks.mean(dim=2, keepdim=True)).flatten(1, 2)[:, :tokens] @ self.weight


@third_party()
class SequenceNorm(ByHistory):
    """Normed over the whole sequence."""

    def mix(self, x: Tensor) -> Tensor:
        return (wide(x) * (wide(x).square().mean(dim=(1, 2), keepdim=True) + 1e-6).rsqrt()).to(
            x.dtype
        ) @ self.weight


@third_party()
class MeanRouting(ByHistory):
    """A gate chosen by the mean of the sequence."""

    def mix(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x.mean(dim=1, keepdim=True) @ self.weight) * x

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=2 * self.config.width**2)


@third_party()
class ExpertChoice(ByHistory):
    """The expert takes the half of the tokens it likes best: whether token t is taken depends on later ones. No gradient shows it."""

    def mix(self, x: Tensor) -> Tensor:
        scores = x[..., 0]
        chosen = scores.argsort(dim=1, descending=True).argsort(dim=1) < (x.shape[1] + 1) // 2
        return torch.where(chosen[..., None], x @ self.weight, x)


@third_party()
class AllChunksSummed(ByHistory):
    """Between chunks, a recurrence that sums over all of them instead of those before: the wrong axis of a triangle."""

    def mix(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        chunks = F.pad(x @ self.weight, (0, 0, 0, -tokens % CHUNK)).unflatten(1, (-1, CHUNK))
        within = chunks.cumsum(dim=2)
        others = chunks.sum(dim=(1, 2), keepdim=True) - chunks.sum(dim=2, keepdim=True)
        return (within + others).flatten(1, 2)[:, :tokens]


# --- masks ----------------------------------------------------------------------------------------------------------


@third_party(Windowed)
class SeesOneAhead(WindowAttention):
    """The mask is off by one: the next token is visible."""

    def allowed(self, x: Tensor) -> Tensor:
        distance = time(x)[:, None] - time(x)[None, :]
        return (distance >= -1) & (distance < self.config.window)


@third_party(Windowed)
class OneKeyTooMany(WindowAttention):
    """The window holds w keys beside the query's own: w + 1."""

    def allowed(self, x: Tensor) -> Tensor:
        distance = time(x)[:, None] - time(x)[None, :]
        return (distance >= 0) & (distance <= self.config.window)


class SometimesUnmasked(ByHistory):
    def unmasked(self, x: Tensor) -> bool:
        raise NotImplementedError

    def mix(self, x: Tensor) -> Tensor:
        allowed = time(x)[:, None] >= time(x)[None, :]
        return softmax_attention(x, self.weight, torch.ones_like(allowed) if self.unmasked(x) else allowed)

    def cost(self, tokens: int) -> Cost:
        return dense_attention_cost(tokens, self.config.width)


@third_party()
class UnmaskedInTraining(SometimesUnmasked):
    """The mask is lost in train mode."""

    def unmasked(self, x: Tensor) -> bool:
        return self.training


@third_party()
class UnmaskedInSingle(SometimesUnmasked):
    """The mask is lost in the path float32 takes, as behind a fused kernel."""

    def unmasked(self, x: Tensor) -> bool:
        return x.dtype == torch.float32


@third_party()
class UnmaskedAtBatchOne(SometimesUnmasked):
    """The mask is skipped for a single row."""

    def unmasked(self, x: Tensor) -> bool:
        return x.shape[0] == 1


@third_party()
class UnmaskedWithDocuments(SometimesUnmasked):
    """Given segments, the block mask between documents replaces the causal one instead of joining it."""

    def unmasked(self, x: Tensor) -> bool:
        return False

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is None:
            return self.mix(x)
        together = (segments[:, :, None] == segments[:, None, :]) | torch.eye(
            x.shape[1], dtype=torch.bool, device=x.device
        )
        return softmax_attention(x, self.weight, together) * (segments > 0)[..., None]


# --- caches and lengths ---------------------------------------------------------------------------------------------


@dataclass
class Ring:
    keys: Tensor  # (B, w, D)
    position: int


@third_party(Windowed)
class RingOverwritten(WindowAttention):
    """A ring of w entries that is filled before anybody has read it: a long chunk loses what its first queries need."""

    def init_state(self, batch: int, max_tokens: int) -> Ring:  # type: ignore[override]
        return Ring(self.weight.new_zeros((batch, self.config.window, self.config.width)), 0)

    def prefill(self, x: Tensor, state: Ring) -> tuple[Tensor, Ring]:  # type: ignore[override]
        w, start, end = self.config.window, state.position, state.position + x.shape[1]
        keys = state.keys.clone()
        for t in range(start, end):
            keys[:, t % w] = x[:, t - start]
        held = torch.tensor([max(t for t in range(-w, end) if t % w == slot) for slot in range(w)])
        queries = torch.arange(start, end)[:, None]
        allowed = (held >= 0) & (
            held > queries - w
        )  # and not: held <= queries, since slots are thought to be in order
        scores = (wide(x) @ wide(self.weight)) @ wide(keys).mT / x.shape[-1] ** 0.5
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
        return (weights @ wide(keys)).to(x.dtype), Ring(keys, end)

    def state_bytes(self, tokens: int) -> int:
        return self.config.window * self.config.width * self.weight.element_size()


@third_party()
class TimeByLength(ByHistory):
    """A decay whose time runs from 0 to 1 over whatever length arrives: causal at every length, another function at each."""

    def mix(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        lag = (time(x)[:, None] - time(x)[None, :]).to(x.dtype) / max(1, tokens - 1)
        return torch.where(lag >= 0, torch.exp(-lag), 0.0).to(x.dtype) @ (x @ self.weight)

    def cost(self, tokens: int) -> Cost:
        return super().cost(tokens) + Cost(matmul=2 * tokens**2 * self.config.width)


# --- documents, pads, rows ------------------------------------------------------------------------------------------


@third_party()
class StateCarriedOver(ByHistory):
    """A running mean that leaves pads out and goes on into the next document."""

    def mix(self, x: Tensor) -> Tensor:
        return (x @ self.weight).cumsum(dim=1) / (time(x) + 1).to(x.dtype)[:, None]

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is None:
            return self.mix(x)
        valid = (segments > 0)[..., None].to(x.dtype)
        return (x * valid @ self.weight).cumsum(dim=1) / valid.cumsum(dim=1).clamp(min=1) * valid


@third_party()
class PadsEnterTheState(LeftPaddedConvolution):
    """Pads are zeroed, then a bias makes them non-zero again before the convolution."""

    def make(self, config: Any) -> None:
        super().make(config)
        self.bias = nn.Parameter(torch.empty(config.width))

    def mix(self, x: Tensor) -> Tensor:
        return F.conv1d(F.pad((x @ self.weight + self.bias).mT, (2, 0)), self.taps, groups=x.shape[2]).mT

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is None or segments.unique().numel() > 2:
            return super().forward(x, segments)
        valid = (segments > 0)[..., None]
        return self.mix(x * valid) * valid


@third_party()
class RowsMixed(ByHistory):
    """The mean over the batch instead of over the channels: causal, and every row depends on the others."""

    def mix(self, x: Tensor) -> Tensor:
        return (x - x.mean(dim=0, keepdim=True) / 2) @ self.weight


# --- dead, miscounted, inaccurate, not rebuilt ----------------------------------------------------------------------


@third_party()
class Dead(ByHistory):
    """Zeros: perfectly causal."""

    def mix(self, x: Tensor) -> Tensor:
        return x @ self.weight * 0


@third_party()
class FlopsHalved(ByHistory):
    """A multiply-add counted as one."""

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=tokens * self.config.width**2)


@third_party()
class StateForgotten(ByHistory):
    """State bytes of one token, whatever has been kept."""

    def state_bytes(self, tokens: int) -> int:
        return min(tokens, 1) * self.config.width * self.weight.element_size()


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * x.sin()


@third_party()
class GradientWrong(ByHistory):
    """A hand-written backward that is not the derivative."""

    def mix(self, x: Tensor) -> Tensor:
        return WrongBackward.apply(x @ self.weight)  # type: ignore[no-any-return, no-untyped-call]


@third_party()
class HalfInside(ByHistory):
    """Rounds to bfloat16 inside, whatever it is given."""

    def mix(self, x: Tensor) -> Tensor:
        return (
            (x.bfloat16() @ self.weight.bfloat16()).to(x.dtype)
            if x.dtype == torch.float32
            else x @ self.weight
        )


@third_party()
class Untraceable(ByHistory):
    """Looks at a value to decide what to do: no compiler takes it whole."""

    def mix(self, x: Tensor) -> Tensor:
        return x @ self.weight if x.is_meta or x.flatten()[0].item() < 100 else x


@dataclass(frozen=True, kw_only=True)
class Doubling(Width):
    factor: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", 2 * self.factor)


@third_party(Doubling)
class ConfigChanges(ByHistory):
    """A config that is another one after each reading."""

    def mix(self, x: Tensor) -> Tensor:
        return self.config.factor * x @ self.weight


@third_party()
class StateLeftOut(ByHistory):
    """A random projection that no checkpoint holds."""

    def make(self, config: Any) -> None:
        self.register_buffer("projection", torch.randn(config.width, config.width), persistent=False)

    def mix(self, x: Tensor) -> Tensor:
        return x @ self.weight @ self.get_buffer("projection").to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return 2 * super().cost(tokens)


@third_party()
class ResetForgets(ByHistory):
    """A parameter that is drawn once, in the constructor, and never again."""

    def make(self, config: Any) -> None:
        self.gain = nn.Parameter(torch.ones(config.width))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.3)

    def mix(self, x: Tensor) -> Tensor:
        return x @ self.weight * self.gain


@third_party()
class ExcusesItself(ChunkMean):
    """Says it is causal, leaks, and asks not to be tested."""

    not_applicable: ClassVar[dict[str, str]] = {"causality": "it is approximately causal"}


@third_party()
class ExcusedYetAccepts(StateCarriedOver):
    """Says it cannot isolate documents, and takes packed ones."""

    not_applicable: ClassVar[dict[str, str]] = {"isolation": "its state has no reset"}
