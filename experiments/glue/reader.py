"""GLUE as typed rows from tab-separated or parquet files, and submission files.

Source: arXiv 1804.07461 and gluebenchmark.com. Files are split on line feeds and tabs alone: there is no
quoting, a sentence may hold an unpaired ``"`` and characters that other readers take for line ends. CoLA's
train and dev files have no header.
Nothing is skipped: a line that is not what it should be is an error that names the file and the line.
Labels are numbers in the order of ``GlueTask.names`` (that of the Hugging Face copies: entailment 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from arch_lab import files
from arch_lab.data import DataError
from arch_lab.data.files import read_text
from blocks.config import Options
from blocks.errors import did_you_mean

ENTAILMENT = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")
YES_NO = ("0", "1")
SUFFIXES = (".tsv", ".tsv.gz", ".parquet")


@dataclass(frozen=True, kw_only=True)
class GlueRow:
    """One example; ``pair`` None for single sentences, ``label`` None in test files that hide it; ``index``
    counts from 0.
    """

    index: int
    text: str
    pair: str | None
    label: int | float | None


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """How a task is laid out.

    Columns are alternatives: the benchmark's name first, then that of the Hugging Face copies.

    ``names``: classes in the order of their numbers, empty for a score from 0 to 5. ``rows``: the official
    number of rows per split.
    ``bare``: the columns of files without a header, by split.
    """

    folder: str
    text: tuple[str, ...]
    pair: tuple[str, ...] = ()
    label: tuple[str, ...] = ("label",)
    names: tuple[str, ...] = YES_NO
    rows: Mapping[str, int] = field(default_factory=dict)
    bare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    submission: Mapping[str, str] = field(default_factory=dict)  # file name by split


SENTENCES: Options = {"text": ("sentence1",), "pair": ("sentence2",)}
COLA = ("source", "label", "mark", "sentence")
MNLI: Options = {
    "text": ("sentence1", "premise"),
    "pair": ("sentence2", "hypothesis"),
    "label": ("gold_label", "label"),
    "names": THREE_WAY,
}
GLUE_TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        folder="CoLA",
        text=("sentence",),
        rows={"train": 8551, "dev": 1043, "test": 1063},
        bare={"train": COLA, "dev": COLA},
        submission={"test": "CoLA.tsv"},
    ),
    "sst2": GlueTask(
        folder="SST-2",
        text=("sentence",),
        rows={"train": 67349, "dev": 872, "test": 1821},
        submission={"test": "SST-2.tsv"},
    ),
    "mrpc": GlueTask(
        folder="MRPC",
        text=("#1 String", "sentence1"),
        pair=("#2 String", "sentence2"),
        label=("Quality", "label"),
        rows={"train": 3668, "dev": 408, "test": 1725},
        submission={"test": "MRPC.tsv"},
    ),
    "stsb": GlueTask(
        folder="STS-B",
        **SENTENCES,
        label=("score", "label"),
        names=(),
        rows={"train": 5749, "dev": 1500, "test": 1379},
        submission={"test": "STS-B.tsv"},
    ),
    "qqp": GlueTask(
        folder="QQP",
        text=("question1",),
        pair=("question2",),
        label=("is_duplicate", "label"),
        rows={"train": 363846, "dev": 40430, "test": 390965},
        submission={"test": "QQP.tsv"},
    ),
    "mnli": GlueTask(
        folder="MNLI",
        **MNLI,
        rows={
            "train": 392702,
            "dev_matched": 9815,
            "dev_mismatched": 9832,
            "test_matched": 9796,
            "test_mismatched": 9847,
        },
        submission={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
    ),
    # a sample of another making: under a name of its own, so that no score on it is taken for one on MNLI
    "mnli_subset": GlueTask(folder="MNLI-subset", **MNLI, rows={"train": 9888, "validation": 6238}),
    "qnli": GlueTask(
        folder="QNLI",
        text=("question",),
        pair=("sentence",),
        names=ENTAILMENT,
        rows={"train": 104743, "dev": 5463, "test": 5463},
        submission={"test": "QNLI.tsv"},
    ),
    "rte": GlueTask(
        folder="RTE",
        **SENTENCES,
        names=ENTAILMENT,
        rows={"train": 2490, "dev": 277, "test": 3000},
        submission={"test": "RTE.tsv"},
    ),
    "wnli": GlueTask(
        folder="WNLI",
        **SENTENCES,
        rows={"train": 635, "dev": 71, "test": 146},
        submission={"test": "WNLI.tsv"},
    ),
}
STS_FILE = (
    "sts-test.csv"  # the labelled test set of the STS benchmark: no header, some rows with two columns more
)
STS_COLUMNS = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")


def glue_task(name: str) -> GlueTask:
    """Raises: DataError with the nearest name."""
    if name not in GLUE_TASKS:
        raise DataError(f"unknown GLUE task {name!r}{did_you_mean(name, GLUE_TASKS)}")
    return GLUE_TASKS[name]


def read_glue(name: str, split: str, root: str | Path, *, rows: int | None = None) -> list[GlueRow]:
    """The rows of one split of one task under ``root`` (…/CoLA/train.tsv, .tsv.gz or .parquet).

    ``rows``: how many there must be, None for any number (``GLUE_TASKS[name].rows[split]`` is the official
    one).
    Raises: DataError, one line: the file, the line and what is wrong with it.
    """
    task = glue_task(name)
    path = _find(task, name, split, Path(root))
    return typed_rows(name, split, _columns(task, path, split), str(path), rows=rows)


def typed_rows(
    name: str,
    split: str,
    columns: Iterable[tuple[str, Mapping[str, Any]]],
    source: str,
    *,
    rows: int | None = None,
) -> list[GlueRow]:
    """Rows of one split, wherever their ``columns`` ((where, value by column) of each) were read.

    Raises: DataError, one line, for what is wrong with a row and for a number of them other than ``rows``.
    """
    task, hidden = glue_task(name), split.startswith("test")
    labelled_rows = [_row(task, index, *row, hidden) for index, row in enumerate(columns)]
    if not labelled_rows:
        raise DataError(f"{source}: no rows")
    if rows is not None and len(labelled_rows) != rows:
        raise DataError(
            f"{source}: {len(labelled_rows)} rows, expected {rows}; is the file cut off or of another "
            "version?"
        )
    return labelled_rows


def write_submission(name: str, predictions: Sequence[Any], folder: Path, *, split: str = "test") -> Path:
    """The file GLUE's server takes: ``index<TAB>prediction``, classes by name where the task has names.

    Returns its path.

    Raises: DataError for a number of predictions other than the official test set's, or one that is no class
    (no score from 0 to 5).
    """
    task = glue_task(name)
    if split not in task.submission:
        raise DataError(
            f"GLUE task {name!r} has no submission for split {split!r}{did_you_mean(split, task.submission)}"
        )
    if len(predictions) != task.rows[split]:
        raise DataError(
            f"GLUE task {name!r}: {len(predictions)} predictions for {task.rows[split]} rows of {split}"
        )
    lines = ["index\tprediction"]
    for i, value in enumerate(predictions):
        number = float(value)
        if not task.names:
            if not 0 <= number <= 5:
                raise DataError(
                    f"GLUE task {name!r}: prediction {value} at position {i} is not a score from 0 to 5"
                )
            lines.append(f"{i}\t{number:.3f}")
            continue
        if not (isfinite(number) and number == int(number) and 0 <= number < len(task.names)):
            raise DataError(
                f"GLUE task {name!r}: prediction {value} at position {i} is not in 0 … {len(task.names) - 1}"
            )
        lines.append(f"{i}\t{task.names[int(number)]}")
    path = folder / task.submission[split]
    files.write_text(path, "\n".join(lines) + "\n")
    return path


def _find(task: GlueTask, name: str, split: str, root: Path) -> Path:
    if split not in task.rows:
        raise DataError(f"GLUE task {name!r} has no split {split!r}{did_you_mean(split, task.rows)}")
    file_names = [split + suffix for suffix in SUFFIXES] + (
        [STS_FILE] if (name, split) == ("stsb", "test") else []
    )
    for file in file_names:
        if (root / task.folder / file).is_file():
            return root / task.folder / file
    raise DataError(f"GLUE task {name!r}: no {', '.join(file_names)} in {root / task.folder}")


def _columns(task: GlueTask, path: Path, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, value by column) of every row."""
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    lines = read_text(path).split("\n")  # never splitlines: U+2028 and others occur inside sentences
    if lines[-1] == "":
        lines.pop()
    bare = STS_COLUMNS if path.name == STS_FILE else task.bare.get(split)
    names = tuple(lines[0].split("\t")) if bare is None else bare
    widths = (len(names), len(names) + 2) if path.name == STS_FILE else (len(names),)
    first = 1 if bare is None else 0
    for number, line in enumerate(lines[first:], start=first + 1):
        location = f"{path} line {number}"
        if "\0" in line:
            raise DataError(f"{location}: holds a NUL byte; the file is damaged")
        values = line.split("\t")
        if len(values) not in widths:
            cut = "; is the file cut off?" if number == len(lines) else ""
            raise DataError(
                f"{location}: {len(values)} columns, expected {len(names)} ({', '.join(names)}){cut}"
            )
        yield location, dict(zip(names, values, strict=False))


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow (pip install pyarrow)") from None
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a valid parquet file ({str(error).splitlines()[0]})") from None
    for number, row in enumerate(rows):
        yield f"{path} row {number}", row


