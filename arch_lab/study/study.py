"""A finished study: its plan, the records of its trials, and what the judge makes of them. study.json holds one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab import sealed, units
from arch_lab.judge.control import control_pairs, control_warnings
from arch_lab.judge.records import Average, Baseline, Choice, Judgement, Pair, Record, Standing, Verdict
from arch_lab.stored import Facts, Json
from arch_lab.study.plan import VERSION, Plan
from blocks.errors import UserError

if TYPE_CHECKING:
    import pandas

STUDY = "study.json"
ADVICE = "run `arch-lab compare` again to rewrite it"


@dataclass(frozen=True, kw_only=True)
class Study(Plan):
    """What ``arch_lab.compare`` returns.

    ``results``: a record of each arm of each trial. ``summary``: standings, by task and arm. ``pairs``: paired differences.
    ``controls``: those of each arm and its twin, whose records are ``control_results``.
    ``curves``: path of each curve in the study's folder -> hash. ``notes``: files that the experiment wrote. ``details``: what only
    the experiment understands.
    """

    results: tuple[Record, ...] = ()
    control_results: tuple[Record, ...] = ()
    summary: tuple[Standing, ...] = ()
    pairs: tuple[Pair, ...] = ()
    controls: tuple[Pair, ...] = ()
    averages: tuple[Average, ...] = ()
    verdict: Verdict
    baselines: tuple[Baseline, ...] = ()
    curves: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: Facts = field(default_factory=dict)
    data: Facts = field(default_factory=dict)
    environment: Facts = field(default_factory=dict)
    command: str = ""
    identity: str = ""

    def selected(self, arm: str, task: str = "") -> Choice | None:
        """What an arm was reported at; None where it has no standing."""
        standing = self.standing(arm, task)
        return None if standing is None else standing.choice

    def is_reported(self, record: Record) -> bool:
        """Whether a record is of the choice that its arm was reported at."""
        return record.choice == self.selected(record.arm, record.task)

    def standing(self, arm: str, task: str = "") -> Standing | None:
        return next((s for s in self.summary if (s.arm, s.task) == (arm, task)), None)

    def records(
        self, *, arm: str | None = None, task: str | None = None, reported: bool = False
    ) -> list[Record]:
        """Records of an arm and a task; ``reported``: at the choice that the arm was reported at."""
        records = [r for r in self.results if arm in (None, r.arm) and task in (None, r.task)]
        return [r for r in records if self.is_reported(r)] if reported else records

    def to_frame(self) -> pandas.DataFrame:
        """One row per record, one column per measure. Raises: UserError when pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise UserError("to_frame needs pandas; install it with: pip install pandas") from None
        return pandas.DataFrame(list(self.rows()))

    def rows(self) -> list[Json]:
        """One flat row per record: its columns, its scores, and whether its choice was reported."""
        return [row_of(record, self.is_reported(record)) for record in self.results]

    def __repr__(self) -> str:
        """The verdict and the number of trials: short enough for a prompt."""
        arms = units.words([arm.name for arm in self.arms])
        return f"<Study {self.study!r}: {arms}; {units.counted(len(self.results), 'record')}; {self.verdict.text}>"

    def _repr_html_(self) -> str:
        """The verdict over the table of standings, for notebooks."""
        keys = list(dict.fromkeys(m.key for task in self.tasks for m in task.measures))
        names = {m.key: m.arrow for task in self.tasks for m in task.measures}
        heads = ["task", "arm", "learning rate", *(names[key] for key in keys)]
        lines = [
            [s.task, s.arm, units.rate(s.learning_rate), *(_cell(s, key) for key in keys)]
            for s in self.summary
        ]
        body = "".join(_html_row(line, "td") for line in lines)
        return f"<p>{escape(self.verdict.text)}</p><table>{_html_row(heads, 'th')}{body}</table>"


def row_of(record: Record, selected: bool) -> Json:
    """A record as one flat row."""
    plain = record.to_json()
    excluded = ("scores", "facts", "machine")
    return {
        **{key: value for key, value in plain.items() if key not in excluded},
        "selected": selected,
        **record.scores,
    }


def study_of(plan: Plan, judgement: Judgement, results: Sequence[Record], **more: Any) -> Study:
    """The study of a plan that was run. ``results``: of twins too. ``more``: the other fields of Study."""
    planned = {f.name: getattr(plan, f.name) for f in fields(Plan)}
    conclusions = {f.name: getattr(judgement, f.name) for f in fields(Judgement)}
    main = [record for record in results if record.seed not in plan.twins]
    twins = [record for record in results if record.seed in plan.twins]
    controls = control_pairs(results, plan.tasks, plan.arms, plan.twins)
    warnings = (*conclusions.pop("warnings"), *more.pop("warnings", ()), *control_warnings(controls))
    judged = {"results": tuple(main), "control_results": tuple(twins), "controls": tuple(controls)}
    return Study(**{**planned, **conclusions, **judged, "warnings": warnings, **more})


def read_study(folder: Path) -> Study:
    """The study of a folder. Raises: UserError when study.json is absent, damaged, or of another version."""
    path = Path(folder) / STUDY
    if not path.is_file():
        raise UserError(
            f"{path} not found; run `arch-lab compare` first, or give the folder of a finished study"
        )
    return parse_study(sealed.read(path, advice=ADVICE), path)


def parse_study(content: Json, path: Path) -> Study:
    """The study of a file's content. Raises: UserError for another version, ConfigError for missing keys."""
    content = {key: value for key, value in content.items() if key != sealed.CHECKSUM}
    if content.get("version") != VERSION:
        raise UserError(f"{path} was written {writer_of(content)}, in another form; {ADVICE}")
    return Study.from_json(content, where=str(path))


def writer_of(content: Json) -> str:
    """'by arch-lab 0.1.0 (e436a2f)', as a study.json says; 'by an earlier arch-lab' where it does not."""
    environment = content.get("environment")
    if not isinstance(environment, dict) or not environment.get("arch_lab"):
        return "by an earlier arch-lab"
    commit = f" ({str(environment['commit'])[:7]})" if environment.get("commit") else ""
    return f"by arch-lab {environment['arch_lab']}{commit}"


def _cell(standing: Standing, key: str) -> str:
    interval = standing.scores.get(key)
    return units.DASH if interval is None else units.plus_minus(interval)


def _html_row(cells: Sequence[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"
