"""Sentences as token rows: cut to length, batched with rows of similar length, padded to their longest.

Legend: B rows (or pairs) a batch, T tokens.
Padding changes no output (law 4), so how rows are batched changes speed and rounding alone. On a CPU the cost is that of the tokens,
padding included, whatever T is (16 or 17 tokens: the same number a second). So lengths are not rounded, and of the sentences of pairs
that are read apart the shorter half stands in one tensor and the longer in another: RTE's second ones are six times shorter than the
first. The order is a function of (seed, epoch): raw words of Philox-4x64 with that key, as in arch_lab.data.order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from arch_lab.data.tokenizer import Tokenizer

BUCKET = 16  # batches that are sorted by length together
Batch = dict[str, Any]  # what ``collate`` returns


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
    rows = tuple(
        np.concatenate([[separator], part[:length]]) for part, length in zip(parts, kept, strict=True)
    )
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


def collate(
    rows: Sequence[EncodedRow], index: np.ndarray, *, types: bool, targets: Tensor | None = None
) -> Batch:
    """``parts``: dicts of ``tokens`` and ``segments`` (·, T) and, if asked for, ``types``, one part a sentence of a row;
    ``place``: where in them all the first sentence of each row stands, then the second; ``index`` (B,): which rows these are.
    """
    chosen = [rows[i] for i in index]
    texts = [row.tokens[side] for side in range(len(chosen[0].tokens)) for row in chosen]
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = [_padded([texts[i] for i in half]) for half in np.array_split(order, len(chosen[0].tokens))]
    if types:
        (part,) = parts
        length = part["tokens"].shape[1]
        starts = torch.tensor([chosen[i].second or length for i in order])
        part["types"] = (torch.arange(length)[None] >= starts[:, None]).long()
    found: Batch = {
        "parts": parts,
        "place": torch.from_numpy(np.argsort(order)),
        "index": torch.from_numpy(np.asarray(index)),
    }
    return found if targets is None else {**found, "targets": targets[found["index"]]}


def _padded(parts: Sequence[np.ndarray]) -> dict[str, Tensor]:
    tokens = np.zeros((len(parts), max(len(part) for part in parts)), np.int64)
    segments = np.zeros_like(tokens)
    for at, part in enumerate(parts):
        tokens[at, : len(part)] = part
        segments[at, : len(part)] = 1
    return {"tokens": torch.from_numpy(tokens), "segments": torch.from_numpy(segments)}


class TrainingLoader:
    """All batches of all epochs, in order; ``__len__`` keeps Lightning from fetching one ahead."""

    def __init__(
        self, rows: Sequence[EncodedRow], targets: Tensor, *, batch: int, epochs: int, seed: int, types: bool
    ) -> None:
        self.rows, self.targets, self.types = rows, targets, types
        self.batch, self.epochs, self.seed = batch, epochs, seed

    def __len__(self) -> int:
        return self.epochs * -(-len(self.rows) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for epoch in range(self.epochs):
            for index in ordered(self.rows, self.batch, seed=self.seed, epoch=epoch):
                yield collate(self.rows, index, types=self.types, targets=self.targets)


class ScoringLoader:
    """Every row once, in batches of similar length."""

    def __init__(self, rows: Sequence[EncodedRow], *, batch: int, types: bool) -> None:
        self.rows, self.types = rows, types
        self.batches = by_length(rows, batch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.batches:
            yield collate(self.rows, index, types=self.types)