def _row(task: GlueTask, index: int, location: str, values: Mapping[str, Any], hidden: bool) -> GlueRow:
    text = _sentence(_value(values, task.text, location), location)
    pair = _sentence(_value(values, task.pair, location), location) if task.pair else None
    label: int | float | None = None
    if not hidden or any(name in values for name in task.label):
        label = _label(task, _value(values, task.label, location), location, hidden)
    return GlueRow(index=index, text=text, pair=pair, label=label)


def _value(values: Mapping[str, Any], names: tuple[str, ...], location: str) -> Any:
    for name in names:
        if name in values:
            return values[name]
    raise DataError(f"{location}: no column {' or '.join(map(repr, names))}{did_you_mean(names[0], values)}")


def _sentence(value: Any, location: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{location}: expected a sentence, got {value!r}")
    return value


def _label(task: GlueTask, value: Any, location: str, hidden: bool) -> int | float | None:
    if hidden and value in (-1, -1.0, None):  # how the Hugging Face copies hide it
        return None
    if not task.names:
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = float("nan")
        if not 0 <= score <= 5:
            raise DataError(f"{location}: score {value!r} is not a number from 0 to 5")
        return score
    if isinstance(value, str) and value in task.names:
        return task.names.index(value)
    if isinstance(value, int) and 0 <= value < len(task.names):
        return value
    raise DataError(f"{location}: label {value!r} is not one of {', '.join(task.names)}")
