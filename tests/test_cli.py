"""The command line: quick help, one-line errors, stable JSON. Run as users run it, in a process of its own."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from arch_lab import cli
from arch_lab.cli.verbs import VERBS, UsageError, nearest, parser

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "lightning", "numpy", "jsonargparse", "rich")


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arch_lab", *arguments]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def assert_one_line_error(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def processor_seconds(*command: str) -> float:
    """Processor time of a child process: a machine that does other things too must not decide."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
    return spent() - before


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from arch_lab.cli import main\ntry: main({arguments!r})\nexcept SystemExit as e: assert not e.code\n"
    code += f"assert not (loaded := [n for n in {HEAVY!r} if n in sys.modules]), loaded"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "arch-lab" in done.stdout


def test_top_level_help_comes_at_once() -> None:
    """0.2 s more than the interpreter itself takes."""
    assert processor_seconds("-m", "arch_lab", "--help") - processor_seconds("-c", "pass") < 0.2


@pytest.mark.parametrize("verb", VERBS)
def test_verb_help_comes_within_a_second(verb: str) -> None:
    assert processor_seconds("-m", "arch_lab", verb, "--help") < 1.0


def test_help_names_every_verb() -> None:
    shown = run("--help").stdout
    assert all(f"  {verb} " in shown for verb in VERBS)


def test_version_is_the_package_version() -> None:
    from arch_lab import __version__

    assert run("--version").stdout.startswith(f"arch-lab {__version__}")


def test_an_unknown_verb_is_answered_with_the_nearest() -> None:
    assert_one_line_error(run("compar"), "'compar'", "did you mean 'compare'?")


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["compare", "--outptu", "x"], "--output"),
        (["plan", "--jsno"], "--json"),
        (["blocks", "--kidn=norm"], "--kind"),
        (["env", "--jsn"], "--json"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_right_one(arguments: list[str], right: str) -> None:
    assert_one_line_error(run(*arguments), f"did you mean {right!r}?")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["compare"], "which study?"),
        (["compare", "a", "b"], "unexpected argument 'b'"),
        (["compare", "a", "--set", "budget"], "KEY=VALUE"),
        (["compare", "a", "--threads", "0"], "--threads"),
        (["report"], "RUNDIR"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments: list[str], part: str) -> None:
    assert_one_line_error(run(*arguments), part)


def test_report_of_a_folder_without_results_says_when_they_appear(tmp_path: Path) -> None:
    assert_one_line_error(run("report", str(tmp_path)), "study.json", "arch-lab compare")


def test_an_unknown_study_is_answered_with_the_nearest() -> None:
    assert_one_line_error(run("compare", "quikstart"), "'quikstart'", "did you mean 'quickstart'?")


def test_blocks_json_is_a_list_with_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["blocks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed
    for block in listed:
        assert set(block) == {"name", "kind", "causal", "source", "complexity", "summary"}
        assert isinstance(block["causal"], bool)
        assert all(isinstance(block[key], str) and block[key] for key in ("name", "kind", "source"))


def test_blocks_json_keeps_to_the_kind_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["blocks", "--json", "--kind", "sequence_mixer"])
    assert {block["kind"] for block in json.loads(capsys.readouterr().out)} == {"sequence_mixer"}


def test_blocks_of_an_unknown_kind_are_answered_with_the_nearest_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["blocks", "--kind", "sequence_mixr"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --kind: unknown kind 'sequence_mixr'; did you mean 'sequence_mixer'?\n"
    )


def test_env_json_names_versions_and_machine(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__
    assert found["cores"] >= 1 and found["memory"] > 2**20 and found["packages"]["lightning"]


def test_env_says_which_code_runs_each_operation_and_why_the_others_do_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCH_LAB_OPS", "causal_conv=reference")
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ARCH_LAB_OPS"] == "causal_conv=reference"
    convolution = found["operations"]["causal_conv"]["float32"]
    assert convolution["runs"] == "reference" and set(convolution["others"]) == {"cpu", "triton", "cuda"}
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    assert "; ARCH_LAB_OPS=causal_conv=reference" in text
    assert all(f"\n{name} " in text for name in found["operations"])


@pytest.mark.parametrize("how", [{"ARCH_LAB_DEBUG": "1"}, {}], ids=["variable", "option"])
def test_debug_shows_the_traceback(how: dict[str, str]) -> None:
    done = run("compar", *([] if how else ["--debug"]), **how)
    assert "Traceback" in done.stderr and done.stderr.endswith("(arch-lab --help shows all)\n")


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m arch_lab --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "" and done.returncode in (0, 141)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_one_line_with_the_path(number: int) -> None:
    line, code = cli.explain(OSError(number, "refused", "runs/quickstart/study.json"))
    assert code == 2 and line.startswith("error: runs/quickstart/study.json: ") and "\n" not in line


def test_a_user_error_inside_another_exception_keeps_its_message() -> None:
    from blocks.errors import ConfigError

    try:
        try:
            raise ConfigError("width must be even")
        except ConfigError as inner:
            raise RuntimeError("while building") from inner
    except RuntimeError as outer:
        assert cli.explain(outer) == ("error: width must be even", 2)


def test_an_unexpected_exception_names_its_type_and_is_code_one() -> None:
    line, code = cli.explain(ZeroDivisionError("division\nby zero"))
    assert code == 1 and line.startswith("internal error: ZeroDivisionError: division by zero (")


def test_an_interrupt_is_one_line_and_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", interrupted)
    assert cli.main(["compare", "quickstart"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues where it stopped\n"


def test_options_are_never_guessed_from_a_prefix() -> None:
    p = parser("env")
    p.add_argument("--json", action="store_true")
    with pytest.raises(UsageError):
        p.parse_args(["--js"])


def test_a_name_far_from_everything_gets_no_suggestion() -> None:
    assert nearest("zzzzzz", VERBS) == ""
