"""The images of each batch and their augmentation, a function of (seed, step, index).

Legend: B batch (global, over all ranks), C channels, H x W pixels, p padding.
Random numbers are raw words of Philox-4x64, as in arch_lab.data.order: key (seed, epoch) for the order, key
(seed, 2^63) and the step as counter for augmentation, so that neither rank, resumption nor architecture
changes what a step trains on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arch_lab.data.order import OrderedLoader
from arch_lab.stored import Json
from blocks.errors import ConfigError
from experiments.images.data.config import Augmentation
from experiments.images.data.prepare import ImageSplit, PreparedImages

AUGMENTING = 1 << 63  # no epoch has this number
BORDER = 8  # padding: this part of a side, 4 pixels at 32


class ImageBatch(NamedTuple):
    """``images`` float32 (B, C, H, W), normed; ``labels`` int64 (B,)."""

    images: Tensor
    labels: Tensor


class ImageOrder:
    """Training batches of a set.

    Raises: DataError when the training split does not hold one batch, ConfigError for sizes below 1.
    """

    def __init__(self, data: PreparedImages, *, batch: int, seed: int, augmentation: Augmentation) -> None:
        if batch < 1:
            raise ConfigError(f"data order: batch must be at least 1, got {batch}")
        if not 0 <= seed < 1 << 64:
            raise ConfigError(f"data order: seed must be in 0 … 2^64 - 1, got {seed}")
        data.train.require(batch, "a batch")
        self.data, self.split, self.batch_size, self.seed, self.augmentation = (
            data,
            data.train,
            batch,
            seed,
            augmentation,
        )
        self._epoch: tuple[int, np.ndarray] | None = None  # epoch, permutation: a memo, not state

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches; the images left over are dropped (others in each epoch)."""
        return len(self.split) // self.batch_size

    def indices(self, step: int) -> np.ndarray:
        """(B,) images of ``step`` >= 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            words = np.random.Philox(key=np.array([self.seed, epoch], np.uint64)).random_raw(len(self.split))
            self._epoch = epoch, np.argsort(words, kind="stable")
        return self._epoch[1][index * self.batch_size : (index + 1) * self.batch_size]

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> ImageBatch:
        """Images normed and augmented; rank r of w gets rows r, r+w, …"""
        rows = np.arange(self.batch_size)[rank::world]
        indices = self.indices(step)[rows]
        images = normed(self.split.pixels[indices], self.data)
        if self.augmentation != "none":
            words = np.random.Philox(
                key=np.array([self.seed, AUGMENTING], np.uint64), counter=[0, step, 0, 0]
            ).random_raw(4 * self.batch_size)
            images = augment(images, words.reshape(-1, 4)[rows], flip=self.augmentation == "crop_flip")
        return ImageBatch(images, torch.from_numpy(self.split.labels[indices].astype(np.int64)))


def normed(pixels: np.ndarray, data: PreparedImages) -> Tensor:
    """uint8 (B, C, H, W) -> float32 with mean 0 and deviation 1 by channel, over the training split."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (data.mean, data.std))
    return (torch.from_numpy(np.array(pixels)).float() / 255 - mean) / std


def augment(images: Tensor, words: np.ndarray, *, flip: bool) -> Tensor:
    """Each image padded by an eighth of its side with the mean colour (0 here) and cropped at random.

    Half of them mirrored.

    ``words`` uint64 (B, 4): row and column of the crop, and whether to mirror.
    """
    height, width = images.shape[-2:]
    down, right = max(1, height // BORDER), max(1, width // BORDER)
    padded = F.pad(images, (right, right, down, down))
    tops, lefts = words[:, 0] % np.uint64(2 * down + 1), words[:, 1] % np.uint64(2 * right + 1)
    crops = [
        padded[i, :, int(y) : int(y) + height, int(x) : int(x) + width]
        for i, (y, x) in enumerate(zip(tops, lefts, strict=True))
    ]
    if flip:
        crops = [
            crop.flip(-1) if word >> np.uint64(63) else crop
            for crop, word in zip(crops, words[:, 2], strict=True)
        ]
    return torch.stack(crops)


class ImageLoader(OrderedLoader):
    """Batches of steps 0 … steps-1; its state is the next step (see OrderedLoader)."""

    def __init__(self, order: ImageOrder, *, steps: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(order, steps=steps, rank=rank, world=world)  # type: ignore[arg-type]
        self.images = order

    def __iter__(self) -> Iterator[ImageBatch]:  # type: ignore[override]
        while self.step < self.steps:
            step = self.step
            self.step += 1  # before the yield: a checkpoint taken in this step resumes at the next batch
            yield self.images.batch(step, rank=self.rank, world=self.world)

    def _identity(self) -> Json:
        order = self.images
        return {"seed": order.seed, "batch": order.batch_size, "fingerprint": order.data.fingerprint}


def scoring_batches(split: ImageSplit, data: PreparedImages, *, batch: int) -> Iterator[ImageBatch]:
    """Every image of a split once, in order, normed and not augmented; the last batch may be smaller."""
    for first in range(0, len(split), batch):
        window = slice(first, first + batch)
        labels = torch.from_numpy(split.labels[window].astype(np.int64))
        yield ImageBatch(normed(split.pixels[window], data), labels)
