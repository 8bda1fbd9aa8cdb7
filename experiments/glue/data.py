"""The data of a study: training, tuning and dev rows, and test rows to submit.

The tuning split is held out of train by a hash of the text, so that a sentence that occurs twice (366 rows of
SST-2), a pair turned round and a premise with several hypotheses stay on one side. The dev set is reported
and nothing is chosen by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from arch_lab.data import DataError
from arch_lab.judge.measures import Measure, Task
from arch_lab.stored import Facts
from arch_lab.study.open_study import Progress
from experiments.glue.config import GlueStudyConfig
from experiments.glue.hub import read_glue_hub
from experiments.glue.metrics import GLUE_METRICS, glue_metrics
from experiments.glue.reader import GLUE_TASKS, GlueRow, GlueTask, read_glue

PREMISES = ("rte", "wnli", "qnli", "mnli", "mnli_subset")  # first sentences come back with other second ones
SYMMETRIC = ("mrpc", "stsb", "qqp")
WORDS = {
    "matthews": "Matthews correlation",
    "accuracy": "accuracy",
    "f1": "F1",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
Rows = list[GlueRow]


@dataclass(frozen=True, kw_only=True)
class GlueSet:
    """One task, read.

    ``reported``: the rows of each dev file, ``submitted``: of each test file, both by split.
    """

    name: str
    train: Rows
    tuning: Rows
    reported: dict[str, Rows]
    submitted: dict[str, Rows]
    facts: Facts = field(default_factory=dict)

    @property
    def layout(self) -> GlueTask:
        return GLUE_TASKS[self.name]

    @property
    def classes(self) -> int:
        """0: a score from 0 to 5."""
        return len(self.layout.names)

    @property
    def paired(self) -> bool:
        return bool(self.layout.pair)

    def task(self) -> Task:
        """As tables show it.

        WNLI has no place in an average: its dev set is made so that whoever learned its train set loses.
        """
        counted = (
            () if self.name in ("wnli", "mnli_subset") else tuple(key for key, _, _ in _scored(self.name))
        )
        measures = tuple(
            Measure(key=key, name=words, short=f"{key} ↑", higher_is_better=True)
            for key, _, words in _scored(self.name)
        )
        return Task(name=self.name, measures=measures, counted=counted, facts=self.facts)

    def tuned(self, predictions: Sequence[float]) -> float:
        """The first measure, on the tuning split."""
        _, metrics_of, _ = _scored(self.name)[0]
        return _metrics(metrics_of, predictions, self.tuning)[_first(self.name)]

    def scores(self, predictions: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Every measure, from the predictions of each reported split."""
        scores = {}
        for split, (suffix, metrics_of) in _halves(self.name).items():
            for key, value in _metrics(metrics_of, predictions[split], self.reported[split]).items():
                scores[key + suffix] = value
        return {key: scores[key] for key, _, _ in _scored(self.name)}

    @cached_property
    def fingerprint(self) -> str:
        parts = [self.train, self.tuning, *self.reported.values(), *self.submitted.values()]
        return hashlib.sha256(
            repr([[asdict(row) for row in split_rows] for split_rows in parts]).encode()
        ).hexdigest()[:16]


def read_set(name: str, config: GlueStudyConfig) -> GlueSet:
    """The files of one task, its tuning split held out.

    Raises: DataError, one line, for what cannot be scored.
    """
    layout = GLUE_TASKS[name]
    dev = tuple(split for split in layout.rows if split.startswith(("dev", "validation")))
    facts: Facts = {
        "scores": f"official {' and '.join(dev)}"
        if name != "mnli_subset"
        else "its own validation file, not MNLI's dev sets"
    }
    rows = {split: _read(name, split, config) for split in ("train", *dev)}
    short = [
        f"{split} has {len(rows[split]):,} of {layout.rows[split]:,} rows"
        for split in rows
        if len(rows[split]) != layout.rows[split]
    ]
    if short and name not in config.data.incomplete:
        raise DataError(
            f"{'; '.join(short)}; is a file cut off or of another version? data.incomplete: "
            f"[{name}] scores it anyway, marked"
        )
    if short:
        facts |= {"incomplete": "; ".join(short)}
    train, tuning = held_out(
        name, rows["train"], fraction=config.data.tuning_fraction, max_rows=config.data.tuning_rows
    )
    max_rows = config.finetuning.rows_of(name)
    kept_rows = (
        train if max_rows is None else sorted(train, key=lambda row: _hash(name, row, "rows"))[:max_rows]
    )
    submitted, reason = _submitted(name, config) if config.submission else ({}, "")
    recipe = config.finetuning
    facts |= {
        "read": f"{recipe.pairs}, {recipe.pooler}" if layout.pair else recipe.pooler,
        "epochs": recipe.epochs_of(name),
    }
    facts |= {"train": len(kept_rows), "tuning": len(tuning)} | {split: len(rows[split]) for split in dev}
    facts |= {"left_out_by_max_rows": len(train) - len(kept_rows)} if len(kept_rows) < len(train) else {}
    facts |= {"no_submission": reason} if reason else {}
    return GlueSet(
        name=name,
        train=kept_rows,
        tuning=tuning,
        reported={s: rows[s] for s in dev},
        submitted=submitted,
        facts=facts,
    )


