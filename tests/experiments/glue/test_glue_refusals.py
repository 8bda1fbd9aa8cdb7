"""What a study of GLUE refuses before anything is fitted, each in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arch_lab import sealed
from arch_lab.budget import BudgetError
from arch_lab.checkpoints import CheckpointError
from blocks.errors import ConfigError, UserError
from tests.experiments.glue.small_glue import Made, opened

pytest.importorskip("sklearn")
Change = Callable[[dict[str, Any]], None]


def changed_study(made: Made, folder: Path, change: Change) -> Made:
    study = shutil.copytree(made[0], folder / "study")
    content = json.loads((study / "study.json").read_text())
    change(content)
    sealed.write(study / "study.json", content)
    return study, made[1]


def test_arms_that_do_not_meet_one_budget_are_refused(made: Made, tmp_path: Path) -> None:
    def twice(study: dict[str, Any]) -> None:
        study["arms"][1]["steps"] *= 2

    with pytest.raises(BudgetError, match="m2_bert"):
        opened(changed_study(made, tmp_path, twice))


def of_another_experiment(study: dict[str, Any]) -> None:
    study["experiment"] = "perplexity"


def without_a_choice(study: dict[str, Any]) -> None:
    for standing in study["summary"]:
        standing["learning_rate"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            of_another_experiment,
            "is a study of experiment 'perplexity'; this study needs a masked study",
        ),
        (without_a_choice, "arm 'gemma_encoder' of .* has no finished run"),
    ],
)
def test_a_pretraining_that_cannot_be_used_is_named_in_one_line(
    made: Made, tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        opened(changed_study(made, tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_pretraining_or_an_arm_that_is_not_there_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/study\.json not found"):
        opened((tmp_path / "nowhere", made[1]))
    with pytest.raises(ConfigError, match="has no arm 'm2_brt'; did you mean 'm2_bert'"):
        opened(made, arms=["m2_brt"])


def test_damaged_weights_are_refused(made: Made, tmp_path: Path) -> None:
    damaged = changed_study(made, tmp_path, lambda study: None)
    weights = next((damaged[0] / "runs/m2_bert").glob("*/model.ckpt"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.ckpt is missing or damaged"):
        opened(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["sts-b"]}, "unknown GLUE task 'sts-b'; did you mean 'stsb'"),
        ({"finetuning": {"pooler": "meen"}}, "unknown block 'meen'; did you mean 'mean'"),
        ({"finetuning": {"pooler": "rms_norm"}}, "'rms_norm' is a norm, not a pooler"),
        ({"finetuning": {"task_epochs": {"mrcp": 2}}}, "unknown task 'mrcp'; did you mean 'mrpc'"),
        ({"finetuning": {"task_epochs": {"mrpc": 0}}}, r"finetuning.task_epochs.mrpc: "),
        ({"finetuning": {"epoch": 2}}, "unknown option 'epoch'; did you mean 'epochs'"),
        ({"finetuning": {"dropout": 1.0}}, "finetuning.dropout: must be below 1, got 1"),
        ({"data": {"incomplete": ["colla"]}}, "unknown GLUE task 'colla'; did you mean 'cola'"),
        ({"from_mnli": {"learning_rate": 0.001, "tasks": ["cola"]}}, "'cola' is not one of rte, mrpc, stsb"),
        ({"arms": ["m2_bert", "m2_bert"]}, "arms: must not repeat"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_fitted(
    made: Made, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        opened(made, **changes)
    assert "\n" not in str(caught.value)
