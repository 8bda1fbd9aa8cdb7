"""Tables in terminals of 60 to 160 columns and in pipes: names whole, lines within the width, nothing lost silently."""

from __future__ import annotations

import json

import pytest

from arch_lab import units
from arch_lab.cli import main
from blocks.registry import entries
from tests.cli.terminals import shown_at

WIDTHS = (60, 80, 100, 160)
COST = ("cost", "gemma3", "--preset", "1b", "--seq-len", "8192")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verb", [("blocks",), COST, ("compare", "--list")], ids=" ".join)
def test_no_line_is_longer_than_the_terminal(verb, width, monkeypatch, capsys) -> None:
    text = shown_at(width, monkeypatch, capsys)(*verb)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_every_block_is_listed_with_its_whole_name(width, monkeypatch, capsys) -> None:
    lines = shown_at(width, monkeypatch, capsys)("blocks").splitlines()
    assert {entry.name for entry in entries()} <= {line.split(" ")[0] for line in lines}


@pytest.mark.parametrize("width", WIDTHS)
def test_no_table_contains_an_ellipsis(width, monkeypatch, capsys) -> None:
    show = shown_at(width, monkeypatch, capsys)
    assert "…" not in show("blocks") + show(*COST)


def test_a_dropped_column_is_named_with_the_way_to_see_it(monkeypatch, capsys) -> None:
    text = shown_at(80, monkeypatch, capsys)("blocks")
    assert "arXiv:" not in text and "not shown: source (a wider terminal or --json shows it)" in text


def test_columns_dropped_at_80_are_there_at_160(monkeypatch, capsys) -> None:
    text = shown_at(160, monkeypatch, capsys)("blocks")
    assert "google-deepmind/gemma gemma/gm/nn/gemma4" in text and "not shown" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_parameters_of_every_part_are_shown_at_any_width(width, monkeypatch, capsys) -> None:
    assert main([*COST, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["components"]
    lines = shown_at(width, monkeypatch, capsys)(*COST).splitlines()
    for part in parts:
        assert any(
            line.startswith(part["name"] + " ") and f"{part['parameters']:,}" in line for line in lines
        )


def test_a_table_too_wide_is_printed_in_parts_with_the_names_again(monkeypatch, capsys) -> None:
    lines = shown_at(60, monkeypatch, capsys)("plan", "wikitext2").splitlines()
    # size, cost and parameter groups in two parts each, regime in one
    assert sum(line.startswith("gemma3 ") for line in lines) == 7


def test_heads_break_between_words_only(monkeypatch, capsys) -> None:
    text = shown_at(80, monkeypatch, capsys)("plan", "wikitext2")
    assert all(word in text for word in ("training", "tokens", "embedding", "memory,"))


def test_a_pipe_gets_whole_lines_and_whole_cells(monkeypatch, capsys) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["blocks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(entries())


def test_a_name_wider_than_the_terminal_is_folded_not_cut(monkeypatch, capsys) -> None:
    text = shown_at(20, monkeypatch, capsys)("blocks")
    assert "gemma_merged_attenti\non" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_plan_of_throughput_names_every_arm_at_any_width(width, monkeypatch, capsys) -> None:
    lines = shown_at(width, monkeypatch, capsys)("plan", "throughput").splitlines()
    assert max(map(len, lines)) <= width
    assert {"gemma2", "gemma3-full", "gemma3-sliding", "m2_gpt"} <= {line.split(" ")[0] for line in lines}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1338306 * 3600 + 1740, "153 years"),
        (6.4e7, "2 years"),
        (1e40, "more than 10,000 years"),
        (5e6, "57 days 20 h"),
        (3 * 86400, "3 days 0 h"),
    ],
)
def test_long_times_are_readable(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text
