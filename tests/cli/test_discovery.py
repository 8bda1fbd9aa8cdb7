"""What there is: studies, runs and their state, completion, versions; and that asking is quick."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from arch_lab import __version__
from arch_lab.cli import main
from arch_lab.cli.verbs import VERBS
from arch_lab.files import folder_lock
from arch_lab.study.library import studies
from tests.cli.terminals import ROOT
from tests.study_fixture import write_study


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A finished study, one that was interrupted after its first runs, and one whose second arm leaks."""
    for name in ("finished", "stopped", "leaky"):
        write_study(tmp_path / name, arms=("gemma3", "m2_gpt"), name=name)
        study = json.loads((tmp_path / name / "study.json").read_text())
        plan = {key: study[key] for key in ("version", "study", "experiment", "arms")}
        planned = len(study["results"]) + 2
        (tmp_path / name / "plan.json").write_text(json.dumps({**plan, "trials": planned}))
        if name != "finished":
            (tmp_path / name / "study.json").unlink()
    folder = tmp_path / "stopped/runs/gemma3/lr-0.004_seed-0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"arm": "gemma3", "status": "finished"}))
    (tmp_path / "leaky/certificates").mkdir()
    (tmp_path / "leaky/certificates/m2_gpt.json").write_text(
        json.dumps({"passed": False, "reason": "token 1 moves output 0"})
    )
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err


def test_list_names_every_study_with_arms_and_budget(capsys) -> None:
    listed = json.loads(printed(capsys, "list", "studies", "--json"))
    assert {row["name"] for row in listed} == set(studies())
    quickstart = next(row for row in listed if row["name"] == "quickstart")
    assert (
        quickstart["arms"] == ["gemma3", "gemma3_short_convolution", "m2_gpt"]
        and quickstart["budget"]["train_flops"] == 3e11
        and "Monarch" in quickstart["question"]
    )


def test_list_tells_finished_interrupted_and_refused_runs_apart(runs, capsys) -> None:
    states = {
        row["study"]: row["state"]
        for row in json.loads(printed(capsys, "list", "runs", "--output", runs, "--json"))
    }
    assert states == {"finished": "finished", "stopped": "interrupted", "leaky": "refused"}


def test_list_shows_a_locked_folder_as_running(runs, capsys) -> None:
    with folder_lock(runs / "stopped", "a test"):
        listed = json.loads(printed(capsys, "list", "runs", "--output", runs / "stopped", "--json"))
    assert [row["state"] for row in listed] == ["running"]


def test_list_counts_trials_that_ended_and_that_were_planned(runs, capsys) -> None:
    (row,) = json.loads(printed(capsys, "list", "runs", "--output", runs / "stopped", "--json"))
    assert row["done"] < row["planned"] and row["progress"] == f"{row['done']}/{row['planned']}"


def test_list_of_an_empty_folder_says_who_writes_there(tmp_path, capsys) -> None:
    assert f"no runs in {tmp_path}" in printed(capsys, "list", "runs", "--output", tmp_path)


@pytest.mark.parametrize(
    ("typed", "right"), [("ls", "list"), ("status", "list"), ("lists", "list"), ("shwo", "show")]
)
def test_a_near_verb_is_proposed(typed, right, capsys) -> None:
    assert f"did you mean '{right}'?" in printed(capsys, typed, code=2)


def test_show_prints_verdict_and_results_of_a_finished_study(runs, capsys) -> None:
    text = printed(capsys, "show", runs / "finished")
    study = json.loads((runs / "finished/study.json").read_text())
    assert study["verdict"]["text"] in text and "bits per byte" in text and "better than" in text


def test_show_says_how_to_go_on_with_an_interrupted_study(runs, capsys) -> None:
    text = printed(capsys, "show", runs / "stopped")
    assert (
        f"continue with: arch-lab compare {runs / 'stopped/study.yaml'} --output {runs}\n" in text
        and "missing: " in text
    )


def test_show_says_why_a_study_was_refused(runs, capsys) -> None:
    assert "refused: m2_gpt: token 1 moves output 0" in printed(capsys, "show", runs / "leaky")


def test_show_puts_several_folders_side_by_side(runs, capsys) -> None:
    text = printed(capsys, "show", runs / "finished", runs / "stopped")
    assert str(runs / "finished") in text and str(runs / "stopped") in text and "interrupted" in text


