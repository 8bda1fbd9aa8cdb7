"""``arch-lab fit | validate | test | predict``: a run through LightningCLI, and its errors in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arch_lab import cli
from arch_lab.cli.fit import HELP
from arch_lab.cli.fit_keys import nearest_key, reword

CONFIG = Path(__file__).resolve().parent.parent / "experiments" / "perplexity" / "fit.yaml"


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line a command that must fail prints."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


def test_the_example_configuration_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "--config", str(CONFIG), "--print_config"]) == 0
    assert "architecture: gemma3" in capsys.readouterr().out


def test_every_key_the_short_help_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("model", "data", "trainer"):
        assert cli.main(["fit", f"--{group}.help"]) == 0
        listed = set(re.findall(r"^  --([\w.]+) ", capsys.readouterr().out, flags=re.MULTILINE))
        named = {key for key in re.findall(rf"--({group}\.\w+)", HELP) if not key.endswith(".help")}
        assert named and named <= listed


@pytest.mark.parametrize(
    ("option", "right"),
    [
        ("--model.widht=3", "model.width"),
        ("--trainer.max_epoch=3", "trainer.max_epochs"),
        ("--data.sorce=files", "data.source"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_right_key(
    option: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean {right!r}?" in failure(capsys, "fit", option)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("model: {widht: 4}", "did you mean 'model.width'?"),
        ("modle: {width: 4}", "did you mean 'model.width'?"),
        ("model: {width: wide}", "model.width: expected int, got wide"),
        ("model: {vocabulary: 7}", "leave it out"),
        ("model: [1,\n }", "line 2"),
        ("- 1", "expected keys"),
        (b"model: \xff", "not UTF-8"),
    ],
)
def test_a_wrong_file_is_answered_in_one_line(
    content: str | bytes, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert part in failure(capsys, "fit", "--config", str(file))


def test_a_missing_file_is_answered_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text("{}")
    assert "did you mean 'small'?" in failure(capsys, "fit", "--config", str(tmp_path / "smal.yaml"))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cut.ckpt"
    file.write_bytes(b"PK\x03\x04 cut short")
    assert "not a readable checkpoint" in failure(capsys, "test", "--ckpt_path", str(file))


def test_a_missing_checkpoint_is_refused_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file" in failure(capsys, "test", "--ckpt_path", str(tmp_path / "none.ckpt"))


def test_the_nearest_key_is_looked_for_in_the_same_group_first() -> None:
    assert (
        nearest_key("trainer.depht", ["model.depth", "trainer.devices"])
        == "; did you mean 'trainer.devices'?"
    )


def test_a_message_about_anything_else_is_kept() -> None:
    assert reword("one\n  two", []) == "one two"
