"""What a study may claim, in sentences: one of a study at one budget, one per task of a study over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from arch_lab.judge.intervals import mean_interval
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Pair, Record
from arch_lab.judge.regime import BETTER
from arch_lab.units import decimals, rate, words


def verdict_of_one(
    values: Mapping[str, Mapping[int, float | None]],
    pairs: Sequence[Pair],
    records: Sequence[Record],
    primary: Measure,
    *,
    budget: str = "the same budget",
    matched: bool = True,
    lead: str = BETTER,
) -> str:
    """The quotable answer of a study of one task. ``values``: arm -> seed -> score, at its chosen learning rate.

    ``budget``: the words after "At", for instance "1M parameters and 20 TFLOP of training". ``matched`` False (a gate that was
    overridden) is stated before anything else. ``lead``: what may be said of a better arm (arch_lab.judge.regime.claim).
    """
    text = _sentence(values, pairs, f"At {budget}" if matched else "As measured", primary, lead)
    if not matched:
        text = f"The budgets are not matched, so this is not a comparison at equal cost. {text}"
    failures = _failures(records, primary)
    return f"{text} {failures}" if failures else text


def _sentence(
    values: Mapping[str, Mapping[int, float | None]],
    pairs: Sequence[Pair],
    premise: str,
    primary: Measure,
    lead: str,
) -> str:
    means = {
        arm: mean_interval([v for v in seeds.values() if v is not None]).mean for arm, seeds in values.items()
    }
    measured = [f"{arm} {mean:.4f}" for arm, mean in means.items() if mean is not None]
    if not measured:
        return "No run finished, so there is no verdict."
    if len(means) == 1:
        arm, mean = next(iter(means.items()))
        return f"{premise}, {arm} measures {mean:.4f} {primary.name}; it is the only arm, so nothing is compared."
    tested = [pair for pair in pairs if pair.p_adjusted is not None]
    if not tested:
        return _untested(pairs, measured, premise, primary.name)
    if len(pairs) == 1:
        return _one_pair(pairs[0], premise, lead)
    clauses = _ranked(pairs, means, primary, lead)
    clauses += [f"{p.b} and {p.a} are not distinguishable" for p in tested if not p.distinguishable]
    clauses += [
        f"{p.b} and {p.a} cannot be judged ({p.n} paired seeds)" for p in pairs if p.p_adjusted is None
    ]
    corrected = f", Holm-corrected over {len(tested)} pairs" if len(tested) > 1 else ""
    return f"{premise}, {'; '.join(clauses)} (95 % level, {_seed_range(tested)} paired seeds{corrected})."


def _untested(pairs: Sequence[Pair], measured: list[str], premise: str, unit: str) -> str:
    shared_seeds = max(pair.n for pair in pairs)
    if shared_seeds == 0:
        return f"{premise}, no two arms finished the same seed, so there is no verdict ({unit}: {', '.join(measured)})."
    reason = (
        "One seed cannot support a verdict"
        if shared_seeds == 1
        else "The seeds show no spread, so they cannot support a verdict"
    )
    advice = "; run at least 3 seeds" if shared_seeds == 1 else "; check that the runs use the seed"
    return f"{reason}: {premise[0].lower()}{premise[1:]}, {unit} are {words(measured)}{advice}."


def _one_pair(pair: Pair, premise: str, lead: str) -> str:
    assert pair.low is not None and pair.high is not None
    places = decimals((pair.high - pair.low) / 2)
    evidence = (
        f"({pair.a} − {pair.b} = {pair.difference:+.{places}f} [{pair.low:.{places}f}, {pair.high:.{places}f}] "
        f"{pair.measure}, 95 % interval over {pair.n} paired seeds)"
    )
    if pair.better is None:
        return f"{premise}, {pair.a} and {pair.b} are not distinguishable {evidence}."
    return f"{premise}, {pair.better} {lead} than {pair.worse} {evidence}."


def _ranked(
    pairs: Sequence[Pair], means: Mapping[str, float | None], primary: Measure, lead: str
) -> list[str]:
    """'a is better than b and c', the best arm first."""
    beaten = _beaten(pairs)
    sign = -1 if primary.higher_is_better else 1

    def rank(arm: str) -> float:
        mean = means[arm]
        return math.inf if mean is None else sign * mean

    return [f"{better} {lead} than {words(beaten[better])}" for better in sorted(beaten, key=rank)]


def _beaten(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Better arm -> the arms it is better than."""
    beaten: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.better is not None and pair.worse is not None:
            beaten.setdefault(pair.better, []).append(pair.worse)
    return beaten


