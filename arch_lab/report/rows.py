"""Questions that every page asks about rows of a study.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arch_lab.judge.measures import Measure, primary
from arch_lab.judge.records import FINISHED, is_finite


def diverged(row: Mapping[str, Any], measure: Measure) -> bool:
    """Whether a run of ``results`` gave no value of ``measure``, the first one of its study."""
    return row.get("status") != FINISHED or not is_finite(row.get(measure.key))


def better_arm(pair: Mapping[str, Any], measure: Measure) -> str | None:
    """The better arm of a pair, None where the two are not distinguishable."""
    if not pair["distinguishable"]:
        return None
    return str(pair["a"] if (pair["difference"] > 0) == measure.higher_is_better else pair["b"])


def better_than(study: Mapping[str, Any], arm: str) -> list[str]:
    """What an arm is better than: baselines outside its interval, arms whose paired difference is distinguishable."""
    beaten = [name for s in study["summary"] if s["arm"] == arm for name in s.get("beats") or []]
    pairs = [pair for pair in study["verdict"]["pairs"] if better_arm(pair, primary(study)) == arm]
    return beaten + [pair["b"] if pair["a"] == arm else pair["a"] for pair in pairs]
