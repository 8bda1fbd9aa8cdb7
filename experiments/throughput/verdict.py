"""What a throughput study may claim, in sentences: ratios of whole models, their crossovers, and warnings."""

from __future__ import annotations

from collections.abc import Sequence

from arch_lab import units
from arch_lab.judge.crossover import Crossover, Ratio, Series
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.recheck import UNMATCHED
from experiments.throughput.config import MODES
from experiments.throughput.results import parameters_at
from experiments.throughput.timing import Timing

STATED = (1024, 4096, 16384)  # lengths whose ratios the verdict states, where they were measured
DRIFT = 1.5  # fastest over slowest GEMM rate of a study, above which the speed of its machine has changed
INCOMPARABLE = (
    "No two whole models were measured at the same length, so they cannot be compared; "
    "the tables show all measurements."
)


def verdict_text(plan: Plan, subject: str, ratios: Sequence[Ratio], crossovers: Sequence[Crossover]) -> str:
    """Ratios of whole models at the stated lengths, and their crossovers, peer by peer."""
    peers = [arm.name for arm in plan.arms if arm.name != subject]
    sentences = [
        f"{subject} against {peer} (above 1 it is faster): {'; '.join(clauses)}."
        for peer in peers
        if (clauses := _clauses(peer, ratios, crossovers))
    ]
    unmatched = [] if plan.matched else [UNMATCHED]
    return " ".join([*unmatched, *(sentences or [INCOMPARABLE])])


def _clauses(peer: str, ratios: Sequence[Ratio], crossovers: Sequence[Crossover]) -> list[str]:
    """'forward 1.28 / 1.79 at 1,024 / 4,096 tokens, faster from: …', of each mode of an eager whole model."""
    clauses = []
    for mode in MODES:
        series = Series(level="model", mode=mode, compiled=False)
        by_length = {r.tokens: r.ratio for r in ratios if r.series == series and r.peer == peer}
        if by_length:
            crossover = next(c for c in crossovers if c.series == series and c.peer == peer)
            lengths = [t for t in STATED if t in by_length] or sorted({min(by_length), max(by_length)})
            values = " / ".join(f"{by_length[t]:.2f}" for t in lengths)
            tokens = " / ".join(f"{t:,}" for t in lengths)
            clauses.append(f"{mode} {values} at {tokens} tokens, faster from: {crossover}")
    return clauses


def warnings_of(plan: Plan, match_length: int, timings: Sequence[Timing]) -> list[str]:
    """A machine whose speed changed, and arms that are larger at longer lengths."""
    growing = [_growth_warning(arm, match_length) for arm in plan.arms]
    return [*_drift_warnings(timings), *filter(None, growing)]


def _drift_warnings(timings: Sequence[Timing]) -> list[str]:
    rates = [timing.gemm_rate for timing in timings]
    if not rates or max(rates) <= DRIFT * min(rates):
        return []
    slowest, fastest = units.short(min(rates), "FLOP/s"), units.short(max(rates), "FLOP/s")
    return [
        f"the GEMM rate of this machine varied between {slowest} and {fastest} during the study: ratios of "
        "interleaved pairs are valid, but times of different lengths are hard to compare; "
        "measure on an idle machine"
    ]


def _growth_warning(arm: PlannedArm, match_length: int) -> str:
    counts = parameters_at(arm)
    if len(set(counts.values())) < 2:
        return ""
    low, high = min(counts), max(counts)
    return (
        f"{arm.name} has parameters for every position: {counts[low]:,} in all at {low:,} tokens, "
        f"{counts[high]:,} at {high:,}; the budget is met at {match_length:,}"
    )
