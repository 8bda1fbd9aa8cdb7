"""A step in parts equals the step on the whole batch: losses, weights, masks of uneven size, whole studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from small_study import small_study
from torch import Tensor
from torch.utils.data import DataLoader

import arch_lab
from arch_lab.models import Shape, recipe
from arch_lab.study.config import Training
from arch_lab.training.accumulation import accumulate, parts_of
from arch_lab.training.optimizer import OptimizerConfig, optimizer_and_schedule
from arch_lab.training.trainer import plain_trainer, quiet_lightning
from blocks.errors import ConfigError

STEPS, ROWS, TOKENS, VOCABULARY = 50, 8, 12, 31


class Small(pl.LightningModule):
    """A small decoder that records its losses; ``sums_rows``: rows count by their number of targets."""

    def __init__(self, architecture: str, *, sums_rows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        shape = Shape(width=16, depth=2, ffn_width=32)
        self.model = recipe(architecture).model(shape, vocabulary=VOCABULARY, max_tokens=TOKENS)
        self.sums_rows = sums_rows
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        tokens, valid, count = batch
        nats = F.cross_entropy(self.model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
        return (nats * valid).sum() / count if self.sums_rows else nats.mean()

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:  # type: ignore[override]
        self.losses.append(float(outputs["loss"]))

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.model, OptimizerConfig(), learning_rate=0.01, steps=STEPS)


def batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    result = []
    for _ in range(STEPS):
        valid = torch.rand(ROWS, TOKENS, generator=generator) < torch.rand(ROWS, 1, generator=generator)
        tokens = torch.randint(VOCABULARY, (ROWS, TOKENS + 1), generator=generator)
        result.append((tokens, valid, valid.sum().clamp(min=1)))
    return result


def trained(architecture: str, rows: int | None, precision: str, *, sums_rows: bool = False) -> Small:
    module = Small(architecture, sums_rows=sums_rows)
    if rows:
        accumulate(module, rows)
    loader: Any = DataLoader(batches(), batch_size=None)  # type: ignore[arg-type]
    with quiet_lightning():
        plain_trainer(max_steps=STEPS, precision=precision, gradient_clip_val=1.0).fit(module, loader)
    return module


@pytest.mark.parametrize("sums_rows", [False, True], ids=["means", "sums"])
@pytest.mark.parametrize("architecture", ["gemma3", "m2_gpt"])
def test_fifty_steps_in_parts_equal_those_on_whole_batches(architecture: str, sums_rows: bool) -> None:
    whole, parts = (trained(architecture, rows, "64-true", sums_rows=sums_rows) for rows in (None, 2))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-10)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_in_float32_the_losses_differ_by_rounding_only() -> None:
    whole, parts = (trained("gemma3", rows, "32-true") for rows in (None, 2))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


def test_parts_hold_every_row_once_and_what_has_no_rows_each_time() -> None:
    batch = {"a": torch.arange(6), "count": torch.tensor(6)}
    parts = list(parts_of(batch, 2))
    assert torch.cat([part["a"] for part in parts]).tolist() == list(range(6))
    assert [int(part["count"]) for part in parts] == [6, 6, 6]


def test_a_micro_batch_that_does_not_divide_the_batch_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"micro_batch: 5 does not divide batch_size 12; .* is 4"):
        Training(batch_size=12, micro_batch=5)


@pytest.mark.parametrize("experiment", ["perplexity", "masked"])
def test_a_study_in_parts_scores_as_the_whole_one(tmp_path: Path, experiment: str) -> None:
    kind = {"perplexity": ["m2_gpt"], "masked": ["gemma_encoder"]}[experiment]
    options = {"gemma3": {"window": 8, "pattern": "LG"}, "gemma_encoder": {"radius": 8}}
    arms = [{"architecture": name, "options": options.get(name, {})} for name in kind]
    scores = []
    for micro in (None, 2):
        training = {"sequence_length": 32, "batch_size": 4, "evaluations": 1, "micro_batch": micro}
        budget = {"params": 6.0e4, "tokens": 5120, "tolerance": 0.05}
        path = small_study(
            tmp_path, f"in_parts_{micro}", arms=arms, experiment=experiment, training=training, budget=budget
        )
        study = arch_lab.compare(str(path), output=str(tmp_path / "runs"), quiet=True)
        scores.append({r.arm: (r.steps, r.score(study.primary.key)) for r in study.results})
    for arm, (steps, score) in scores[0].items():
        assert scores[1][arm] == (steps, pytest.approx(score, rel=1e-4)), arm


def test_filters_computed_once_per_part_cost_steps_of_the_budget(tmp_path: Path) -> None:
    """A long filter does not depend on the rows, so each part computes it anew; attention costs the same."""
    training = {"sequence_length": 32, "batch_size": 4}
    budget = {"params": 6.0e4, "train_flops": 1.6e10}
    whole, parts = (
        arch_lab.plan(str(small_study(tmp_path, budget=budget, training={**training, "micro_batch": micro})))
        for micro in (None, 2)
    )
    assert parts.arm("m2_gpt").flops_per_token > whole.arm("m2_gpt").flops_per_token
    assert parts.arm("gemma3").flops_per_token == whole.arm("gemma3").flops_per_token
    assert parts.arm("m2_gpt").steps < whole.arm("m2_gpt").steps
