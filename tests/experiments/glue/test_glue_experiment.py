"""GLUE from a pretrained study to submissions: equal effort, and an interruption that costs one fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from arch_lab.judge.records import FINISHED
from arch_lab.study.engine import compare
from arch_lab.study.study import Study
from arch_lab.study.trial import Trial
from tests.experiments.glue.small_glue import Made, options

pytest.importorskip("sklearn")
WHOLE: dict[str, Any] = {
    "tasks": ["sst2", "qqp", "wnli"],
    "learning_rates": [0.002, 0.004],
    "seeds": [0, 1],
    "tuning_seeds": [0],
}
INTERRUPTED = 4  # the trial in which Ctrl-C is pressed


@dataclass
class Calls:
    """A study that was interrupted and called again. ``ended``: labels of the trials that each call finished."""

    folder: Path
    study: Study
    first: list[str] = field(default_factory=list)
    second: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def calls(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Calls:
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"arms": [], **options(*made, **WHOLE)}), encoding="utf-8")
    started, ended = list[str](), (list[str](), list[str]())

    def interrupt(event: str, facts: dict[str, Any]) -> None:
        if event == "ran":
            ended[0].append(facts["label"])
        elif event == "run":
            started.append(facts["label"])
            if len(started) == INTERRUPTED:
                raise KeyboardInterrupt

    def follow(event: str, facts: dict[str, Any]) -> None:
        if event == "ran":
            ended[1].append(facts["label"])

    with pytest.raises(KeyboardInterrupt):
        compare(str(path), output=folder / "runs", observer=interrupt)
    study = compare(str(path), output=folder / "runs", observer=follow)
    assert started[-1] in ended[1]
    return Calls(folder / "runs/tiny", study, *ended)


def test_an_interruption_costs_the_fit_it_struck(calls: Calls) -> None:
    assert len(calls.first) == INTERRUPTED - 1 and not set(calls.first) & set(calls.second)
    assert len(calls.first) + len(calls.second) == calls.study.trials == len(calls.study.results)
    assert all(record.status == FINISHED for record in calls.study.results)


def test_every_arm_gets_the_same_grid(calls: Calls) -> None:
    for arm in ("gemma_encoder", "m2_bert"):
        trials = [(r.learning_rate, r.seed) for r in calls.study.records(task="sst2", arm=arm)]
        expected = [(0.002, 0), (0.004, 0), (calls.study.selected(arm, "sst2").learning_rate, 1)]
        assert set(trials) == set(expected) and len(trials) == 3


def test_absent_and_incomplete_tasks_are_named(calls: Calls) -> None:
    assert [task.name for task in calls.study.tasks] == ["sst2", "wnli"]
    assert "no train.tsv" in calls.study.absent["qqp"]
    assert "80 of 67,349" in calls.study.task("sst2").facts["incomplete"]


def test_the_baselines_are_the_majority_and_a_linear_model(calls: Calls) -> None:
    assert [arm.name for arm in calls.study.arms if arm.baseline] == ["majority", "tf_idf"]


@pytest.mark.parametrize("arm", ["gemma_encoder", "m2_bert", "majority", "tf_idf"])
def test_submissions_hold_the_predictions_of_the_seed_that_tuned_best(calls: Calls, arm: str) -> None:
    lines = (calls.folder / f"submission/{arm}/WNLI.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 147
    records = calls.study.records(task="wnli", arm=arm, reported=True)
    best = max(records, key=lambda record: record.tuned or 0.0)
    trial = Trial(task="wnli", arm=arm, learning_rate=best.learning_rate, seed=best.seed)
    predictions = json.loads((trial.folder(calls.folder) / "predictions.json").read_text())
    assert [int(line.split("\t")[1]) for line in lines[1:]] == predictions["test"]


def test_a_task_without_a_test_file_has_no_submission(calls: Calls) -> None:
    assert not (calls.folder / "submission/m2_bert/SST-2.tsv").exists()
    assert any("submission/m2_bert: WNLI.tsv" in line for line in calls.study.notes)
