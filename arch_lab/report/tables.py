"""Tables of what a study found: results, standings on each task, averages, pairs, learning rates, trials."""

from __future__ import annotations

import csv
import io

from arch_lab import units
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import DIVERGED, Average, Interval, Pair, Record, Standing
from arch_lab.report.section import ARM, BAD, SOFT, STRONG, Cell, Table, Value
from arch_lab.study.study import Study

PLACES = 3  # decimals of a score on one of several tasks: its own noise is larger than a thousandth
CSV_LAST = ("tuned", "tokens_per_second", "peak_memory_bytes", "tokens", "steps", "flops", "seconds")


def results(study: Study) -> Table:
    """The table at a glance: arms x measures, or arms x tasks."""
    return overview(study) if study.has_tasks else standings(study)


def standings(study: Study) -> Table:
    """Arms of a study of one task, the best first, then the baselines."""
    primary, *others = study.measures
    seeds = len({record.seed for record in study.results})
    rows: list[list[Value]] = []
    for s in sorted(study.summary, key=lambda s: _rank(s.scores[primary.key], primary)):
        score = s.scores[primary.key]
        rivals = ", ".join(ahead_of(study, s.arm)) or "nothing shown"
        means = [units.number(s.scores[m.key].mean) for m in others]
        cells: list[Value] = [
            Cell(s.arm, ARM),
            units.rate(s.learning_rate),
            Cell(units.plus_minus(score), STRONG),
        ]
        rows.append([*cells, *means, f"{score.n}/{seeds}", rivals])
    for b in study.baselines:
        values = [Cell(units.number(b.scores.get(m.key)), SOFT) for m in study.measures]
        rows.append([Cell(b.name, SOFT), Cell(units.DASH, SOFT), *values, "", Cell("(baseline)", SOFT)])
    heads = ["arm", "learning rate", *(m.head for m in study.measures), "seeds", "ahead of"]
    note = "held-out split, mean ± 95 % interval over seeds, lower is better (↑: higher)"
    return Table(title="results", headers=heads, rows=rows, note=note, text_columns=(0, len(heads) - 1))


def _rank(score: Interval, measure: Measure) -> tuple[bool, float]:
    if score.mean is None:
        return True, 0.0
    return False, -score.mean if measure.higher_is_better else score.mean


def ahead_of(study: Study, arm: str) -> list[str]:
    """What an arm is ahead of.

    Baselines outside its interval, arms whose paired difference is distinguishable.
    """
    baselines = [name for s in study.summary if s.arm == arm for name in s.beats]
    return baselines + [str(pair.worse) for pair in study.pairs if pair.better == arm]


def measures(study: Study) -> Table:
    """Every measure of a study of one task with its interval."""
    heads = ["arm", *(m.arrow for m in study.measures)]
    rows = [
        [
            Cell(s.arm, ARM),
            *(Cell(units.bounded(s.scores[m.key]), value=s.scores[m.key].mean) for m in study.measures),
        ]
        for s in study.summary
    ]
    note = "mean [95 % Student-t interval]; that of a perplexity is taken on its logarithm"
    return Table(title="every measure", headers=heads, rows=rows, note=note)


def overview(study: Study) -> Table:
    """Arms x tasks.

    The first measure of each task, mean ± half of its interval; the average where one is meant.
    """
    averages = {average.arm: average for average in study.averages}
    heads = [
        "arm",
        *(f"{task.name}, {task.primary.arrow}" for task in study.tasks),
        *(["average ↑"] if averages else []),
    ]
    rows = []
    for arm in study.arms:
        row: list[Value] = [_arm_cell(arm.name, arm.baseline)]
        for task in study.tasks:
            standing = study.standing(arm.name, task.name)
            row.append(units.plus_minus(standing.scores[task.primary.key] if standing else None, PLACES))
        row += [Cell(units.plus_minus(averages.get(arm.name), PLACES), STRONG)] if averages else []
        rows.append(row)
    return Table(title="scores", headers=heads, rows=rows, note=_overview_note(study))


def _overview_note(study: Study) -> str:
    seeds = len(study.seeds)
    note = (
        f"mean ± half of the 95 % Student-t interval over {seeds} seeds"
        if seeds > 1
        else "one seed, so no interval"
    )
    if study.averages:
        note += f"; average over {', '.join(task.name for task in study.tasks if task.counted)}"
        note += f"; not in it: {', '.join(study.absent)}" if study.absent else ""
    return note


def _arm_cell(name: str, baseline: bool) -> Cell:
    return Cell(f"{name} (baseline)", SOFT) if baseline else Cell(name, ARM)


