"""The gate applied to a stored study: deviations are computed again, stored flags are ignored.

A study.json can be edited, copied together or written by an older version. Whoever turns one into a report
asks here first: arms that miss the budget, or runs that did not train as long as their arm's plan says, are
refused, unless the study says ``override``; then the report is marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from arch_lab.budget.budget import Budget, BudgetError
from arch_lab.budget.gate import Miss, check

UNMATCHED = "The budgets are not matched, so this is not a comparison at equal cost."


def deviations(arm: Mapping[str, Any], budget: Mapping[str, Any]) -> dict[str, float]:
    """Signed relative distance of an arm from each axis of ``budget`` (plan form), from the arm's own counts.

    Parameters from embedding, head, body and total, FLOPs and tokens from what is spent a token and the
    steps.
    """
    distances: dict[str, float] = {}
    for axis in ("params", "flops_per_token", "train_flops", "tokens", "seconds"):
        target = budget.get(axis)
        if target is None:
            continue
        if axis == "params":
            counts, kind = arm["parameters"], budget.get("match_on", "body+head")
            value = counts["body"] + counts["head"] if kind == "body+head" else counts[kind]
        elif axis == "seconds":
            value = arm["steps"] * arm["calibration"]["seconds_per_step"]
        else:
            value = arm[axis]
        distances[axis] = value / target - 1
    return distances


def misses_of(study: Mapping[str, Any]) -> list[Miss]:
    """Misses of a plan or study (plan.json, study.json): arms, then finished runs off their arm's plan.

    Raises: ConfigError when the stored budget is none (a tolerance above 10 %, no axis), KeyError for an arm
    without counts.
    """
    stored = {k: v for k, v in study["budget"].items() if v is not None}
    budget = Budget.from_options({**stored, "tolerance": study["tolerance"]}, where="the stored budget")
    arms = [{**arm, **_recounted(arm, study)} for arm in study["arms"]]
    misses = check([{**arm, "deviation": deviations(arm, stored)} for arm in arms], budget)
    return [*misses, *_cut_short(study.get("results") or [], arms, budget.tolerance)]


def _recounted(arm: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens and FLOPs of a whole run by its steps, which is what was trained."""
    tokens = arm["steps"] * study["sequence_length"] * study["batch_size"]
    return {"tokens": tokens, "train_flops": arm["flops_per_token"] * tokens}


def _cut_short(
    results: Sequence[Mapping[str, Any]], arms: Sequence[Mapping[str, Any]], tolerance: float
) -> list[Miss]:
    planned = {arm["name"]: arm["tokens"] for arm in arms}
    misses = []
    for run in results:
        tokens = run.get("tokens")
        if run.get("status") == "finished" and tokens is not None and run["arm"] in planned:
            off = tokens / planned[run["arm"]] - 1
            if abs(off) > tolerance:
                label = f"arm {run['arm']!r}, learning rate {run['learning_rate']:g}, seed {run['seed']}"
                text = f"{label} trained on {tokens:,} tokens, {off:+.2%} off its plan"
                misses.append(Miss(arm=run["arm"], axis="tokens", deviation=off, text=text))
    return misses


def require_matched(study: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``study`` with ``matched`` and ``misses`` as they really are.

    Raises: BudgetError when arms are not matched and the study does not say ``override``, or when its arms
    lack counts.
    """
    try:
        misses = misses_of(study)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise BudgetError(
            f"{where}: the budget cannot be checked again ({type(error).__name__}: {error}); run `arch-lab compare` again"
        ) from None
    if misses and study.get("override") is not True:
        more = f" (and {len(misses) - 1} more)" if len(misses) > 1 else ""
        raise BudgetError(
            f"{where}: refused: {misses[0].text}{more}; tolerance {study['tolerance']:.1%}. Arms that are not matched are not compared; "
            "only a study run with budget.allow_unmatched: true may still be reported"
        )
    checked = {**study, "matched": not misses, "misses": [asdict(m) for m in misses]}
    verdict = study.get("verdict")
    if misses and isinstance(verdict, Mapping) and UNMATCHED not in verdict.get("text", ""):
        checked["verdict"] = {**verdict, "text": f"{UNMATCHED} {verdict.get('text', '')}".strip()}
    return checked
