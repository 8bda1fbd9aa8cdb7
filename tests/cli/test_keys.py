"""``arch-lab keys`` and ``arch-lab init``: what a study may say, and a file to start from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from arch_lab.cli import main
from arch_lab.key_table import TABLE
from arch_lab.study.experiment import experiments
from arch_lab.study.keys import key_table, sections
from arch_lab.study.library import studies
from arch_lab.yaml_files import load_yaml
from tests.cli.terminals import ROOT

PAGE = ROOT / "docs" / "study_keys.md"


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_the_table_of_study_keys_is_what_the_classes_say() -> None:
    assert json.loads(TABLE.read_text(encoding="utf-8")) == key_table().to_json(), (
        "stale; run python -m arch_lab.study.keys"
    )


def test_the_page_of_study_keys_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE.read_text(encoding="utf-8") == printed(capsys, "keys", "--markdown"), (
        "stale; run python -m arch_lab.study.keys"
    )


@pytest.mark.parametrize(
    "argv", [["keys"], ["keys", "training", "--json"], ["keys", "--architecture", "gemma3"], ["init"]]
)
def test_keys_and_init_answer_without_torch_and_experiments(argv: list[str], tmp_path: Path) -> None:
    code = "import sys; from arch_lab.cli import main; main(sys.argv[1:]); print({'torch', 'experiments'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    lines = subprocess.check_output(
        [sys.executable, "-c", code, *argv], cwd=tmp_path, env=environment, text=True
    ).splitlines()
    assert len(lines) > 1 and lines[-1] == "set()"


def test_every_study_key_has_one_sentence() -> None:
    keys = [key for section in sections() for key in section.keys]
    wrong = [
        key.path
        for key in keys
        if not (key.doc.endswith(".") and key.doc[0].isupper() and len(key.doc) <= 110)
    ]
    assert len(keys) > 100 and not wrong


def test_a_key_shows_type_default_bounds_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    line = next(
        line
        for line in printed(capsys, "keys", "training").splitlines()
        if line.startswith("training.beta2 ")
    )
    assert line.split("  ")[0] == "training.beta2"
    assert all(
        text in line
        for text in ("number", "0.95", "at least 0, below 1", "AdamW's mean of squared gradients.")
    )


@pytest.mark.parametrize(
    ("prefix", "paths"),
    [
        ("data.tokenizer.kind", ["data.tokenizer.kind"]),
        (
            "arms.0.shape",
            ["arms[].shape", "arms[].shape.width", "arms[].shape.depth", "arms[].shape.ffn_width"],
        ),
        ("bm25", ["bm25", "bm25.k1", "bm25.b"]),
    ],
)
def test_a_prefix_shows_the_keys_below_it(
    capsys: pytest.CaptureFixture[str], prefix: str, paths: list[str]
) -> None:
    found = json.loads(printed(capsys, "keys", prefix, "--json"))
    assert [key["path"] for key in found[0]["keys"]] == paths


def test_the_options_of_an_architecture_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    (section,) = json.loads(printed(capsys, "keys", "arms.options", "--architecture", "gemma3", "--json"))
    assert {"arms[].options.window", "arms[].options.pattern"} <= {key["path"] for key in section["keys"]}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("keys", "trainig"), "did you mean 'training'?"),
        (("keys", "training.batchsize"), "did you mean 'training.batch_size'?"),
        (("keys", "batch_size"), "did you mean 'training.batch_size'?"),
        (("keys", "--experiment", "gleu"), "did you mean 'glue'?"),
        (("keys", "--architecture", "gema3"), "did you mean 'gemma3'?"),
        (("keys", "training", "--markdown"), "--markdown prints the whole page"),
        (("init", "study.txt"), "a study file ends in .yaml"),
        (("init", "no_such/study.yaml"), "there is no folder 'no_such'"),
        (("init", "study.yaml", "--experiment", "perplexty"), "did you mean 'perplexity'?"),
    ],
)
def test_a_mistake_names_the_nearest_key(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    argv: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *argv)
    assert not list(tmp_path.iterdir())


def test_init_writes_a_study_that_plans_within_its_budget(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "arch-lab plan my_study.yaml" in printed(capsys, "init")
    plan = json.loads(printed(capsys, "plan", "my_study.yaml", "--json"))
    assert plan["matched"] and {arm["name"] for arm in plan["arms"]} >= {"gemma3", "m2_gpt"}
    assert "# Sequences per step.\n  batch_size: 8" in Path("my_study.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("experiment", experiments())
def test_init_of_an_experiment_says_what_a_shipped_study_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, experiment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    printed(capsys, "init", "study.yaml", "--experiment", experiment)
    assert load_yaml("study.yaml") in [load_yaml(path) for path in studies().values()]


def test_init_replaces_a_file_only_by_force(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("mine", encoding="utf-8")
    assert "mine.yaml exists" in refusal(capsys, "init", "mine.yaml")
    assert Path("mine.yaml").read_text(encoding="utf-8") == "mine"
    printed(capsys, "init", "mine.yaml", "--force")
    assert yaml.safe_load(Path("mine.yaml").read_text(encoding="utf-8"))["experiment"] == "perplexity"


def test_keys_left_at_their_defaults_are_valid_when_they_are_filled_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    printed(capsys, "init")
    text = Path("my_study.yaml").read_text(encoding="utf-8")
    lines = [re.sub(r"^( *)# (\w+: .*    # )", r"\1\2", line) for line in text.splitlines()]
    Path("all.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert len(load_yaml("all.yaml")["training"]) > len(load_yaml("my_study.yaml")["training"]) + 5
    assert json.loads(printed(capsys, "plan", "all.yaml", "--json"))["matched"]
