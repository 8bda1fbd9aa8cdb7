"""A stored result belongs to the configuration, data and code that made it, the user's own files included."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from arch_lab import sealed
from arch_lab.study.identity import digest
from arch_lab.version import __version__
from tests.cli import stored

RUNS = "runs/small/runs"
ONE = f"{RUNS}/gemma1/lr-0.004_seed-0"
MINE = f"{RUNS}/mine/lr-0.004_seed-0"


def refused(folder: Path, *words: str) -> str:
    """The line of a ``compare`` that must be refused and change nothing in the study's folder."""
    before = stored.tree(folder / "runs")
    done = stored.compare(folder, *words)
    assert done.code == 2 and done.last.startswith("error: ") and "data:" not in done.err
    assert stored.tree(folder / "runs") == before
    return done.last


@pytest.mark.parametrize("file", ["users_block.py", "users_numbers.py"])
def test_an_edited_block_of_the_users_own_is_refused_by_its_file(finished: Path, file: str) -> None:
    (finished / file).write_text((finished / file).read_text() + "EDITED = True\n")
    assert (
        f"({file} changed); results are never mixed: choose another --output, or delete the folder"
        in refused(finished)
    )


def test_an_edited_file_that_no_block_imports_changes_nothing(finished: Path) -> None:
    (finished / "unrelated.py").write_text("x = 1\n")
    before = stored.tree(finished / "runs")
    assert stored.compare(finished).code == 0
    assert stored.tree(finished / "runs") == before


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.weight_decay=0.2", "(training.weight_decay changed)"),
        (
            "training={evaluations: 1, sequence_length: 32, batch_size: 2, beta1: 0.8}",
            "(training.beta1, training.evaluations changed)",
        ),
        ("data.validation_fraction=0.05", "(data.validation_fraction changed)"),
        (
            "arms.0={architecture: gemma3, name: gemma1, options: {window: 8}, shape: {width: 32, depth: 2, ffn_width: 32}}",
            "(architecture, options.window changed)",
        ),
        ("learning_rates=[0.002]", "with learning_rates 0.004; this call leaves out 0.004"),
        ("seeds=[1]", "with seeds 0; this call leaves out 0"),
        (
            "arms=[{architecture: gemma1, shape: {width: 32, depth: 2, ffn_width: 32}}]",
            "with arms gemma1, mine; this call leaves out mine",
        ),
    ],
)
def test_a_changed_study_is_refused_before_any_work(finished: Path, override: str, line: str) -> None:
    assert line in refused(finished, "--set", override)


def test_a_changed_word_of_the_text_is_refused(finished: Path) -> None:
    content = (finished / "small.yaml").read_text()
    root = next(line.split(": ")[1] for line in content.splitlines() if line.strip().startswith("root:"))
    text = Path(root) / "text.txt"
    (finished / "text.txt").write_text(text.read_text().replace("the", "teh", 1))
    before = stored.tree(finished / "runs")
    done = stored.compare(finished, "--data-root", str(finished))
    assert done.code == 2 and "(data changed)" in done.last
    assert stored.tree(finished / "runs") == before


def test_another_version_of_torch_is_refused(finished: Path) -> None:
    """What a run of another version would have stored."""
    for run in (finished / RUNS).glob("*/*"):
        config, result = (json.loads((run / name).read_text()) for name in ("config.json", "result.json"))
        config["torch"] = "1.0"
        (run / "config.json").write_text(json.dumps(config))
        sealed.write(run / "result.json", {**result, "identity": digest(config)})
    assert f"(torch: 1.0 then, {torch.__version__} now)" in refused(finished)


def test_another_number_of_threads_is_refused_with_the_earlier_one(finished: Path) -> None:
    try:
        line = refused(finished, "--threads", "2")
    finally:
        torch.set_num_threads(1)
    assert (
        "other conditions (threads: 1 then, 2 now); go on with --threads 1; results are never mixed" in line
    )


