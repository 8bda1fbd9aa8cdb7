"""TREC QA (Wang et al., EMNLP 2007): a question ranks its own candidate sentences, some of which answer it.

``trecqa_wang/{train,dev,test}.csv.gz``: qtext, label, atext. Learning rates are chosen on dev. Questions
without an answer among their candidates cannot be scored, and those with answers only cannot be got wrong;
both are left out (what is often called the clean
set: 65 questions in dev, 68 in test).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from arch_lab.data import DataError
from arch_lab.data.files import read_text
from experiments.retrieval.readers.sets import RetrievalSet, check_counts, find_file, fingerprint, one_line
from experiments.retrieval.readers.tables import rows

COUNTS = {
    "train pairs": 4718,
    "dev pairs": 1148,
    "test pairs": 1517,
    "train questions": 93,
    "dev questions": 81,
    "test questions": 95,
}
FILES = {"train": "train", "tune": "dev", "test": "test"}


class Row(NamedTuple):
    """A question and a candidate sentence; ``label`` is 1 where it answers."""

    qtext: str
    label: str
    atext: str


def read_trec_qa(root: str | Path, *, counts: Mapping[str, int] | None = None) -> RetrievalSet:
    """``counts``: what must be found (COUNTS: the published set), None for any.

    Raises: DataError, one line.
    """
    folder = Path(root) / "trecqa_wang"
    paths = {
        split: find_file(folder, f"{name}.csv.gz", also=[f"{name}.csv"]) for split, name in FILES.items()
    }
    documents: dict[str, str] = {}
    queries: dict[str, dict[str, str]] = {split: {} for split in FILES}
    relevance: dict[str, dict[str, float]] = {}
    candidates: dict[str, list[str]] = {}
    numbers: dict[str, int] = {}
    notes = ["a question ranks its own candidates only"]
    split_of_question: dict[str, str] = {}  # question -> the split it stands in
    for split, path in paths.items():
        questions = _questions(path)
        for question in questions:
            if split_of_question.setdefault(question, split) != split:
                raise DataError(
                    f"{path}: question {question[:40]!r} is in {FILES[split_of_question[question]]} too"
                )
        numbers[f"{FILES[split]} pairs"] = sum(n for _, n in questions.values())
        numbers[f"{FILES[split]} questions"] = len(questions)
        none = sum(not any(answers.values()) for answers, _ in questions.values())
        trivial = sum(all(answers.values()) for answers, _ in questions.values())
        notes.append(f"{split}: {none} questions without an answer and {trivial} with answers only left out")
        for position, (question, (answers, _)) in enumerate(questions.items()):
            if not any(answers.values()) or all(answers.values()):
                continue
            query = f"{split}-{position}"
            names = {f"{query}-{index}": answer for index, answer in enumerate(answers)}
            queries[split][query] = question
            documents |= names
            candidates[query] = list(names)
            relevance[query] = {name: 1.0 for name, answer in names.items() if answers[answer]}
    check_counts(str(folder), numbers, counts)
    return RetrievalSet(
        name="trec_qa",
        documents=documents,
        queries=queries,
        relevance=relevance,
        candidates=candidates,
        fingerprint=fingerprint(paths.values()),
        notes=tuple(notes),
    )


def _questions(path: Path) -> dict[str, tuple[dict[str, bool], int]]:
    """Question -> ({candidate: whether it answers}, rows); a candidate that comes again counts once."""
    questions: dict[str, tuple[dict[str, bool], int]] = {}
    for location, row in rows(read_text(path), str(path), Row):
        question, answer = one_line(row.qtext), one_line(row.atext)
        if not question or not answer:
            raise DataError(f"{location}: the {'question' if not question else 'answer'} has no text")
        if row.label not in ("0", "1"):
            raise DataError(f"{location}: label {row.label!r} is not 0 or 1")
        answers, count = questions.setdefault(question, ({}, 0))
        if answers.setdefault(answer, row.label == "1") != (row.label == "1"):
            raise DataError(f"{location}: the answer {answer[:40]!r} is judged 0 and 1")
        questions[question] = answers, count + 1
    if not questions:
        raise DataError(f"{path}: no rows")
    return questions
