"""Which tokens are hidden, and what stands in their place: BERT's shares, whole words, and nothing but (seed, step) behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arch_lab.data import ByteTokenizer, OrderedLoader, TokenSplit, WindowOrder, tokenizer_from, train_bpe
from arch_lab.data.tokenizer import MASK, Tokenizer, load_tokenizer
from blocks.errors import ConfigError, UserError
from experiments.masked.objective import (
    IGNORED,
    SCORING,
    TRAINING,
    MaskedBatch,
    MaskedLoader,
    MaskedObjective,
    Masking,
    draws,
    scoring_batches,
    scoring_windows,
)

WORDS = "the mask hides a token and the model names it again from what stands on the left and on the right of it\n"
TOKENIZERS = {"bytes": ByteTokenizer().with_mask(), "bpe": train_bpe([WORDS * 3], 300).with_mask()}
ROWS, T = 200, 96


def text_split(tokenizer: Tokenizer, copies: int = 60) -> TokenSplit:
    ids = tokenizer.encode_documents([WORDS] * copies)
    return TokenSplit(
        name="text", ids=ids, bytes=copies * len(WORDS), words=copies, documents=copies, fingerprint="text"
    )


def rows_of(tokenizer: Tokenizer) -> np.ndarray:
    ids = text_split(tokenizer, 400).ids
    return np.resize(ids, (ROWS, T)).astype(np.int64)


def bound(share: float, count: int) -> float:
    """Five standard deviations of a binomial share: one run in two million strays further."""
    return 5 * (share * (1 - share) / count) ** 0.5


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("share", [0.15, 0.30])
def test_the_share_is_chosen_and_four_fifths_of_it_are_hidden(name: str, share: float) -> None:
    tokenizer = TOKENIZERS[name]
    ids = rows_of(tokenizer)
    masked = Masking(tokenizer, share=share)(ids, draws(TRAINING, 3, 7, ROWS, T))
    chosen = masked.labels != IGNORED
    ordinary = int((ids != tokenizer.separator).sum())
    assert abs(chosen.sum() / ordinary - share) < bound(share, ordinary)
    asked = int(chosen.sum())
    hidden, same = (
        (masked.inputs[chosen] == tokenizer.mask).mean(),
        (masked.inputs[chosen] == ids[chosen]).mean(),
    )
    assert abs(hidden - 0.8) < bound(0.8, asked)
    again = 0.1 / len(Masking(tokenizer, share=share).ordinary)  # a random token is the same one now and then
    assert abs(same - 0.1 - again) < bound(0.1, asked)
    assert np.array_equal(masked.labels[chosen], ids[chosen])
    assert np.array_equal(masked.inputs[~chosen], ids[~chosen])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("whole_word", [False, True])
def test_special_tokens_are_never_hidden_and_never_stand_in(name: str, whole_word: bool) -> None:
    tokenizer = TOKENIZERS[name]
    ids = rows_of(tokenizer)
    masked = Masking(tokenizer, share=0.9, whole_word=whole_word)(ids, draws(TRAINING, 0, 0, ROWS, T))
    assert (ids == tokenizer.separator).any()
    assert (masked.labels[ids == tokenizer.separator] == IGNORED).all()
    assert not np.isin(masked.inputs[ids != tokenizer.separator], [tokenizer.separator]).any()
    assert (masked.labels != tokenizer.mask).all()


def words_in(tokenizer: Tokenizer, row: np.ndarray) -> list[list[int]]:
    """Places of each word of a row, by its text alone: runs of characters between white space; special tokens stand apart."""
    pieces, groups, current = tokenizer.pieces(), [], []
    for place, token in enumerate(row.tolist()):
        piece = pieces[token]
        if current and (
            not piece
            or piece[:1].isspace()
            or not pieces[row[place - 1]]
            or pieces[row[place - 1]][-1:].isspace()
        ):
            groups.append(current)
            current = []
        current.append(place)
    return [*groups, current]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_whole_words_are_hidden_whole_at_the_same_share(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = rows_of(tokenizer)
    masked = Masking(tokenizer, share=0.3, whole_word=True)(ids, draws(TRAINING, 1, 2, ROWS, T))
    chosen, words, longest = masked.labels != IGNORED, 0, 0
    for row, asked in zip(ids, chosen, strict=True):
        for places in words_in(tokenizer, row):
            assert len(set(asked[places].tolist())) == 1, tokenizer.decode(row[places])
            words, longest = words + 1, max(longest, len(places))
    assert longest > 1
    # words of a row are drawn apart, but long ones weigh more: at most `longest` tokens hang together
    assert (
        abs(chosen.mean() - 0.3)
        < bound(0.3, chosen.size) * longest**0.5 + (ids == tokenizer.separator).mean()
    )


def test_a_word_is_what_white_space_separates() -> None:
    tokenizer = TOKENIZERS["bytes"]
    ids = np.array([[256, *b"ab  c\nde", 256, *b"f"]])
    assert Masking(tokenizer, share=0.5).word_starts(ids).tolist() == [[0, 1, 1, 3, 4, 5, 6, 7, 7, 9, 10]]


def loader(
    tokenizer: Tokenizer, *, seed: int = 0, batch: int = 4, steps: int = 6, accumulate: int = 1, **shared: int
) -> MaskedLoader:
    order = WindowOrder(text_split(tokenizer), tokens=32, batch=batch, seed=seed)
    return MaskedLoader(
        OrderedLoader(order, steps=steps, **shared), Masking(tokenizer, share=0.15), accumulate=accumulate
    )


def equal(a: list[MaskedBatch], b: list[MaskedBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    tokenizer = TOKENIZERS["bytes"]
    first, again, other = list(loader(tokenizer)), list(loader(tokenizer)), list(loader(tokenizer, seed=1))
    assert equal(first, again) and not equal(first, other)
    assert not torch.equal(first[0].labels == IGNORED, first[1].labels == IGNORED)
    resumed = loader(tokenizer)
    resumed.load_state_dict({**resumed.state_dict(), "step": 3})
    assert equal(list(resumed), first[3:])


@pytest.mark.parametrize("world", [2, 4])
def test_devices_share_the_batch_of_one(world: int) -> None:
    tokenizer = TOKENIZERS["bytes"]
    whole = list(loader(tokenizer))
    parts = [list(loader(tokenizer, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        for rank in range(world):
            assert torch.equal(parts[rank][step].inputs, batch.inputs[rank::world])
            assert torch.equal(parts[rank][step].labels, batch.labels[rank::world])
            assert parts[rank][step].target_count == batch.target_count == (batch.labels != IGNORED).sum()


def test_accumulated_batches_know_what_is_asked_for_in_all_of_them() -> None:
    batches = list(loader(TOKENIZERS["bytes"], accumulate=2))
    for one, two in zip(batches[::2], batches[1::2], strict=True):
        assert (
            one.target_count
            == two.target_count
            == (one.labels != IGNORED).sum() + (two.labels != IGNORED).sum()
        )


def scored(batch: int, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    tokenizer = TOKENIZERS["bpe"]
    batches = list(
        scoring_batches(
            text_split(tokenizer), Masking(tokenizer, share=0.15), tokens=32, batch=batch, max_windows=most
        )
    )
    return torch.cat([b.inputs for b in batches]), torch.cat([b.labels for b in batches])


def test_what_is_scored_does_not_depend_on_the_batch_size() -> None:
    for other in (2, 7, 1000):
        assert all(torch.equal(a, b) for a, b in zip(scored(1), scored(other), strict=True))


def test_a_part_of_a_split_is_spread_over_it_and_masked_as_in_the_whole() -> None:
    tokenizer = TOKENIZERS["bpe"]
    split = text_split(tokenizer)
    whole = scoring_windows(split, tokens=32)
    assert whole.tolist() == list(range(split.tokens // 32))
    some = scoring_windows(split, tokens=32, max_windows=5)
    assert len(set(some.tolist())) == 5 and some[0] == 0 and some[-1] >= len(whole) * 3 // 4
    assert all(torch.equal(a[some], b) for a, b in zip(scored(3), scored(3, most=5), strict=True))
    with pytest.raises(UserError, match="needs 64000"):
        scoring_windows(split, tokens=64000)


def test_draws_of_training_scoring_and_order_never_meet() -> None:
    streams = [
        draws(purpose, 0, number, 1, 64).reshape(-1)
        for purpose in (0, TRAINING, SCORING)
        for number in (0, 1)
    ]
    assert len(np.unique(np.concatenate(streams))) == sum(map(len, streams))
    assert all(s.min() >= 0 and s.max() < 1 for s in streams)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_mask_token_changes_no_other_id_and_survives_storage(name: str, tmp_path: Any) -> None:
    masked = TOKENIZERS[name]
    plain = ByteTokenizer() if name == "bytes" else train_bpe([WORDS * 3], 300)
    assert plain.mask is None and "mask" not in plain.to_dict()
    assert masked.mask == plain.vocabulary and masked.vocabulary == plain.vocabulary + 1
    assert (
        masked.separator == plain.separator
        and masked.pieces()[:-1] == plain.pieces()
        and masked.pieces()[-1] == b""
    )
    spelled = f"{MASK} is text"
    assert (
        masked.encode([spelled])[0].tolist() == plain.encode([spelled])[0].tolist()
        and masked.decode(masked.encode([spelled])[0]) == spelled
    )
    masked.save(tmp_path)
    for back in (load_tokenizer(tmp_path), tokenizer_from(masked.to_dict()), masked.with_mask()):
        assert (back.mask, back.vocabulary, back.fingerprint) == (
            masked.mask,
            masked.vocabulary,
            masked.fingerprint,
        )
    assert masked.fingerprint != plain.fingerprint
    with pytest.raises(ConfigError, match="no mask token"):
        Masking(plain, share=0.15)


def test_fingerprints_of_tokenizers_without_a_mask_are_what_they_were() -> None:
    """Caches and runs made before there was a mask are recognised by these."""
    assert ByteTokenizer().fingerprint == "bytes-257"
    assert ByteTokenizer().to_dict() == {"kind": "bytes", "separator": "<|document|>", "json": "{}"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask_share": 0}, "objective.mask_share: must be positive, got 0"),
        ({"evaluation_share": 1.0}, "objective.evaluation_share"),
        ({"evaluation_windows": 0}, "at least 1, got 0"),
        ({"whole_words": True}, "unknown option 'whole_words'; did you mean 'whole_word'"),
        ({"whole_word": "yes"}, "whole_word"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MaskedObjective.from_options(options, where="objective")
