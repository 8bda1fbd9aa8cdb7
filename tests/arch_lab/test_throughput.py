"""A throughput study end to end: what it writes, what it keeps, what it refuses, and limits of the machine as rows."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import arch_lab
from arch_lab import sealed
from arch_lab.cli import main
from arch_lab.files import OutputError
from arch_lab.study import library
from arch_lab.study.engine import silent
from arch_lab.throughput import contenders, timing
from arch_lab.throughput.config import Group, open_throughput
from arch_lab.throughput.contenders import Contender
from arch_lab.throughput.study import build_plan, run
from arch_lab.throughput.terminal import render_results
from arch_lab.throughput.timing import Timer
from blocks.errors import UserError
from tests.cli.stored import tree

ROOT = Path(__file__).resolve().parents[2]
GROUPS = 8  # a length: mixer and layer in two modes, the model in four
STUDY: dict[str, Any] = {
    "description": "tiny",
    "experiment": "throughput",
    "arms": [
        {"architecture": "gemma3", "options": {"pattern": "LG", "window": 16}},
        {"architecture": "m2_gpt"},
    ],
    "budget": {"params": 6.0e4},
    "vocabulary": 64,
    "match_length": 64,
    "lengths": [32, 64],
    "tokens_per_step": 128,
    "decode_tokens": 4,
    "repeats": 3,
    "cell_seconds": 60,
}


def write_study(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "throughput.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("timed")
    return folder, arch_lab.compare(str(write_study(folder)), output=folder / "runs", threads=1, quiet=True)


# --- what it measures and writes --------------------------------------------------------------------------------------


def test_every_cell_is_a_measured_row_with_the_documented_keys(timed: tuple[Path, dict[str, Any]]) -> None:
    rows = timed[1]["rows"]
    assert len(rows) == 2 * 2 * GROUPS and {r["status"] for r in rows} == {"measured"}
    for row in rows:
        assert len(row["seconds"]) == 3 and row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["tokens_per_second"] == pytest.approx(1e3 * row["tokens_per_call"] / row["ms"])
        assert row["tokens_per_call"] == (4 if row["mode"] == "decode" else row["tokens"] * row["batch"])
        assert row["batch"] == (1 if row["mode"] in ("prefill", "decode") else 128 // row["tokens"])
        assert (row["peak_bytes"] is None) == (row["mode"] == "decode") == (row["mfu"] is None)
        if row["mfu"] is not None:
            assert row["mfu"] == pytest.approx(row["flops"] / (row["ms"] / 1e3) / row["gemm_rate"])
    assert {
        "study",
        "budget",
        "arms",
        "rows",
        "ratios",
        "crossovers",
        "verdict",
        "warnings",
        "environment",
        "command",
    } <= set(timed[1])


def test_both_arms_meet_the_budget_and_positions_that_grow_are_said(
    timed: tuple[Path, dict[str, Any]],
) -> None:
    gemma, m2 = timed[1]["arms"]
    assert all(abs(arm["deviation"]["params"]) <= 0.01 for arm in (gemma, m2))
    assert gemma["parameters_at"]["32"] == gemma["parameters_at"]["64"]
    # 17 numbers a position and layer
    assert m2["parameters_at"]["64"] - m2["parameters_at"]["32"] == 32 * 17 * m2["depth"]
    assert any("m2_gpt has parameters for every position" in line for line in timed[1]["warnings"])


def test_a_step_holds_more_than_a_forward_and_a_decoding_state_is_as_promised(
    timed: tuple[Path, dict[str, Any]],
) -> None:
    cells = {(r["level"], r["mode"], r["tokens"], r["arm"]): r for r in timed[1]["rows"]}
    for arm in ("gemma3", "m2_gpt"):
        step, forward = (cells["model", mode, 64, arm]["peak_bytes"] for mode in ("step", "forward"))
        weights = 4 * cells["model", "step", 64, arm]["parameters"]
        assert step > forward and step > 3 * weights  # gradients and two moments
        assert (
            cells["mixer", "forward", 64, arm]["parameters"]
            < cells["layer", "forward", 64, arm]["parameters"]
        )
    # one local layer: 16 keys and 16 values of every head
    assert (
        cells["model", "decode", 64, "gemma3"]["state_bytes"]
        == cells["model", "decode", 32, "gemma3"]["state_bytes"]
    )
    assert (
        cells["model", "decode", 64, "m2_gpt"]["state_bytes"]
        > cells["model", "decode", 32, "m2_gpt"]["state_bytes"]
    )


def test_ratios_are_apart_by_level_and_each_has_a_crossover(timed: tuple[Path, dict[str, Any]]) -> None:
    study = timed[1]
    assert {(r["subject"], r["peer"]) for r in study["ratios"]} == {("m2_gpt", "gemma3")}
    series = {(r["level"], r["mode"]) for r in study["ratios"]}
    assert len(series) == GROUPS and len(study["ratios"]) == 2 * GROUPS
    assert {(c["level"], c["mode"]) for c in study["crossovers"]} == series
    assert all(mode in study["verdict"]["text"] for mode in ("forward", "step", "prefill", "decode"))


def test_files_hold_the_rows_the_report_and_the_plots(timed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = timed[0] / "runs/throughput", timed[1]
    assert json.loads((folder / "study.json").read_text()) == study
    cells = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in cell.items() if k != "checksum"} for cell in cells] == study["rows"]
    with (folder / "results.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert [float(r["tokens_per_second"]) for r in read] == [r["tokens_per_second"] for r in study["rows"]]
    page = (folder / "report.html").read_text()
    assert (
        page.count("<svg") == 3
        and "equence mixer alone" in page
        and "http" not in page.replace("http://www.w3.org", "")
    )
    assert (folder / "throughput.png").read_bytes()[:4] == b"\x89PNG" and (
        folder / "ratios.png"
    ).stat().st_size > 1000
    assert json.loads((folder / "certificates/m2_gpt.json").read_text())["passed"] is True
    assert len(list(folder.glob("tensorboard/*/events.out.tfevents*"))) == 2


# --- resuming ---------------------------------------------------------------------------------------------------------


def events_of(path: Path, output: Path) -> list[tuple[str, Any]]:
    seen: list[tuple[str, Any]] = []
    arch_lab.compare(
        str(path),
        output=output,
        threads=1,
        observer=lambda event, facts: seen.append((event, facts.get("label"))),
    )
    return seen


def test_bench_throughput_is_the_study_of_that_name_and_a_second_call_times_nothing(
    timed: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(timed[0])
    monkeypatch.setattr(library, "studies", lambda: {"throughput": timed[0] / "throughput.yaml"})
    before = Path("runs/throughput/cells.jsonl").read_text()
    assert main(["bench", "throughput", "--json", "--threads", "1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == timed[1]["rows"] and printed["crossovers"] == timed[1]["crossovers"]
    assert Path("runs/throughput/cells.jsonl").read_text() == before


def test_a_group_that_a_kill_cut_short_is_timed_again_as_a_whole(
    timed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(timed[0] / "runs", tmp_path / "runs")
    cells = tmp_path / "runs/throughput/cells.jsonl"
    lines = cells.read_text().splitlines()
    cells.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    seen = events_of(timed[0] / "throughput.yaml", tmp_path / "runs")
    assert [label for event, label in seen if event == "timed"] == ["model decode, T 64"]
    kept = cells.read_text().splitlines()
    assert kept[:-2] == lines[:-2] and len(kept) == len(lines) and kept[-1] != lines[-1]


def test_a_repeated_study_of_speed_writes_no_file_again(timed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = timed
    before = tree(folder / "runs")
    assert (
        arch_lab.compare(str(folder / "throughput.yaml"), output=folder / "runs", threads=1, quiet=True)
        == study
    )
    assert tree(folder / "runs") == before


def test_an_edited_time_is_refused(timed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(timed[0] / "runs", tmp_path / "runs")
    cells = tmp_path / "runs/throughput/cells.jsonl"
    row, *rest = cells.read_text().splitlines(keepends=True)
    edited = row.replace('"ms": ', '"ms": 1')
    assert edited != row
    cells.write_text(edited + "".join(rest))
    with pytest.raises(UserError, match=r"cells\.jsonl, line 1, was edited or damaged"):
        arch_lab.compare(str(timed[0] / "throughput.yaml"), output=tmp_path / "runs", threads=1, quiet=True)


def test_a_changed_study_is_refused_not_mixed(timed: tuple[Path, dict[str, Any]]) -> None:
    folder = timed[0]
    with pytest.raises(OutputError, match=r"times of another configuration \(repeats changed\)"):
        arch_lab.compare(
            str(folder / "throughput.yaml"),
            overrides=["repeats=4"],
            output=folder / "runs",
            threads=1,
            quiet=True,
        )


# --- limits of the machine are rows -----------------------------------------------------------------------------------


def fake_study(tmp_path: Path, build: Any, **changes: Any) -> list[dict[str, Any]]:
    """Rows of whole models whose cells ``build`` makes."""
    config = open_throughput(str(write_study(tmp_path, levels=["model"], modes=["forward"], **changes)), [])
    timer = Timer(config, build_plan(config)["arms"], [], build)
    return [row for group in config.groups() for row in timer.group(group)]


def quick(seconds: float = 0.0) -> Contender:
    return Contender(parts=[(1.0, lambda: time.sleep(seconds))], tokens=64, parameters=1)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 GB"),
    ],
)
@pytest.mark.parametrize("when", ["built", "called"])
def test_an_arm_without_memory_becomes_a_row_and_the_others_go_on(
    tmp_path: Path, error: Exception, when: str
) -> None:
    def fail() -> None:
        raise error

    def build(arm: dict[str, Any], group: Group, settings: Any) -> Contender:
        if arm["name"] == "m2_gpt" and group.tokens == 64:
            return fail() if when == "built" else Contender(parts=[(1.0, fail)], tokens=64, parameters=1)  # type: ignore[return-value]
        return quick()

    rows = fake_study(tmp_path, build)
    assert {(r["arm"], r["tokens"]): r["status"] for r in rows} == {
        ("gemma3", 32): "measured",
        ("m2_gpt", 32): "measured",
        ("gemma3", 64): "measured",
        ("m2_gpt", 64): "out of memory",
    }
    lost = rows[-1]
    assert lost["reason"] and lost["tokens_per_second"] is None and lost["seconds"] == []


def test_a_study_with_lost_cells_has_a_report_that_names_them(tmp_path: Path) -> None:
    def build(arm: dict[str, Any], group: Group, settings: Any) -> Contender:
        if group.tokens == 64 or arm["name"] == "m2_gpt":
            raise MemoryError("nothing left")
        return quick()

    config = open_throughput(str(write_study(tmp_path, levels=["model"], modes=["forward"])), [])
    study = run(config, tmp_path / "runs/throughput", silent, "-", partial(Timer, build=build))
    assert study["ratios"] == [] and "they cannot be compared" in study["verdict"]["text"]
    page = (tmp_path / "runs/throughput/report.html").read_text()
    assert "What did not run" in page and "nothing left" in page


def test_an_arm_that_runs_out_of_memory_while_it_is_timed_leaves_the_rounds(tmp_path: Path) -> None:
    calls = {"m2_gpt": 0}

    def late() -> None:
        calls["m2_gpt"] += 1
        if calls["m2_gpt"] > 3:
            raise MemoryError

    slow = Contender(parts=[(1.0, late)], tokens=1, parameters=1)
    rows = fake_study(tmp_path, lambda arm, *_: quick() if arm["name"] == "gemma3" else slow)
    assert [r["status"] for r in rows] == ["measured", "out of memory"] * 2


def test_a_call_too_slow_for_its_time_is_a_time_out_and_longer_ones_are_not_started(tmp_path: Path) -> None:
    started: list[tuple[str, int]] = []

    def build(arm: dict[str, Any], group: Group, settings: Any) -> Contender:
        started.append((arm["name"], group.tokens))
        return quick(0.15 if arm["name"] == "m2_gpt" else 0)

    rows = fake_study(tmp_path, build, cell_seconds=0.4)
    assert [r["status"] for r in rows] == ["measured", "time-out"] * 2
    assert "a call took" in rows[1]["reason"] and rows[3]["reason"].startswith(
        "foreseen: a call would take about"
    )
    assert ("m2_gpt", 64) not in started and ("gemma3", 64) in started


def test_memory_that_would_not_suffice_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(arm: dict[str, Any], group: Group, settings: Any) -> Contender:
        return Contender(parts=[(1.0, lambda: torch.empty(2**18))], tokens=64, parameters=1)  # 1 MiB a call

    monkeypatch.setattr(timing, "free_bytes", lambda: 2**20)
    rows = fake_study(tmp_path, build, tokens_per_step=64)
    assert [(r["tokens"], r["status"]) for r in rows[:2]] == [
        (32, "measured")
    ] * 2  # nothing is known of the first length
    assert all(r["status"] == "out of memory" and r["reason"].startswith("foreseen") for r in rows[2:])


def test_a_bug_is_no_row(tmp_path: Path) -> None:
    def build(*_: Any) -> Contender:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fake_study(tmp_path, build)


def test_a_compiler_that_fails_is_a_row_and_eager_cells_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: Any) -> Any:
        raise RuntimeError("no C++ compiler\nsecond line")

    monkeypatch.setattr(contenders.torch, "compile", broken)
    path = write_study(tmp_path, levels=["mixer"], modes=["forward"], compiled=[False, True], lengths=[32])
    rows = arch_lab.compare(str(path), output=tmp_path / "runs", threads=1, quiet=True)["rows"]
    assert [(r["compiled"], r["status"]) for r in rows] == [(False, "measured")] * 2 + [(True, "failed")] * 2
    assert rows[-1]["reason"] == "RuntimeError: no C++ compiler"


@pytest.mark.slow
def test_a_compiled_cell_reports_what_compiling_took(tmp_path: Path) -> None:
    path = write_study(
        tmp_path, levels=["mixer"], modes=["forward"], compiled=[True], lengths=[32], cell_seconds=600
    )
    rows = arch_lab.compare(str(path), output=tmp_path / "runs", threads=1, quiet=True)["rows"]
    assert all(
        r["status"] == "measured" and r["compile_seconds"] > r["ms"] / 1e3 and r["hfu"] is None for r in rows
    )


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lenghts=[32]", "unknown option 'lenghts'; did you mean 'lengths'"),
        ("budget.parms=1", "unknown option 'parms'; did you mean 'params'"),
        ("budget.train_flops=1e9", "unknown option 'train_flops'"),
        ("learning_rates=[0.1]", "unknown option 'learning_rates'"),
        ("arms.0.options.windw=4", "unknown option 'windw'; did you mean 'window'"),
        ("arms.1.name=gemma3", "two arms are called 'gemma3'"),
        ("modes=[forwrd]", "did you mean 'forward'"),
        ("levels=[]", "levels: must not be empty"),
        ("lengths=[64,64]", "lengths: must not repeat 64"),
        ("repeats=2", "repeats: must be at least 3"),
        ("cell_seconds=0", "cell_seconds: must be positive"),
        ("subject=m2_gtp", "subject 'm2_gtp' is not an arm; did you mean 'm2_gpt'"),
        ("threads=0", "threads: must be at least 1"),
        ("dtype=float16", "'float16' is not one of"),
        ("arms.0.architecture=m2_bert", "bidirectional encoder"),
        ("experiment=througput", "unknown experiment 'througput'; did you mean 'throughput'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_right_key(tmp_path: Path, override: str, message: str) -> None:
    changes = (
        {"arms": [{"architecture": "gemma3"}, {"architecture": "m2_gpt"}]} if "m2_bert" in override else {}
    )
    with pytest.raises(UserError) as caught:
        arch_lab.compare(
            str(write_study(tmp_path, **changes)), overrides=[override], output=tmp_path / "runs", quiet=True
        )
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "runs").rglob("*.json*"))


def test_bfloat16_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="dtype bfloat16 is 16 to 60 times slower"):
        arch_lab.plan(str(write_study(tmp_path)), overrides=["dtype=bfloat16"])


def test_unmatched_shapes_are_refused_and_an_override_is_marked(tmp_path: Path) -> None:
    arms = [
        *STUDY["arms"],
        {"name": "wide", "architecture": "gemma3", "shape": {"width": 96, "depth": 2, "ffn_width": 384}},
    ]
    path = str(
        write_study(tmp_path, arms=arms, subject="m2_gpt", levels=["mixer"], modes=["forward"], lengths=[32])
    )
    with pytest.raises(
        UserError, match=r"refused: arm 'wide' is \+\d+.* params; its largest part is layers\.\*\.channel"
    ):
        arch_lab.plan(path)
    study = arch_lab.compare(
        path, overrides=["budget.allow_unmatched=true"], output=tmp_path / "runs", threads=1, quiet=True
    )
    assert (
        study["override"] is True
        and "not matched" in (tmp_path / "runs/throughput/report.html").read_text().lower()
    )
    stored = tmp_path / "runs/throughput/study.json"
    sealed.write(stored, {**study, "override": False})  # a flag in a file is not believed
    assert main(["report", str(stored.parent)]) == 2


def test_a_leaking_block_is_refused_before_any_time_is_taken(tmp_path: Path) -> None:
    arms = [
        {
            "architecture": "custom",
            "name": "leaky",
            "options": {"mixer": "tests.leaky_blocks:CircularConvolution"},
        }
    ]
    with pytest.raises(UserError, match=r"arm 'leaky'.*first leaking pair"):
        arch_lab.compare(
            str(write_study(tmp_path, arms=arms)), output=tmp_path / "runs", threads=1, quiet=True
        )
    assert not list((tmp_path / "runs").rglob("cells.jsonl"))


# --- command line -----------------------------------------------------------------------------------------------------


def test_the_default_study_reaches_16384_tokens_and_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--list", "--json"]) == 0
    (found,) = [s for s in json.loads(capsys.readouterr().out) if s["name"] == "throughput"]
    assert found["summary"].startswith("speed and memory")
    plan = arch_lab.plan("throughput")
    assert max(g["tokens"] for g in plan["groups"]) >= 16_384 and plan["matched"]
    assert {a["architecture"] for a in plan["arms"]} == {"gemma2", "gemma3", "m2_gpt"}


def test_the_plan_shows_shapes_and_cells_with_an_estimate(
    timed: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(timed[0] / "throughput.yaml"), "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "model decode" in shown and "32 cells; about" in shown and "60k body+head parameters" in shown


def test_the_terminal_shows_every_table(timed: tuple[Path, dict[str, Any]]) -> None:
    console = Console(file=io.StringIO(), width=200)
    render_results(timed[1], console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "what was compared",
        "m2_gpt is faster",
        "peak memory",
        "decoding state",
        "utilisation",
        "[quartiles]",
        "verdict",
    ):
        assert part in shown


def test_report_writes_the_page_again_and_prints_markdown(
    timed: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = timed[0] / "runs/throughput"
    page = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0 and len((folder / "report.html").read_text()) == len(page)
    capsys.readouterr()
    assert main(["report", str(folder), "--markdown"]) == 0
    text = capsys.readouterr().out
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert (
        len(tables) == 2 + 3 + GROUPS + 3
    )  # arms, crossovers; ratios by level; speeds; memory, utilisation, state
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1
    study = json.loads((folder / "study.json").read_text())
    assert study["verdict"]["text"] in text and study["command"] in text


def test_a_study_without_data_refuses_a_data_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(write_study(tmp_path)), "--data-root", "x"]) == 2
    assert "reads no data" in capsys.readouterr().err


def test_the_readme_keeps_a_place_for_the_measured_tables() -> None:
    text = (ROOT / "experiments/throughput/README.md").read_text(encoding="utf-8")
    assert text.index("<!-- throughput:begin -->") < text.index("<!-- throughput:end -->")
