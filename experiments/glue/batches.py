"""Sentences as token rows: cut to length, batched with rows of similar length, padded to their longest.

Legend: B rows (or pairs) a batch, T tokens.
Padding changes no output (law 4), so how rows are batched changes speed and rounding alone. On a CPU the cost
is that of the tokens, padding included, whatever T is (16 or 17 tokens: the same number per second). So
lengths are not rounded, and of the sentences of pairs that are read apart the shorter half stands in one
tensor and the longer in another: RTE's second ones are six times shorter than the first. The order is a
function of (seed, epoch): raw words of Philox-4x64 with that key, as in arch_lab.data.order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arch_lab.data.tokenizer import Tokenizer

BUCKET = 16  # batches that are sorted by length together


class TokenRows(NamedTuple):
    """``tokens`` and ``segments`` (·, T); ``types`` (·, T), if asked for: 0 first sentence, 1 second."""

    tokens: Tensor
    segments: Tensor
    types: Tensor | None = None


class Batch(NamedTuple):
    """``parts``: one a sentence of a row, sorted by length; ``places``: where in them all the first sentence
    of
    each row stands, then the second; ``row_numbers`` (B,): which rows these are.
    """

    parts: list[TokenRows]
    places: Tensor
    row_numbers: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True)
class EncodedRow:
    """``tokens`` of one row, or of each sentence's; ``second``: where the second sentence starts in a joint
    row.
    """

    tokens: tuple[np.ndarray, ...]
    second: int | None
    cut: bool

    @property
    def length(self) -> int:
        return max(len(sentence) for sentence in self.tokens)


def encode(
    tokenizer: Tokenizer,
    first: Sequence[str],
    second: Sequence[str] | None,
    *,
    max_tokens: int,
    pairs: Literal["joint", "separate"],
) -> list[EncodedRow]:
    """Rows of at most ``max_tokens`` tokens.

    A separator before each sentence, as before each document of the pretraining.

    Of a joint row that is too long the longer sentence loses its end first.
    """
    ids = [_encode(tokenizer, texts) for texts in (first, *([second] if second is not None else []))]
    return [
        _row(tokenizer.separator, parts, max_tokens, pairs == "joint") for parts in zip(*ids, strict=True)
    ]


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    # a space before the first word: byte-level vocabularies know most words with one
    return tokenizer.encode([" " + text.strip() for text in texts])


def _row(separator: int, parts: tuple[np.ndarray, ...], max_tokens: int, joint: bool) -> EncodedRow:
    lengths = tuple(len(sentence) for sentence in parts)
    kept_lengths: tuple[int, ...]
    if len(parts) == 2 and joint:
        kept_lengths = shares(lengths[0], lengths[1], max_tokens - 2)
    else:
        kept_lengths = tuple(min(length, max_tokens - 1) for length in lengths)
    rows = tuple(
        np.concatenate([[separator], sentence[:length]])
        for sentence, length in zip(parts, kept_lengths, strict=True)
    )
    cut = kept_lengths != lengths
    if len(rows) == 2 and joint:
        return EncodedRow((np.concatenate(rows),), len(rows[0]), cut)
    return EncodedRow(rows, None, cut)


def shares(first: int, second: int, max_tokens: int) -> tuple[int, int]:
    """Tokens that remain of each sentence after cutting the longer one until both fit.

    Of equal ones the second loses its last token, as in BERT's own code.
    """
    if first + second <= max_tokens:
        return first, second
    first_share = min(first, max(max_tokens - second, -(-max_tokens // 2)))
    return first_share, max_tokens - first_share


def ordered(rows: Sequence[EncodedRow], batch: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of each batch of one epoch, every row once.

    Shuffled, sorted by length inside buckets, the batches shuffled again.
    """
    count = -(-len(rows) // batch)
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(len(rows) + count)
    permutation = np.argsort(words[: len(rows)], kind="stable")
    lengths = np.array([row.length for row in rows])[permutation]
    bucket = np.arange(len(rows)) // (batch * BUCKET)
    permutation = permutation[np.lexsort((lengths, bucket))]
    batches = [permutation[start : start + batch] for start in range(0, len(rows), batch)]
    return [batches[i] for i in np.argsort(words[len(rows) :], kind="stable")]


def by_length(rows: Sequence[EncodedRow], batch: int) -> list[np.ndarray]:
    """Indices of each batch when nothing is trained: the least padding."""
    order = np.argsort([row.length for row in rows], kind="stable")
    return [order[start : start + batch] for start in range(0, len(rows), batch)]


def collate(
    rows: Sequence[EncodedRow], index: np.ndarray, *, types: bool, targets: Tensor | None = None
) -> Batch:
    """The rows of ``index`` as one batch; ``targets``: those of all rows."""
    batch_rows = [rows[i] for i in index]
    texts = [row.tokens[side] for side in range(len(batch_rows[0].tokens)) for row in batch_rows]
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = [_padded([texts[i] for i in half]) for half in np.array_split(order, len(batch_rows[0].tokens))]
    if types:
        (rows_of_pairs,) = parts
        length = rows_of_pairs.tokens.shape[1]
        starts = torch.tensor([batch_rows[i].second or length for i in order])
        parts = [rows_of_pairs._replace(types=(torch.arange(length)[None] >= starts[:, None]).long())]
    numbers = torch.from_numpy(np.asarray(index))
    return Batch(
        parts=parts,
        places=torch.from_numpy(np.argsort(order)),
        row_numbers=numbers,
        targets=None if targets is None else targets[numbers],
    )


def _padded(parts: Sequence[np.ndarray]) -> TokenRows:
    tokens = np.zeros((len(parts), max(len(sentence) for sentence in parts)), np.int64)
    segments = np.zeros_like(tokens)
    for row, sentence in enumerate(parts):
        tokens[row, : len(sentence)] = sentence
        segments[row, : len(sentence)] = 1
    return TokenRows(torch.from_numpy(tokens), torch.from_numpy(segments))


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
