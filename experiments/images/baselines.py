"""What an image model must beat to have learned anything: the class shares, and a linear model of the pixels.

Legend: N images, F = C·H·W pixels of an image, K classes.
Both see the training images without augmentation and are scored like the models. The linear one is
multinomial logistic regression
trained by Adam in the order of seed 0, its epoch chosen on the tuning split: what one matrix gets out of raw
pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch_lab.judge.records import Baseline
from experiments.images.data import ImageOrder, ImageSplit, PreparedImages, scoring_batches
from experiments.images.model import image_metrics

EPOCHS, BATCH, RATE = 6, 250, 1e-3


def image_baselines(data: PreparedImages) -> list[Baseline]:
    """Majority class and linear softmax on the test split, worst first."""
    return [
        Baseline(name="majority class", scores=_majority(data)),
        Baseline(name="linear softmax", scores=_linear(data)),
    ]


def _majority(data: PreparedImages) -> dict[str, float]:
    """The class shares of the training split as one answer for every image; among equal shares the first
    class.
    """
    counts = torch.bincount(torch.from_numpy(data.train.labels).long(), minlength=data.vocabulary)
    scores = torch.log(counts / counts.sum())
    return _scored(lambda images: scores.expand(len(images), -1), data.test, data)


def _linear(data: PreparedImages) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(data.train.pixels[0].size, data.vocabulary)
    nn.init.zeros_(model.weight)
    order = ImageOrder(data, batch=min(BATCH, len(data.train)), seed=0, augmentation="none")
    steps = EPOCHS * order.steps_per_epoch
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=1.0, end_factor=0.05, total_iters=steps
    )
    best, best_weights = float("inf"), _copied(model)
    for step in range(steps):
        images, labels = order.batch(step)
        loss = F.cross_entropy(model(images.flatten(1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % order.steps_per_epoch == 0:
            nats = _scored(lambda images: model(images.flatten(1)), data.tune, data)["cross_entropy"]
            if nats < best:
                best, best_weights = nats, _copied(model)
    model.load_state_dict(best_weights)
    return _scored(lambda images: model(images.flatten(1)), data.test, data)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def _scored(scores: Any, split: ImageSplit, data: PreparedImages) -> dict[str, float]:
    metrics = image_metrics()
    for images, labels in scoring_batches(split, data, batch=1000):
        metrics.update(scores(images), labels)
    return {name: float(value) for name, value in metrics.compute().items()}
