"""Mistakes in the user's own code: one line with file and line, exit code 2; "internal error" is for ours."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from arch_lab import cli
from arch_lab.cli import main
from tests.small_study import small_study

BLOCK = """
from dataclasses import dataclass

import torch
from torch import nn

from blocks import BlockConfig, Cost, SequenceMixer, register


@{decorator}
class Config(BlockConfig):
    width: int
    state: int = 4


@register("{name}", kind="sequence_mixer", config=Config, source="a test")
class Mixer(SequenceMixer):
    causal = True

    def __init__(self, config):
        super().__init__(config)
        {init}
        self.gain = nn.Parameter(torch.empty(config.width))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.ones_(self.gain)

    def forward(self, x, segments=None):
        {forward}
        return x * self.gain

    def init_state(self, batch, max_tokens):
        return ()

    def prefill(self, x, state):
        return x * self.gain, state

    def state_bytes(self, tokens):
        return 0

    def cost(self, tokens):
        return Cost(elementwise=tokens * self.config.width)
"""
FROZEN = "dataclass(frozen=True, kw_only=True)"


def module(
    folder: Path,
    name: str,
    *,
    decorator: str = FROZEN,
    init: str = "pass",
    forward: str = "pass",
    first: str = "",
) -> str:
    """Write a block file into ``folder``; returns the import path of its class."""
    (folder / f"{name}.py").write_text(
        first + BLOCK.format(name=name, decorator=decorator, init=init, forward=forward)
    )
    return f"{name}:Mixer"


def line_of(folder: Path, name: str, text: str) -> int:
    return next(
        i for i, line in enumerate((folder / f"{name}.py").read_text().splitlines(), 1) if text in line
    )


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    """Runs a verb inside an empty folder; the one line it answers with."""
    monkeypatch.chdir(tmp_path)
    from blocks import registry

    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        printed = capsys.readouterr()
        assert (
            printed.err.startswith("error: ")
            and printed.err.count("\n") == 1
            and "Traceback" not in printed.err
        )
        return printed.err

    yield run
    for name in {path.stem for path in tmp_path.glob("*.py")}:
        sys.modules.pop(name, None)


def study(folder: Path, mixer: str, **options) -> str:
    arms = [{"architecture": "gemma3", "options": {"window": 8, "pattern": "LG"}}]
    return str(
        small_study(folder, arms=[*arms, {"architecture": "custom", "options": {"mixer": mixer, **options}}])
    )


VERBS = {
    "certify": lambda folder, mixer: ("certify", mixer),
    "cost": lambda folder, mixer: (
        "cost",
        "custom",
        "--options",
        f"mixer={mixer}",
        "--width",
        "8",
        "--depth",
        "1",
        "--seq-len",
        "8",
    ),
    "plan": lambda folder, mixer: ("plan", study(folder, mixer)),
    "compare": lambda folder, mixer: (
        "compare",
        study(folder, mixer),
        "--output",
        str(folder / "runs"),
        "--quiet",
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_syntax_error_is_named_by_file_and_line(verb, answer, tmp_path) -> None:
    mixer = module(tmp_path, f"syntax_{verb}", first="def broken()\n    pass\n")
    assert f"error: syntax_{verb}.py line 1: SyntaxError: expected ':'" in answer(
        *VERBS[verb](tmp_path, mixer)
    )


def test_an_import_that_fails_is_named_by_file_and_line(answer, tmp_path) -> None:
    mixer = module(tmp_path, "importing", first="import numpyy\n")
    assert "error: importing.py line 1: ModuleNotFoundError: No module named 'numpyy'" in answer(
        "certify", mixer
    )


def test_a_plain_dataclass_is_told_how_to_decorate_it(answer, tmp_path) -> None:
    mixer = module(tmp_path, "plain", decorator="dataclass")
    line = line_of(tmp_path, "plain", "@dataclass")
    text = answer("certify", mixer)
    assert (
        f"error: plain.py line {line}: TypeError: " in text
        and "@dataclass(frozen=True, kw_only=True)" in text
    )


def test_a_module_that_exits_does_not_end_the_command(answer, tmp_path) -> None:
    assert "exits.py line 1: SystemExit: 3" in answer(
        "certify", module(tmp_path, "exits", first="raise SystemExit(3)\n")
    )


@pytest.mark.parametrize("verb", VERBS)
def test_two_blocks_with_one_config_class_are_refused(verb, answer, tmp_path) -> None:
    mixer = module(tmp_path, f"shared_{verb}")
    second = '\n\n@register("second", kind="sequence_mixer", config=Config, source="a test")\nclass Second(Mixer):\n    pass\n'
    with (tmp_path / f"shared_{verb}.py").open("a") as file:
        file.write(second)
    text = answer(*VERBS[verb](tmp_path, mixer))
    assert f"Config already configures shared_{verb}:Mixer; give each block its own config class" in text


@pytest.mark.parametrize("verb", ["cost", "plan", "compare"])
def test_an_exception_in_init_is_named_by_file_and_line(verb, answer, tmp_path) -> None:
    mixer = module(tmp_path, f"init_{verb}", init="raise ValueError('no such mode')")
    line = line_of(tmp_path, f"init_{verb}", "no such mode")
    assert f"init_{verb}.py line {line}, in __init__: ValueError: no such mode" in answer(
        *VERBS[verb](tmp_path, mixer)
    )


def test_an_exception_in_forward_stops_a_study_with_file_and_line(answer, tmp_path) -> None:
    mixer = module(tmp_path, "forward", forward="x = x.reshape(7, 7, 7)")
    line = line_of(tmp_path, "forward", "reshape")
    assert f"forward.py line {line}, in forward: RuntimeError" in answer(*VERBS["compare"](tmp_path, mixer))


@pytest.mark.parametrize(
    ("name", "signature", "result", "message"),
    [
        (
            "no_segments",
            "x",
            "x * self.gain",
            "block layers.0.mixer (Mixer): forward takes no segments: write forward(self, x, segments=None)",
        ),
        ("short", "x, segments=None", "x[:, 1:]", "block layers.0.mixer (Mixer): forward returns (1, "),
        (
            "tuple",
            "x, segments=None",
            "(x, None)",
            "block layers.0.mixer (Mixer): forward returns tuple for an input",
        ),
    ],
)
def test_a_study_names_the_mistake_of_a_mixer(name, signature, result, message, answer, tmp_path) -> None:
    mixer = module(tmp_path, f"mistaken_{name}")
    path = tmp_path / f"mistaken_{name}.py"
    text = path.read_text().replace("def forward(self, x, segments=None)", f"def forward(self, {signature})")
    path.write_text(
        text.replace("return x * self.gain\n\n    def init_state", f"return {result}\n\n    def init_state")
    )
    assert message in answer(*VERBS["compare"](tmp_path, mixer))


def test_certify_says_where_forward_raised(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    mixer = module(tmp_path, "certified", forward="x = x.reshape(7, 7, 7)")
    line = line_of(tmp_path, "certified", "reshape")
    assert main(["certify", mixer]) == 1
    assert f"certified.py line {line}, in forward: RuntimeError" in capsys.readouterr().out


def test_a_missing_module_says_where_it_was_looked_for(answer, tmp_path) -> None:
    text = answer("certify", "not_there:Mixer")
    assert str(tmp_path) in text and "PYTHONPATH (not set)" in text and "installed packages" in text


@pytest.mark.parametrize("path", [".x:y", "a b:c", "x:", ":y"])
def test_what_is_no_import_path_is_said_to_be_none(path, answer) -> None:
    assert "expected an import path package.module:Class" in answer("certify", path)


@pytest.mark.parametrize("verb", ["plan", "compare"])
def test_an_option_of_the_mixer_is_told_to_go_into_mixer_options(verb, answer, tmp_path) -> None:
    mixer = module(tmp_path, f"options_{verb}")
    assert "write mixer_options: {state: 32}" in answer(verb, study(tmp_path, mixer, state=32))


def test_an_unknown_option_beside_the_mixer_gets_the_nearest(answer, tmp_path) -> None:
    assert "did you mean 'mixer_options'?" in answer(
        "plan", study(tmp_path, module(tmp_path, "near"), mixer_option={})
    )


def test_debug_shows_the_traceback_of_user_code(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["certify", module(tmp_path, "debugged", first="1 / 0\n"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_mistake_of_ours_is_an_internal_error(monkeypatch, capsys) -> None:
    from arch_lab.cli import blocks as verb

    monkeypatch.setattr(verb, "parser", None)  # calling it raises in our file
    assert main(["blocks"]) == 1
    assert capsys.readouterr().err.startswith("internal error: TypeError: ")


# --- main in process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", "--help"], ["fit", "--help"], ["nothing"], ["blocks", "--kind"]],
    ids=" ".join,
)
def test_main_returns_a_code_and_never_exits(arguments, capsys) -> None:
    assert main(arguments) in (0, 2)


def test_main_leaves_no_global_state_behind(tmp_path, monkeypatch, capsys) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    before = (
        list(sys.path),
        dict(os.environ),
        list(sys.argv),
        signal.getsignal(signal.SIGINT),
        torch.get_num_threads(),
    )
    assert main(["plan", str(small_study(tmp_path)), "--threads", "2"]) == 0
    assert main(["certify", "not_there:Mixer"]) == 2
    assert (
        list(sys.path),
        dict(os.environ),
        list(sys.argv),
        signal.getsignal(signal.SIGINT),
        torch.get_num_threads(),
    ) == before


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "not enough memory"),
        (RecursionError("maximum depth"), "an input is nested too deeply"),
        (OverflowError("int too large"), "a number is too large"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "a text is not valid UTF-8"),
    ],
)
def test_a_limit_of_python_is_one_line_and_code_2(error, text) -> None:
    line, code = cli.explain(error)
    assert code == 2 and line.startswith(f"error: {text}") and "\n" not in line


def test_help_lists_the_exit_codes(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {code} " in text for code in (0, 1, 2, 130, 141, 143))
