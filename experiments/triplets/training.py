"""Training in rounds, with validation after each, keeping the best round's weights.

Legend: N rows, T triplets of a round, B of a step.
Published (KinWaiCheuk/IJCNN2020_music_emotion, MCE2018): mine, train some epochs, fit the readout, and again;
the round is then chosen on the *test* fold. Here it is chosen on rows held out of the training split, and the
test rows are not within reach of this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from arch_lab.judge.measures import Measure
from arch_lab.stored import Facts
from arch_lab.study.task_study import Curve
from arch_lab.training.fit import fit
from blocks.triplet.mining import Triplets
from experiments.triplets.effort import Effort
from experiments.triplets.networks import Embedder

Rows = tuple[Tensor, ...]
Judge = Callable[[Embedder], float]


class Miner(Protocol):
    """What blocks.triplet.mining has of these: frozen, so that two with the same options are one."""

    def mine(self, labels: Tensor, seed: int) -> Triplets: ...
    def __hash__(self) -> int: ...


def mined(labels: Tensor, miner: Miner, effort: Effort, seed: int) -> tuple[Triplets, Tensor]:
    """The mined triplets of a round, and (3, T) row indices of at most ``effort.triplets``."""
    draw = torch.Generator().manual_seed(seed)
    # in rising order: the miner's runs follow each other by index
    rows = torch.randperm(len(labels), generator=draw)[: effort.rows].sort().values
    mined_triplets = miner.mine(labels[rows], seed)
    triplets = torch.stack(
        [rows[mined_triplets.anchor], rows[mined_triplets.positive], rows[mined_triplets.negative]]
    )
    return mined_triplets, triplets[:, torch.randperm(len(mined_triplets), generator=draw)[: effort.triplets]]


@lru_cache(maxsize=32)
def _step_counts(labels: bytes, kind: str, miner: Miner, effort: Effort, seed: int) -> tuple[int, ...]:
    """Of every round.

    Kept, because each peer and rate asks the same; bytes, because tensors have no hash by value.
    """
    values = torch.from_numpy(np.frombuffer(labels, kind).copy())
    counts = (
        mined(values, miner, effort, _round_seed(seed, number))[1].shape[1] for number in range(effort.rounds)
    )
    return tuple(effort.epochs * -(-count // effort.batch) for count in counts)


def _round_seed(seed: int, number: int) -> int:
    return 10_000 * seed + number


class TripletSteps:
    """Batches of anchors, positives and negatives, mined anew in every round."""

    def __init__(self, items: Tensor, labels: Tensor, miner: Miner, effort: Effort, seed: int) -> None:
        self.items, self.labels, self.miner, self.effort, self.seed = items, labels, miner, effort, seed
        self.facts: Facts = {}

    def steps(self, number: int) -> list[Rows]:
        """The batches of one round: a function of (seed, number)."""
        seed = _round_seed(self.seed, number)
        mined_triplets, triplets = mined(self.labels, self.miner, self.effort, seed)
        counts = {
            "triplets mined": len(mined_triplets),
            "centres": mined_triplets.centres,
            "without a pair": mined_triplets.no_pair,
        }
        # of the first round
        self.facts = self.facts or {**counts, "without a negative": mined_triplets.no_negative}
        draw = torch.Generator().manual_seed(seed)
        batches: list[Rows] = []
        for _ in range(self.effort.epochs):
            mixed = triplets[:, torch.randperm(triplets.shape[1], generator=draw)]
            batches += [
                tuple(self.items[i] for i in batch) for batch in mixed.split(self.effort.batch, dim=1)
            ]
        return batches


class LabelledSteps:
    """Rows and labels in passes without end, cut into as many steps as the rounds of triplets have."""

    def __init__(self, items: Tensor, labels: Tensor, miner: Miner, effort: Effort, seed: int) -> None:
        self.items, self.labels, self.size, self.seed = items, labels, 3 * effort.batch, seed
        array = labels.numpy()
        self.counts = _step_counts(array.tobytes(), array.dtype.str, miner, effort, seed)
        self.facts: Facts = {}

    def steps(self, number: int) -> list[Rows]:
        draw = torch.Generator().manual_seed(_round_seed(self.seed, number))
        needed = self.counts[number] * self.size
        passes = [
            torch.randperm(len(self.items), generator=draw) for _ in range(-(-needed // len(self.items)))
        ]
        order = torch.cat(passes)[:needed]
        return [(self.items[rows], self.labels[rows]) for rows in order.split(self.size)]


Source = TripletSteps | LabelledSteps


class RoundLoader:
    """The batches of the round that the trainer is in."""

    def __init__(self, batches: list[Rows]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Rows]:
        return iter(self.batches)


class Rounds(pl.LightningDataModule):
    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def train_dataloader(self) -> RoundLoader:
        return RoundLoader(self.source.steps(self.trainer.current_epoch if self.trainer else 0))


class Choice(Callback):
    """Keeps the weights of the round with the best score.

    ``judge``: the score; NaN for what cannot be judged.
    """

    def __init__(self, measure: Measure, judge: Judge) -> None:
        self.measure, self.judge = measure, judge
        self.best: float | None = None
        self.round = 0
        self.weights: dict[str, Tensor] = {}
        self.curve: list[tuple[int, str, float]] = []
        self.losses: list[Tensor] = []
        self.judging = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Embedder)
        started = time.perf_counter()
        loss = float(torch.stack(self.losses).mean())
        self.losses = []
        if not isfinite(loss):
            trainer.should_stop = True
            return
        score = self.judge(module)
        self.curve.append((trainer.global_step, "train/loss", loss))
        if isfinite(score):
            self.curve.append((trainer.global_step, f"tune/{self.measure.key}", score))
        if self._is_better(score):
            self.best, self.round = score, trainer.current_epoch + 1
            self.weights = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
        self.judging += time.perf_counter() - started

    def _is_better(self, score: float) -> bool:
        if self.best is None or not isfinite(score):
            return isfinite(score)
        return score > self.best if self.measure.higher_is_better else score < self.best


@dataclass(frozen=True, kw_only=True)
class Trained:
    """``best``: score of the best round; None when no round could be judged: the run diverged or collapsed.

    Its weights are then the last ones.
    """

    best: float | None
    facts: Facts
    curve: Curve

    @property
    def usable(self) -> bool:
        return self.best is not None


def train(network: Embedder, source: Source, rounds: int, measure: Measure, judge: Judge) -> Trained:
    """Train ``rounds`` rounds and leave the weights of the best one in ``network``.

    ``judge``: score of a network by ``measure`` on the validation rows.
    """
    choice = Choice(measure, judge)
    started = time.perf_counter()
    outcome = fit(network, Rounds(source), epochs=rounds, callbacks=[choice])
    if choice.weights:
        network.load_state_dict(choice.weights)
    network.cpu().eval()
    facts = {
        "steps": outcome.steps,
        "seconds": time.perf_counter() - started,
        "seconds of judging rounds": choice.judging,
        "round chosen": choice.round,
        "parameters": sum(p.numel() for p in network.head.parameters()),
        **source.facts,
    }
    return Trained(best=choice.best, facts=facts, curve=tuple(choice.curve))
