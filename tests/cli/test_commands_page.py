"""docs/commands.md: every command runs, every verb and exit code is there."""

from __future__ import annotations

import re
import shlex

import pytest

from arch_lab.cli import EXIT_CODES, main
from arch_lab.cli.verbs import VERBS
from tests.cli.terminals import ROOT

PAGE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
    if line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_names_every_verb(verb) -> None:
    assert re.search(rf"^\|.*`{verb}\b", PAGE, flags=re.MULTILINE)


def test_the_page_lists_the_exit_codes_of_the_help() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, flags=re.MULTILINE)] == list(EXIT_CODES)
