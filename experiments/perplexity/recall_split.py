"""Where the loss of each arm lies: on tokens that the window lets it recall, on the rest, and by position."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from arch_lab import units
from arch_lab.judge.intervals import mean_interval, paired_difference
from arch_lab.judge.records import Interval
from arch_lab.metrics.recall_scores import FEWEST, RecallScores
from arch_lab.report.section import ARM, Cell, Section, Table, Value
from arch_lab.study.plan import Plan
from arch_lab.study.study import Study

RECALL = "recall"  # fact of a record
Splits = Mapping[str, Mapping[int, RecallScores]]  # arm -> seed -> its split


def sections_of(study: Plan) -> list[Section]:
    """One section of a study whose records hold the split; none of a plan, or of a study of before."""
    if not isinstance(study, Study):
        return []
    splits = {arm.name: _of_arm(study, arm.name) for arm in study.arms}
    scores = [score for by_seed in splits.values() for score in by_seed.values()]
    if not scores:
        return []
    first, title = scores[0], "Where the loss lies"
    text = [
        "A recall token is the second token of a bigram that occurred earlier in the same window and at most "
        f"{first.at_most} times in the training text: {first.recall_tokens:,} of the held-out tokens, {first.share:.1%}."
    ]
    if not first.is_enough:
        text.append(f"Fewer than {FEWEST:,} recall tokens are too few to report.")
        return [
            Section(title=title, anchor="recall", text=text, tables=(_positions(splits),), page_only=True)
        ]
    tables = (_losses(splits), _differences(splits), _positions(splits))
    return [Section(title=title, anchor="recall", text=text, tables=tables)]


def _of_arm(study: Study, arm: str) -> dict[int, RecallScores]:
    records = study.records(arm=arm, reported=True)
    return {r.seed: RecallScores.from_json(r.facts[RECALL]) for r in records if RECALL in r.facts}


def _losses(splits: Splits) -> Table:
    rows: list[list[Value]] = []
    for arm, by_seed in splits.items():
        kinds = [_interval([kind(s) for s in by_seed.values()]) for kind in (_recall, _rest)]
        rows.append([Cell(arm, ARM), *(units.plus_minus(interval) for interval in kinds)])
    heads = ["arm", "recall tokens", "the rest"]
    note = "held-out bits per token, mean ± half of the 95 % interval over seeds, lower is better"
    return Table(title="loss on recall tokens", headers=heads, rows=rows, note=note)


def _differences(splits: Splits) -> Table:
    rows: list[list[Value]] = []
    for b, a in combinations(splits, 2):
        recall, rest = (
            paired_difference(
                {seed: kind(s) for seed, s in splits[a].items()},
                {seed: kind(s) for seed, s in splits[b].items()},
            )
            for kind in (_recall, _rest)
        )
        share = next(iter(splits[a].values())).share if splits[a] else 0.0
        part = _part(recall.mean, rest.mean, share)
        cells = [
            Cell(units.bounded(d, units.decimals(units.half_width(d))), value=d.mean) for d in (recall, rest)
        ]
        rows.append([f"{a} − {b}", *cells, Cell(units.DASH if part is None else f"{part:.0%}", value=part)])
    heads = ["difference of", "recall tokens", "the rest", "due to recall"]
    note = "paired bits per token [95 % interval]; due to recall: share of the whole difference, both of one sign"
    return Table(title="where the difference lies", headers=heads, rows=rows, note=note)


def _part(recall: float | None, rest: float | None, share: float) -> float | None:
    """Share of the whole difference that lies on recall tokens; None where the two have different signs."""
    if recall is None or rest is None or recall * rest <= 0:
        return None
    return share * recall / (share * recall + (1 - share) * rest)


def _positions(splits: Splits) -> Table:
    """Mean over seeds of the loss in each bin of positions."""
    ends = next(s.positions for by_seed in splits.values() for s in by_seed.values())
    heads = ["arm", *(f"to {end:,}" for end in ends)]
    rows: list[list[Value]] = []
    for arm, by_seed in splits.items():
        bins = [
            _interval([s.by_position[i] for s in by_seed.values()]).mean if by_seed else None
            for i in range(len(ends))
        ]
        rows.append([Cell(arm, ARM), *(units.number(value, 3) for value in bins)])
    note = "held-out bits per token by position in the window, from the last position of the column before"
    return Table(title="loss by position", headers=heads, rows=rows, note=note)


def _recall(scores: RecallScores) -> float | None:
    return scores.recall_bits


def _rest(scores: RecallScores) -> float | None:
    return scores.rest_bits


def _interval(values: list[float | None]) -> Interval:
    return mean_interval([value for value in values if value is not None])
