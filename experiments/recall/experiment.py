"""Multi-query associative recall (MQAR): rows of key-value pairs, then keys whose values must be named.

Legend: B rows, T tokens of a row, N pairs, V vocabulary.
Source: arXiv 2312.04927 §4. A row starts with N pairs of a key and its value. Each key then stands once more, at a
distance drawn from a power law, and the value is the token to predict behind it. Keys come from the lower half of the
vocabulary, values from the upper half, and every other place of the row holds a random token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Baseline
from arch_lab.laws import Certificate, certify_model
from arch_lab.stored import Facts
from arch_lab.study.identity import digest
from arch_lab.study.training_study import TrainingExperiment
from blocks.config import Bounds, Config, Doc
from blocks.errors import ConfigError

if TYPE_CHECKING:  # Lightning takes seconds to load, and no refusal of a study should wait for it
    from experiments.recall.model import RecallDataModule, RecallModel

TRAIN, TUNE, HELD_OUT = 1, 2, 3  # highest word of Philox's counter: streams that never meet
IGNORED = -100  # the label of a place where nothing is asked, as cross_entropy knows it
SCORED = 128  # rows of a scoring batch


@dataclass(frozen=True, kw_only=True)
class RecallData(Config):
    """How hard the recall is. ``power``: below 1, most keys are asked soon after the pairs; 1 spreads them evenly."""

    vocabulary: Annotated[
        int, Bounds(minimum=4, maximum=2**20), Doc("Different tokens, half of them keys, half values.")
    ] = 128
    pairs: Annotated[int, Bounds(minimum=1, maximum=2**18), Doc("Pairs of key and value in a row.")] = 8
    power: Annotated[
        float, Bounds(above=0, maximum=1), Doc("Exponent of the distances at which keys are asked; 1: even.")
    ] = 0.1
    tune_rows: Annotated[
        int, Bounds(minimum=1, maximum=2**24), Doc("Rows that choose the learning rate.")
    ] = 256
    held_out_rows: Annotated[int, Bounds(minimum=1, maximum=2**24), Doc("Rows that are reported.")] = 1024

    def __post_init__(self) -> None:
        if self.pairs > self.vocabulary // 2:
            raise ConfigError(
                f"data.pairs: a row needs {self.pairs} different keys, and half of {self.vocabulary} tokens are keys"
            )


def draw_rows(
    data: RecallData, tokens: int, rows: int, *, split: int, seed: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T), and labels (B, T): the value to predict where its key is asked, else IGNORED.

    A function of (split, seed, step) and the options alone.
    """
    bits = np.random.Philox(
        key=np.array([seed, step], np.uint64), counter=np.array([0, 0, 0, split], np.uint64)
    )
    draw = np.random.Generator(bits)
    half, pairs = data.vocabulary // 2, data.pairs
    keys = draw.random((rows, half)).argsort(axis=1)[:, :pairs]
    values = half + draw.random((rows, data.vocabulary - half)).argsort(axis=1)[:, :pairs]
    places = np.arange(1, (tokens - 2 * pairs) // 2 + 1)
    log_weight = (data.power - 1) * np.log(places)
    # the largest N of log-weight and Gumbel noise are a draw by weight without replacement
    distances = (log_weight + draw.gumbel(size=(rows, len(places)))).argsort(axis=1)[:, ::-1][:, :pairs]
    asked = 2 * pairs + 2 * distances
    row = np.arange(rows)[:, None]
    inputs = draw.integers(data.vocabulary, size=(rows, tokens))
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    inputs[row, asked] = keys
    labels = np.full((rows, tokens), IGNORED)
    labels[row, asked] = values
    return inputs, labels


def scoring_sizes(rows: int) -> list[int]:
    """Rows of each scoring batch; no score depends on how they are cut."""
    return [min(SCORED, rows - first) for first in range(0, rows, SCORED)]


@dataclass(frozen=True)
class PreparedRecall:
    """The options with the length of a row: rows are drawn when they are needed."""

    config: RecallData
    tokens: int

    @property
    def vocabulary(self) -> int:
        return self.config.vocabulary

    @property
    def fingerprint(self) -> str:
        return digest([asdict(self.config), self.tokens])

    def summary(self) -> Facts:
        """Plain values for reports."""
        rows = {"tune": self.config.tune_rows, "held-out": self.config.held_out_rows}
        splits = {name: {"rows": n, "tokens": n * self.tokens} for name, n in rows.items()}
        return {"source": "drawn", **asdict(self.config), "splits": splits, "fingerprint": self.fingerprint}


class Recall(TrainingExperiment):
    """Multi-query associative recall by decoders."""

    measures = (
        Measure(
            key="accuracy",
            name="recall accuracy",
            short="accuracy ↑",
            higher_is_better=True,
            meaning="The share of questions to which the model gives the right value the highest probability. Higher is better.",
        ),
        Measure(
            key="nats",
            name="nats per answer",
            short="nats",
            meaning="Minus the natural logarithm of the probability of the right value, averaged over the questions. Lower is better.",
        ),
    )
    data = RecallData

    def resolve(self, config: Any) -> Any:
        tokens, pairs = config.training.sequence_length, config.data.pairs
        if tokens < 4 * pairs:
            raise ConfigError(
                f"study {config.name!r}: {pairs} pairs and {pairs} questions need training.sequence_length {4 * pairs}, got {tokens}"
            )
        return config

    def vocabulary(self, data: RecallData) -> int:
        return data.vocabulary

    def prepare(self, config: Any, cache: Path, progress: Callable[[str], None]) -> PreparedRecall:
        return PreparedRecall(config.data, config.training.sequence_length)

    def certify(self, model: Any, config: Any, data: PreparedRecall) -> Certificate:
        tokens, batch = data.tokens, config.training.batch_size
        return certify_model(
            model, vocabulary=data.vocabulary, training_length=tokens, lengths=[tokens], batch=batch
        )

    def module(self, spec: Any) -> RecallModel:
        from experiments.recall.model import RecallModel

        return RecallModel(**spec.settings())

    def datamodule(self, spec: Any, data: PreparedRecall) -> RecallDataModule:
        from experiments.recall.model import RecallDataModule, RowLoader

        def loader(split: int, seed: int, sizes: list[int]) -> RowLoader:
            return RowLoader(
                lambda step: draw_rows(
                    data.config, data.tokens, sizes[step], split=split, seed=seed, step=step
                ),
                len(sizes),
            )

        return RecallDataModule(
            train=loader(TRAIN, spec.seed, [spec.training.batch_size] * spec.steps),
            tune=loader(TUNE, 0, scoring_sizes(data.config.tune_rows)),
            held_out=loader(HELD_OUT, 0, scoring_sizes(data.config.held_out_rows)),
        )

    def baselines(self, config: Any, data: PreparedRecall) -> list[Baseline]:
        """Guesses, by what they know: any value, or which values the row holds."""
        choices = {
            "any value": data.vocabulary - data.vocabulary // 2,
            "a value of the row": data.config.pairs,
        }
        return [
            Baseline(name=name, scores={"accuracy": 1 / n, "nats": math.log(n)})
            for name, n in choices.items()
        ]


EXPERIMENT = Recall()
