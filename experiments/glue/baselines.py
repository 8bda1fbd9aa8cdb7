"""What a fine-tuned encoder must beat: always the same answer, and a linear model on counted words.

Both see the rows the encoders see. Predictions are of every split but train, in the order of its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from arch_lab.stored import Facts
from blocks.errors import UserError
from experiments.glue.data import GlueSet, Rows, sentences

if TYPE_CHECKING:  # an optional dependency
    from scipy.sparse import csr_matrix

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # C, the inverse of the penalty; for scores ridge's alpha is 1 / C
Predictions = dict[str, list[float]]


def majority(data: GlueSet) -> Predictions:
    """The most frequent class of train (of equally frequent ones the first), or the mean score."""
    labels = [row.label for row in data.train if row.label is not None]
    answer = (
        float(np.mean(labels))
        if not data.classes
        else min(Counter(labels).items(), key=lambda item: (-item[1], item[0]))[0]
    )
    return {name: [answer] * len(rows) for name, rows in _scored(data)}


def require_sklearn() -> None:
    """Raises: UserError before anything is fitted."""
    if find_spec("sklearn") is None:
        raise UserError(
            "the baseline tf_idf needs scikit-learn (pip install scikit-learn), or set baselines: false"
        )


def tf_idf(data: GlueSet) -> tuple[Predictions, Facts]:
    """Logistic regression (for scores: ridge regression) on TF-IDF of words and word pairs; C by the tuning
    split.

    Of a pair the features are both vectors, their absolute difference, their product by word, and their
    cosine.
    """
    labels = np.array([row.label for row in data.train])
    if data.classes and len(set(labels.tolist())) == 1:
        return majority(data), {"strength": None}
    training, features = _features(data)
    best: tuple[float, float, Any] | None = None
    for strength in STRENGTHS:
        model = _model(data, strength).fit(training, labels)
        tuned = data.tuned(_answers(model, features["tuning"], data))
        if best is None or tuned > best[0]:
            best = tuned, strength, model
    assert best is not None
    predictions = {name: _answers(best[2], features[name], data).tolist() for name, _ in _scored(data)}
    return predictions, {"strength": best[1], "features": training.shape[1]}


def _model(data: GlueSet, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    return (
        LogisticRegression(C=strength, max_iter=2000)
        if data.classes
        else Ridge(alpha=1 / strength, solver="lsqr")
    )


def _answers(model: Any, features: Any, data: GlueSet) -> Any:
    predictions = model.predict(features)
    return predictions if data.classes else np.clip(predictions, 0.0, 5.0)


def _features(data: GlueSet) -> tuple[csr_matrix, dict[str, csr_matrix]]:
    """Of the training rows, and of every scored split."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    first, second = sentences(data.train)
    counted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(
        [*first, *(second or [])]
    )

    def features(rows: Rows) -> csr_matrix:
        first, second = sentences(rows)
        u = counted.transform(first)
        if second is None:
            return u
        v = counted.transform(second)
        product = u.multiply(v).tocsr()  # rows have length 1, so its sum is the cosine
        return sparse.hstack([u, v, abs(u - v), product, product.sum(axis=1)]).tocsr()

    return features(data.train), {name: features(rows) for name, rows in _scored(data)}


def _scored(data: GlueSet) -> Iterable[tuple[str, Any]]:
    return {"tuning": data.tuning, **data.reported, **data.submitted}.items()