def held_out(name: str, rows: Rows, *, fraction: float, max_rows: int) -> tuple[Rows, Rows]:
    """(train, tuning), in the order of ``rows``: whole groups of rows that share a key go to tuning until it
    holds enough.

    Raises: DataError when one of the two would be empty.
    """
    tuning_size = min(max_rows, round(fraction * len(rows)))
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(_hash(name, row, "tuning"), []).append(position)
    tuning_rows: set[int] = set()
    for _, members in sorted(groups.items()):
        if len(tuning_rows) >= tuning_size:
            break
        tuning_rows.update(members)
    train = [row for position, row in enumerate(rows) if position not in tuning_rows]
    tuning = [row for position, row in enumerate(rows) if position in tuning_rows]
    if len(tuning) < 2 or not train:
        raise DataError(
            f"GLUE task {name!r}: {len(rows)} training rows are too few to hold {fraction:.0%} of them out"
        )
    return train, tuning


def _hash(name: str, row: GlueRow, purpose: str) -> str:
    texts = [" ".join(text.casefold().split()) for text in (row.text, row.pair) if text is not None]
    if purpose == "tuning" and name in PREMISES:
        texts = texts[:1]
    if name in SYMMETRIC:
        texts.sort()
    return hashlib.sha256("\0".join([purpose, *texts]).encode()).hexdigest()


def _submitted(name: str, config: GlueStudyConfig) -> tuple[dict[str, Rows], str]:
    """Rows of GLUE's test files, and the reason when there are none.

    A test file never keeps a task from its score.
    """
    splits = {}
    layout = GLUE_TASKS[name]
    for split in layout.submission:
        try:
            splits[split] = _read(name, split, config, rows=layout.rows[split])
        except DataError as error:
            return {}, str(error)
    return splits, "" if layout.submission else "GLUE's server knows no such task"


def _read(name: str, split: str, config: GlueStudyConfig, *, rows: int | None = None) -> Rows:
    if config.data.source == "hub":
        return read_glue_hub(
            name, split, dataset=config.data.hub, root=config.folder, revision=config.data.revision, rows=rows
        )
    return read_glue(name, split, _root(config), rows=rows)


def _root(config: GlueStudyConfig) -> Path:
    """``--data-root`` may name the folder that holds glue/ or glue/ itself."""
    subfolder = config.folder / config.data.folder
    return (
        subfolder
        if subfolder.is_dir() or not any((config.folder / t.folder).is_dir() for t in GLUE_TASKS.values())
        else config.folder
    )


# --- measures -----------------------------------------------------------------------------------------------


def _halves(name: str) -> dict[str, tuple[str, str]]:
    """split -> (suffix of its measures' keys, name in GLUE_METRICS)."""
    if name == "mnli":
        return {f"dev_{half}": (f"_{half}", f"mnli_{half}") for half in ("matched", "mismatched")}
    return {"validation": ("", "mnli_matched")} if name == "mnli_subset" else {"dev": ("", name)}


def _first(name: str) -> str:
    """What a verdict is about: Spearman for STS-B, as the released M2-BERT recipe reports; else the
    benchmark's first.
    """
    return "spearman" if name == "stsb" else next(iter(GLUE_METRICS[next(iter(_halves(name).values()))[1]]))


def _scored(name: str) -> list[tuple[str, str, str]]:
    """(key, name in GLUE_METRICS, words) of every measure of a task, the first first."""
    measures = [
        (key + suffix, metrics_of, f"{WORDS[key]}{suffix.replace('_', ', ')}")
        for suffix, metrics_of in _halves(name).values()
        for key in GLUE_METRICS[metrics_of]
    ]
    return sorted(measures, key=lambda measure: not measure[0].startswith(_first(name)))


def _metrics(metrics_of: str, predictions: Sequence[float], rows: Rows) -> dict[str, float]:
    return glue_metrics(metrics_of, predictions, [row.label for row in rows])


def sentences(rows: Rows) -> tuple[list[str], list[str] | None]:
    """First and second sentences; None where the task has one."""
    seconds = [row.pair for row in rows if row.pair is not None]
    return [row.text for row in rows], seconds or None


def read_sets(config: GlueStudyConfig, progress: Progress) -> tuple[dict[str, GlueSet], dict[str, str]]:
    """Tasks that can be scored, and of the others why not. Raises: DataError when there is none."""
    sets, absent = {}, {}
    for name in config.tasks:
        try:
            sets[name] = read_set(name, config)
        except DataError as error:
            absent[name] = str(error)
            progress(f"{name} is left out: {error}")
    if not sets:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise DataError(f"no task of study {config.name!r} can be read: {next(iter(absent.values()))}{more}")
    return sets, absent
