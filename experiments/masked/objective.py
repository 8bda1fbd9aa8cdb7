"""The masked objective: which tokens are hidden, what replaces them, and the loss of naming them.

Legend: B batch, T tokens, V vocabulary, N tokens asked for.
What is hidden is a function of (seed, step) only. Logits are computed at every position, and so counted (the
head's matmul is 2·D·V FLOPs per token, asked for or not); the loss is read at the tokens asked for. BERT's
recipe (arXiv 1810.04805 §3.1): each token is chosen with the same probability; of the chosen ones 80 % become
[MASK], 10 % a random token, 10 % stay, and the model has to name all of them. Special tokens are never chosen
and never used as replacements. ``whole_word`` draws once per word and chooses all of its tokens
(google-research/bert, 2019-05-31); the replacement is still drawn per token. The draws are raw words of
Philox-4x64 (arch_lab.data.order) that do not depend on the text, so a replacement tells nothing about the
original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch_lab.data.order import OrderedLoader
from arch_lab.data.store import TokenSplit
from arch_lab.data.tokenizer import Tokenizer
from arch_lab.stored import Json
from blocks.config import Bounds, Config, Doc
from blocks.errors import ConfigError

IGNORED = -100  # the label of a token that is not asked for, as cross_entropy knows it; 0 would be a token
REPLACED, RANDOM = 0.8, 0.1  # shares of the chosen tokens; the rest stays
TRAINING, SCORING = (
    1,
    2,
)  # highest word of Philox's counter: streams that never meet, nor that of the data order (0)
_WHITESPACE = b" \t\n\r\v\f"


@dataclass(frozen=True, kw_only=True)
class MaskedObjective(Config):
    """The ``objective:`` of a masked study.

    ``mask_share``: 0.15 is BERT's, 0.30 the released M2-BERT's in training. ``evaluation_share``: in scoring
    (None: the same; M2-BERT scores at 0.15). ``whole_word``: words, as white space separates them, are hidden
    whole; a longer one where there is no white space.
    ``evaluation_windows``: at most so many windows of a split are scored, evenly spread (None: all).
    """

    mask_share: Annotated[float, Bounds(above=0, below=1), Doc("Share of the tokens hidden in training.")] = (
        0.15
    )
    evaluation_share: Annotated[
        float | None,
        Bounds(above=0, below=1),
        Doc("Share of the tokens hidden in scoring; null: as in training."),
    ] = None
    whole_word: Annotated[bool, Doc("Hide whole words, separated by white space.")] = False
    evaluation_windows: Annotated[
        int | None, Bounds(minimum=1), Doc("Windows scored of each split, evenly spread; null: all.")
    ] = None

    @property
    def scored_share(self) -> float:
        return self.mask_share if self.evaluation_share is None else self.evaluation_share


@dataclass(frozen=True)
class Masked:
    """``inputs`` (B, T) int64: all the model may see.

    ``labels`` (B, T) int64: the original where one is asked for, else IGNORED.
    """

    inputs: np.ndarray
    labels: np.ndarray


Draw = Callable[[np.ndarray, np.ndarray], Masked]  # (ids (B, T), uniform (B, T, 3)) -> Masked


class Masking:
    """Chooses and replaces.

    Raises: ConfigError for a tokenizer without a mask token, or with none but special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, *, share: float, whole_word: bool = False) -> None:
        if tokenizer.mask is None:
            raise ConfigError("masking: this tokenizer has no mask token; give tokenizer.with_mask()")
        pieces = tokenizer.pieces()
        self.mask, self.share, self.whole_word = tokenizer.mask, share, whole_word
        self.special = np.array([not piece for piece in pieces])  # (V,)
        self.ordinary = np.flatnonzero(~self.special)
        if not len(self.ordinary):
            raise ConfigError("masking: every token of this tokenizer is special")
        # special tokens separate words as white space does
        self.opens = np.array([not piece or piece[0] in _WHITESPACE for piece in pieces])
        self.closes = np.array([not piece or piece[-1] in _WHITESPACE for piece in pieces])

    def __call__(self, ids: np.ndarray, uniform: np.ndarray) -> Masked:
        """``ids`` (B, T) and three numbers in [0, 1) for each: whether it is chosen, what is done to it,
        which token stands in.
        """
        ids = ids.astype(np.int64)
        choice, fate, stand_in = np.moveaxis(uniform, -1, 0)
        if self.whole_word:
            choice = np.take_along_axis(choice, self.word_starts(ids), axis=1)
        is_hidden = (choice < self.share) & ~self.special[ids]
        inputs = np.where(is_hidden & (fate < REPLACED), self.mask, ids)
        other = self.ordinary[(stand_in * len(self.ordinary)).astype(np.int64)]
        inputs = np.where(is_hidden & (fate >= REPLACED) & (fate < REPLACED + RANDOM), other, inputs)
        return Masked(inputs, np.where(is_hidden, ids, IGNORED))

    def word_starts(self, ids: np.ndarray) -> np.ndarray:
        """(B, T): where in the row the word of each token begins; a window's edge begins one."""
        begins = self.opens[ids]
        begins[:, 0] = True
        begins[:, 1:] |= self.closes[ids[:, :-1]]
        return np.maximum.accumulate(np.where(begins, np.arange(ids.shape[1]), 0), axis=1)