def test_show_of_a_misspelt_folder_proposes_the_nearest(runs, capsys) -> None:
    assert "did you mean 'finished'?" in printed(capsys, "show", runs / "finishd", code=2)


def test_report_json_is_the_content_of_study_json(runs, capsys) -> None:
    assert json.loads(printed(capsys, "report", runs / "finished", "--json")) == json.loads(
        (runs / "finished/study.json").read_text()
    )


def test_report_markdown_holds_the_verdict_and_a_row_per_arm(runs, capsys) -> None:
    text = printed(capsys, "report", runs / "finished", "--markdown")
    study = json.loads((runs / "finished/study.json").read_text())
    assert study["verdict"]["text"] in text and "| gemma3 | " in text and "| m2_gpt | " in text


def test_report_open_shows_the_page_in_the_browser(runs, capsys, monkeypatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: shown.append(address) or True)
    page = printed(capsys, "report", runs / "finished", "--open").strip()
    assert shown == [Path(page).resolve().as_uri()]


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bash(tmp_path_factory: Any) -> Any:
    """Completes a command line in a real bash."""
    file = tmp_path_factory.mktemp("completion") / "script"
    with file.open("w") as stream:
        subprocess.run(
            [sys.executable, "-m", "arch_lab", "completion", "bash"], stdout=stream, check=True, cwd=ROOT
        )

    def complete(*words: str) -> list[str]:
        line = f"source {file}; COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; _arch_lab; "
        line += 'printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=True, cwd=file.parent
        )
        return done.stdout.split()

    return complete


def test_bash_completes_verbs(bash) -> None:
    assert set(VERBS) <= set(bash("arch-lab", "")) and bash("arch-lab", "compl") == ["completion"]


def test_bash_completes_studies_and_files(bash) -> None:
    assert bash("arch-lab", "compare", "quicks") == ["quickstart"] and bash("arch-lab", "compare", "scr") == [
        "script"
    ]


def test_bash_completes_the_options_of_a_verb(bash) -> None:
    assert bash("arch-lab", "compare", "--outp") == ["--output"] and bash(
        "arch-lab", "fit", "--trainer.max"
    ) == ["--trainer.max_steps"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_name_every_verb(shell, capsys) -> None:
    text = printed(capsys, "completion", shell)
    assert all(verb in text for verb in VERBS)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_an_unknown_shell_is_answered_with_the_nearest(capsys) -> None:
    assert "did you mean 'bash'?" in printed(capsys, "completion", "bsh", code=2)


# --- version, speed ---------------------------------------------------------------------------------------------------


def test_version_names_the_commit_of_the_checkout(capsys) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    if head.returncode:
        pytest.skip("not a checkout")
    assert re.fullmatch(
        rf"arch-lab {__version__} \({head.stdout[:7]}(, changed)?\)\n", printed(capsys, "--version")
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "runs", "--json"],
        ["show", "nothing"],
        ["compare", "--list"],
        ["compare", "quikstart"],
        ["plan", "no/such.yaml"],
        ["plan", "quickstart", "--set", "arms=[gemma3"],
        ["compare", "quickstart", "--set", "experiment=perplexty"],
        ["compare"],
        ["blocks", "--kind", "norms"],
        ["--version"],
        ["completion", "bash"],
        ["cost", "gemma3"],
        ["report", "nothing"],
    ],
    ids=" ".join,
)
def test_a_question_is_answered_without_importing_torch(arguments) -> None:
    code = (
        f"import sys; from arch_lab.cli import main; main({arguments!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_broken_yaml_is_refused_without_importing_torch(tmp_path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("arms: [gemma3\nbudget: {}\n")
    code = f"import sys; from arch_lab.cli import main; code = main(['compare', {str(study)!r}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules; sys.exit(code)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {study}: line 2, column ")


def test_an_unknown_architecture_gets_the_nearest_before_its_shape(capsys) -> None:
    assert "unknown architecture 'gemma5'; did you mean 'gemma" in printed(capsys, "cost", "gemma5", code=2)


def test_env_shows_memory_in_gibibytes(capsys) -> None:
    assert re.search(r"^memory +[\d.]+ GiB *$", printed(capsys, "env"), flags=re.MULTILINE)


def test_compare_help_says_what_a_study_contains(capsys) -> None:
    text = printed(capsys, "compare", "--help")
    assert all(
        word in text
        for word in (
            "arms",
            "budget",
            "learning_rates",
            "arch-lab list studies",
            "arch-lab keys",
            "arch-lab init",
        )
    )
