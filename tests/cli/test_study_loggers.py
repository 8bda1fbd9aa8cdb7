"""The key ``loggers`` of a study: what they are given, what they may not change, and how they fail."""

from __future__ import annotations

import csv
import importlib.util
import json
import random
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger

from arch_lab.judge.records import Record
from arch_lab.study.storage import records_of
from tests.cli import stored
from tests.cli.test_page_commands import fenced

HERE = "tests.cli.test_study_loggers.Journal"
CSV = "lightning.pytorch.loggers.CSVLogger"
TRIAL = "gemma1/lr-0.004_seed-0"
RUN = f"runs/small/runs/{TRIAL}"
JOURNAL = f"runs/small/loggers/{TRIAL}/journal.jsonl"
TAGS = {
    "train_loss": "train/loss",
    "gradient_norm": "train/gradient_norm",
    "tune_bits_per_byte": "tune/bits_per_byte",
}


class Journal(Logger):
    """One line of JSON per call; draws random numbers, prints, and fails where it is told to."""

    def __init__(self, save_dir: str, name: str, project: str, fail: str = "", at: int = 0) -> None:
        self.path = Path(save_dir) / name / "journal.jsonl"
        self.project, self.fail, self.at = project, fail, at
        self.note("start", project)

    name = "journal"  # type: ignore[assignment]
    version = 0  # type: ignore[assignment]

    def note(self, call: str, content: Any, step: int = 0) -> None:
        print("journal:", call)
        torch.rand(3), np.random.rand(3), random.random()
        if call == self.fail and step >= self.at:
            raise RuntimeError("the journal\nis full")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps([call, content, step]) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:  # type: ignore[override]
        self.note("hyperparameters", params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.note("metrics", metrics, step or 0)

    def finalize(self, status: str) -> None:
        self.note("end", status)


def failing(call: str, at: int = 0) -> dict[str, Any]:
    return {"class_path": HERE, "init_args": {"fail": call, "at": at}}


def study_with(folder: Path, loggers: list[Any]) -> Path:
    stored.write_study(folder, arms=stored.ARMS[:1], loggers=loggers)
    return folder


def certified(folder: Path, loggers: list[Any], logged: Path) -> Path:
    """``study_with`` beside the certificate of the same arm, which is then not made again."""
    shutil.copytree(logged / "runs/small/certificates", folder / "runs/small/certificates")
    return study_with(folder, loggers)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / f"runs/small/loggers/{TRIAL}/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def result_of(folder: Path) -> Record:
    content = json.loads((folder / RUN / "result.json").read_text())
    return records_of(content)[0]


def scores(folder: Path) -> tuple[float, float]:
    result = result_of(folder)
    assert result.tuned is not None
    return result.scores["bits_per_byte"], result.tuned


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with two loggers, to read."""
    folder = study_with(tmp_path_factory.mktemp("logged"), [CSV, HERE])
    done = stored.compare(folder, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["study"] == "small" and "journal: metrics" in done.err
    return folder


@pytest.fixture(scope="module")
def plain_scores(logged: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, float]:
    """The scores of the same study without loggers."""
    folder = certified(tmp_path_factory.mktemp("plain"), [], logged)
    assert stored.compare(folder, "--quiet").code == 0
    assert not (folder / "runs/small/loggers").exists()
    return scores(folder)


def test_a_csv_logger_holds_every_record_of_the_run(logged: Path) -> None:
    table = [row for row in rows(logged) if not row["final/bits_per_byte"]]
    records = lines(logged / RUN / "metrics.jsonl")
    assert [int(row["step"]) for row in table] == [record["step"] for record in records]
    for key, tag in TAGS.items():
        assert [row[tag] for row in table] == [
            str(record[key]) if key in record else "" for record in records
        ]


def test_a_csv_logger_ends_with_the_scores_of_the_result(logged: Path) -> None:
    result, final = result_of(logged), rows(logged)[-1]
    for key, value in {**result.scores, "tokens_per_second": result.tokens_per_second}.items():
        assert float(final[f"final/{key}"]) == value
    assert int(final["step"]) == result.steps


def test_a_csv_logger_has_the_tags_of_tensorboard(logged: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / RUN))
    events.Reload()
    tags = {tag for tag in events.Tags()["scalars"] if not tag.endswith("_by_tokens")}
    assert tags == set(rows(logged)[0]) - {"step"}


def test_a_logger_of_the_users_own_is_called_in_order(logged: Path) -> None:
    calls = lines(logged / JOURNAL)
    assert [call[0] for call in calls[:2]] == ["start", "hyperparameters"] and calls[0][1] == "small"
    assert calls[1][1]["learning_rate"] == 0.004 and calls[1][1]["arm"] == "gemma1"
    assert {call[0] for call in calls[2:-1]} == {"metrics"} and calls[-1][:2] == ["end", "success"]


def test_loggers_change_no_number(logged: Path, plain_scores: tuple[float, float]) -> None:
    assert scores(logged) == plain_scores


@pytest.mark.parametrize("loggers", [[], [failing("start")]])
def test_a_finished_study_accepts_other_loggers(logged: Path, tmp_path: Path, loggers: list[Any]) -> None:
    folder = tmp_path / "work"
    shutil.copytree(logged, folder)
    before = stored.tree(folder / "runs")
    done = stored.compare(folder, "--set", f"loggers={json.dumps(loggers)}")
    assert done.code == 0 and "already finished" in done.err
    assert stored.tree(folder / "runs") == before


def test_a_failing_logger_costs_no_training(
    logged: Path, tmp_path: Path, plain_scores: tuple[float, float]
) -> None:
    folder = certified(tmp_path, [CSV, failing("metrics", at=11)], logged)
    done = stored.compare(folder)
    line = Journal.note.__code__.co_firstlineno + 4
    assert done.code == 2 and done.last.startswith(
        "error: study 'small'.loggers[1]: Journal failed at step 11 of gemma1/lr-0.004_seed-0: "
    )
    assert (
        f"test_study_loggers.py line {line}, in note: RuntimeError: the journal is full; fix it" in done.last
    )
    first = rows(folder)
    assert (folder / RUN / "last.ckpt").exists() and len(first) == 11
    assert stored.compare(folder, "--set", f"loggers=[{CSV}, {HERE}]", "--quiet").code == 0
    assert scores(folder) == plain_scores
    trained = [row for row in rows(folder) if row["train/loss"]]
    assert [int(row["step"]) for row in trained] == list(range(1, 31))
    assert [row["train/loss"] for row in trained[:11]] == [row["train/loss"] for row in first]
    journal = lines(folder / JOURNAL)
    resumed = journal[journal.index(["end", "failed", 0]) + 1 :]
    assert [step for call, content, step in resumed if call == "metrics" and "train/loss" in content] == list(
        range(1, 31)
    )


@pytest.mark.parametrize("call", [failing("metrics", at=30), failing("end")])
def test_a_logger_that_fails_at_the_end_costs_no_result(
    call: dict[str, Any], logged: Path, tmp_path: Path, plain_scores: tuple[float, float]
) -> None:
    folder = certified(tmp_path, [call], logged)
    done = stored.compare(folder)
    assert done.code == 2 and "Journal failed at " in done.last and "the journal is full" in done.last
    assert scores(folder) == plain_scores
    before = stored.tree(folder / RUN)
    assert stored.compare(folder, "--quiet").code == 0
    assert stored.tree(folder / RUN) == before


@pytest.mark.parametrize("call", ["start", "hyperparameters"])
def test_a_logger_that_cannot_start_trains_nothing(call: str, logged: Path, tmp_path: Path) -> None:
    folder = certified(tmp_path, [HERE, failing(call)], logged)
    done = stored.compare(folder)
    assert done.code == 2 and "error: study 'small'.loggers[1]: Journal cannot start: " in done.last
    assert "in note: RuntimeError: the journal is full; fix that, or remove it from loggers" in done.last
    assert not (folder / RUN / "metrics.jsonl").exists()
    assert lines(folder / JOURNAL)[-1][:2] == ["end", "failed"]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_without_its_package_is_refused_before_certificates(tmp_path: Path) -> None:
    done = stored.compare(study_with(tmp_path, ["WandbLogger"]))
    assert (
        done.code == 2
        and "loggers[0]: WandbLogger cannot start: ModuleNotFoundError: " in done.last
        and "pip install" in done.last
    )
    assert not (tmp_path / "runs/small/certificates").exists()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("CSVLoger", ".class_path: 'lightning.pytorch.loggers.CSVLoger': module"),
        ("CSVLoger", "did you mean 'CSVLogger'?"),
        ("absent_module.Thing", ".class_path: 'absent_module.Thing': cannot import module 'absent_module'"),
        (
            "collections.Counter",
            ".class_path: collections.Counter is not a logger: derive it from lightning.pytorch.loggers.Logger",
        ),
        (
            "pytorch_lightning.loggers.CSVLogger",
            "is not a logger; did you mean lightning.pytorch.loggers.CSVLogger?",
        ),
        (
            "lightning.pytorch.loggers.Logger",
            "is abstract: it lacks log_hyperparams, log_metrics, name, version",
        ),
        ("a/b", ".class_path: must be an import path package.module.Class, got 'a/b'"),
        ({"class": CSV}, ": unknown option 'class'; did you mean 'class_path'?"),
        (
            {"class_path": CSV, "init_args": {"nam": "x"}},
            ".init_args: CSVLogger has no argument 'nam'; did you mean 'name'?",
        ),
        (
            {"class_path": CSV, "init_args": {"flush_logs_every_n_steps": "x"}},
            "flush_logs_every_n_steps: expected int, got 'x'",
        ),
        (
            {"class_path": CSV, "init_args": {"name": "../x"}},
            ".init_args.name: '../x' leads out of the study's folder; give save_dir",
        ),
        (
            {"class_path": CSV, "init_args": {"name": "/x"}},
            ".init_args.name: '/x' leads out of the study's folder; give save_dir",
        ),
        (
            {"class_path": CSV, "init_args": {"name": "x", "version": "y"}},
            "with both name and version, every trial replaces the file",
        ),
    ],
)
def test_a_logger_that_is_none_is_refused_by_its_key(entry: Any, words: str, tmp_path: Path) -> None:
    done = stored.run(study_with(tmp_path, [entry]), "plan", "small.yaml", "--threads", "1")
    assert done.code == 2 and done.err.count("\n") == 1
    assert done.last.startswith("error: study 'small'.loggers[0]") and words in done.last


def test_a_study_of_throughput_has_no_loggers(tmp_path: Path) -> None:
    done = stored.run(tmp_path, "plan", "throughput", "--set", f"loggers=[{CSV}]")
    assert done.code == 2 and done.last.startswith("error: study 'throughput': unknown option 'loggers'")


def test_two_loggers_of_one_file_are_refused(tmp_path: Path) -> None:
    done = stored.run(study_with(tmp_path, [CSV, CSV]), "plan", "small.yaml", "--threads", "1")
    assert done.code == 2 and "loggers[1]: writes the same file as study 'small'.loggers[0]" in done.last


def test_a_link_out_of_the_study_is_not_followed(tmp_path: Path) -> None:
    folder = study_with(tmp_path / "work", [CSV])
    (folder / "runs/small").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "runs/small/loggers").symlink_to(tmp_path / "elsewhere")
    done = stored.compare(folder)
    assert done.code == 2 and "leads out of runs/small" in done.last
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_example_of_the_page_writes_two_tables(logged: Path, tmp_path: Path) -> None:
    loggers = yaml.safe_load(fenced("docs/runs.md", "yaml", "loggers:"))["loggers"]
    folder = certified(tmp_path, loggers, logged)
    done = stored.compare(folder, "--quiet")
    assert done.code == 0, done.err
    assert len(rows(folder)) == 34
    assert "study-train/loss" in (folder / f"tables/{TRIAL}/metrics.csv").read_text().partition("\n")[0]


def test_a_logger_may_be_named_on_the_command_line(logged: Path, tmp_path: Path) -> None:
    folder = certified(tmp_path, [], logged)
    assert (
        stored.compare(folder, "--set", "loggers=[lightning.pytorch.loggers.CSVLogger]", "--quiet").code == 0
    )
    assert len(rows(folder)) == len(rows(logged))
