"""The tokens of each batch as a function of (seed, step), equal for every architecture.

Legend: B batch (global, over all ranks), T tokens, n windows of an epoch.
An epoch cuts the ids into windows at a stride of T from an offset of its own, so that over epochs every token
is met at every distance from a window's start; a window holds T+1 ids, its last being the next one's first:
inputs ids[:T], targets ids[1:]. The random numbers are raw words of Philox-4x64 with key (seed, epoch)
(Salmon et al., SC 2011): unlike numpy's Generator methods, its bit stream is promised to stay the same
between numpy versions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from arch_lab.data.store import TokenSplit
from arch_lab.stored import Json
from blocks.errors import ConfigError


class WindowOrder:
    """Training batches of one split.

    Raises: DataError when the split does not hold ``batch`` windows, ConfigError for sizes below 1.
    """

    def __init__(self, split: TokenSplit, *, tokens: int, batch: int, seed: int) -> None:
        for name, value in (("tokens", tokens), ("batch", batch)):
            if value < 1:
                raise ConfigError(f"data order: {name} must be at least 1, got {value}")
        if not 0 <= seed < 1 << 64:
            raise ConfigError(f"data order: seed must be in 0 … 2^64 - 1, got {seed}")
        split.require(batch * tokens + 1, f"a batch of {batch} windows of {tokens} tokens")
        self.split, self.tokens, self.batch_size, self.seed = split, tokens, batch, seed
        # every offset up to T-1 leaves room for the windows, except in splits that hold barely one batch
        self.windows = max((split.tokens - tokens) // tokens, batch)
        self._room = split.tokens - 1 - self.windows * tokens
        self._epoch: tuple[int, int, np.ndarray] | None = (
            None  # epoch, offset, permutation: a memo, not state
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches; the windows left over are dropped (others in each epoch)."""
        return self.windows // self.batch_size

    def starts(self, step: int) -> np.ndarray:
        """Index of the first id of each of the B windows of ``step`` >= 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        offset, permutation = self._cut(epoch)
        return offset + permutation[index * self.batch_size : (index + 1) * self.batch_size] * self.tokens

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Tensor:
        """int64 (B, T+1); of the same global batch, rank r of w gets rows r, r+w, …"""
        rows = self.starts(step)[rank::world]
        return torch.from_numpy(self.split.ids[rows[:, None] + np.arange(self.tokens + 1)].astype(np.int64))

    def _cut(self, epoch: int) -> tuple[int, np.ndarray]:
        if self._epoch is None or self._epoch[0] != epoch:
            words = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(self.windows + 1)
            offset = int(words[0] % np.uint64(min(self.tokens - 1, self._room) + 1))
            self._epoch = epoch, offset, np.argsort(words[1:], kind="stable")
        return self._epoch[1], self._epoch[2]


class OrderedLoader:
    """Batches ``{"tokens": (B/world, T+1) int64}``, ``steps`` of them in a pass; its state is the next step.

    A pass goes on where the one before it ended: the order has no end, so no pass is empty.
    ``__len__`` is what keeps Lightning from fetching a batch ahead, which would make the saved step one too
    high.
    Raises: ConfigError when ``world`` does not divide the batch, or for a state of another order.
    """

    def __init__(self, order: WindowOrder, *, steps: int, rank: int = 0, world: int = 1) -> None:
        if order.batch_size % world:
            raise ConfigError(
                f"batch {order.batch_size} cannot be shared by {world} devices; make it a multiple of {world}"
            )
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is not one of {world} devices")
        self.order, self.steps, self.rank, self.world = order, steps, rank, world
        self.step = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        end = (self.step // self.steps + 1) * self.steps
        while self.step < end:
            step = self.step
            self.step += 1  # before the yield: a checkpoint taken in this step resumes at the next batch
            yield {"tokens": self.order.batch(step, rank=self.rank, world=self.world)}

    def state_dict(self) -> Json:
        return {"step": self.step, **self._identity()}

    def load_state_dict(self, state: Json) -> None:
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ConfigError(
                    f"cannot resume the data order: the checkpoint has {name} {state.get(name)!r}, "
                    f"this run {value!r}"
                )
        self.step = int(state["step"])

    def _identity(self) -> Json:
        order = self.order
        return {
            "seed": order.seed,
            "batch": order.batch_size,
            "tokens": order.tokens,
            "fingerprint": order.split.fingerprint,
        }


def evaluation_batches(
    split: TokenSplit, *, tokens: int, batch: int, stride: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(inputs (b, T) int64, targets (b, T) int64, valid (b, T) bool): every token but the first is a target
    exactly once.

    Windows follow each other at a stride of T and see nothing before their start, so the mean context is
    (T+1)/2 tokens. At a smaller ``stride`` they overlap, and all but the first are scored on their last
    ``stride`` targets only. What a window holds does not depend on ``batch``; only the last window is padded
    (id 0, not valid), at its end.
    Separators are valid targets: the metric leaves their nats out, by ``token_bytes``.
    Raises: DataError when there is nothing to score.
    """
    step = tokens if stride is None else stride
    for name, value in (("tokens", tokens), ("batch", batch), ("stride", step)):
        if value < 1:
            raise ConfigError(f"evaluation: {name} must be at least 1, got {value}")
    split.require(2, "scoring")
    targets = split.tokens - 1
    windows = evaluation_windows(split, tokens=tokens, stride=step)
    for first in range(0, windows, batch):
        number = np.arange(first, min(first + batch, windows))[:, None]
        places = number * step + np.arange(tokens)
        present = places < targets
        clamped = np.where(present, places, 0)
        read = [np.where(present, split.ids[clamped + shift].astype(np.int64), 0) for shift in (0, 1)]
        valid = present & ((number == 0) | (np.arange(tokens) >= tokens - step))
        yield torch.from_numpy(read[0]), torch.from_numpy(read[1]), torch.from_numpy(valid)


def evaluation_windows(split: TokenSplit, *, tokens: int, stride: int | None = None) -> int:
    """How many windows ``evaluation_batches`` goes through, for progress."""
    return 1 + max(0, -(-(split.tokens - 1 - tokens) // (stride or tokens)))
