"""Slices of equal compute in a report: score against size, best sizes, tuning curves of drawn settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from arch_lab import units
from arch_lab.judge.slices import Slice, Slices
from arch_lab.report.figures import colour_of, style, subplots
from arch_lab.report.section import ARM, BAD, STRONG, Cell, Drawing, Section, Table, Value
from arch_lab.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def by_budget(
    study: Study, slices: Sequence[Slice], height: float, draw: Callable[[Axes, Sequence[Slice]], None]
) -> Figure:
    """A panel per budget, of ``height`` inches, that ``draw(panel, slices of the budget)`` fills; one legend for all."""
    tasks = list(dict.fromkeys(one.task for one in slices))
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, axes = subplots(rows, columns, (max(5.0, 3.6 * columns), height * rows))
    panels = list(axes.flat)
    for panel, task in zip(panels, tasks, strict=False):
        draw(panel, [one for one in slices if one.task == task])
        panel.set_title(task or units.budget_words(study.budget))
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    for row in axes:
        row[0].set_ylabel(f"tuning {study.primary.name}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure


def position_of(study: Study, arm: str) -> int:
    """Place of an arm in the study, which decides its looks."""
    return [one.name for one in study.arms].index(arm)


def slice_section(study: Study, slices: Slices) -> Section:
    """Every arm at every size and budget."""
    caption = (
        "Score against model size at equal training FLOPs, a panel per budget: each point is the best setting of a size "
        "by the tune split, the ring marks the size that is reported."
    )
    figure = Drawing(name="slices", caption=caption, draw=lambda: draw_slices(study, slices))
    tables = (_slice_table(study, slices), _equal_size_table(study, slices))
    several = study.has_tasks and slices.unfitted  # one budget is not meant to give a law
    text = (slices.unfitted[:1].upper() + slices.unfitted[1:] + ".",) if several else ()
    return Section(
        title="Size at equal compute", anchor="slices", drawings=(figure,), tables=tables, text=text
    )


def draw_slices(study: Study, slices: Slices) -> Figure:
    """Tuning score against size, a panel per budget."""

    def fill(panel: Axes, own: Sequence[Slice]) -> None:
        for one in own:
            _draw_slice(panel, study, one)
        panel.set_xscale("log", base=2)
        sizes = sorted({p.nominal for s in own for p in s.points})
        panel.set_xticks(sizes, [units.short(size) for size in sizes])
        panel.minorticks_off()
        panel.set_xlabel("size (n_eff)")

    return by_budget(study, slices.slices, 3.2, fill)


def _draw_slice(panel: Axes, study: Study, one: Slice) -> None:
    position = position_of(study, one.arm)
    x, y = [p.size for p in one.points], [p.tuned for p in one.points]
    panel.plot(x, y, label=one.arm, linewidth=1.6, **style(position))
    ring: Any = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": colour_of(position)}
    panel.plot(x[one.best], y[one.best], marker="o", markeredgewidth=1.8, **ring)


def _slice_table(study: Study, slices: Slices) -> Table:
    rows: list[list[Value]] = []
    several = study.has_tasks
    for one in slices.slices:
        best = one.points[one.best]
        standing = study.standing(one.arm, one.task)
        score = None if standing is None else standing.scores[study.primary.key]
        optimum = units.short(one.optimum) if one.edge is None else f"{one.edge} tried"
        tuning = one.tuning
        falling = tuning is not None and tuning.is_falling and len(tuning.best) > 1
        settings = f"{best.settings}{', under-tuned' if falling else ''}"
        state = study.model(one.arm, best.nominal, one.task).state_bytes
        rows.append(
            [
                *([one.task] if several else []),
                Cell(one.arm, ARM),
                Cell(units.plus_minus(score), STRONG, None if score is None else score.mean),
                Cell(units.short(best.size), value=best.size),
                Cell(optimum, BAD if one.edge else "", value=one.optimum),
                Cell(units.short(best.tokens), value=best.tokens),
                Cell(f"{best.tokens / best.size:.3g}", value=best.tokens / best.size),
                Cell(units.memory(state), value=state),
                units.rate(best.learning_rate),
                Cell(settings, BAD if falling else "", value=float(best.settings)),
                None if one.sensitivity is None else units.number(one.sensitivity, 2),
            ]
        )
    heads = [*(["budget"] if several else []), "arm", f"held-out {study.primary.arrow}", "best n_eff"]
    heads += ["optimum", "tokens", "tokens per n_eff", "state", "learning rate", "settings"]
    heads.append("sensitivity")
    note = (
        "each arm at its best size and setting by the tune split; optimum: least of an Akima curve through the sizes; settings "
        "tried at that size; sensitivity: their mean distance from the best; state: memory per sequence while generating"
    )
    text = (0, 1) if several else (0,)
    drop = ("sensitivity", "tokens per n_eff", "tokens")
    return Table(title="best sizes", headers=heads, rows=rows, note=note, text_columns=text, drop=drop)


def _equal_size_table(study: Study, slices: Slices) -> Table:
    """Held-out scores of all arms at each size, which compares equal n_eff beside equal compute."""
    arms = [arm.name for arm in study.arms]
    rows: list[list[Value]] = []
    for task in study.tasks:
        own = {s.arm: {p.nominal: p for p in s.points} for s in slices.slices if s.task == task.name}
        for size in sorted({size for points in own.values() for size in points}):
            cells = [points[size].score if size in (points := own.get(arm, {})) else None for arm in arms]
            rows.append(
                [
                    *([task.name] if study.has_tasks else []),
                    Cell(units.short(size), value=size),
                    *(units.number(score) for score in cells),
                ]
            )
    heads = [*(["budget"] if study.has_tasks else []), "n_eff", *arms]
    note = f"held-out {study.primary.name} of the best setting of each size, first seed"
    text = (0,) if study.has_tasks else ()
    return Table(title="scores at equal size", headers=heads, rows=rows, note=note, text_columns=text)


def tuning_sections(study: Study, slices: Slices) -> list[Section]:
    """Tuning curves of drawn settings, where there are any."""
    drawn = [one for one in slices.slices if one.tuning is not None and len(one.tuning.best) > 2]
    if not drawn:
        return []
    caption = (
        "Tuning curves: expected best score of k settings at the size that is reported, against k. A curve that still falls "
        "at its end belongs to an arm that is under-tuned."
    )
    figure = Drawing(name="tuning", caption=caption, draw=lambda: _draw_tuning(study, drawn))
    return [
        Section(
            title="Tuning curves",
            anchor="tuning",
            drawings=(figure,),
            tables=(_tuning_table(study, drawn),),
            page_only=True,
        )
    ]


def _draw_tuning(study: Study, drawn: Sequence[Slice]) -> Figure:
    def fill(panel: Axes, own: Sequence[Slice]) -> None:
        for one in own:
            assert one.tuning is not None
            k = range(1, len(one.tuning.best) + 1)
            panel.plot(k, one.tuning.best, label=one.arm, linewidth=1.6, **style(position_of(study, one.arm)))
        panel.set_xlabel("settings tried")

    return by_budget(study, drawn, 3.0, fill)


def _tuning_table(study: Study, drawn: Sequence[Slice]) -> Table:
    most = max(len(one.tuning.best) for one in drawn if one.tuning is not None)
    shown = sorted({1, *(2**i for i in range(1, 20) if 2**i < most), most})
    rows: list[list[Value]] = []
    for one in drawn:
        assert one.tuning is not None
        cells = [_tuned(one, k) for k in shown]
        rows.append([*([one.task] if study.has_tasks else []), Cell(one.arm, ARM), *cells])
    heads = [*(["budget"] if study.has_tasks else []), "arm", *(f"best of {k}" for k in shown)]
    note = "expected best on the tune split [simultaneous 95 % band of its median]; an open side: so few settings bound nothing there"
    text = (0, 1) if study.has_tasks else (0,)
    return Table(title="tuning curves", headers=heads, rows=rows, note=note, text_columns=text)


def _tuned(one: Slice, k: int) -> Value:
    assert one.tuning is not None
    if k > len(one.tuning.best):
        return None
    low, high = one.tuning.low[k - 1], one.tuning.high[k - 1]
    band = f"[{units.number(low, 4)}, {units.number(high, 4)}]"
    return Cell(f"{units.number(one.tuning.best[k - 1], 4)} {band}", value=one.tuning.best[k - 1])
