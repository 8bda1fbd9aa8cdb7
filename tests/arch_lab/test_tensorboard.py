"""Events as TensorBoard reads them: tags, no false points, and the HParams table of a real server."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")

from arch_lab.judge.records import Record
from arch_lab.report.event_figures import write_figures
from arch_lab.study import events
from arch_lab.study.events import TrialLog, write_experiment
from arch_lab.study.loggers import TrialNames
from arch_lab.study.plan import PlannedArm
from arch_lab.study.study import read_study
from arch_lab.study.trial_loggers import TrialLoggers
from tests.study_fixture import make_study, run_folder, write_study

FINAL = {
    "bits_per_byte": 1.9,
    "perplexity": 30.0,
    "word_perplexity": 900.0,
    "tokens_per_second": 5e4,
    "peak_memory_mib": 3.0,
}


TAGS = [f"final/{key}" for key in FINAL]  # the columns of the table


def log_of(folder: Path, **hparams: Any) -> TrialLog:
    """The log of a trial in ``folder`` that no other logger follows."""
    return TrialLog(folder, hparams, TrialLoggers([], TrialNames(folder, "quickstart", "trial")))


def hparams(arm: PlannedArm, record: Record) -> dict[str, Any]:
    return {
        "architecture": arm.architecture,
        "arm": arm.name,
        "width": arm.width,
        "depth": arm.depth,
        "learning_rate": record.learning_rate,
        "seed": record.seed,
        "parameters": 1_000_000,
        "train_flops": arm.train_flops,
    }


def record(step: int, loss: float = 2.0) -> dict[str, float]:
    base = {
        "step": step,
        "tokens": 100 * step,
        "flops": 1e6 * step,
        "seconds": 0.5 * step,
        "learning_rate": 0.01,
    }
    return base | {"train_loss": loss, "gradient_norm": 1.0}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_loss_is_drawn_against_steps_and_against_tokens(tmp_path: Path) -> None:
    log = log_of(tmp_path, arm="a")
    log.record(record(10))
    log.record({"step": 10, "tokens": 1000, "tune_bits_per_byte": 2.5})
    log.close()
    seen = scalars(tmp_path)
    assert (seen["train/loss"], seen["train/loss_by_tokens"]) == ([(10, 2.0)], [(1000, 2.0)])
    assert (seen["tune/bits_per_byte"], seen["tune/bits_per_byte_by_tokens"]) == ([(10, 2.5)], [(1000, 2.5)])


def test_throughput_follows_from_tokens_and_seconds(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    for step in (1, 2, 3):
        log.record(record(step))
    log.close()
    assert scalars(tmp_path)["train/tokens_per_second"] == [(2, 200.0), (3, 200.0)]


def test_final_metrics_are_written_once_at_the_last_step(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.record(record(7))
    log.close(FINAL)
    finals = {tag: points for tag, points in scalars(tmp_path).items() if tag.startswith("final/")}
    assert set(finals) == {f"final/{key}" for key in events.metric_columns(make_study())}
    assert all([step for step, _ in points] == [7] for points in finals.values())


def test_a_diverged_run_writes_no_false_metric(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.record(record(1, float("nan")))
    log.close(None)
    seen = scalars(tmp_path)
    assert "train/loss" not in seen and "hp_metric" not in seen
    assert not any(tag.startswith("final/") for tag in seen)


def test_a_resumed_run_does_not_double_back(tmp_path: Path) -> None:
    killed = log_of(tmp_path)
    for step in (1, 2, 3):
        killed.record(record(step))
    killed.close()
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record(s)) + "\n" for s in (1, 2)))
    resumed = log_of(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as curve:  # training appends before it hands the record on
        curve.write(json.dumps(record(3, 1.5)) + "\n")
    resumed.record(record(3, 1.5))
    resumed.close()
    assert scalars(tmp_path)["train/loss"] == [(1, 2.0), (2, 2.0), (3, 1.5)]


def test_other_writers_events_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "events.out.tfevents.1.somebody"
    foreign.touch()
    log_of(tmp_path).close()
    assert foreign.exists()


def test_figures_and_verdict_reach_the_study_root(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = write_study(tmp_path / "s", exponents=(-8,), seeds=1)
    for _ in range(2):  # a second call replaces the first
        write_figures(folder, read_study(folder))
    read = EventAccumulator(str(folder))
    read.Reload()
    tags = read.Tags()
    assert "report/loss" in tags["images"] and "verdict/text_summary" in tags["tensors"]
    assert len(read.Images("report/loss")) == 1


def test_charts_of_every_measure_are_laid_out(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    study = make_study()
    write_experiment(tmp_path, study)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    (stored,) = read.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(stored.tensor_proto.string_val[0])
    titles = {category.title: [chart.title for chart in category.chart] for category in layout.category}
    curve = [study.primary.name]  # other measures have no curve: their charts would be empty
    assert titles == {
        "tune split, by step": curve,
        "tune split, by tokens": curve,
        "training": ["training loss"],
        "held-out split, single values": [m.name for m in study.measures],
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A TensorBoard over two studies with different arms; yields its address and the number of finished runs."""
    root = tmp_path_factory.mktemp("runs")
    finished = 0
    for name, arms in (("first", ("gemma3", "m2_gpt")), ("second", ("gemma1", "hybrid_<b>"))):
        folder = write_study(
            root / name, name=name, arms=arms, seeds=1, exponents=(-9, -8), diverged=(("m2_gpt", -8, 0),)
        )
        study = read_study(folder)
        write_experiment(folder, study)
        for result in study.results:
            log = log_of(run_folder(folder, result), **hparams(study.arm(result.arm), result))
            log.close(FINAL if result.status == "finished" else None)
            finished += result.status == "finished"
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(root),
        "--port",
        "0",
        "--host",
        "127.0.0.1",
        "--load_fast",
        "false",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = next(m[0] for line in process.stderr if (m := re.search(r"http://[\d.:]+", line)))
        yield address, finished
    finally:
        process.terminate()
        process.wait(20)


def ask(address: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"{address}/data/plugin/hparams/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def session_groups(address: str, expected: int) -> list[dict]:
    """Polls until the server has read every event file (it loads in the background)."""
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    columns = [{"metric": {"group": "", "tag": tag}} for tag in TAGS]
    query = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": statuses, "colParams": columns}
    groups: list[dict] = []
    for _ in range(120):
        with contextlib.suppress(urllib.error.HTTPError):  # nothing loaded yet
            groups = ask(address, "session_groups", query).get("sessionGroups", [])
        if len(groups) == expected:
            return groups
        time.sleep(0.25)
    return groups


@pytest.mark.slow
def test_the_hparams_table_has_every_declared_column(server: tuple[str, int]) -> None:
    session_groups(server[0], 8)
    experiment = ask(server[0], "experiment", {})
    assert {h["name"] for h in experiment["hparamInfos"]} == set(events.HPARAMS) - {"task"}
    assert [m["name"]["tag"] for m in experiment["metricInfos"]] == TAGS


@pytest.mark.slow
def test_every_finished_run_of_every_study_has_real_metrics(server: tuple[str, int]) -> None:
    groups = session_groups(server[0], 8)
    assert len(groups) == 8
    measured = [
        g
        for g in groups
        if {m["name"]["tag"] for m in g.get("metricValues", []) if "value" in m} == set(TAGS)
    ]
    assert len(measured) == server[1]
    assert {g["hparams"]["arm"] for g in groups} == {"gemma3", "m2_gpt", "gemma1", "hybrid_<b>"}
    assert all(m["value"] > 0 for g in measured for m in g["metricValues"])
