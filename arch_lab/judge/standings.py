"""Where each arm stands on a task at its chosen learning rate: an interval per measure and the baselines it beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from arch_lab.judge.intervals import measure_interval
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Choice, Interval, Record, Standing, is_finite, machine_names


def by_seed(records: Sequence[Record], arm: str, choice: Choice, key: str) -> dict[int, float | None]:
    """Seed -> score of one arm at one choice; None where the trial diverged."""
    return {r.seed: r.score(key) for r in records if r.arm == arm and r.choice == choice}


def standing(
    records: Sequence[Record],
    arm: str,
    choice: Choice,
    measures: Sequence[Measure],
    *,
    task: str = "",
    baseline: bool = False,
) -> Standing:
    """One arm of one task, over seeds. ``records``: those of the task."""
    scores, medians = {}, {}
    for measure in measures:
        values = [v for v in by_seed(records, arm, choice, measure.key).values() if v is not None]
        scores[measure.key] = measure_interval(values, measure)
        medians[measure.key] = float(np.median(values)) if values else None
    trials = [r for r in records if r.arm == arm and r.choice == choice]
    finished = [r for r in trials if r.score(measures[0].key) is not None]
    timed = trials if len(set(machine_names(trials))) < 2 else []  # speeds of different machines have no mean
    peaks = [r.peak_memory_bytes for r in timed if r in finished and r.peak_memory_bytes is not None]
    return Standing(
        task=task,
        arm=arm,
        baseline=baseline,
        **choice.to_json(),
        scores=scores,
        medians=medians,
        diverged_seeds=tuple(sorted(r.seed for r in trials if r not in finished)),
        tokens_per_second=_mean([r.tokens_per_second for r in timed if r in finished]),
        peak_memory_bytes=max(peaks, default=None),
        seconds=_mean([r.seconds for r in timed]),
    )


def with_beaten(
    standings: Sequence[Standing], bars: Mapping[str, float | None], primary: Measure
) -> list[Standing]:
    """``standings`` with the baselines that each beats. ``bars``: baseline -> its value of the first measure."""
    out = []
    for row in standings:
        names = (
            ()
            if row.baseline
            else tuple(n for n, bar in bars.items() if _beats(row.scores[primary.key], bar, primary))
        )
        out.append(replace(row, beats=names))
    return out


def _beats(score: Interval, bar: float | None, measure: Measure) -> bool:
    """Whether the whole interval lies on the better side; one seed has no interval, and then the value itself counts."""
    if score.mean is None or not is_finite(bar):
        return False
    assert bar is not None
    bound = score.low if measure.higher_is_better else score.high
    bound = score.mean if bound is None else bound
    return bound > bar if measure.higher_is_better else bound < bar


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if is_finite(value)]
    return float(np.mean(finite)) if finite else None  # type: ignore[arg-type]
