"""Third-party mixers that are honest on short rows and leak behind an edge, as real kernels do.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import BlockConfig, Cost, register
from blocks.contract import ChannelMixer
from tests.contracts.third_party import ByHistory, third_party, time

CHUNK = 64
TRAINED = 200  # the one length at which ``OnlyAtOneLength`` leaks


def copy_next(y: Tensor, first: int = 0) -> Tensor:
    """``y`` with the next position added from ``first`` on."""
    later = F.pad(y[:, 1:], (0, 0, 0, 1)) * (time(y) >= first).to(y.dtype)[:, None]
    return y + later


def chunk_sums(x: Tensor, *, late: bool) -> Tensor:
    """Running sums over T in chunks of 64: within a chunk, plus a carry of the chunks before it.

    ``late``: the sum of the carries is used one chunk late, so that every chunk but the first receives its
    own total.
    """
    tokens = x.shape[1]
    chunks = F.pad(x, (0, 0, 0, -tokens % CHUNK)).unflatten(1, (-1, CHUNK))
    totals = chunks.sum(dim=2).cumsum(dim=1)
    carry = torch.cat([torch.zeros_like(totals[:, :1]), totals[:, 1:] if late else totals[:, :-1]], dim=1)
    return (chunks.cumsum(dim=2) + carry[:, :, None]).flatten(1, 2)[:, :tokens] / (time(x) + 1).to(x.dtype)[
        :, None
    ]


@third_party()
class NextTokenFrom64(ByHistory):
    """Copies the next token from position 64 on."""

    def mix(self, x: Tensor) -> Tensor:
        return copy_next(x @ self.weight, first=64)


@third_party()
class CarryOneChunkLate(ByHistory):
    """A running sum in chunks whose carry arrives one chunk late."""

    def mix(self, x: Tensor) -> Tensor:
        return chunk_sums(x @ self.weight, late=True)


@third_party()
class OnlyAtOneLength(ByHistory):
    """Adds the mean of the row where it is exactly as long as the rows that train."""

    def mix(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y + y.mean(dim=1, keepdim=True) if x.shape[1] == TRAINED else y


@third_party()
class OnlyLongRows(ByHistory):
    """Copies the next token in rows of more than 65 tokens."""

    def mix(self, x: Tensor) -> Tensor:
        return copy_next(x @ self.weight) if x.shape[1] > 65 else x @ self.weight


@third_party()
class OnlyWholeTiles(ByHistory):
    """Copies the next token where a tile of 128 divides the row."""

    def mix(self, x: Tensor) -> Tensor:
        return copy_next(x @ self.weight) if x.shape[1] % 128 == 0 else x @ self.weight


@third_party()
class OnlyInTraining(ByHistory):
    """Copies the next token in training mode."""

    def mix(self, x: Tensor) -> Tensor:
        return copy_next(x @ self.weight) if self.training else x @ self.weight


@third_party()
class OnlyLongRowsInTraining(ByHistory):
    """Copies the next token in training mode, in rows of more than 40 tokens."""

    def mix(self, x: Tensor) -> Tensor:
        return copy_next(x @ self.weight) if self.training and x.shape[1] > 40 else x @ self.weight


@third_party()
class OnlyWithGradients(ByHistory):
    """Copies the next token while gradients are recorded: a custom backward with another forward."""

    def mix(self, x: Tensor) -> Tensor:
        return copy_next(x @ self.weight) if torch.is_grad_enabled() else x @ self.weight


@third_party()
class OnlyWithoutGradients(ByHistory):
    """Copies the next token while no gradients are recorded: a fast path for scoring."""

    def mix(self, x: Tensor) -> Tensor:
        return x @ self.weight if torch.is_grad_enabled() else copy_next(x @ self.weight)


@third_party()
class BatchMean(ByHistory):
    """Subtracts the mean over the batch in training mode: position by position, other rows of the same batch."""

    def mix(self, x: Tensor) -> Tensor:
        return (
            (x - x.mean(dim=0, keepdim=True)) @ self.weight
            if self.training and x.shape[0] > 1
            else x @ self.weight
        )


@third_party()
class BatchNorm(ByHistory):
    """torch's batch norm over rows and positions."""

    def make(self, config: Any) -> None:
        self.norm = nn.BatchNorm1d(config.width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.3)

    def mix(self, x: Tensor) -> Tensor:
        return self.norm(x.mT).mT @ self.weight


@third_party()
class ChoiceInGroupsOf128(ByHistory):
    """Of every whole group of 128 tokens an expert takes the half that it likes best."""

    def mix(self, x: Tensor) -> Tensor:
        whole = x.shape[1] // 128 * 128
        groups = x[:, :whole].unflatten(1, (-1, 128)) if whole else x[:, None, :0]
        chosen = groups[..., 0].argsort(dim=2, descending=True).argsort(dim=2) < 64
        routed = torch.where(chosen[..., None], groups @ self.weight, groups).flatten(1, 2)
        return torch.cat([routed, x[:, whole:]], dim=1)


@third_party()
class RescaledByLength(ByHistory):
    """Positions are divided by the length of the row once it has more than 100 tokens."""

    def mix(self, x: Tensor) -> Tensor:
        scale = x.shape[1] if x.shape[1] > 100 else 100
        return x @ self.weight * torch.sin(time(x) / scale).to(x.dtype)[:, None]


@third_party()
class RemembersCalls(ByHistory):
    """Adds a running mean of all calls before, held in a buffer."""

    def make(self, config: Any) -> None:
        self.register_buffer("mean", torch.zeros(()))

    def mix(self, x: Tensor) -> Tensor:
        y = x @ self.weight + self.mean.to(x.dtype)
        if self.training and not x.is_meta:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return y


@third_party()
class OnePair(ByHistory):
    """Output 150 reads token 151, in training mode only."""

    def mix(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        here = (time(x) == 150).to(x.dtype)[:, None]
        return y + here * F.pad(y[:, 1:], (0, 0, 0, 1)) if self.training else y


@third_party()
class OnlyAlone(ByHistory):
    """Copies the next token of a long row that is the only one of its batch."""

    def mix(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return copy_next(y) if x.shape[0] == 1 and x.shape[1] > 65 else y


@third_party()
class OnlyInFloat32(ByHistory):
    """Copies the next token in float32: a kernel of that dtype."""

    def mix(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return copy_next(y) if x.dtype == torch.float32 and x.shape[1] > 65 else y


@third_party()
class NoSegments(ByHistory):
    """Cannot be told where documents begin."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.mix(x)


@third_party()
class OneChannelOut(ByHistory):
    """Returns one channel, which addition to the residual stream repeats."""

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.mix(x)[..., :1]


@dataclass(frozen=True, kw_only=True)
class ChannelPairConfig(BlockConfig):
    width: int


@register("ChannelPair", kind="channel_mixer", config=ChannelPairConfig, source="test")
class ChannelPair(ChannelMixer):
    """A linear map whose output 150 reads token 151."""

    def __init__(self, config: ChannelPairConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.width, config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y + (time(x) == 150).to(x.dtype)[:, None] * F.pad(y[:, 1:], (0, 0, 0, 1))

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=2 * tokens * int(self.config.width) ** 2)
