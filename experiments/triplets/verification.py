"""Verification on triplets (arXiv 1910.01463): is this item of anybody on the list, and of whom?

Legend: N items, F features, E = F embedding width, S classes on the list.
Published and kept: unit-length inputs, unordered pairs of a class against negatives of all others, margin 0.5
on squared distances, one dense layer with ReLU as wide as its input, re-mined every round, the cosine with
the mean embedding of each class. Not kept: the choice of the round on the test set. Which of a dataset's
classes do what is in cohorts.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import nan
from typing import Annotated, Any

import numpy as np
import torch

from arch_lab.judge.measures import Measure, Task
from arch_lab.metrics import CentroidCosineScorer, MetricError, top1_eer_with_confusion, top_s_eer
from arch_lab.stored import Facts
from arch_lab.study.plan import PlannedArm
from arch_lab.study.task_study import Fitted
from arch_lab.study.trial import Trial
from blocks.config import Bounds, Config, Doc
from blocks.triplet.mining import ClassTripletMiner
from experiments.triplets.cohorts import BACKGROUND, Characters, Cohort, Draw, Speakers, unit
from experiments.triplets.effort import Effort
from experiments.triplets.library import library
from experiments.triplets.readers.common import Array

MEASURES = (
    Measure(key="top_s_eer", name="Top-S EER"),
    Measure(key="top1_eer", name="Top-1 EER"),
    Measure(key="confusions", name="share of wanted items named wrongly", short="confusions"),
)
ONE_SHOT = Measure(
    key="one_shot", name="one-shot accuracy, 20-way", short="one-shot ↑", higher_is_better=True
)
NEIGHBOURS = 3


@dataclass(frozen=True, kw_only=True)
class VerificationProtocol(Config):
    """``ap_pairs`` pairs a class (6 with the published development set), crossed with ``an_pairs``
    negatives.
    """

    margin: Annotated[
        float, Bounds(above=0, maximum=1e6), Doc("Margin between the squared distances of a triplet.")
    ] = 0.5
    ap_pairs: Annotated[
        int, Bounds(minimum=1, maximum=2**20), Doc("Pairs of two items of the same class, per class.")
    ] = 6
    an_pairs: Annotated[int, Bounds(minimum=1, maximum=2**20), Doc("Negatives combined with each pair.")] = 50
    speakers: Annotated[Speakers, Doc("Which of the nine speakers are on the list.")] = field(
        default_factory=Speakers
    )
    omniglot: Annotated[Characters, Doc("Which drawings are on the list.")] = field(
        default_factory=Characters
    )

    def __post_init__(self) -> None:
        self.miner()

    def miner(self) -> ClassTripletMiner:
        return ClassTripletMiner(ap_pairs=self.ap_pairs, an_pairs=self.an_pairs)


def arms() -> tuple[PlannedArm, ...]:
    layer = "dense + ReLU, F to F"
    return (
        PlannedArm(
            name="triplets", facts={"map": layer, "trained on": "triplets, margin on squared distances"}
        ),
        PlannedArm(name="softmax", facts={"map": layer, "trained on": "classes, cross-entropy"}),
        PlannedArm(
            name="lda",
            tuned=False,
            facts={"map": "linear discriminants, shrinkage by Ledoit and Wolf", "trained on": "classes"},
        ),
        PlannedArm(name="cosine", tuned=False, facts={"map": "none"}),
        PlannedArm(
            name="knn",
            tuned=False,
            facts={
                "map": "none",
                "scored by": f"the {NEIGHBOURS} nearest enrolled items, not by class means",
            },
        ),
        PlannedArm(
            name="untrained", tuned=False, baseline=True, facts={"map": layer, "trained on": "nothing"}
        ),
    )


def task(name: str, draw: Draw) -> Task:
    cohorts = {"validation": draw.valid, "test": draw.test}
    facts: Facts = {
        "features": draw.train.shape[1],
        "training items": len(draw.train),
        "training classes": int(draw.labels.max()) + 1,
    }
    for split, cohort in cohorts.items():
        enrolled = f"{len(cohort.enrol)} items of {len(np.unique(cohort.classes))} classes"
        facts[split] = (
            f"{enrolled} enrolled; {(cohort.identities != BACKGROUND).sum()} wanted and "
            f"{(cohort.identities == BACKGROUND).sum()} background probes"
        )
    shots = sum(len(answer) for _, _, answer in draw.runs)
    facts |= {"one-shot trials": shots} if shots else {}
    measures = (*MEASURES, ONE_SHOT) if shots else MEASURES
    return Task(
        name=name,
        measures=measures,
        facts={**facts, "counts are of": "the first seed", "scores are of": "test probes"},
    )


def fit(draw: Draw, protocol: VerificationProtocol, effort: Effort, trial: Trial) -> Fitted:
    """One trial; every random draw follows from its seed."""
    if trial.arm in ("cosine", "knn"):
        return Fitted(scores=scored(draw, lambda a: a, nearest if trial.arm == "knn" else centroids))
    if trial.arm == "lda":
        analysis = library("sklearn.discriminant_analysis").LinearDiscriminantAnalysis(
            solver="eigen", shrinkage="auto"
        )
        analysis.fit(draw.train.astype(np.float64), draw.labels)
        return Fitted(
            scores=scored(draw, analysis.transform),
            facts={"embedding": int(analysis.transform(draw.train[:1]).shape[1])},
        )
    from experiments.triplets import networks
    from experiments.triplets.training import LabelledSteps, Source, TripletSteps, train

    x, labels = torch.from_numpy(draw.train), torch.from_numpy(draw.labels)
    steps = (x, labels, protocol.miner(), effort, trial.seed)
    features, rate = x.shape[1], trial.learning_rate or 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        if trial.arm in ("triplets", "untrained"):
            network: networks.Embedder = networks.TripletNetwork(
                features, features, rate, margin=protocol.margin
            )
            if trial.arm == "untrained":
                return Fitted(scores=scored(draw, partial(embedded, network)))
            source: Source = TripletSteps(*steps)
        else:
            network = networks.Classifier(features, features, rate, classes=int(labels.max()) + 1)
            source = LabelledSteps(*steps)
        trained = train(
            network,
            source,
            effort.rounds,
            MEASURES[0],
            lambda network: validation_eer(draw.valid, partial(embedded, network)),
        )
    if not trained.usable:
        return Fitted(scores=None, facts=trained.facts, curve=trained.curve)
    scores = scored(draw, partial(embedded, network))
    return Fitted(scores=scores, tuned=trained.best, facts=trained.facts, curve=trained.curve)


def embedded(network: Any, items: Array) -> Array:
    embeddings: Array = network.embed(torch.from_numpy(items)).numpy()
    return embeddings


def validation_eer(cohort: Cohort, embed: Callable[[Array], Array]) -> float:
    """Top-S EER, NaN where the embedding has collapsed or is not finite."""
    try:
        best, _ = centroids(embed(cohort.enrol), cohort.classes, embed(cohort.probes))
        return top_s_eer(best, cohort.identities != BACKGROUND).rate
    except MetricError:
        return nan


def centroids(enrol: Array, classes: Array, probes: Array) -> tuple[Array, Array]:
    return CentroidCosineScorer(enrol, classes).best(probes)


def nearest(enrol: Array, classes: Array, probes: Array) -> tuple[Array, Array]:
    """Mean cosine with the three nearest enrolled items, and their majority class.

    Of tied classes, the nearest item's.
    """
    cosines = unit(probes) @ unit(enrol).T
    close = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    neighbour_classes = classes[close]
    votes = (neighbour_classes[:, :, None] == neighbour_classes[:, None, :]).sum(axis=2)
    scores: Array = np.take_along_axis(cosines, close, axis=1).mean(axis=1)
    return scores, np.take_along_axis(neighbour_classes, votes.argmax(axis=1)[:, None], axis=1)[:, 0]


def scored(
    draw: Draw,
    embed: Callable[[Array], Array],
    scorer: Callable[[Array, Array, Array], tuple[Array, Array]] = centroids,
) -> dict[str, float]:
    """Every measure on the test cohort, NaN for an embedding that lost a class."""
    try:
        best, predicted = scorer(embed(draw.test.enrol), draw.test.classes, embed(draw.test.probes))
        on_list = draw.test.identities != BACKGROUND
        confused = on_list & (predicted != draw.test.identities)
        measures = {
            "top_s_eer": top_s_eer(best, on_list).rate,
            "top1_eer": top1_eer_with_confusion(best, on_list, confused).rate,
            "confusions": float(confused.sum() / on_list.sum()),
        }
        right = [
            scorer(embed(support), np.arange(len(support)), embed(queries))[1] == answer
            for support, queries, answer in draw.runs
        ]
    except MetricError:
        return dict.fromkeys(
            ("top_s_eer", "top1_eer", "confusions", *(["one_shot"] if draw.runs else [])), nan
        )
    return {**measures, "one_shot": float(np.concatenate(right).mean())} if right else measures
