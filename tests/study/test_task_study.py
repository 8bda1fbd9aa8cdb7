"""Studies over tasks in the one engine: choice, pairing, resume, refusals, files. Scores are a formula."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from arch_lab.files import OutputError
from arch_lab.judge.judge import judge
from arch_lab.judge.records import Choice, Record
from arch_lab.study.engine import compare, plan
from arch_lab.study.plan import PlannedArm
from arch_lab.study.study import read_study
from blocks.errors import ConfigError, UserError
from tests.cli.stored import tree
from tests.study.formula import STUDY, TASKS, WORTH, FormulaConfig, Run, run, write_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("formula"))


def rates(call: Run, task: str, arm: str) -> list[float | None]:
    """Learning rates of the records of an arm on a task, each once."""
    records = call.study.records(task=task, arm=arm)
    return sorted({record.learning_rate for record in records}, key=lambda rate: rate or 0.0)


# --- trials and choices ----------------------------------------------------------------------------------------


def test_every_arm_gets_the_same_grid_at_the_tuning_seeds(finished: Run) -> None:
    for arm in WORTH:
        records = finished.study.records(task="easy", arm=arm)
        assert sorted(r.learning_rate or 0.0 for r in records if r.seed == 0) == STUDY["learning_rates"]


def test_the_other_seeds_run_at_the_chosen_rate_only(finished: Run) -> None:
    for arm, (_, rate) in WORTH.items():
        records = finished.study.records(task="easy", arm=arm)
        assert [r.learning_rate for r in records if r.seed != 0] == [rate, rate]


def test_the_plan_counts_the_trials_that_are_run(finished: Run) -> None:
    assert len(finished.ran) == finished.study.trials == len(finished.study.results)


def test_an_arm_without_chance_runs_once_and_one_of_other_tasks_not_at_all(finished: Run) -> None:
    assert [r.seed for r in finished.study.records(task="easy", arm="constant")] == [0]
    assert [r.seed for r in finished.study.records(task="easy", arm="closed")] == [0, 1, 2]
    assert not finished.study.records(task="hard", arm="closed")


def test_the_rate_is_chosen_on_the_tuning_rows_whatever_the_reported_ones_say(finished: Run) -> None:
    for task in STUDY["tasks"]:
        assert finished.study.selected("strong", task) == Choice(learning_rate=0.004)
        assert finished.study.selected("weak", task) == Choice(learning_rate=0.002)
        assert finished.study.selected("constant", task) == Choice()


def test_the_grid_grows_for_all_arms_while_an_optimum_sits_on_its_edge(tmp_path: Path) -> None:
    call = run(tmp_path, learning_rates=[0.001, 0.002, 0.004], widen=2)
    assert rates(call, "easy", "weak") == rates(call, "easy", "strong") == [0.001, 0.002, 0.004, 0.008]
    assert not [line for line in call.study.warnings if "is the largest of the grid" in line]


def test_the_notes_of_an_experiment_see_the_chosen_rates_only(finished: Run) -> None:
    notes = [note for note in finished.study.notes if note.startswith("runs/easy/strong/")]
    assert notes == [f"runs/easy/strong/lr-0.004_seed-{seed}" for seed in (0, 1, 2)]


# --- the verdict -----------------------------------------------------------------------------------------------


def test_means_are_those_of_the_formula(finished: Run) -> None:
    standing = finished.study.standing("strong", "easy")
    assert standing is not None and standing.beats == ("constant",)
    assert standing.scores["accuracy"].mean == standing.medians["accuracy"] == pytest.approx(0.91)
    assert standing.scores["accuracy"].n == 3


@pytest.mark.parametrize("task", ["easy", "hard"])
def test_paired_differences_are_those_of_the_formula_in_both_directions(task: str, finished: Run) -> None:
    pairs = {(p.a, p.b): p for p in finished.study.pairs if p.task == task}
    pair = pairs["strong", "weak"]
    assert abs(pair.difference or 0.0) == pytest.approx(0.3) and pair.better == "strong", pair.text


def test_a_baseline_is_in_no_pair(finished: Run) -> None:
    assert "constant" not in {name for pair in finished.study.pairs for name in (pair.a, pair.b)}


def test_the_average_is_over_counted_tasks_and_says_which_are_absent(finished: Run) -> None:
    means = {average.arm: average.mean for average in finished.study.averages}
    # easy counts the mean of its two measures, hard counts nothing
    assert means["strong"] == pytest.approx((0.91 - 0.05 + 0.91) / 2)
    assert means["constant"] == pytest.approx((0.45 + 0.5) / 2)
    assert "Average over 2 tasks (easy, third, without qqp)" in finished.study.verdict.text
    assert finished.study.warnings[0] == "qqp is left out: no train.tsv in QQP"


def test_an_optimum_on_the_edge_of_the_grid_is_a_warning(tmp_path: Path) -> None:
    study = run(tmp_path, learning_rates=[0.001, 0.002, 0.004]).study
    warning = "easy: strong: its best learning rate 0.004 is the largest of the grid"
    assert any(line.startswith(warning) for line in study.warnings)


def test_a_single_rate_and_a_diverged_fit_are_warnings(tmp_path: Path) -> None:
    study = run(tmp_path, learning_rates=[0.016], tuning_seeds=None).study
    assert any("only one learning rate (0.016) was tried" in line for line in study.warnings)
    assert any(line.startswith("diverged and left out, 9 of ") for line in study.warnings)
    standing = study.standing("weak", "easy")
    assert standing is not None and standing.diverged_seeds == (0, 1, 2)
    assert standing.scores["accuracy"].mean is None
    assert "weak" not in {average.arm for average in study.averages if average.mean is not None}


def all_alike(arms: tuple[PlannedArm, ...], finished: Run) -> Any:
    """The judgement of a task on which every fit of these arms scores 0.5."""
    task = next(task for task in TASKS if task.name == "hard")
    records = [
        replace(record, arm=arm.name, tuned=0.5, scores={"error": 0.5})
        for arm in arms
        for record in finished.study.records(task="hard", arm=arm.name if arm.name in WORTH else "weak")
    ]
    return judge(records, (task,), arms, (), absent={})


def test_what_scores_the_same_everywhere_is_no_choice(finished: Run) -> None:
    judged = all_alike((PlannedArm(name="weak"), PlannedArm(name="strong")), finished)
    warning = "hard: strong: the score is the same at every learning rate tried, so the choice of"
    assert any(line.startswith(warning) and line.endswith("is arbitrary") for line in judged.warnings)
    assert "hard (error): weak and strong cannot be judged" in judged.verdict.text


def test_three_arms_that_score_the_same_cannot_be_judged(finished: Run) -> None:
    arms = tuple(PlannedArm(name=name) for name in ("weak", "strong", "third"))
    text = all_alike(arms, finished).verdict.text
    assert "hard (error): no two of weak, strong and third can be judged" in text


def test_one_arm_alone_has_no_verdict(finished: Run) -> None:
    records: list[Record] = finished.study.records(arm="strong")
    judged = judge(records, TASKS, (PlannedArm(name="strong"),), (), absent={})
    assert judged.verdict.text.startswith("There is only one method")


# --- files -----------------------------------------------------------------------------------------------------


def test_the_stored_study_is_the_one_that_is_returned(finished: Run) -> None:
    assert read_study(finished.folder) == finished.study
    stored = yaml.safe_load((finished.folder / "study.yaml").read_text(encoding="utf-8"))
    assert stored["tasks"] == STUDY["tasks"] and stored["name"] == "formula"


def test_every_trial_leaves_its_curve_line_by_line(finished: Run) -> None:
    path = finished.folder / "runs/easy/strong/lr-0.004_seed-1/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"step": 1, "train_loss": 2.0},
        {"step": 2, "train_loss": 1.0, "tune_accuracy": pytest.approx(0.91)},
    ]
    assert len(finished.study.curves) == len(finished.study.results)


def test_tensorboard_holds_the_curve_and_the_scores_of_a_fit(finished: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.folder / "runs/easy/strong/lr-0.004_seed-1")).Reload()
    tags = {"train/loss", "tune/accuracy", "final/accuracy", "final/f1"}
    assert tags <= set(events.Tags()["scalars"])
    assert [point.value for point in events.Scalars("train/loss")] == [2.0, 1.0]
    assert events.Scalars("final/accuracy")[0].value == pytest.approx(0.91)
    assert len(list((finished.folder / "runs").rglob("events.out.tfevents.*"))) == len(finished.ran)


def test_a_logger_holds_the_curve_and_the_scores_of_a_fit(tmp_path: Path) -> None:
    run(tmp_path, loggers=[{"class_path": "CSVLogger"}], tasks=["easy"], seeds=[0])
    path = tmp_path / "runs/formula/loggers/easy/strong/lr-0.004_seed-0/metrics.csv"
    with path.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["train/loss"] for row in table if row["train/loss"]] == ["2.0", "1.0"]
    assert float(table[-1]["final/accuracy"]) == pytest.approx(0.9)


# --- what an earlier call left ---------------------------------------------------------------------------------


def test_an_interrupted_study_goes_on_and_ends_like_an_uninterrupted_one(
    tmp_path: Path, finished: Run
) -> None:
    interrupted, ended = "hard: strong lr 0.002 seed 0", list[str]()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ended, interrupted=interrupted)
    again = run(tmp_path)
    assert interrupted in again.ran and ended and set(again.kept) == set(ended)
    same = {"environment": {}, "command": "", "identity": "", "curves": {}}
    assert replace(again.study, **same) == replace(finished.study, **same)


def test_a_repeated_study_writes_no_file_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = tree(first.folder)
    again = run(tmp_path)
    assert again.study == first.study and not again.ran
    assert tree(first.folder) == before


def test_more_seeds_and_rates_keep_what_was_fitted(tmp_path: Path) -> None:
    run(tmp_path, seeds=[0], learning_rates=[0.002, 0.004])
    more = run(tmp_path)
    assert "easy: strong lr 0.002 seed 0" in more.kept and "easy: strong lr 0.004 seed 2" in more.ran


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run(tmp_path, tasks=["easy"], seeds=[0])
    with pytest.raises(OutputError, match=r"settings\.gain changed.*never mixed"):
        run(tmp_path, tasks=["easy"], seeds=[0], gain=0.5)


@pytest.mark.parametrize(
    ("change", "lost"), [({"seeds": [0, 1]}, "2"), ({"learning_rates": [0.002, 0.004]}, "0.001, 0.008")]
)
def test_a_finished_study_is_not_made_smaller(tmp_path: Path, change: dict[str, Any], lost: str) -> None:
    first = run(tmp_path, tasks=["easy"])
    before = tree(first.folder)
    with pytest.raises(OutputError, match=rf"this call leaves out {lost} "):
        run(tmp_path, tasks=["easy"], **change)
    assert tree(first.folder) == before


def test_a_damaged_result_is_refused_and_a_deleted_one_fitted_again(tmp_path: Path) -> None:
    call = run(tmp_path, tasks=["easy"])
    trial = call.folder / "runs/easy/strong/lr-0.004_seed-1"
    (trial / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"seed-1/result.json is damaged .*; delete .*seed-1 to "):
        run(tmp_path, tasks=["easy"])
    shutil.rmtree(trial)
    assert run(tmp_path, tasks=["easy"]).ran == ["easy: strong lr 0.004 seed 1"]


def test_other_loggers_repeat_no_fit(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = tree(first.folder)
    assert not run(tmp_path, loggers=["CSVLogger"]).ran and tree(first.folder) == before


# --- processes -------------------------------------------------------------------------------------------------


def test_a_worker_process_gives_the_same_records(tmp_path: Path, finished: Run) -> None:
    path = write_study(tmp_path, tasks=["easy"])
    study = compare(str(path), output=tmp_path / "runs", executor="processes", workers=1)
    assert [replace(r, machine=None) for r in study.results] == [
        replace(r, machine=None) for r in finished.study.records(task="easy")
    ]


# --- configurations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "tasks: must not be empty"),
        ({"seeds": [0, 0]}, "seeds: must not repeat 0"),
        ({"learning_rates": [0.0]}, r"learning_rates\[0\]: must be positive, got 0"),
        ({"tuning_seeds": [7]}, "tuning_seeds must be some of seeds"),
        ({"widen": -1}, "widen: must be at least 0"),
        ({"gian": 1.0}, "did you mean 'gain'"),
    ],
)
def test_a_bad_configuration_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        FormulaConfig.from_options({"name": "formula", **STUDY, **changes}, where="study 'formula'")
    assert "\n" not in str(caught.value)


def test_a_logger_that_does_not_exist_is_refused_by_its_key(tmp_path: Path) -> None:
    path = write_study(tmp_path, loggers=["CSVLoger"])
    message = r"study 'formula'\.loggers\[0\]\.class_path: .* did you mean 'CSVLogger'"
    with pytest.raises(ConfigError, match=message):
        plan(str(path))


def test_data_root_and_overrides_go_through_the_keys_of_the_experiment(tmp_path: Path) -> None:
    path = str(write_study(tmp_path))
    overrides = ["seeds=[0]", "tuning_seeds=[0]"]
    planned = plan(path, overrides=overrides, data_root=str(tmp_path), threads=1)
    assert planned.seeds == (0,) and planned.trials == 3 * (2 * 4 + 1) + 2
    with pytest.raises(ConfigError, match="did you mean 'seeds'"):
        plan(path, overrides=["sedes=[0]"], threads=1)
