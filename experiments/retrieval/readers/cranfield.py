"""Cranfield: 1,400 abstracts on aerodynamics, 225 questions, judgements of all of them.

``cranfield/cran.all.1400.xml.gz`` (``<doc>`` after ``<doc>``), ``cran.qry.xml`` and ``cranqrel.trec.txt``.
Judgements name a query by its position, 1 to 225, and not by its ``<num>``, which runs to 365; a value above
0 is relevant, and how far above says nothing.
There are no splits: a query goes to training, tuning or test by a hash of its text, two, one and two parts of
five.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from arch_lab.data import DataError
from arch_lab.data.files import read_text
from experiments.retrieval.readers.sets import (
    RetrievalSet,
    bucket,
    check_counts,
    find_file,
    fingerprint,
    one_line,
)

COUNTS = {"documents": 1400, "queries": 225, "judgements": 1837}
WITHOUT_TEXT = ("471", "995")  # published so: neither title nor text
SPLIT_OF_PART = ("train", "train", "tune", "test", "test")


def read_cranfield(root: str | Path, *, counts: Mapping[str, int] | None = None) -> RetrievalSet:
    """``counts``: what must be found (COUNTS: the published set), None for any.

    Raises: DataError, one line.
    """
    folder = Path(root) / "cranfield"
    paths = [
        find_file(folder, "cran.all.1400.xml.gz", also=["cran.all.1400.xml"]),
        find_file(folder, "cran.qry.xml", also=["cran.qry.xml.gz"]),
        find_file(folder, "cranqrel.trec.txt", also=["cranqrel.trec.txt.gz"]),
    ]
    documents, empty = _documents(paths[0])
    texts = {str(position): text for position, text in enumerate(_queries(paths[1]), start=1)}
    judgements = _judgements(paths[2], {*documents, *empty}, texts)
    relevance = {
        query: grades
        for query in texts
        if (grades := {d: 1.0 for d, v in judgements.get(query, {}).items() if v > 0 and d in documents})
    }
    numbers = {
        "documents": len(documents) + len(empty),
        "queries": len(texts),
        "judgements": sum(map(len, judgements.values())),
    }
    check_counts(str(folder), numbers, counts)
    splits: dict[str, dict[str, str]] = {"train": {}, "tune": {}, "test": {}}
    for query in relevance:
        splits[SPLIT_OF_PART[bucket(texts[query], len(SPLIT_OF_PART))]][query] = texts[query]
    lost = sum(v > 0 and d in empty for grades in judgements.values() for d, v in grades.items())
    return RetrievalSet(
        name="cranfield",
        documents=documents,
        queries=splits,
        relevance=relevance,
        fingerprint=fingerprint(paths),
        notes=(
            "no published splits: queries by a hash of their text, two fifths training, one tuning, "
            "two reported",
            f"{len(empty)} documents without text left out, with {lost} judgements that call one relevant",
            f"{len(texts) - len(relevance)} queries left out, which have no relevant document",
        ),
    )


def _documents(path: Path) -> tuple[dict[str, str], set[str]]:
    """Id -> text (which begins with the title), and the ids of those that are published without one."""
    documents: dict[str, str] = {}
    empty: set[str] = set()
    for position, element in enumerate(_elements(path, "doc"), start=1):
        key = one_line(element.findtext("docno") or "")
        if not key:
            raise DataError(f"{path}: document {position} has no <docno>")
        if key in documents or key in empty:
            raise DataError(f"{path}: document {key} appears twice")
        text = one_line(element.findtext("text") or "")
        if text:
            documents[key] = text
        elif key in WITHOUT_TEXT:
            empty.add(key)
        else:
            raise DataError(f"{path}: document {key} has no text")
    return documents, empty


def _queries(path: Path) -> Iterator[str]:
    for position, element in enumerate(_elements(path, "top"), start=1):
        text = one_line(element.findtext("title") or "")
        if not text:
            raise DataError(f"{path}: query {position} has no text")
        yield text


def _elements(path: Path, tag: str) -> list[ET.Element]:
    """Every element of that name, from a file with or without a root element."""
    text = read_text(path)
    if text.startswith("<?xml"):
        text = text.partition("?>")[2]
    try:
        elements = list(ET.fromstring(f"<all>{text}</all>").iter(tag))
    except ET.ParseError as error:
        raise DataError(f"{path}: not valid XML ({error}); is the file cut off?") from None
    if not elements:
        raise DataError(f"{path}: no <{tag}> in it")
    return elements


def _judgements(path: Path, documents: set[str], queries: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Query -> {document: value}, from lines ``query 0 document value``."""
    judgements: dict[str, dict[str, int]] = {}
    for line_number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        location, columns = f"{path} line {line_number}", line.split()
        if len(columns) != 4:
            raise DataError(f"{location}: {len(columns)} columns, expected 4 (query, 0, document, value)")
        query, _, document, value = columns
        if query not in queries:
            raise DataError(
                f"{location}: query {query!r} is not one of the {len(queries)} positions in the file of "
                "queries"
            )
        if document not in documents:
            raise DataError(f"{location}: document {document!r} does not exist")
        if not value.removeprefix("-").isdecimal():
            raise DataError(f"{location}: value {value!r} is not a whole number")
        if document in judgements.setdefault(query, {}):
            raise DataError(f"{location}: document {document} is judged for query {query} a second time")
        judgements[query][document] = int(value)
    return judgements
