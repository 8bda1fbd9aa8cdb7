"""A throughput study end to end: what it measures and writes, what a second call keeps, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import arch_lab
from arch_lab import sealed
from arch_lab.cli import main
from arch_lab.files import OutputError
from arch_lab.stored import Json
from arch_lab.study import library
from arch_lab.study.study import Study
from blocks.errors import UserError
from experiments.throughput.results import Details
from experiments.throughput.timing import Timing
from tests.cli.stored import tree
from tests.experiments.throughput.speed_study import GROUPS, STUDY, write_study

Timed = tuple[Path, Study]
ALL_GROUPS = 2 * GROUPS


def timings(study: Study) -> list[Timing]:
    return [Timing.of(record) for record in study.results]


# --- what it measures -----------------------------------------------------------------------------------


def test_every_cell_is_a_finished_record(timed: Timed) -> None:
    assert len(timed[1].results) == 2 * ALL_GROUPS
    assert {record.status for record in timed[1].results} == {"finished"}


def test_times_and_rates_of_a_cell_follow_from_its_rounds(timed: Timed) -> None:
    for t in timings(timed[1]):
        assert len(t.seconds) == 3
        assert t.ms_low <= t.ms <= t.ms_high
        assert t.tokens_per_second == pytest.approx(1e3 * t.tokens_per_call / t.ms)


def test_a_call_works_off_the_tokens_of_its_batch(timed: Timed) -> None:
    for t in timings(timed[1]):
        assert t.batch == (1 if t.mode in ("prefill", "decode") else 128 // t.tokens)
        assert t.tokens_per_call == (4 if t.mode == "decode" else t.tokens * t.batch)


def test_only_decoding_has_neither_peak_memory_nor_mfu(timed: Timed) -> None:
    for t in timings(timed[1]):
        assert (t.peak_bytes is None) == (t.mode == "decode") == (t.mfu is None)
        if t.mfu is not None:
            assert t.mfu == pytest.approx(t.flops / (t.ms / 1e3) / t.gemm_rate)


def test_both_arms_meet_the_budget(timed: Timed) -> None:
    assert all(abs(arm.deviation["params"]) <= 0.01 for arm in timed[1].arms)


def test_positions_that_grow_are_counted_and_warned_of(timed: Timed) -> None:
    gemma, m2 = (arm.facts["parameters_at"] for arm in timed[1].arms)
    assert gemma["32"] == gemma["64"]
    depth = timed[1].arm("m2_gpt").depth
    assert m2["64"] - m2["32"] == 32 * 17 * depth  # 17 numbers per position and layer
    assert any("m2_gpt has parameters for every position" in line for line in timed[1].warnings)


def test_a_step_holds_more_than_a_forward(timed: Timed) -> None:
    cells = {(t.level, t.mode, t.tokens, t.arm): t for t in timings(timed[1])}
    for arm in ("gemma3", "m2_gpt"):
        step, forward = (cells["model", mode, 64, arm] for mode in ("step", "forward"))
        assert step.peak_bytes > forward.peak_bytes
        assert step.peak_bytes > 3 * 4 * step.parameters  # gradients and two moments


def test_a_layer_has_more_parameters_than_its_mixer(timed: Timed) -> None:
    cells = {(t.level, t.mode, t.tokens, t.arm): t.parameters for t in timings(timed[1])}
    for arm in ("gemma3", "m2_gpt"):
        assert cells["mixer", "forward", 64, arm] < cells["layer", "forward", 64, arm]


def test_a_decoding_state_is_as_large_as_the_mixer_promises(timed: Timed) -> None:
    states = {(t.tokens, t.arm): t.state_bytes for t in timings(timed[1]) if t.mode == "decode"}
    assert states[64, "gemma3"] == states[32, "gemma3"]  # one local layer: 16 keys and values of every head
    assert states[64, "m2_gpt"] > states[32, "m2_gpt"]


def test_each_ratio_has_a_crossover_of_its_level_and_mode(timed: Timed) -> None:
    details = Details.from_json(timed[1].details)
    assert {(r.subject, r.peer) for r in details.ratios} == {("m2_gpt", "gemma3")}
    assert len(details.ratios) == ALL_GROUPS
    series = {r.series for r in details.ratios}
    assert len(series) == GROUPS
    assert {c.series for c in details.crossovers} == series


def test_the_verdict_speaks_of_every_mode(timed: Timed) -> None:
    assert all(mode in timed[1].verdict.text for mode in ("forward", "step", "prefill", "decode"))


# --- what it writes -------------------------------------------------------------------------------------


def test_study_json_holds_the_returned_study(timed: Timed) -> None:
    content = json.loads((timed[0] / "runs/throughput/study.json").read_text())
    content.pop("checksum")
    assert Study.from_json(content) == timed[1]


def test_each_group_is_a_folder_with_the_records_of_all_arms(timed: Timed) -> None:
    results = sorted((timed[0] / "runs/throughput/runs").glob("*/seed-0/result.json"))
    assert len(results) == ALL_GROUPS
    content = json.loads(results[0].read_text())
    assert [record["arm"] for record in content["records"]] == ["gemma3", "m2_gpt"]


def test_the_csv_holds_every_speed(timed: Timed) -> None:
    with (timed[0] / "runs/throughput/results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    speeds = [record.scores["tokens_per_second"] for record in timed[1].results]
    assert [float(row["tokens_per_second"]) for row in rows] == speeds


def test_the_page_draws_three_figures_and_needs_no_network(timed: Timed) -> None:
    page = (timed[0] / "runs/throughput/report.html").read_text()
    assert page.count("<svg viewBox") == 3
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_plots_are_files_too(timed: Timed) -> None:
    for name in ("throughput.png", "ratios.png"):
        assert (timed[0] / "runs/throughput" / name).read_bytes()[:4] == b"\x89PNG"


def test_every_arm_has_a_certificate_and_events(timed: Timed) -> None:
    folder = timed[0] / "runs/throughput"
    for arm in ("gemma3", "m2_gpt"):
        assert json.loads((folder / f"certificates/{arm}.json").read_text())["passed"] is True
        assert len(list(folder.glob(f"tensorboard/{arm}/events.out.tfevents*"))) == 1


# --- a second call --------------------------------------------------------------------------------------


def again(timed: Timed, output: Path, **options: Any) -> Study:
    return arch_lab.compare(str(timed[0] / "throughput.yaml"), output=output, threads=1, **options)


def test_a_repeated_study_of_speed_writes_no_file_again(timed: Timed) -> None:
    files = tree(timed[0] / "runs")
    assert again(timed, timed[0] / "runs", quiet=True) == timed[1]
    assert tree(timed[0] / "runs") == files


def test_bench_throughput_prints_the_study_of_that_name(
    timed: Timed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(timed[0])
    monkeypatch.setattr(library, "studies", lambda: {"throughput": timed[0] / "throughput.yaml"})
    assert main(["bench", "throughput", "--json", "--threads", "1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["results"] == timed[1].to_json()["results"]
    assert printed["details"] == timed[1].details


def test_only_a_group_that_is_missing_is_timed_again(timed: Timed, tmp_path: Path) -> None:
    shutil.copytree(timed[0] / "runs", tmp_path / "runs")
    (tmp_path / "runs/throughput/runs/model_decode_T64/seed-0/result.json").unlink()
    events: list[tuple[str, Json]] = []
    study = again(timed, tmp_path / "runs", observer=lambda event, facts: events.append((event, facts)))
    ran = [facts["records"] for event, facts in events if event == "ran"]
    assert [record.task for record in ran[0]] == ["model_decode_T64"] * 2 and len(ran) == 1
    assert study.results[:-2] == timed[1].results[:-2]
    assert study.results[-2:] != timed[1].results[-2:]


def test_an_edited_time_is_refused(timed: Timed, tmp_path: Path) -> None:
    shutil.copytree(timed[0] / "runs", tmp_path / "runs")
    path = tmp_path / "runs/throughput/runs/model_step_T32/seed-0/result.json"
    text = path.read_text()
    assert '"ms": ' in text
    path.write_text(text.replace('"ms": ', '"ms": 1', 1))
    with pytest.raises(UserError, match=r"model_step_T32.*was edited or damaged"):
        again(timed, tmp_path / "runs", quiet=True)


def test_a_changed_study_is_refused_not_mixed(timed: Timed) -> None:
    with pytest.raises(OutputError, match=r"times of another configuration \(repeats changed\)"):
        again(timed, timed[0] / "runs", quiet=True, overrides=["repeats=4"])


# --- shapes and leaks -----------------------------------------------------------------------------------


def unmatched(folder: Path) -> str:
    """A study with an arm that is too large."""
    wide = {"name": "wide", "architecture": "gemma3", "shape": {"width": 96, "depth": 2, "ffn_width": 384}}
    changes = {"arms": [*STUDY["arms"], wide], "subject": "m2_gpt"}
    return str(write_study(folder, **changes, levels=["mixer"], modes=["forward"], lengths=[32]))


def test_unmatched_shapes_are_refused(tmp_path: Path) -> None:
    message = r"refused: arm 'wide' is \+\d+.* params; its largest part is layers\.\*\.channel"
    with pytest.raises(UserError, match=message):
        arch_lab.plan(unmatched(tmp_path))


def test_an_override_is_marked_and_a_flag_in_a_file_is_not_believed(tmp_path: Path) -> None:
    options: Json = {"output": tmp_path / "runs", "threads": 1, "quiet": True}
    study = arch_lab.compare(unmatched(tmp_path), overrides=["budget.allow_unmatched=true"], **options)
    assert study.override and study.verdict.text.startswith("The budgets are not matched")
    folder = tmp_path / "runs/throughput"
    assert "not matched" in (folder / "report.html").read_text().lower()
    sealed.write(folder / "study.json", {**study.to_json(), "override": False})
    assert main(["report", str(folder)]) == 2


def test_a_leaking_block_is_refused_before_any_time_is_taken(tmp_path: Path) -> None:
    leaky = {"mixer": "tests.leaky_blocks:CircularConvolution"}
    arms = [{"architecture": "custom", "name": "leaky", "options": leaky}]
    path = write_study(tmp_path, arms=arms)
    with pytest.raises(UserError, match=r"arm 'leaky'.*first leaking pair"):
        arch_lab.compare(str(path), output=tmp_path / "runs", threads=1, quiet=True)
    assert not list((tmp_path / "runs").rglob("result.json"))
