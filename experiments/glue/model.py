"""A pretrained body under a fresh head, and its training.

Legend: B rows or pairs, T tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from arch_lab.data.tokenizer import Tokenizer
from arch_lab.stored import Facts
from arch_lab.study.body import Body
from arch_lab.training.callbacks import Divergence
from arch_lab.training.fit import Report, fit, predict
from arch_lab.training.optimizer import FINE_TUNING, optimizer_and_schedule
from blocks.config import Options
from blocks.contract import BlockConfig
from blocks.errors import ConfigError
from blocks.heads.base import TaskHead
from blocks.heads.classification import ClassificationHeadConfig
from blocks.heads.range_regression import RangeRegressionHeadConfig
from blocks.registry import configure, lookup
from experiments.glue.batches import Batch, EncodedRow, ScoringLoader, TrainingLoader, collate, encode
from experiments.glue.config import Finetuning
from experiments.glue.data import GlueSet, Rows, sentences

POINTS = 100  # of the loss curve
LOOKED_AT = 256  # rows
FASTER = 4  # scored batches are that much larger: no gradient is kept


class PairClassifier(nn.Module):
    """``body``, a pooler and a head; a separate pair is read as [u; v; |u - v|; u·v].

    ``batch`` as ``batches.collate`` makes it. Parameters of pooler and head are drawn from torch's global
    generator.
    """

    def __init__(self, body: Body, recipe: Finetuning, *, classes: int, separate: bool) -> None:
        super().__init__()
        self.body, self.separate = body, separate
        self.pooler = pooler_config(recipe, body.width).build()
        width = body.width * (4 if separate else 1)
        self.head: TaskHead = head_config(recipe, width, classes).build()  # type: ignore[assignment]

    def features(self, batch: Batch) -> Tensor:
        """(B, D) or (B, 4·D): what the head reads."""
        pooled = self.pooled(batch)
        if not self.separate:
            return pooled
        u, v = pooled.chunk(2)
        return torch.cat([u, v, (u - v).abs(), u * v], dim=1)

    def pooled(self, batch: Batch) -> Tensor:
        """(B, D) or (2·B, D): one vector per row of tokens, first sentences first."""
        states = [self.body(rows.tokens, rows.segments, rows.types) for rows in batch.parts]
        vectors = [self.pooler(h, rows.segments != 0) for h, rows in zip(states, batch.parts, strict=True)]
        return torch.cat(vectors)[batch.places]


@torch.no_grad()
def spread(model: PairClassifier, rows: Sequence[EncodedRow], *, types: bool) -> dict[str, float]:
    """Distances between the pooled vectors: equal vectors teach a head little.

    ``cosine_of_strangers``: mean of each row's vector with the next one's; ``differing_share``: of the
    squared norm, what is not the mean vector's. Over at most ``LOOKED_AT`` rows, their first sentences.
    """
    index = np.arange(min(LOOKED_AT, len(rows)))
    was = model.training
    states = model.eval().pooled(collate(rows, index, types=types))[: len(index)].double()
    model.train(was)
    deviations = states - states.mean(dim=0)
    cosine = torch.cosine_similarity(states, states.roll(1, dims=0)).mean()
    return {
        "cosine_of_strangers": round(float(cosine), 4),
        "differing_share": round(float(deviations.square().sum() / states.square().sum()), 4),
    }


def pooler_config(recipe: Finetuning, width: int) -> BlockConfig:
    """Raises: ConfigError when the name is that of another kind of block, with the nearest pooler for a wrong
    one.
    """
    entry = lookup(recipe.pooler)
    if entry.kind != "pooler":
        raise ConfigError(
            f"finetuning.pooler: {recipe.pooler!r} is a {entry.kind}, not a pooler (arch-lab blocks lists "
            "all)"
        )
    return configure(recipe.pooler, width=width, **recipe.pooler_options)


def head_config(recipe: Finetuning, width: int, classes: int) -> BlockConfig:
    """Logits of ``classes``, or a number from 0 to 5 where there are none."""
    sizes: Options = {"width": width, "hidden": recipe.hidden, "dropout": recipe.dropout}
    return (
        ClassificationHeadConfig(classes=classes, **sizes) if classes else RangeRegressionHeadConfig(**sizes)
    )


class FineTuning(pl.LightningModule):
    """One fine-tuning: body, pooler and head at one peak rate, warm-up, cosine to zero; the last step
    counts.
    """

    def __init__(
        self, model: PairClassifier, recipe: Finetuning, *, learning_rate: float, steps: int
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.learning_rate, self.steps = model, recipe, learning_rate, steps

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        features = self.model.features(batch)
        loss: Tensor = self.model.head.loss(features, batch.targets)  # type: ignore[operator]
        return loss

    def predict_step(self, batch: Batch, batch_index: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return batch.row_numbers, self.model.head.predict(self.model.features(batch))

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(
            self.model,
            self.recipe,
            learning_rate=self.learning_rate,
            steps=self.steps,
            rules=FINE_TUNING,
        )


@dataclass(frozen=True)
class Encoded:
    """A set in the ids of one tokenizer.

    ``targets``: of the training rows; ``predicted``: the rows of the other splits, ``tuning`` among them.
    """

    train: list[EncodedRow]
    targets: Tensor
    tuning: list[EncodedRow]
    predicted: dict[str, list[EncodedRow]]
    facts: Facts


def encoded(data: GlueSet, tokenizer: Tokenizer, recipe: Finetuning, *, max_tokens: int) -> Encoded:
    longest = min(max_tokens, recipe.max_tokens)

    def ids(rows: Rows) -> list[EncodedRow]:
        return encode(tokenizer, *sentences(rows), max_tokens=longest, pairs=recipe.pairs)

    train, tuning = ids(data.train), ids(data.tuning)
    reported = {name: ids(rows) for name, rows in data.reported.items()}
    submitted = {name: ids(rows) for name, rows in data.submitted.items()}
    labels = [row.label for row in data.train]
    targets = torch.tensor(labels, dtype=torch.long if data.classes else torch.float32)
    splits = {"train": train, "tuning": tuning, **reported}
    tokens = sum(len(sentence) for row in train for sentence in row.tokens)
    facts = {
        "tokens_a_row": round(tokens / len(labels), 1),
        "rows_cut": {name: sum(row.cut for row in rows) for name, rows in splits.items()},
    }
    return Encoded(train, targets, tuning, {"tuning": tuning, **reported, **submitted}, facts)


@dataclass(frozen=True)
class Outcome:
    """``predictions`` of every split but train, in the order of its rows; None when the training diverged.

    ``spread_before``: ``spread`` of the tuning rows before the first step.
    """

    predictions: dict[str, list[float]] | None
    spread_before: dict[str, float]
    curve: tuple[tuple[int, str, float], ...]
    steps: int


def fine_tune(
    body: Body,
    data: GlueSet,
    rows: Encoded,
    recipe: Finetuning,
    *,
    learning_rate: float,
    seed: int,
    report: Report,
) -> Outcome:
    """Train ``body`` (in place) and a fresh head on ``data``, then predict.

    ``report``: called with (step, steps, loss) after every step. Draws from torch's global generator, which
    the
    caller seeds.
    """
    separate = data.paired and recipe.pairs == "separate"
    model = PairClassifier(body, recipe, classes=data.classes, separate=separate).train()
    types = bool(body.types) and data.paired and not separate
    spread_before = spread(model, rows.tuning, types=types)
    loader = TrainingLoader(
        rows.train,
        rows.targets,
        batch=recipe.batch_size,
        epochs=recipe.epochs_of(data.name),
        seed=seed,
        types=types,
    )
    module = FineTuning(model, recipe, learning_rate=learning_rate, steps=len(loader))
    divergence = Divergence(math.log(max(2, data.classes)))
    fitted = fit(
        module,
        loader,
        steps=len(loader),
        clip=recipe.clip_norm,
        callbacks=[divergence],
        report=report,
    )
    curve = fitted.curve(every=max(1, len(loader) // POINTS))
    if fitted.diverged:
        return Outcome(None, spread_before, curve, fitted.steps)
    predictions = {
        name: _predict(module, ScoringLoader(split, batch=FASTER * recipe.batch_size, types=types))
        for name, split in rows.predicted.items()
    }
    return Outcome(predictions, spread_before, curve, fitted.steps)


def _predict(module: FineTuning, loader: ScoringLoader) -> list[float]:
    """One number per row, in the order of the rows."""
    batches = predict(module, loader)
    order = torch.cat([index for index, _ in batches]).argsort()
    values: list[float] = torch.cat([prediction for _, prediction in batches])[order].tolist()
    return values
