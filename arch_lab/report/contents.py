"""The sections of a report in reading order.

Results first, then how they were made. The page has them all, the terminal most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from arch_lab import files, units
from arch_lab.report import drawings, facts, tables
from arch_lab.report.chart import loss_drawings, score_drawings
from arch_lab.report.equal_cost import equal_cost
from arch_lab.report.frontier import frontier_sections
from arch_lab.report.section import ARM, Cell, Drawing, Section, Table, Value
from arch_lab.study.experiment import load_experiment
from arch_lab.study.plan import Plan
from arch_lab.study.study import Study
from arch_lab.study.trial import SAMPLES


def sections(study: Study, folder: Path | None = None) -> list[Section]:
    """``folder``: of the study, which its curves and samples are read from; without it there are none."""
    further = list(load_experiment(study.experiment).sections(study))
    curves = _curve_sections(study, folder) if folder is not None else []
    is_judged = bool(study.summary)
    return [
        *(_results(study) if is_judged else further),
        *frontier_sections(study),
        *curves,
        *(further if is_judged else []),
        *_pairs(study),
        *_controls(study),
        *planned_sections(study, further),
        *_learning_rates(study),
        *_measured(study, folder),
        _lines("Warnings", study.warnings, "No warnings."),
        *([_lines("Files", study.notes, "")] if study.notes else []),
        *_data(study),
    ]


def planned_sections(plan: Plan, further: Sequence[Section]) -> list[Section]:
    """What is compared and on what, as a plan knows it.

    ``further``: sections of the experiment, which may say it instead.
    """
    if facts.trains_models(plan):
        return _models(plan)
    if not plan.has_tasks or (further and not plan.learning_rates):
        return []
    return [
        Section(title="What was compared", anchor="compared", tables=(facts.arms(plan), facts.tasks(plan)))
    ]


def _results(study: Study) -> list[Section]:
    first = Section(title="Results", anchor="results", tables=(tables.results(study),))
    if not study.has_tasks:
        every = (tables.measures(study),) if len(study.measures) > 1 else ()
        more = Section(
            title="Every measure with its interval",
            anchor="measures",
            tables=every,
            page_only=True,
            folded=True,
        )
        return [first, more] if every else [first]
    scores = [tables.of_task(study, task) for task in study.tasks]
    scores += [tables.averages(study)] if study.averages else []
    return [
        first,
        Section(
            title="Each budget" if study.sizes else "Each task",
            anchor="tasks",
            drawings=_drawn(drawings.scores(study)),
            tables=scores,
            page_only=bool(study.sizes),
            folded=bool(study.sizes),
        ),
    ]


def _curve_sections(study: Study, folder: Path) -> list[Section]:
    scores, losses = score_drawings(folder, study), loss_drawings(folder, study)
    cost = (
        None if study.sizes else equal_cost(folder, study)
    )  # with sizes the verdict has the line at equal seconds
    out = (
        [Section(title="Score over training", anchor="score", drawings=scores, page_only=True)]
        if scores
        else []
    )
    out += [cost] if cost is not None else []
    several = study.has_tasks
    loss = Section(title="Training loss", anchor="loss", drawings=losses, page_only=True, folded=several)
    return [*out, *([loss] if losses else [])]


def _pairs(study: Study) -> list[Section]:
    """Of two arms, the verdict is the sentence of their one pair, which the terminal does not print twice."""
    if not study.pairs:
        return []
    single = len(study.pairs) == 1
    figures = _drawn(drawings.differences(study))
    table = (tables.pairs(study),)
    return [
        Section(
            title="Paired differences", anchor="differences", drawings=figures, tables=table, page_only=single
        )
    ]


def _controls(study: Study) -> list[Section]:
    if not study.controls:
        return []
    return [Section(title="A/A control", anchor="control", tables=(tables.controls(study),))]


def _models(plan: Plan) -> list[Section]:
    text = []
    if plan.sizes and plan.tolerance is not None:
        flops = units.words([units.short(point, "FLOP") for point in plan.budgets])
        text.append(
            f"Every model trains for {flops}, to be met within {100 * plan.tolerance:g} %; an arm is judged by its best size."
        )
    elif plan.budget and plan.tolerance is not None:
        budget = units.budget_words(plan.budget)
        text.append(f"The budget of every arm is {budget}, to be met within {100 * plan.tolerance:g} %.")
    if plan.batch_size and plan.sequence_length:
        batch = f"batches of {plan.batch_size} sequences of {plan.sequence_length} tokens"
        text.append(f"Every arm trains on {batch}.")
    costs = [facts.sized(plan)] if plan.sizes else [facts.size(plan), facts.cost(plan)]
    costs += [facts.regime(plan)] if has_regime(plan) and not plan.sizes else []
    costs.append(facts.parameter_groups(plan))
    known = plan.sizes and isinstance(plan, Study)  # the terminal has shown them with the plan
    equal = Section(
        title="What was held equal", anchor="budget", text=text, tables=costs, page_only=bool(known)
    )
    return [equal, *_bookkeeping(plan)]


def has_regime(plan: Plan) -> bool:
    """Whether its experiment trains language models."""
    return bool(getattr(load_experiment(plan.experiment), "has_regime", False))


def _bookkeeping(plan: Plan) -> list[Section]:
    folded: dict[str, Callable[[Plan], Table]] = {
        "Architectures": facts.options,
        "Other counts of FLOPs": facts.conventions,
    }
    out = [
        Section(
            title=title,
            anchor=title.lower().replace(" ", "-"),
            tables=(make(plan),),
            page_only=True,
            folded=True,
        )
        for title, make in folded.items()
    ]
    content = {**plan.training, **({"objective": plan.objective} if plan.objective else {})}
    title = "Training settings, the same for every arm"
    table = facts.settings(content)
    settings = Section(title=title, anchor="settings", tables=(table,), page_only=True, folded=True)
    return [*out, *([settings] if content else [])]


def _learning_rates(study: Study) -> list[Section]:
    if study.sizes or not any(r.learning_rate is not None for r in study.results):
        return []  # of a study with sizes every size has rates of its own: see its best sizes and trials
    figures = _drawn(drawings.sensitivity(study))
    return [
        Section(
            title="Learning rates", anchor="learning-rates", drawings=figures, tables=(tables.rates(study),)
        )
    ]


def _measured(study: Study, folder: Path | None) -> list[Section]:
    out = []
    for title, anchor, draw in (
        ("Parameters and FLOPs by component", "components", drawings.components),
        ("Throughput and memory", "speed", drawings.speed),
    ):
        figures = _drawn(draw(study)) if facts.trains_models(study) else ()
        out += [Section(title=title, anchor=anchor, drawings=figures, page_only=True)] if figures else []
    out += _samples(study, folder) if folder is not None else []
    every = (tables.trials(study),)
    return (
        [*out, Section(title="Every trial", anchor="trials", tables=every, page_only=True)]
        if study.results
        else out
    )


def _samples(study: Study, folder: Path) -> list[Section]:
    """What each arm generated in its first trial at the chosen learning rate, where samples were written."""
    rows: list[list[Value]] = []
    for arm in study.arms:
        content = files.read_json(folder / SAMPLES / f"{arm.name}.json")
        if isinstance(content, dict):
            rows.append([Cell(arm.name, ARM), str(content.get("prompt", "")), str(content.get("text", ""))])
    table = Table(headers=["arm", "prompt", "continuation"], rows=rows, text_columns=(0, 1, 2))
    text = ("Text that each arm generated after the same prompt, by its first seed at the chosen rate.",)
    return (
        [Section(title="Samples", anchor="samples", text=text, tables=(table,), page_only=True)]
        if rows
        else []
    )


def _data(study: Study) -> list[Section]:
    tables_of_data = facts.data(study)
    return (
        [Section(title="Data", anchor="data", tables=tables_of_data, page_only=True)]
        if tables_of_data
        else []
    )


def _lines(title: str, lines: Sequence[str], absent: str) -> Section:
    """The terminal prints these lines where it wants them."""
    text = () if lines else (absent,)
    return Section(title=title, anchor=title.lower(), text=text, lines=lines, page_only=True)


def _drawn(drawing: Drawing | None) -> tuple[Drawing, ...]:
    return () if drawing is None else (drawing,)