def of_task(study: Study, task: Task) -> Table:
    """Every arm on one of several tasks, with every measure."""
    tuned = any(arm.tuned for arm in study.arms_of(task.name))
    rows = [_task_row(s, task, tuned=tuned) for s in study.summary if s.task == task.name]
    heads = ["arm", *(["learning rate"] if tuned else []), f"median {task.primary.name}"]
    heads += [*(m.arrow for m in task.measures), "beats", "seconds per trial"]
    facts = ", ".join(f"{key} {fact(value)}" for key, value in task.facts.items())
    note = (
        "mean [95 % interval]; beats: the baselines that lie outside the whole interval of the first measure"
    )
    note = f"{facts}; {note}" if facts else note
    return Table(
        title=f"task {task.name}", headers=heads, rows=rows, note=note, text_columns=(0, len(heads) - 2)
    )


def _task_row(s: Standing, task: Task, *, tuned: bool) -> list[Value]:
    middle = s.medians[task.primary.key]
    scores = [Cell(units.bounded(s.scores[m.key], PLACES), value=s.scores[m.key].mean) for m in task.measures]
    return [
        _arm_cell(s.arm, s.baseline),
        *([units.rate(s.learning_rate)] if tuned else []),
        units.DASH if middle is None else f"{middle:.{PLACES}f}",
        *scores,
        ", ".join(s.beats) or None,
        None if s.seconds is None else f"{s.seconds:.3g}",
    ]


def averages(study: Study) -> Table:
    """Mean over the counted tasks of each arm that has them all."""
    rows = [[_arm_cell(a.arm, a.baseline), units.bounded(a, PLACES), _median(a), a.n] for a in study.averages]
    names = ", ".join(task.name for task in study.tasks if task.counted)
    return Table(
        title="average",
        headers=["arm", "mean [95 % interval]", "median", "seeds"],
        rows=rows,
        note=f"over {names}",
    )


def _median(average: Average) -> Value:
    return None if average.median is None else f"{average.median:.{PLACES}f}"


def pairs(study: Study) -> Table:
    """Paired differences with their tests."""
    rows = []
    for p in study.pairs:
        gap = gap_of(p)
        half = units.half_width(gap)
        places = PLACES if study.has_tasks else units.decimals(half)
        numbers = [_p_value(p.p_value), _p_value(p.p_adjusted), p.n]
        row = [
            f"{p.a} − {p.b}",
            Cell(units.bounded(gap, places), value=p.difference),
            Cell(units.number(half, 2), value=half),
            *numbers,
            verdict_cell(p),
        ]
        rows.append([p.task, *row] if study.has_tasks else row)
    heads = ["difference of", "mean [95 % interval]", "detectable", "p", "p, Holm", "seeds", "verdict"]
    heads = ["task", *heads] if study.has_tasks else heads
    of = "first measure of each task" if study.has_tasks else study.primary.name
    note = (
        f"paired by seed, {of}; the verdict uses Holm's correction over the pairs of a task; detectable: half of the interval, "
        "the smallest difference that these seeds could tell from zero before the correction"
    )
    text = (0, 1, 7) if study.has_tasks else (0, 6)
    drop = ("detectable", "p")
    return Table(
        title="paired differences", headers=heads, rows=rows, note=note, text_columns=text, drop=drop
    )


def controls(study: Study) -> Table:
    """Each arm against its twin with other seeds."""
    rows: list[list[Value]] = []
    for p in study.controls:
        gap = gap_of(p)
        verdict = Cell("distinguishable", BAD) if p.distinguishable else Cell("not distinguishable")
        difference = Cell(units.bounded(gap, units.decimals(units.half_width(gap))), value=p.difference)
        rows.append([f"{p.a} − {p.b}", difference, _p_value(p.p_value), p.n, verdict])
    heads = ["difference of", "mean [95 % interval]", "p", "seeds", "verdict"]
    note = "the same arm from other seeds: a difference here is one that means nothing"
    return Table(title="A/A control", headers=heads, rows=rows, note=note, text_columns=(0, 4))


def gap_of(pair: Pair) -> Interval:
    """Difference of a pair with its plain interval."""
    return Interval(mean=pair.difference, low=pair.low, high=pair.high, n=pair.n)


def verdict_cell(pair: Pair) -> Cell:
    """Which arm of a pair is better, or why none is named."""
    untold = "no verdict" if pair.p_adjusted is None else "not distinguishable"
    return Cell(f"{pair.better} {pair.lead}", STRONG) if pair.better else Cell(untold)


def _p_value(value: float | None) -> Value:
    return None if value is None else Cell(f"{value:.2g}", value=value)


