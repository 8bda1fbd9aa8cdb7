"""Regression on triplets (arXiv 2001.09988).

A continuous label decides who is near whom, a readout of the embedding is scored.

Legend: N rows, F features, E embedding width.
Published and kept: inputs standardised and labels scaled to [-1, 1] on the training rows, centres, runs of
15, 10 pairs x 10 negatives, margin 5 on squared distances, one dense layer with ReLU, re-mined every round, a
gradient-boosting readout with default options.
Not kept: the choice of the round on the test fold. A fifth of the training rows is held out for every choice;
test rows are scored once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Annotated, Any

import numpy as np
import torch

from arch_lab.judge.measures import Measure, Task
from arch_lab.metrics import spearman
from arch_lab.study.plan import PlannedArm
from arch_lab.study.task_study import Fitted
from arch_lab.study.trial import Trial
from blocks.config import Bounds, Config, Doc
from blocks.errors import ConfigError
from blocks.triplet.mining import RegressionTripletMiner
from experiments.triplets.effort import Effort
from experiments.triplets.library import library
from experiments.triplets.readers.common import Array, RegressionSet

MEASURES = (
    Measure(key="r2_gbm", name="R² of gradient boosting", short="R² ↑", higher_is_better=True),
    Measure(key="spearman", name="Spearman of gradient boosting", short="Spearman ↑", higher_is_better=True),
    Measure(key="r2_ridge", name="R² of ridge", short="ridge R² ↑", higher_is_better=True),
    Measure(key="r2_knn", name="R² of 5 nearest neighbours", short="kNN R² ↑", higher_is_better=True),
)


@dataclass(frozen=True, kw_only=True)
class RegressionProtocol(Config):
    """``embedding_share``: E = that share of F, rounded, at least 2 (published: 100 and 260 of 260).

    Radii are on the scale -1 … 1.

    ``validation_share`` of the training rows chooses learning rate and round.
    """

    embedding_share: Annotated[
        float, Bounds(above=0, maximum=1), Doc("Width of the embedding as a share of the features.")
    ] = 0.5
    validation_share: Annotated[
        float,
        Bounds(above=0, maximum=0.5),
        Doc("Share of the training rows that choose learning rate and round."),
    ] = 0.2
    pos_radius: Annotated[
        float, Bounds(minimum=0, maximum=1e3), Doc("Labels closer than this are alike, on the scale -1 to 1.")
    ] = 0.1
    neg_radius: Annotated[
        float, Bounds(above=0, maximum=1e3), Doc("Labels further apart than this are unlike.")
    ] = 0.5
    margin: Annotated[
        float, Bounds(above=0, maximum=1e6), Doc("Margin between the distances of a triplet.")
    ] = 5.0

    def __post_init__(self) -> None:
        self.miner()

    def miner(self) -> RegressionTripletMiner:
        """Raises: ConfigError for invalid radii."""
        return RegressionTripletMiner(pos_radius=self.pos_radius, neg_radius=self.neg_radius)

    def width(self, features: int) -> int:
        return min(features, max(2, round(self.embedding_share * features)))


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Rows of one split.

    Inputs standardised, labels scaled to [-1, 1], both by the training rows, which the other two may leave.
    """

    train: tuple[Array, Array]
    valid: tuple[Array, Array]
    test: tuple[Array, Array]


def fold(data: RegressionSet, protocol: RegressionProtocol, seed: int) -> Fold:
    """Split ``seed`` of the set, with validation rows drawn from its training rows.

    Raises: DataError, ConfigError.
    """
    rows, test = data.split(seed)
    rows = np.random.default_rng(seed).permutation(rows)
    valid_count = max(1, round(protocol.validation_share * len(rows)))
    valid, train = np.sort(rows[:valid_count]), np.sort(rows[valid_count:])
    x, y = data.features, data.target
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)  # a constant column says nothing, at any scale
    low, high = y[train].min(), y[train].max()
    if low == high:
        raise ConfigError(
            f"{data.name}: every training label of split {seed} is {low:g}, so there is nothing to learn"
        )
    scaled = ((x - mean) / deviation).astype(np.float32)
    labels = (2 * (y - low) / (high - low) - 1).astype(np.float32)
    return Fold(
        train=(scaled[train], labels[train]),
        valid=(scaled[valid], labels[valid]),
        test=(scaled[test], labels[test]),
    )


def check_radii(data: RegressionSet, protocol: RegressionProtocol, seed: int) -> None:
    """Raises: ConfigError when no training row of the split has both a pair and a negative, before anything
    is trained.
    """
    rows = np.sort(fold(data, protocol, seed).train[1].astype(np.float64))
    close = np.searchsorted(rows, rows + protocol.pos_radius, "right") - np.searchsorted(
        rows, rows - protocol.pos_radius, "left"
    )
    far = (
        np.searchsorted(rows, rows - protocol.neg_radius, "right")
        + len(rows)
        - np.searchsorted(rows, rows + protocol.neg_radius, "left")
    )
    for name, radius, missing in (
        ("pos_radius", protocol.pos_radius, close < 2),
        ("neg_radius", protocol.neg_radius, far < 1),
    ):
        if missing.all():
            kind = "positive" if name == "pos_radius" else "negative"
            raise ConfigError(
                f"{data.name}: regression.{name} {radius:g} leaves no {kind} for any of the {len(rows)} "
                f"training labels of split {seed}, "
                f"which lie in {rows[0]:g} … {rows[-1]:g}"
            )
    if ((close < 2) | (far < 1)).all():
        raise ConfigError(
            f"{data.name}: no training label of split {seed} has both a neighbour within "
            f"regression.pos_radius {protocol.pos_radius:g} "
            f"and one regression.neg_radius {protocol.neg_radius:g} away; "
            f"the labels lie in {rows[0]:g} … {rows[-1]:g}"
        )


