"""n-grams of tokens and of bytes with interpolated lower orders (Jelinek and Mercer, 1980).

Legend: V vocabulary, N tokens, w next token, h the tokens before it, h' = h without its first, c(.) counts in
the training ids.

    p_n(w | h) = l(c(h)) * c(h w) / c(h) + (1 - l(c(h))) * p_{n-1}(w | h'),    p_0(w) = 1 / V

The weights l are shared by contexts of a like count (one per power of two) and set by expectation
maximisation on the tuning split. An unseen context has weight 0; p_0 leaves no token without probability;
each p_n sums to 1 because it mixes two that do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from arch_lab.data.prepare import PreparedData
from arch_lab.data.store import TokenSplit

NAMES = ("unigram", "bigram", "trigram")
BYTES, BYTE_ORDER = "byte 4-gram", 4
SEPARATOR = 256  # symbol between documents, of a model of bytes
COUNTED_BYTES = 2**24  # first bytes of the training split that it counts: more take minutes
_HIGHEST = 1 - 1e-6  # the lower order always keeps a share, so no probability is 0
_ROUNDS = 100
_CONVERGED = 1e-5


class _Order:
    """Counts of one order n: contexts of n-1 tokens as numbers, (context, token) pairs as sorted keys."""

    def __init__(self, contexts: np.ndarray, tokens: np.ndarray, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.keys, self.counts = np.unique(contexts * vocabulary + tokens, return_counts=True)
        self.contexts, first = np.unique(self.keys // vocabulary, return_index=True)
        self.totals = np.add.reduceat(self.counts, first)

    def relative(self, contexts: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(c(h w) / c(h), c(h)), the former 0 where the context or the pair is unseen.

        A context of -1 is unseen.
        """
        totals = _look_up(self.contexts, self.totals, contexts)
        counts = _look_up(
            self.keys, self.counts, np.where(contexts < 0, -1, contexts * self.vocabulary + tokens)
        )
        return counts / np.maximum(totals, 1), totals

    def number(self, contexts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Place of the pair among all pairs seen, -1 for others: what the next order calls its context."""
        key = np.where(contexts < 0, -1, contexts * self.vocabulary + tokens)
        return _look_up(self.keys, np.arange(len(self.keys)), key, missing=-1)


class NGram:
    """Interpolated n-grams up to an order, all fitted at once.

    ``train`` and ``tune`` are ids (N,) of any integer dtype. Time O(N log N), memory below 200 bytes a
    training token.
    """

    def __init__(self, train: np.ndarray, tune: np.ndarray, vocabulary: int, order: int = 3) -> None:
        self.vocabulary, self.order = vocabulary, order
        ids = np.asarray(train, dtype=np.int64)
        contexts = np.zeros(len(ids), np.int64)  # the empty context has number 0
        self.orders = [_Order(contexts, ids, vocabulary)]
        for n in range(2, min(order, len(ids)) + 1):
            contexts = self.orders[-1].number(contexts[:-1], ids[n - 2 : -1])
            self.orders.append(_Order(contexts, ids[n - 1 :], vocabulary))
        self.weights = [np.zeros(64) for _ in self.orders]
        self._fit(np.asarray(tune, dtype=np.int64))

    def log_probabilities(self, ids: np.ndarray, order: int) -> np.ndarray:
        """ln p_order(ids[t] | ids before t) for t = 1 … N-1, float64 (N-1,). ids[0] is only a context."""
        return np.log(self._mixtures(np.asarray(ids, dtype=np.int64))[order])

    def distribution(self, context: Sequence[int], order: int) -> np.ndarray:
        """p_order(. | context), (V,): the next token's distribution, float64."""
        tokens = np.arange(self.vocabulary)
        history = np.asarray([*context, 0], dtype=np.int64)  # the last is the one that is predicted
        p = np.full(self.vocabulary, 1 / self.vocabulary)
        for n, contexts in enumerate(self._contexts(history)[:order]):
            own = np.full(self.vocabulary, contexts[-1])
            p = self._mix(n, *self.orders[n].relative(own, tokens), p)
        return p

    def _contexts(self, ids: np.ndarray) -> list[np.ndarray]:
        """For every id the number of its context in each order; -1 where that is unseen or there are too few ids before."""
        contexts = [np.zeros(len(ids), np.int64)]
        for order in self.orders[:-1]:
            longer = np.full(len(ids), -1, np.int64)
            longer[1:] = order.number(contexts[-1][:-1], ids[:-1])
            contexts.append(longer)
        return contexts

    def _mix(self, n: int, relative: np.ndarray, totals: np.ndarray, lower: np.ndarray) -> np.ndarray:
        weight = np.where(totals > 0, self.weights[n][_bucket(totals)], 0.0)
        return weight * relative + (1 - weight) * lower

    def _relative(self, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            order.relative(contexts[1:], ids[1:])
            for order, contexts in zip(self.orders, self._contexts(ids), strict=True)
        ]

    def _mixtures(self, ids: np.ndarray) -> list[np.ndarray]:
        p = [np.full(len(ids) - 1, 1 / self.vocabulary)]
        for n, (relative, totals) in enumerate(self._relative(ids)):
            p.append(self._mix(n, relative, totals, p[-1]))
        return p + [p[-1]] * (self.order + 1 - len(p))

    def _fit(self, tune: np.ndarray) -> None:
        """Expectation maximisation, order by order.

        Each is a mixture of two known parts, so it has one optimum.
        """
        lower = np.full(len(tune) - 1, 1 / self.vocabulary)
        for n, (relative, totals) in enumerate(self._relative(tune)):
            bucket = np.where(totals > 0, _bucket(totals), 0)
            members = np.bincount(bucket, minlength=64)
            weights = np.where(members > 0, 0.5, 0.0)
            for _ in range(_ROUNDS):
                high = weights[bucket] * relative
                share = np.bincount(bucket, high / (high + (1 - weights[bucket]) * lower), minlength=64)
                update = np.minimum(share / np.maximum(members, 1), _HIGHEST)
                change, weights = np.abs(update - weights).max(), update
                if change < _CONVERGED:
                    break
            # counts the tuning split never met: as sure as the nearest smaller count that it did meet
            for number in range(2, 64):
                if not members[number]:
                    weights[number] = weights[number - 1]
            weights[0] = 0.0
            self.weights[n] = weights
            lower = self._mix(n, relative, totals, lower)


def ngram_baselines(
    data: PreparedData, split: TokenSplit | None = None, progress: Callable[[str], None] | None = None
) -> dict[str, dict[str, float]]:
    """Every baseline on ``split`` (default: validation), counted on train, weighted on tune.

    {name: {"nats", "tokens", "bits_per_byte", "perplexity", "word_perplexity"}} under the models' rule: every
    token but the first is predicted over the whole vocabulary, nats of special tokens are left out of the
    sum, bytes and words are those of the split's text. As the first token is a separator, all of the text is
    scored. Unlike a model's windows, an n-gram's context is never cut.
    """
    target = data.validation if split is None else split
    data.train.require(2, "the n-gram baselines")
    data.tune.require(2, "the n-gram baselines")
    target.require(2, "scoring")
    if progress is not None:
        progress("counting n-grams")
    model = NGram(data.train.ids, data.tune.ids, data.vocabulary)
    ids = np.asarray(target.ids, dtype=np.int64)
    scored = data.token_bytes[ids[1:]] > 0
    mixtures = model._mixtures(ids)
    results = {}
    for order, name in enumerate(NAMES, start=1):
        nats = -math.fsum(np.log(mixtures[order][scored]))
        tokens = int(scored.sum())
        results[name] = {
            "nats": nats,
            "tokens": tokens,
            "bits_per_byte": nats / (math.log(2) * target.bytes),
            "perplexity": _exp(nats, tokens),
            "word_perplexity": _exp(nats, target.words),
        }
    results[BYTES] = _byte_baseline(data, target, results[NAMES[0]]["tokens"])
    return results


def _byte_baseline(data: PreparedData, target: TokenSplit, tokens: float) -> dict[str, float]:
    """A 4-gram of bytes, which no tokenizer helps; perplexities per token and word of the same text."""
    train, tune, scored = (_bytes_of(data, split) for split in (data.train, data.tune, target))
    model = NGram(train[:COUNTED_BYTES], tune, SEPARATOR + 1, order=BYTE_ORDER)
    probabilities = model._mixtures(scored)[BYTE_ORDER]
    nats = -math.fsum(np.log(probabilities[scored[1:] != SEPARATOR]))
    return {
        "nats": nats,
        "tokens": tokens,
        "bits_per_byte": nats / (math.log(2) * target.bytes),
        "perplexity": _exp(nats, int(tokens)),
        "word_perplexity": _exp(nats, target.words),
    }


def _bytes_of(data: PreparedData, split: TokenSplit) -> np.ndarray:
    """The bytes of a split, int64; ``SEPARATOR`` stands for each special token."""
    pieces = [
        list(piece) if width else [SEPARATOR]
        for piece, width in zip(data.tokenizer.pieces(), data.token_bytes, strict=True)
    ]
    widths = np.array([len(piece) for piece in pieces])
    table = np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces])
    starts = np.cumsum(widths) - widths
    ids = np.asarray(split.ids, dtype=np.int64)
    lengths = widths[ids]
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return table[np.repeat(starts[ids], lengths) + within]


def _bucket(totals: np.ndarray) -> np.ndarray:
    """1 + floor(log2 count); 0 for unseen."""
    return np.frexp(np.maximum(totals, 0).astype(np.float64))[1]


def _look_up(keys: np.ndarray, values: np.ndarray, queries: np.ndarray, missing: int = 0) -> np.ndarray:
    index = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[index] == queries, values[index], missing)


def _exp(nats: float, units: int) -> float:
    # texts of very long words overflow a float: infinite, as it would be for a model
    return math.exp(nats / units) if units and nats / units < 700 else math.inf