def draws(purpose: int, seed: int, number: int, rows: int, tokens: int) -> np.ndarray:
    """Uniform float64 (rows, tokens, 3) of step or window ``number``."""
    generator = np.random.Philox(
        key=np.array([seed, number], np.uint64), counter=np.array([0, 0, 0, purpose], np.uint64)
    )
    words = generator.random_raw(rows * tokens * 3).reshape(rows, tokens, 3)
    return (words >> np.uint64(11)) * 2.0**-53


class MaskedRows(NamedTuple):
    """What is scored: ``inputs`` and ``labels`` (b, T) int64, as in Masked."""

    inputs: Tensor
    labels: Tensor


class MaskedBatch(NamedTuple):
    """What is trained on: ``inputs`` and ``labels`` (B/world, T).

    ``target_count``: the number of tokens asked for in the whole optimizer step, over all devices and accumulated
    batches: what the sum of their losses is divided by.
    """

    inputs: Tensor
    labels: Tensor
    target_count: Tensor


class MaskedLoader:
    """Batches of an OrderedLoader's windows; its state is that loader's.

    ``accumulate``: batches of an optimizer step. Each device draws for the global batch
    and takes its rows, so both are the same on any number.
    """

    def __init__(self, loader: OrderedLoader, masking: Masking, *, accumulate: int = 1) -> None:
        self.loader, self.masking, self.accumulate = loader, masking, accumulate
        self._target_count = (-1, 0)  # (optimizer step, tokens): a memo, not state

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[MaskedBatch]:
        rank, world = self.loader.rank, self.loader.world
        for _ in self.loader:
            step = self.loader.step - 1
            masked = self.batch(step)
            yield MaskedBatch(
                inputs=torch.from_numpy(masked.inputs[rank::world]),
                labels=torch.from_numpy(masked.labels[rank::world]),
                target_count=torch.tensor(self.target_count(step // self.accumulate)),
            )

    def batch(self, step: int) -> Masked:
        """The global batch of ``step``.

        A window's last id is the next window's first, and is left to that one.
        """
        order = self.loader.order
        ids = order.batch(step).numpy()[:, :-1]
        return self.masking(ids, draws(TRAINING, order.seed, step, *ids.shape))

    def target_count(self, optimizer_step: int) -> int:
        if self._target_count[0] != optimizer_step:
            first = optimizer_step * self.accumulate
            batches = [
                self.batch(step) for step in range(first, min(first + self.accumulate, self.loader.steps))
            ]
            self._target_count = optimizer_step, sum(int((m.labels != IGNORED).sum()) for m in batches)
        return self._target_count[1]

    def state_dict(self) -> Json:
        return self.loader.state_dict()

    def load_state_dict(self, state: Json) -> None:
        self.loader.load_state_dict(state)


def scoring_windows(split: TokenSplit, *, tokens: int, max_windows: int | None = None) -> np.ndarray:
    """Numbers of the windows that are scored.

    Whole ones at a stride of T, at most ``max_windows`` of them, evenly spread.

    Raises: DataError when the split holds no whole window. What is left over at its end is not scored:
    padding would be one more thing a bidirectional model sees.
    """
    split.require(tokens, f"one window of {tokens} tokens")
    count = split.tokens // tokens
    windows = count if max_windows is None else min(max_windows, count)
    return np.arange(windows) * count // windows


def scoring_batches(
    split: TokenSplit, masking: Masking, *, tokens: int, batch: int, max_windows: int | None = None
) -> Iterator[MaskedRows]:
    """The windows of a split, hidden tokens replaced.

    A window's mask is a function of its number alone: no seed, step, batch size or device in it.
    """
    windows = scoring_windows(split, tokens=tokens, max_windows=max_windows)
    for first in range(0, len(windows), batch):
        some = windows[first : first + batch]
        ids = split.ids[some[:, None] * tokens + np.arange(tokens)]
        masked = masking(ids, np.concatenate([draws(SCORING, 0, int(number), 1, tokens) for number in some]))
        yield MaskedRows(torch.from_numpy(masked.inputs), torch.from_numpy(masked.labels))


def masked_logits(model: nn.Module, batch: MaskedRows | MaskedBatch) -> Tensor:
    """(B, T, V) from what the model may see; the labels are not handed to it."""
    logits: Tensor = model(batch.inputs)
    return logits


def masked_nats(model: nn.Module, batch: MaskedRows | MaskedBatch) -> Tensor:
    """Nats of every token asked for, flat, in the order of the rows."""
    return asked_for(masked_logits(model, batch), batch.labels)[0]


def asked_for(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of the tokens asked for, and whether each was the most probable one.

    Both (N,), in the order of the rows.
    """
    is_target = labels != IGNORED
    scored_logits, targets = logits[is_target].float(), labels[is_target]
    return F.cross_entropy(scored_logits, targets, reduction="none"), scored_logits.argmax(dim=-1) == targets
