"""What a retrieval set is: documents, queries by split, and who is relevant to whom.

The readers of this folder make them.

A query without a relevant document cannot be scored, and one without an irrelevant candidate cannot be got
wrong: readers leave both out and say how many there were. Nothing else is skipped: whatever contradicts
itself is one line that names the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from arch_lab.data import DataError
from arch_lab.data.files import file_hash

SPLITS = ("train", "tune", "test")


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """``documents`` and ``queries[split]``: id -> text; ids of queries are unique over the splits.

    ``relevance``: query -> {document: grade above 0}; what is not named is not relevant. ``candidates``:
    query -> the documents it ranks, in the file's order; None where every query ranks every document.
    ``fingerprint``: of the bytes of all files.
    ``notes``: what was left out and how the splits came about, for the reader of a table.
    Raises: DataError for an empty text, an id that does not exist, a query that cannot be scored.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, Mapping[str, str]]
    relevance: Mapping[str, Mapping[str, float]]
    candidates: Mapping[str, Sequence[str]] | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.queries) != SPLITS or not all(self.queries.values()):
            raise DataError(
                f"{self.name}: each of {', '.join(SPLITS)} needs a query; has {_sizes(self.queries)}"
            )
        for kind, texts in (
            ("document", self.documents),
            *((f"{split} query", q) for split, q in self.queries.items()),
        ):
            for key, text in texts.items():
                if not text.strip():
                    raise DataError(f"{self.name}: {kind} {key!r} has no text")
        everyone = [query for queries in self.queries.values() for query in queries]
        if len(set(everyone)) != len(everyone):
            raise DataError(f"{self.name}: a query is in two splits")
        for query in everyone:
            relevant = self.relevance.get(query, {})
            ranked = self.documents.keys() if self.candidates is None else set(self.candidates[query])
            if unknown := sorted(
                (ranked | relevant.keys()) - self.documents.keys()
                if self.candidates
                else relevant.keys() - ranked
            ):
                raise DataError(
                    f"{self.name}: the judgements of query {query!r} name document {unknown[0]!r}, "
                    "which does not exist"
                )
            if (
                not relevant
                or min(relevant.values()) <= 0
                or not relevant.keys() <= ranked
                or len(ranked) == len(relevant)
            ):
                raise DataError(
                    f"{self.name}: query {query!r} needs a relevant and an irrelevant document among those "
                    "it ranks"
                )

    @property
    def training_queries(self) -> Mapping[str, str]:
        return self.queries["train"]

    @property
    def reported_queries(self) -> Mapping[str, str]:
        return self.queries["test"]

    @property
    def scored_queries(self) -> list[str]:
        """Ids of the tuning and the reported queries."""
        return [*self.queries["tune"], *self.reported_queries]

    @property
    def all_queries(self) -> dict[str, str]:
        """Every query of the set: id -> text."""
        return {query: text for queries in self.queries.values() for query, text in queries.items()}

    def ranked(self, query: str) -> Sequence[str]:
        """The documents that ``query`` puts in order."""
        return list(self.documents) if self.candidates is None else self.candidates[query]

    def irrelevant(self, query: str) -> list[str]:
        """Those of them that are not relevant, in their order."""
        relevant = self.relevance[query]
        return [document for document in self.ranked(query) if document not in relevant]

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """(query, relevant document) of a split, in the order of the files."""
        return [(query, document) for query in self.queries[split] for document in self.relevance[query]]


def _sizes(queries: Mapping[str, Mapping[str, str]]) -> str:
    return ", ".join(f"{split} {len(texts)}" for split, texts in queries.items())


def bucket(text: str, buckets: int) -> int:
    """The bucket of a text, a function of the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % buckets


def find_file(folder: Path, name: str, *, also: Iterable[str] = ()) -> Path:
    """The file of that name in ``folder``, or one of ``also``. Raises: DataError."""
    names = (name, *also)
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(f"no {' or '.join(names)} in {folder}")


def fingerprint(paths: Iterable[Path]) -> str:
    """Of the bytes of these files, wherever they lie."""
    return hashlib.sha256(" ".join(file_hash(path) for path in paths).encode()).hexdigest()


def check_counts(location: str, counts: Mapping[str, int], expected: Mapping[str, int] | None) -> None:
    """``expected``: what a complete copy holds; None: any number.

    Raises: DataError for the first that differs.
    """
    for name, number in (expected or {}).items():
        if counts[name] != number:
            raise DataError(
                f"{location}: {counts[name]} {name}, expected {number}; "
                "is a file cut off or of another version?"
            )


def one_line(text: str) -> str:
    """White space of any kind becomes one blank."""
    return " ".join(text.split())
