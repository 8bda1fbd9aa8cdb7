"""YAML that means something else than it says, or would take for ever: refused by study files and ``fit --config`` alike."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.test_study_mutations import STUDY
from tests.mutations import answer

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{y}: &{y} [{', '.join([f'*{x}'] * 10)}]\n" for x, y in pairwise("abcdefghi")
)
LINES = {
    "widen: 1:30": "line {n}, column 8: 1:30 would be read as a number in base 60; write the number, or quotes around text",
    "widen: 010": "line {n}, column 8: 010 would be read as an octal number; write it without the leading 0, or quotes around text",
    "description: No": "line {n}, column 14: No would be read as a truth value; write true or false, or quotes around text",
    "yes: 1": "line {n}, column 1: yes would be read as a truth value",
    "widen: 1\nwiden: 1": "the key 'widen' appears twice",
    "x: " + "[" * 5000 + "]" * 5000: "nested deeper than 50 levels",
    BOMB: "more than 100,000 values (aliases written out)",
}


@pytest.mark.parametrize(("lines", "problem"), LINES.items(), ids=range(len(LINES)))
@pytest.mark.parametrize("command", [["plan", "a.yaml"], ["fit", "--config", "a.yaml"]], ids=["plan", "fit"])
def test_yaml_that_misleads_is_refused_within_a_second(
    command: list[str], lines: str, problem: str, tmp_path: Path
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    before = (
        STUDY.replace("description: a small study\n", "") if command[0] == "plan" else "seed_everything: 1\n"
    )
    (folder / "a.yaml").write_text(before + lines + "\n")
    done = answer(command, folder, seed=None, seconds=1, codes=(2,))
    assert done.err.count("\n") == 1 and problem.format(n=before.count("\n") + 1) in done.err


def test_quotes_make_such_values_text(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "a.yaml").write_text(STUDY.replace("a small study", "'1:30'"))
    answer(["plan", "a.yaml"], folder, seed=None, codes=(0,))
