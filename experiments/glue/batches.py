"""Sentences as token rows: cut to length, batched with rows of similar length, padded to their longest.

Legend: n rows of a set, B rows (or pairs) a batch, R rows of tokens a batch (2·B where the sentences of a pair are read apart), T tokens.
Padding changes no output (law 4), so how rows are batched changes speed and rounding alone. The order is a function of (seed, epoch):
raw words of Philox-4x64 with that key, as in arch_lab.data.order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from arch_lab.data.tokenizer import Tokenizer

MULTIPLE = 8  # lengths are rounded up to it: fewer shapes, and the FFTs of a convolution have small factors
BUCKET = 16  # batches that are sorted by length together
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class EncodedRow:
    """``tokens`` of one row, or of each sentence's; ``second``: where the second sentence starts in a joint row."""

    tokens: tuple[np.ndarray, ...]
    second: int | None
    cut: bool

    @property
    def length(self) -> int:
        return max(len(part) for part in self.tokens)


def encode(
    tokenizer: Tokenizer,
    first: Sequence[str],
    second: Sequence[str] | None,
    *,
    most: int,
    pairs: Literal["joint", "separate"],
) -> list[EncodedRow]:
    """Rows of at most ``most`` tokens: a separator before each sentence, as before each document of the pretraining.

    Of a joint row that is too long the longer sentence loses its end first.
    """
    ids = [_encode(tokenizer, texts) for texts in (first, *([second] if second is not None else []))]
    return [_row(tokenizer.separator, parts, most, pairs == "joint") for parts in zip(*ids, strict=True)]


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    # a space before the first word: byte-level vocabularies know most words with one
    return tokenizer.encode([" " + text.strip() for text in texts])


def _row(separator: int, parts: tuple[np.ndarray, ...], most: int, joint: bool) -> EncodedRow:
    lengths = tuple(len(part) for part in parts)
    kept: tuple[int, ...]
    if len(parts) == 2 and joint:
        kept = shares(lengths[0], lengths[1], most - 2)
    else:
        kept = tuple(min(length, most - 1) for length in lengths)
    rows = tuple(np.concatenate([[separator], part[:length]]) for part, length in zip(parts, kept, strict=True))
    cut = kept != lengths
    if len(rows) == 2 and joint:
        return EncodedRow((np.concatenate(rows),), len(rows[0]), cut)
    return EncodedRow(rows, None, cut)


def shares(first: int, second: int, most: int) -> tuple[int, int]:
    """How many tokens of each are kept when the longer (of equals the second, as in BERT's own code) loses its last one until both fit."""
    if first + second <= most:
        return first, second
    kept = min(first, max(most - second, -(-most // 2)))
    return kept, most - kept


def ordered(rows: Sequence[EncodedRow], batch: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of each batch of one epoch, every row once: shuffled, sorted by length inside buckets, the batches shuffled again."""
    count = -(-len(rows) // batch)
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(len(rows) + count)
    permutation = np.argsort(words[: len(rows)], kind="stable")
    lengths = np.array([row.length for row in rows])[permutation]
    bucket = np.arange(len(rows)) // (batch * BUCKET)
    permutation = permutation[np.lexsort((lengths, bucket))]
    batches = [permutation[at : at + batch] for at in range(0, len(rows), batch)]
    return [batches[i] for i in np.argsort(words[len(rows) :], kind="stable")]


def by_length(rows: Sequence[EncodedRow], batch: int) -> list[np.ndarray]:
    """Indices of each batch when nothing is trained: the least padding."""
    order = np.argsort([row.length for row in rows], kind="stable")
    return [order[at : at + batch] for at in range(0, len(rows), batch)]


def collate(rows: Sequence[EncodedRow], index: np.ndarray, *, types: bool, limit: int, targets: Tensor | None = None) -> Batch:
    """``tokens`` and ``segments`` (R, T), first sentences before second ones; ``types`` if asked for; ``index`` and ``targets`` (B,)."""
    chosen = [rows[i] for i in index]
    parts = [row.tokens[side] for side in range(len(chosen[0].tokens)) for row in chosen]
    longest = max(len(part) for part in parts)
    length = max(longest, min(limit, -(-longest // MULTIPLE) * MULTIPLE))
    tokens = np.zeros((len(parts), length), np.int64)
    segments = np.zeros_like(tokens)
    for at, part in enumerate(parts):
        tokens[at, : len(part)] = part
        segments[at, : len(part)] = 1
    found = {"tokens": torch.from_numpy(tokens), "segments": torch.from_numpy(segments), "index": torch.from_numpy(np.asarray(index))}
    if types:
        starts = torch.tensor([length if row.second is None else row.second for row in chosen] * (len(parts) // len(chosen)))
        found["types"] = (torch.arange(length)[None] >= starts[:, None]).long()
    if targets is not None:
        found["targets"] = targets[found["index"]]
    return found


class TrainingLoader:
    """All batches of all epochs, in order; ``__len__`` keeps Lightning from fetching one ahead."""

    def __init__(self, rows: Sequence[EncodedRow], targets: Tensor, *, batch: int, epochs: int, seed: int, types: bool, limit: int) -> None:
        self.rows, self.targets, self.batch, self.epochs, self.seed, self.types, self.limit = (
            rows,
            targets,
            batch,
            epochs,
            seed,
            types,
            limit,
        )

    def __len__(self) -> int:
        return self.epochs * -(-len(self.rows) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.epochs):
            for index in ordered(self.rows, self.batch, seed=self.seed, epoch=epoch):
                yield collate(self.rows, index, types=self.types, limit=self.limit, targets=self.targets)


class ScoringLoader:
    """Every row once, in batches of similar length."""

    def __init__(self, rows: Sequence[EncodedRow], *, batch: int, types: bool, limit: int) -> None:
        self.rows, self.types, self.limit = rows, types, limit
        self.batches = by_length(rows, batch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.batches:
            yield collate(self.rows, index, types=self.types, limit=self.limit)