def _failures(records: Sequence[Record], primary: Measure) -> str:
    lost: dict[tuple[str, float | None], list[int]] = {}
    for record in records:
        if record.score(primary.key) is None:
            lost.setdefault((record.arm, record.learning_rate), []).append(record.seed)
    if not lost:
        return ""
    names = [
        f"{arm} at learning rate {rate(learning_rate)} (seed{'s' * (len(seeds) > 1)} {words([str(s) for s in sorted(seeds)])})"
        for (arm, learning_rate), seeds in sorted(lost.items())
    ]
    return (
        f"Diverged and left out, {sum(map(len, lost.values()))} of {len(records)} runs: {', '.join(names)}."
    )


def _seed_range(pairs: Sequence[Pair]) -> str:
    """'3', or '2 to 3' where pairs rest on different numbers of seeds."""
    counts = sorted({pair.n for pair in pairs if pair.n})
    return "no" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


# --- several tasks ----------------------------------------------------------------------------------------------------


def verdict_over_tasks(pairs: Sequence[Pair], questions: Mapping[str, str]) -> str:
    """One sentence per task that compares anything. ``questions``: task -> how its sentence begins, in the order shown."""
    sentences = []
    for task, question in questions.items():
        clauses = clauses_of([pair for pair in pairs if pair.task == task])
        sentences += [f"{question}: {clauses}."] if clauses else []
    if not sentences:
        return "There is only one method, so nothing is compared; the tables show its scores."
    return " ".join(
        [*sentences, f"95 % level, {_seed_range(pairs)} paired seeds, Holm-corrected within a task."]
    )


def verdict_over_budgets(pairs: Sequence[Pair], budgets: Mapping[str, str], more: str = "") -> str:
    """The answer at the largest budget, and at which smaller ones the order is another.

    ``budgets``: task -> its budget in words, ascending; ``more``: a sentence on the compute that an arm saves.
    """
    tasks = list(budgets)
    orders = {task: {(p.better, p.worse) for p in pairs if p.task == task and p.better} for task in tasks}
    at_largest = [pair for pair in pairs if pair.task == tasks[-1]]
    clauses = clauses_of(at_largest)
    if not clauses:
        return "There is only one arm, so nothing is compared; the tables show its scores."
    seeds = _seed_range(at_largest)
    text = f"At {budgets[tasks[-1]]} of training, each arm at its best size, {clauses} (95 % level, {seeds} paired seeds, "
    text += "Holm-corrected)."
    others = [budgets[task] for task in tasks[:-1] if orders[task] != orders[tasks[-1]]]
    if len(tasks) > 1:
        text += (
            f" The order is another at {words(others)}."
            if others
            else " The order is the same at every budget."
        )
    return f"{text} {more}".strip()


def clauses_of(pairs: Sequence[Pair]) -> str:
    """'a is better than b and c; b and c are not distinguishable'; many undecided pairs in one clause, the table has them."""
    beaten = _beaten(pairs)
    undecided = [(p.b, p.a) for p in pairs if p.p_adjusted is not None and p.better is None]
    untested = [(p.b, p.a) for p in pairs if p.p_adjusted is None]
    clauses = [
        f"{better} {pairs[0].lead} than {words(worse)}"
        for better, worse in sorted(beaten.items(), key=lambda item: -len(item[1]))
    ]
    for group, ending in ((undecided, "are distinguishable"), (untested, "can be judged")):
        if len(group) > 1 and len(group) == len(pairs):
            return f"no two of {words(list(dict.fromkeys(name for pair in group for name in pair)))} {ending}"
    if len(undecided) > 2:
        clauses.append("no other two are distinguishable")
    else:
        clauses += [f"{b} and {a} are not distinguishable" for b, a in undecided]
    return "; ".join(clauses + [f"{b} and {a} cannot be judged" for b, a in untested])
