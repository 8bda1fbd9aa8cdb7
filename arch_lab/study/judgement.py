"""The judged part of the study.json of a study of one task, from its result rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Record, Standing
from arch_lab.judge.selection import edge_warnings, select
from arch_lab.judge.standings import standing, with_beaten
from arch_lab.judge.verdict import verdict
from arch_lab.units import budget_words

Row = Mapping[str, Any]


def judge(
    results: Sequence[Row],
    arms: Sequence[str],
    measures: tuple[Measure, ...],
    baselines: Sequence[Row] = (),
    *,
    budget: str | Row = "the same budget",
    matched: bool = True,
) -> dict[str, Any]:
    """``selected``, ``summary``, ``verdict`` and ``warnings`` as study.json holds them.

    ``budget``: the study's, or the words after "At".
    """
    primary = measures[0]
    records = [Record.of_run(row, measures) for row in results]
    selected = select(records, arms, primary)
    standings = [standing(records, arm, selected.get(arm), measures) for arm in arms]
    standings = with_beaten(standings, {row["name"]: row.get(primary.key) for row in baselines}, primary)
    words = budget if isinstance(budget, str) else budget_words(budget)
    return {
        "selected": selected,
        "summary": [_summary_row(row) for row in standings],
        "verdict": verdict(records, selected, arms, primary, budget=words, matched=matched).to_json(),
        "warnings": edge_warnings(records, selected, primary),
    }


def _summary_row(row: Standing) -> dict[str, Any]:
    """A standing as study.json holds it: each measure under its own key."""
    return {
        "arm": row.arm,
        "learning_rate": row.learning_rate,
        **{key: asdict(interval) for key, interval in row.scores.items()},
        "tokens_per_second": row.tokens_per_second,
        "peak_memory_bytes": row.peak_memory_bytes,
        "beats": list(row.beats),
        "diverged_seeds": list(row.diverged_seeds),
    }