def test_requested_implementations_are_refused_by_their_names(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCH_LAB_OPS", "attention=reference")
    assert "(ARCH_LAB_OPS: none then, attention=reference now)" in refused(finished)


def test_runs_of_an_earlier_version_are_refused_with_that_version(finished: Path) -> None:
    for run in (finished / RUNS).glob("*/*"):
        config, result = (json.loads((run / name).read_text()) for name in ("config.json", "result.json"))
        config["code"] = "0123456789abcdef"
        (run / "config.json").write_text(json.dumps(config))
        sealed.write(run / "result.json", {**result, "identity": digest(config)})
    assert f"holds runs of arch-lab {__version__}" in refused(finished)


def test_runs_of_another_machine_are_named_and_no_speed_is_averaged(finished: Path) -> None:
    path = finished / ONE / "result.json"
    result = json.loads(path.read_text())
    sealed.write(path, {**result, "machine": {"cpu": "abacus", "device": "cpu", "threads": 7}})
    done = stored.compare(finished, "--set", "seeds=[0, 1]")
    assert done.code == 0
    assert "runs were made on different machines (" in done.out and "abacus, 7 threads: 1 run" in " ".join(
        done.out.split()
    )
    study = json.loads((finished / "runs/small/study.json").read_text())
    speeds = {row["arm"]: row["tokens_per_second"] for row in study["summary"]}
    assert speeds["gemma1"] is None and speeds["mine"] > 0


def edit_number(path: Path, key: str) -> None:
    """Another first digit in every number of this key."""
    text = path.read_text()
    edited = re.sub(rf'("{key}": )(\d)', lambda found: f"{found[1]}{(int(found[2]) + 1) % 10}", text)
    assert edited != text
    path.write_text(edited)


def edit_score(folder: Path) -> str:
    edit_number(folder / ONE / "result.json", "bits_per_byte")
    return "result.json was edited or damaged"


def copy_other_arm(folder: Path) -> str:
    shutil.copy(folder / MINE / "result.json", folder / ONE / "result.json")
    return "result.json is the result of another run"


def cut_short(folder: Path) -> str:
    path = folder / ONE / "result.json"
    path.write_bytes(path.read_bytes()[:100])
    return "result.json is damaged"


def edit_curve(folder: Path) -> str:
    edit_number(folder / ONE / "metrics.jsonl", "train_loss")
    return "metrics.jsonl was edited or damaged"


def damage_weights(folder: Path) -> str:
    path = folder / ONE / "model.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "model.ckpt was edited or damaged"


@pytest.mark.parametrize(
    "damage", [edit_score, copy_other_arm, cut_short, edit_curve, damage_weights], ids=lambda f: f.__name__
)
def test_a_stored_file_that_is_not_what_was_written_is_refused(finished: Path, damage: Any) -> None:
    words = damage(finished)
    before = stored.tree(finished / "runs")
    done = stored.compare(finished)
    assert (
        done.code == 2
        and words in done.last
        and ONE in done.last
        and f"delete {ONE} to train this run again" in done.last
    )
    assert stored.tree(finished / "runs") == before


def test_a_run_that_was_deleted_is_trained_again_to_the_same_numbers(finished: Path) -> None:
    before = json.loads((finished / "runs/small/study.json").read_text())
    shutil.rmtree(finished / ONE)
    assert stored.compare(finished).code == 0
    after = json.loads((finished / "runs/small/study.json").read_text())
    assert [r["scores"] for r in after["results"]] == [r["scores"] for r in before["results"]]


def test_an_edited_study_json_is_refused_by_report_and_rewritten_by_compare(finished: Path) -> None:
    path = finished / "runs/small/study.json"
    whole = json.loads(path.read_text())
    edit_number(path, "bits_per_byte")
    done = stored.run(finished, "report", "runs/small")
    assert (
        done.code == 2
        and "study.json was edited or damaged" in done.last
        and "run `arch-lab compare` again to rewrite it" in done.last
    )
    assert stored.compare(finished).code == 0
    assert json.loads(path.read_text())["results"] == whole["results"]


def test_a_report_does_not_draw_an_edited_curve(finished: Path) -> None:
    edit_curve(finished)
    done = stored.run(finished, "report", "runs/small")
    assert done.code == 2 and f"{ONE}/metrics.jsonl was edited or damaged" in done.last


def test_a_block_that_computes_no_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    stored.write_block(tmp_path, 'float("nan")')
    stored.write_study(tmp_path)
    done = stored.compare(tmp_path)
    stored.forget()
    assert done.code == 2 and done.last.startswith(
        "error: refused: arm 'mine': block layers.0.channel (Scale)"
    )


@pytest.mark.slow
def test_a_mended_block_that_diverged_is_trained_again(tmp_path: Path) -> None:
    stored.write_block(
        tmp_path, "1e100"
    )  # no float32, in which it trains; a float64, in which it is certified
    stored.write_study(tmp_path)
    first = stored.compare(tmp_path)
    assert first.code == 0 and "diverged" in first.err
    kept = stored.tree(tmp_path / RUNS / "gemma1")
    stored.write_block(tmp_path, "0.5")
    done = stored.compare(tmp_path)
    assert done.code == 0
    assert "did not finish under other code (users_numbers.py changed): it is trained again" in " ".join(
        done.err.split()
    )
    results = {
        r["arm"]: r["status"] for r in json.loads((tmp_path / "runs/small/study.json").read_text())["results"]
    }
    assert results == {"gemma1": "finished", "mine": "finished"}
    assert stored.tree(tmp_path / RUNS / "gemma1") == kept
    stored.forget()
