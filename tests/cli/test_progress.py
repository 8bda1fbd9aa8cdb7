"""What ``arch-lab compare`` shows while it works: in a terminal, in a pipe, and when asked to be quiet."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from arch_lab.cli import main
from tests.cli.terminals import in_terminal
from tests.small_study import small_study

FOLDER = "[v2] [/red]"  # console markup, if anybody read it as that
TERMINAL = {"COLUMNS": "80", "TTY_COMPATIBLE": "1", "NO_COLOR": "1", "TERM": "xterm"}


def ran(folder: Path, *options: str, **environment: str) -> tuple[str, str]:
    """(standard output, standard error) of a study of 2 arms, 2 rates and 2 seeds, one of them for tuning."""
    budget = {"params": 6.0e4, "train_flops": 9.0e8, "tolerance": 0.02}
    study = small_study(folder, learning_rates=[0.004, 0.008], seeds=[0, 1], tuning_seeds=[0], budget=budget)
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name in TERMINAL:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("ARCH_LAB_CACHE", str(folder / "cache"))
        assert main(["compare", str(study), "--output", str(folder / FOLDER), *options]) == 0
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def piped(tmp_path_factory: Any) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("piped")
    return folder, *ran(folder)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: Any) -> tuple[str, str]:
    return ran(tmp_path_factory.mktemp("watched"), **TERMINAL)


def test_one_counter_runs_over_all_batches_of_runs(piped: Any) -> None:
    assert re.findall(r"^\[(\d+)/(\d+)\]", piped[2], flags=re.MULTILINE) == [
        (str(i), "6") for i in range(1, 7)
    ]


def test_a_pipe_gets_no_control_sequences(piped: Any) -> None:
    assert "\x1b" not in piped[1] + piped[2] and "\r" not in piped[2]


def test_preparing_data_is_not_a_flood_of_lines_in_a_pipe(piped: Any) -> None:
    assert piped[2].count("preparing: ") <= 3


def test_brackets_in_a_folder_are_printed_as_they_are(piped: Any) -> None:
    folder, out, _ = piped
    assert f"report:       {folder / FOLDER / 'small' / 'report.html'}\n" in out


def test_the_verdict_is_printed_once(piped: Any) -> None:
    text = " ".join(piped[1].split())
    assert text.count("m2_gpt − gemma3 =") + text.count("m2_gpt − gemma3:") == 1


def test_learning_rates_say_over_how_many_seeds_their_mean_is(piped: Any) -> None:
    assert (
        "mean (number of seeds)" in piped[1]
        and re.search(r"\d \(1\)", piped[1])
        and re.search(r"\d \(2\) \*", piped[1])
    )


def test_runs_of_an_earlier_call_are_mentioned_in_one_line(piped: Any) -> None:
    folder = piped[0]
    (folder / FOLDER / "small/study.json").unlink()  # else the answer is that all of it is finished
    assert "[1-4/6] kept from an earlier call\n[5-6/6] kept from an earlier call\n" in ran(folder)[1]


def test_quiet_is_exactly_the_verdict(piped: Any) -> None:
    out, err = ran(piped[0], "--quiet")
    assert err == "" and out.count("\n") == 1 and out.startswith("At 60k")


def test_a_terminal_gets_a_line_before_torch_is_loaded(tmp_path: Path) -> None:
    lines = in_terminal(80, "plan", str(small_study(tmp_path)), cwd=tmp_path).splitlines()
    assert lines[0] == "small: loading torch and the experiment"


@pytest.mark.slow
def test_the_live_line_counts_steps_with_speed_and_loss(watched: Any) -> None:
    assert re.search(r"gemma3 lr 0.004 seed 0 .*\d+/\d+ steps, [\d.]+k? tokens/s, loss \d\.\d{3}", watched[1])


@pytest.mark.slow
def test_a_finished_run_starts_its_own_line(watched: Any) -> None:
    text = re.sub(r"\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh]", "", watched[1])
    starts = [text[m.start() - 1] for m in re.finditer(r"\[\d/6\] ", text)]
    assert len(starts) == 6 and set(starts) <= {"\n", "\r"}


@pytest.mark.slow
def test_no_live_line_is_wider_than_the_terminal(watched: Any) -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", watched[1])
    assert max(map(len, re.split(r"[\r\n]", text))) <= 80
