"""A study from file to verdict: what is written, what is kept, what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import arch_lab
from arch_lab import sealed
from arch_lab.budget import BudgetError
from arch_lab.files import OutputError
from arch_lab.laws import LeakError
from arch_lab.models import recipe
from arch_lab.sealed import DamagedError
from arch_lab.study.study import Study, read_study
from blocks.errors import UserError
from tests.small_study import small_study

ROOT = Path(__file__).resolve().parents[2]
Compared = tuple[Path, Study]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """One small comparison, run once for every test that only looks at it."""
    folder = tmp_path_factory.mktemp("study")
    path = small_study(folder, seeds=[0, 1])
    result = arch_lab.compare(str(path), output=folder / "runs", cache=folder / "cache", quiet=True)
    return folder, result


def _scores(study: Study) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    return {(r.arm, r.learning_rate, r.seed): (r.tuned, r.scores) for r in study.results}


def test_study_json_holds_the_study(compared: Compared) -> None:
    folder, study = compared
    assert read_study(folder / "runs/small") == study
    stored = json.loads((folder / "runs/small/study.json").read_text())
    assert stored.pop(sealed.CHECKSUM) and stored == json.loads(json.dumps(study.to_json()))


def test_a_study_is_its_plan_with_results_and_a_verdict(compared: Compared) -> None:
    study = compared[1]
    assert study.matched and not study.override and study.verdict.text and study.environment["torch"]
    for arm in study.arms:
        assert set(arm.parameters) == {"embedding", "head", "body", "total"}
        assert arm.train_flops == pytest.approx(arm.flops_per_token * arm.tokens)
    assert [b.name for b in study.baselines] == ["unigram", "bigram", "trigram", "byte 4-gram"]


def test_every_run_has_finite_scores_and_a_speed(compared: Compared) -> None:
    results = compared[1].results
    assert {(r.arm, r.seed) for r in results} == {(a, s) for a in ("gemma3", "m2_gpt") for s in (0, 1)}
    for r in results:
        assert r.status == "finished" and r.tokens_per_second > 0
        assert all(map(math.isfinite, (r.tuned, *r.scores.values())))


def test_the_plan_counts_the_models_that_are_built(compared: Compared) -> None:
    for arm in compared[1].arms:
        model = recipe(arm.architecture, arm.options).model(arm.shape, vocabulary=257, max_tokens=32)
        assert arm.parameters["total"] == sum(p.numel() for p in model.parameters())
        assert arm.parameters["body"] == pytest.approx(60_000, rel=0.01)
        assert arm.train_flops == pytest.approx(1.6e9, rel=0.01)


def test_models_learn_more_than_the_unigram(compared: Compared) -> None:
    unigram = compared[1].baselines[0].scores["bits_per_byte"]
    assert all(r.scores["bits_per_byte"] < unigram for r in compared[1].results)


def test_report_table_certificates_and_events_are_written(compared: Compared) -> None:
    study = compared[0] / "runs/small"
    assert "bits per byte" in (study / "report.html").read_text()
    assert (study / "results.csv").read_text().count("\n") == 5
    for arm in ("gemma3", "m2_gpt"):
        assert json.loads((study / f"certificates/{arm}.json").read_text())["passed"] is True
    assert list(study.glob("events.out.tfevents*"))
    assert len(list(study.glob("runs/*/*/events.out.tfevents*"))) == 4


def test_a_second_call_keeps_every_run(compared: Compared) -> None:
    folder, first = compared
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs/small/runs").rglob("result.json")}
    again = arch_lab.compare(
        str(folder / "small.yaml"), output=folder / "runs", cache=folder / "cache", quiet=True
    )
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "runs/small/runs").rglob("result.json")}
    assert _scores(again) == _scores(first)


def test_the_stored_study_file_is_the_study(compared: Compared) -> None:
    folder, first = compared
    plan = arch_lab.plan(str(folder / "runs/small/study.yaml"))
    assert [a.parameters for a in plan.arms] == [a.parameters for a in first.arms]


def test_a_changed_study_is_refused_not_mixed(compared: Compared) -> None:
    folder, _ = compared
    with pytest.raises(OutputError, match=r"another configuration \(training.weight_decay changed\)"):
        arch_lab.compare(
            str(folder / "small.yaml"),
            overrides=["training.weight_decay=0.2"],
            output=folder / "runs",
            cache=folder / "cache",
            quiet=True,
        )


def test_a_run_loads_as_the_model_that_was_scored(compared: Compared) -> None:
    folder, result = compared
    run = arch_lab.load(folder / "runs/small/runs/m2_gpt/lr-0.004_seed-1")
    assert run.result == next(r for r in result.results if r.arm == "m2_gpt" and r.seed == 1)
    assert torch.isfinite(run.model(torch.arange(20)[None])).all()


@torch.no_grad()
def test_a_run_is_read_aloud_wherever_it_is_copied(compared: Compared, tmp_path: Path) -> None:
    for arm in ("gemma3", "m2_gpt"):
        moved = tmp_path / arm
        shutil.copytree(compared[0] / f"runs/small/runs/{arm}/lr-0.004_seed-0", moved)
        run, ids = arch_lab.load(moved), [256, *b"Import"]  # a document begins with its separator
        for _ in range(6):
            ids.append(int(run.model(torch.tensor([ids]))[0, -1].argmax()))
        assert (
            run.tokenizer.kind == "bytes"
            and arch_lab.generate(moved, "Import", max_tokens=6).tokens == ids[-6:]
        )
    with pytest.raises(UserError, match="is a study of 4 runs; give one of them"):
        arch_lab.generate(compared[0] / "runs/small", "Import")


def test_a_run_is_handed_on_where_the_other_format_knows_its_architecture(
    compared: Compared, tmp_path: Path
) -> None:
    runs = compared[0] / "runs/small/runs"
    done = arch_lab.convert(runs / "gemma3/lr-0.004_seed-0", tmp_path / "theirs", to="huggingface")
    assert done.parameters == sum(
        p.numel() for p in arch_lab.load(runs / "gemma3/lr-0.004_seed-0").model.parameters()
    )
    arch_lab.convert(tmp_path / "theirs", tmp_path / "ours")
    with pytest.raises(
        UserError, match="'m2_gpt' has no Hugging Face form; those that do: gemma1, gemma2, gemma3"
    ):
        arch_lab.convert(runs / "m2_gpt/lr-0.004_seed-0", tmp_path / "none", to="huggingface")


def test_a_damaged_checkpoint_is_not_loaded(compared: Compared, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(compared[0] / "runs/small/runs/gemma3/lr-0.004_seed-0", copy)
    content = bytearray((copy / "model.ckpt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (copy / "model.ckpt").write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.ckpt was edited or damaged"):
        arch_lab.load(copy)


def test_a_leaking_block_is_refused_before_any_metric(tmp_path: Path) -> None:
    arms = [
        {
            "architecture": "custom",
            "name": "leaky",
            "options": {"mixer": "tests.leaky_blocks:CircularConvolution"},
        }
    ]
    path = small_study(tmp_path, arms=arms)
    with pytest.raises(LeakError, match=r"arm 'leaky'.*CircularConvolution.*first leaking pair t=\d+, s=\d+"):
        arch_lab.compare(str(path), output=tmp_path / "runs", cache=tmp_path / "cache", quiet=True)
    written = {p.name for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert written == {"study.yaml", "plan.json", "leaky.json"}


def test_a_diverging_rate_is_reported_and_the_study_goes_on(tmp_path: Path) -> None:
    path = small_study(tmp_path, learning_rates=[0.004, 1000.0], arms=[{"architecture": "gemma1"}])
    result = arch_lab.compare(str(path), output=tmp_path / "runs", cache=tmp_path / "cache", quiet=True)
    status = {r.learning_rate: r.status for r in result.results}
    assert status == {0.004: "finished", 1000.0: "diverged"}
    chosen = result.selected("gemma1")
    assert chosen is not None and chosen.learning_rate == 0.004
    assert next(r for r in result.results if r.learning_rate == 1000.0).scores == {}


UNEQUAL = [
    {"architecture": "gemma3", "shape": {"width": 32, "depth": 4, "ffn_width": 112}},
    {"architecture": "gemma1", "shape": {"width": 64, "depth": 4, "ffn_width": 256}},
]


def test_unmatched_shapes_are_refused_with_the_component_to_blame(tmp_path: Path) -> None:
    with pytest.raises(
        BudgetError, match=r"refused: arm 'gemma1' is \+\d+.* params; its largest part is layers\.\*\.channel"
    ):
        arch_lab.plan(str(small_study(tmp_path, arms=UNEQUAL)), overrides=["budget.train_flops=1e10"])


@pytest.mark.slow
def test_an_explicit_override_is_marked_everywhere(tmp_path: Path) -> None:
    path = small_study(tmp_path, arms=UNEQUAL)
    result = arch_lab.compare(
        str(path),
        overrides=["budget.allow_unmatched=true"],
        output=tmp_path / "runs",
        cache=tmp_path / "cache",
        quiet=True,
    )
    assert result.override and not result.matched
    assert "not matched" in (tmp_path / "runs/small/report.html").read_text().lower()


def test_output_that_cannot_be_written_fails_before_training(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match=r"cannot write .*--output"):
        arch_lab.compare(
            str(small_study(tmp_path)), output=tmp_path / "runs", cache=tmp_path / "cache", quiet=True
        )


def _start(path: Path, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ARCH_LAB_CACHE": str(folder / "cache")}
    command = [
        sys.executable,
        "-m",
        "arch_lab",
        "compare",
        str(path),
        "--output",
        str(folder / "runs"),
        "--threads",
        "1",
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_study_resumes_to_the_results_of_an_uninterrupted_one(
    compared: Compared, tmp_path: Path, how: signal.Signals
) -> None:
    """Killed in its second run, after a checkpoint: the first run is kept, the second goes on, every score is equal."""
    # the same study, text included, but a checkpoint every few steps, which no score may notice
    training = {"sequence_length": 32, "batch_size": 2, "evaluations": 2, "checkpoint_seconds": 0.2}
    path = small_study(tmp_path, seeds=[0, 1], training=training)
    process = _start(path, tmp_path)
    runs = tmp_path / "runs/small/runs/gemma3"
    log = runs / "lr-0.004_seed-1/metrics.jsonl"
    _wait_for(
        lambda: log.is_file() and log.stat().st_size > 400 and (log.parent / "last.ckpt").is_file(), process
    )
    process.send_signal(how)
    assert process.wait(timeout=60) == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert (runs / "lr-0.004_seed-1/last.ckpt").is_file()
    kept = (runs / "lr-0.004_seed-0/result.json").stat().st_mtime_ns
    assert not (tmp_path / "runs/small/study.json").exists()
    again = arch_lab.compare(str(path), output=tmp_path / "runs", cache=tmp_path / "cache", quiet=True)
    assert (runs / "lr-0.004_seed-0/result.json").stat().st_mtime_ns == kept
    assert _scores(again) == _scores(compared[1])


@pytest.mark.slow
def test_a_damaged_checkpoint_restarts_its_run(compared: Compared, tmp_path: Path) -> None:
    path = small_study(tmp_path, seeds=[0, 1])
    broken = tmp_path / "runs/small/runs/gemma3/lr-0.004_seed-0"
    broken.mkdir(parents=True)
    (broken / "last.ckpt").write_bytes(b"not a checkpoint")
    (broken / "last.ckpt.sha256").write_text("0" * 64)
    result = arch_lab.compare(str(path), output=tmp_path / "runs", cache=tmp_path / "cache", quiet=True)
    assert _scores(result) == _scores(compared[1])
