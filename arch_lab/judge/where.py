"""The second line of a verdict: on which tokens the leading arm's lead lies, by the split of the loss by recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arch_lab.judge.intervals import paired_difference
from arch_lab.judge.records import Difference, Record
from arch_lab.metrics.recall_scores import FEWEST, RecallScores
from arch_lab.units import decimals, half_width, words

RECALL = "recall"  # fact of a record: RecallScores
BySeed = Mapping[int, RecallScores]


def splits_of(records: Sequence[Record]) -> dict[str, dict[int, RecallScores]]:
    """Arm -> seed -> its split, of records at the choices that are reported."""
    splits: dict[str, dict[int, RecallScores]] = {}
    for record in records:
        if RECALL in record.facts:
            splits.setdefault(record.arm, {})[record.seed] = RecallScores.from_json(record.facts[RECALL])
    return splits


def where_it_lies(records: Sequence[Record]) -> str:
    """A sentence on the arm with the least loss against each other arm; "" without splits of two arms."""
    splits = splits_of(records)
    if len(splits) < 2:
        return ""
    first = next(iter(next(iter(splits.values())).values()))
    named = f"tokens that the window lets a model recall ({first.share:.1%}, bigrams seen at most {first.at_most:,} times)"
    if not first.is_enough:
        return f"Where the difference lies is not reported: {first.recall_tokens:,} recall tokens are fewer than {FEWEST:,}."
    lead = min(splits, key=lambda arm: _mean_bits(splits[arm]))
    clauses = [_clause(lead, splits[lead], arm, own) for arm, own in splits.items() if arm != lead]
    return f"Where it lies, in bits per token: on {named} and on the rest, {words(clauses)}."


def _clause(lead: str, own: BySeed, other: str, its: BySeed) -> str:
    recall = paired_difference(
        {seed: split.recall_bits for seed, split in own.items()},
        {seed: split.recall_bits for seed, split in its.items()},
    )
    rest = paired_difference(
        {seed: split.rest_bits for seed, split in own.items()},
        {seed: split.rest_bits for seed, split in its.items()},
    )
    part = recall_part(recall.mean, rest.mean, next(iter(own.values())).share)
    due = "" if part is None else f" (recall: {part:.0%} of the lead)"
    return f"{lead} − {other} is {_bounded(recall)} and {_bounded(rest)}{due}"


def recall_part(recall: float | None, rest: float | None, share: float) -> float | None:
    """Share of a whole difference that lies on recall tokens; None where the two parts have different signs."""
    if recall is None or rest is None or recall * rest <= 0:
        return None
    return share * recall / (share * recall + (1 - share) * rest)


def _bounded(d: Difference) -> str:
    if d.mean is None:
        return "unknown"
    places = decimals(half_width(d))
    bounds = "" if d.low is None or d.high is None else f" [{d.low:+.{places}f}, {d.high:+.{places}f}]"
    return f"{d.mean:+.{places}f}{bounds}"


def _mean_bits(by_seed: BySeed) -> float:
    """Bits per token over all tokens."""
    every = [
        s.share * (s.recall_bits or 0.0) + (1 - s.share) * (s.rest_bits or 0.0) for s in by_seed.values()
    ]
    return sum(every) / len(every)