def rates(study: Study) -> Table:
    """Tuning score of every learning rate.

    What the choice was made by. * marks it, × the seeds that diverged.
    """
    names = [arm.name for arm in study.arms if arm.tuned]
    rows: list[list[Value]] = []
    for task in study.tasks:
        tried = sorted(
            {r.learning_rate for r in study.records(task=task.name) if r.learning_rate is not None}
        )
        for rate in tried:
            cells = [_tuning_cell(study, task, name, rate) for name in names]
            rows.append([*([task.name] if study.has_tasks else []), units.rate(rate), *cells])
    heads = ["task", "rate", *names] if study.has_tasks else ["learning rate", *names]
    of = "first measure on the tune split" if study.has_tasks else f"tuning {study.primary.name}"
    note = f"{of}, mean (number of seeds); * chosen, × diverged"
    return Table(
        title="learning rates",
        headers=heads,
        rows=rows,
        note=note,
        text_columns=(0,) if study.has_tasks else (),
    )


def _tuning_cell(study: Study, task: Task, arm: str, rate: float) -> Cell:
    """'2.4312 (3) *': mean of the trials that finished, their number, and whether this rate was chosen."""
    records = [r for r in study.records(arm=arm, task=task.name) if r.learning_rate == rate]
    scores = [r.tuning_score for r in records if r.tuning_score is not None]
    lost = sum(r.score(task.primary.key) is None for r in records)
    places = PLACES if study.has_tasks else 4
    mean = sum(scores) / len(scores) if scores else None
    chosen = any(study.is_reported(r) for r in records)
    text = f"{mean:.{places}f} ({len(scores)})" if scores else "" if lost else units.DASH
    text += f" ×{lost}/{len(records)}" if lost else ""
    return Cell(
        text.strip() + (" *" if chosen else "  "), BAD if lost else STRONG if chosen else "", value=mean
    )


def trials(study: Study) -> Table:
    """Every trial that was run; a diverged one is marked, never hidden."""
    plan_order = {name: position for position, name in enumerate([arm.name for arm in study.arms])}
    tasks = {task.name: (position, task) for position, task in enumerate(study.tasks)}
    records = sorted(
        study.results,
        key=lambda r: (
            tasks[r.task][0],
            plan_order.get(r.arm, 0),
            r.size or 0,
            r.learning_rate or 0.0,
            r.seed,
        ),
    )
    rows = [_trial_row(study, r, tasks[r.task][1].primary) for r in records]
    score = "score" if study.has_tasks else study.primary.name
    heads = [
        "arm",
        *(["task"] if study.has_tasks else []),
        *(["size"] if study.sizes else []),
        "learning rate",
        *(["draw"] if study.grid.draws else []),
        "seed",
        "status",
        score,
        f"tuning {score}",
    ]
    heads += ["tokens/s", "peak memory", "time"]
    lost = [r for r in records if r.score(tasks[r.task][1].primary.key) is None]
    how = "diverged" if all(r.status == DIVERGED for r in lost) else "without a score"
    note = f"{units.counted(len(rows), 'trial')}, {len(lost)} of them {how}"
    text = (0, 1, heads.index("status")) if study.has_tasks else (0, heads.index("status"))
    return Table(title="every trial", headers=heads, rows=rows, note=note, text_columns=text)


def _trial_row(study: Study, r: Record, measure: Measure) -> list[Value]:
    rate = r.learning_rate
    chosen = " (chosen)" if rate is not None and study.is_reported(r) else ""
    lost = r.score(measure.key) is None
    return [
        Cell(r.arm, ARM),
        *([r.task] if study.has_tasks else []),
        *([Cell(units.short(r.size), value=r.size)] if study.sizes else []),
        Cell(f"{units.rate(rate)}{chosen}", value=rate),
        *([r.draw] if study.grid.draws else []),
        r.seed,
        Cell(f"✗ {r.status}" + (f": {r.reason}" if r.reason else ""), BAD) if lost else r.status,
        units.number(r.scores.get(measure.key), 5),
        units.number(r.tuned, 5),
        Cell(units.short(r.tokens_per_second), value=r.tokens_per_second),
        Cell(units.memory(r.peak_memory_bytes), value=r.peak_memory_bytes),
        Cell(units.duration(r.seconds), value=r.seconds),
    ]


def fact(value: object) -> str:
    """A plain value as people read it."""
    if value is None:
        return units.DASH
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return units.exact(value)
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def results_csv(study: Study) -> str:
    """``results.csv``.

    A row per record, a column per measure of any task; no values where a trial diverged.
    """
    keys = list(dict.fromkeys(m.key for task in study.tasks for m in task.measures))
    models = {arm.name: arm.architecture for arm in study.arms if arm.architecture}
    heads = [*(["task"] if study.has_tasks else []), "arm", *(["architecture"] if models else [])]
    heads += [*(["size"] if study.sizes else []), "learning_rate", *(["draw"] if study.grid.draws else [])]
    heads += ["seed", "status", "selected", *keys, *CSV_LAST]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, heads, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    for row in study.rows():
        writer.writerow({**row, "architecture": models.get(row["arm"], ""), "selected": int(row["selected"])})
    return stream.getvalue()
