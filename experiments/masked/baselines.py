"""What an encoder must beat: counting models on the very tokens that are hidden from it.

Legend: N tokens asked for, V vocabulary (the mask token included, which no text holds).
The unigram's best guess is the most frequent token. The bigram sees the token on the left as the model does:
where that is hidden
too, it falls back on the unigram, as for any context it never met.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from arch_lab.data import PreparedData
from arch_lab.judge.records import Baseline
from arch_lab.metrics.ngram import NGram
from experiments.masked.objective import IGNORED, MaskedRows


def masked_baselines(data: PreparedData, batches: Iterable[MaskedRows]) -> list[Baseline]:
    """Unigram and bigram, counted on train and weighted on tune (arch_lab.metrics.ngram).

    ``batches``: of the split that is scored, as the models get them.
    """
    contexts, targets = asked_for(batches, data.tokenizer.separator)
    model = NGram(data.train.ids, data.tune.ids, data.vocabulary)
    # pairs one after the other: every second prediction is of a token asked for, from the one before it
    nats = -model.log_probabilities(np.stack([contexts, targets], axis=1).reshape(-1), order=2)[::2]
    alone = model.distribution((), order=1)
    hits = {
        "unigram": targets == _ordinary(alone, data).argmax(),
        "bigram": targets == _best_after(contexts, model, data),
    }
    return [
        _row(name, losses, hits[name])
        for name, losses in (("unigram", -np.log(alone[targets])), ("bigram", nats))
    ]


def asked_for(batches: Iterable[MaskedRows], separator: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N,): the input on the left of each token asked for (at a window's start: a separator), and that
    token.
    """
    contexts, targets = [], []
    for batch in batches:
        inputs, labels = batch.inputs.numpy(), batch.labels.numpy()
        left = np.concatenate([np.full_like(inputs[:, :1], separator), inputs[:, :-1]], axis=1)
        is_target = labels != IGNORED
        contexts.append(left[is_target])
        targets.append(labels[is_target])
    return np.concatenate(contexts), np.concatenate(targets)


def _best_after(contexts: np.ndarray, model: NGram, data: PreparedData) -> np.ndarray:
    """(N,): the most probable token after each."""
    distinct, positions = np.unique(contexts, return_inverse=True)
    best = np.array([_ordinary(model.distribution((int(c),), order=2), data).argmax() for c in distinct])
    guesses: np.ndarray = best[positions]
    return guesses


def _ordinary(distribution: np.ndarray, data: PreparedData) -> np.ndarray:
    """Special tokens are never asked for, so never guessed."""
    return np.where(data.token_bytes > 0, distribution, 0.0)


def _row(name: str, nats: np.ndarray, hits: np.ndarray) -> Baseline:
    mean = math.fsum(nats) / len(nats)
    scores = {
        "masked_bits": mean / math.log(2),
        "masked_perplexity": math.exp(mean),
        "masked_accuracy": float(hits.mean()),
    }
    return Baseline(name=name, scores=scores)