def arms() -> tuple[PlannedArm, ...]:
    layer = "dense + ReLU, F to E"
    return (
        PlannedArm(
            name="triplets", facts={"map": layer, "trained on": "triplets, margin on squared distances"}
        ),
        PlannedArm(name="supervised", facts={"map": layer, "trained on": "labels, through a linear readout"}),
        PlannedArm(
            name="autoencoder", facts={"map": layer, "trained on": "its own input, through a linear decoder"}
        ),
        PlannedArm(
            name="pca", tuned=False, facts={"map": "first E principal components", "trained on": "inputs"}
        ),
        PlannedArm(name="raw", tuned=False, facts={"map": "none: all F features"}),
        PlannedArm(
            name="untrained", tuned=False, baseline=True, facts={"map": layer, "trained on": "nothing"}
        ),
    )


def task(data: RegressionSet, protocol: RegressionProtocol) -> Task:
    valid_count = round(protocol.validation_share * len(data.splits[0][0]))
    rows = {
        "training rows": len(data.splits[0][0]) - valid_count,
        "validation rows": valid_count,
        "test rows": len(data.splits[0][1]),
    }
    shape = {"features": data.features.shape[1], "embedding": protocol.width(data.features.shape[1])}
    return Task(
        name=data.name,
        measures=MEASURES,
        counted=("r2_gbm",),
        facts={**data.facts, **shape, **rows, "scores are of": "test rows"},
    )


def fit(data: RegressionSet, protocol: RegressionProtocol, effort: Effort, trial: Trial) -> Fitted:
    """One trial; every random draw follows from its seed."""
    split = fold(data, protocol, trial.seed)
    x, y = (torch.from_numpy(a) for a in split.train)
    if trial.arm == "raw":
        return Fitted(scores=readouts(split, lambda a: a, trial.seed))
    width = protocol.width(x.shape[1])
    if trial.arm == "pca":
        components = (
            library("sklearn.decomposition")
            .PCA(n_components=width, random_state=trial.seed)
            .fit(split.train[0])
        )
        return Fitted(
            scores=readouts(split, components.transform, trial.seed),
            facts={"variance kept": float(components.explained_variance_ratio_.sum())},
        )
    from experiments.triplets import networks
    from experiments.triplets.training import LabelledSteps, Source, TripletSteps, train

    steps = (x, y, protocol.miner(), effort, trial.seed)
    rate = trial.learning_rate or 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        if trial.arm in ("triplets", "untrained"):
            network: networks.Embedder = networks.TripletNetwork(
                x.shape[1], width, rate, margin=protocol.margin
            )
            if trial.arm == "untrained":
                return Fitted(scores=readouts(split, partial(embedded, network), trial.seed))
            source: Source = TripletSteps(*steps)
        else:
            kind = {"supervised": networks.Regressor, "autoencoder": networks.Autoencoder}[trial.arm]
            network, source = kind(x.shape[1], width, rate), LabelledSteps(*steps)
        trained = train(
            network,
            source,
            effort.rounds,
            MEASURES[0],
            lambda network: boosted(split, partial(embedded, network), split.valid, trial.seed)[0],
        )
    if not trained.usable:
        return Fitted(scores=None, facts=trained.facts, curve=trained.curve)
    scores = readouts(split, partial(embedded, network), trial.seed)
    return Fitted(scores=scores, tuned=trained.best, facts=trained.facts, curve=trained.curve)


def embedded(network: Any, rows: Array) -> Array:
    embeddings: Array = network.embed(torch.from_numpy(rows)).numpy()
    return embeddings


def boosted(split: Fold, embed: Any, scored: tuple[Array, Array], seed: int) -> tuple[float, float]:
    """(R², Spearman) on ``scored`` of gradient boosting fitted to the embedded training rows; NaN for
    embeddings that are not finite.
    """
    train_points, scored_points = embed(split.train[0]), embed(scored[0])
    if not (np.isfinite(train_points).all() and np.isfinite(scored_points).all()):
        return nan, nan
    readout = (
        library("sklearn.ensemble")
        .GradientBoostingRegressor(random_state=seed)
        .fit(train_points, split.train[1])
    )
    predictions = readout.predict(scored_points)
    return float(library("sklearn.metrics").r2_score(scored[1], predictions)), spearman(
        predictions, scored[1]
    )


def readouts(split: Fold, embed: Any, seed: int) -> dict[str, float]:
    """Every measure on the test rows, of readouts fitted to the training rows."""
    r2, rank = boosted(split, embed, split.test, seed)
    measures = {"r2_gbm": r2, "spearman": rank}
    train_points, test_points = embed(split.train[0]), embed(split.test[0])
    make, score = library("sklearn.pipeline").make_pipeline, library("sklearn.metrics").r2_score
    ridge = make(library("sklearn.preprocessing").StandardScaler(), library("sklearn.linear_model").Ridge())
    nearest = library("sklearn.neighbors").KNeighborsRegressor(n_neighbors=min(5, len(train_points)))
    for key, readout in (("r2_ridge", ridge), ("r2_knn", nearest)):
        measures[key] = float(
            score(split.test[1], readout.fit(train_points, split.train[1]).predict(test_points))
        )
    return measures
