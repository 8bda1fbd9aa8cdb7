"""A verdict in few words, for a page and for lists."""

from __future__ import annotations

import re
from collections.abc import Iterable

from arch_lab.judge.regime import BETTER, STARTS_FASTER

CLAUSES = 6  # of a sentence; more of them are counted


def sentences(text: str) -> list[str]:
    """A verdict of several sentences, one per line."""
    return [line if line.endswith(".") else f"{line}." for line in text.split(". ") if line]


def shortened(sentence: str, arms: Iterable[str]) -> str:
    """A sentence of many clauses: those that say what is better, and how many others there are."""
    head, bracket, evidence = sentence.partition(" (95 % level")
    clauses = head.split("; ")
    if len(clauses) <= CLAUSES:
        return sentence
    names = "|".join(sorted(map(re.escape, arms), key=len, reverse=True))
    start = re.search(rf"[,:] (?={names})", clauses[0])
    question, first = (clauses[0][: start.end()], clauses[0][start.end() :]) if start else ("", clauses[0])
    better = [
        clause
        for clause in (first, *clauses[1:])
        if any(f" {lead} than " in clause for lead in (BETTER, STARTS_FASTER))
    ]
    others = f"none of the other {len(clauses) - len(better)} pairs is distinguishable"
    others = others if better else f"none of the {len(clauses)} pairs of arms is distinguishable"
    return f"{question}{'; '.join([*better, others])}{bracket}{evidence}"


def short_verdict(text: str, arms: Iterable[str]) -> str:
    """A verdict with its long sentences shortened."""
    names = list(arms)
    return " ".join(shortened(line, names) for line in sentences(text)) if text else ""
