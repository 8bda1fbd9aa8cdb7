"""The loop that experiments train with: steps, losses, divergence, Ctrl-C, and the optimizer that all share."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from arch_lab.training.callbacks import Divergence
from arch_lab.training.fit import FitResult, fit, predict
from arch_lab.training.optimizer import CONSTANT_ADAM, OptimizerConfig, optimizer_and_schedule


class Line(pl.LightningModule):
    """One weight times each number of a batch; ``losses`` replace the loss of a step by number."""

    def __init__(
        self, losses: dict[int, Any] | None = None, options: OptimizerConfig = CONSTANT_ADAM
    ) -> None:
        super().__init__()
        self.weight, self.losses, self.options = nn.Parameter(torch.tensor([2.0])), losses or {}, options

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        factor = self.losses.get(index, 1.0)
        if isinstance(factor, BaseException):
            raise factor
        return (self.weight * batch).square().mean() * factor

    def predict_step(self, batch: Tensor, index: int) -> Tensor:
        return self.weight * batch

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self, self.options, learning_rate=0.1, steps=4, fused=False)


BATCHES = [torch.tensor([float(i), 1.0]) for i in range(5)]
LOADER: Any = DataLoader(BATCHES, batch_size=None)  # type: ignore[arg-type]


def test_every_step_has_a_loss_and_the_curve_means_over_whole_stretches() -> None:
    result = fit(Line(), LOADER, steps=5)
    assert result.steps == len(result.losses) == 5 and not result.diverged
    first, second, third, fourth, _ = result.losses
    assert result.curve(2) == (
        (2, "train/loss", pytest.approx((first + second) / 2)),
        (4, "train/loss", pytest.approx((third + fourth) / 2)),
    )
    assert result.curve() == tuple(
        (step, "train/loss", loss) for step, loss in enumerate(result.losses, start=1)
    )


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    result = fit(Line({2: math.nan}), LOADER, steps=5, callbacks=[Divergence(math.inf)])
    assert result.steps == 3 and result.diverged


def test_a_run_that_diverges_at_its_last_step_has_diverged() -> None:
    assert fit(Line({4: math.inf}), LOADER, steps=5).diverged
    assert not FitResult(steps=0, losses=(), diverged=False).curve()


def test_an_interrupt_inside_a_step_arrives_as_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Line({1: KeyboardInterrupt()}), LOADER, steps=5)


def test_predictions_are_those_of_the_trained_weights() -> None:
    module = Line()
    fit(module, LOADER, steps=5)
    assert torch.equal(
        torch.stack(predict(module, LOADER)),
        torch.stack([module.weight.detach() * batch for batch in BATCHES]),
    )


def test_constant_adam_is_adam_bit_for_bit() -> None:
    ours, theirs = Line(), nn.Parameter(torch.tensor([2.0]))
    fit(ours, LOADER, steps=5)
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    for batch in BATCHES:
        optimizer.zero_grad()
        (theirs * batch).square().mean().backward()
        optimizer.step()
    assert torch.equal(ours.weight, theirs)


def test_the_schedule_ends_at_the_share_that_the_options_name() -> None:
    built = optimizer_and_schedule(
        Line(), OptimizerConfig(final_fraction=0.25, warmup_fraction=0.0), learning_rate=0.1, steps=4
    )
    schedule = built["lr_scheduler"]["scheduler"]
    for _ in range(4):
        schedule.optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(0.025)]
