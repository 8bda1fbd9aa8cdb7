"""SciFact: scientific claims that cite abstracts.

The claim is the query, the abstracts it cites are relevant.

Source: arXiv 2004.14974. ``scifact/scifact.zip`` holds claims_{train,validation}.csv (one row a claim and
piece of evidence) and corpus_train.csv; claims_test.csv cites nothing. Reported are the validation claims. A
tuning part is held out of the training claims, whole groups of claims that cite a common abstract (many are
each other's negation); a training claim whose text is also a validation claim is left out.
"""

from __future__ import annotations

import ast
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from arch_lab.data import DataError
from arch_lab.data.archives import open_zip
from experiments.retrieval.readers.sets import (
    RetrievalSet,
    bucket,
    check_counts,
    find_file,
    fingerprint,
    one_line,
)
from experiments.retrieval.readers.tables import number, rows

COUNTS = {"documents": 5183, "training claims": 809, "validation claims": 300, "citations": 919 + 339}
TUNE_PARTS = 5  # one of so many groups of training claims is held out to choose a learning rate
CITED = re.compile(r"\[[\s\d]*\]")
SENTENCE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def read_scifact(root: str | Path, *, counts: Mapping[str, int] | None = None) -> RetrievalSet:
    """``counts``: what must be found (COUNTS: the published set), None for any.

    Raises: DataError, one line.
    """
    path = find_file(Path(root) / "scifact", "scifact.zip")
    documents = _documents(path)
    training = _claims(path, "claims_train.csv", documents)
    validation = _claims(path, "claims_validation.csv", documents)
    reported = {text for text, _ in validation.values()}
    train, tune = _divided({claim: both for claim, both in training.items() if both[0] not in reported})
    claims_by_split = {"train": train, "tune": tune, "test": validation}
    cited = {document for _, names in train.values() for document in names}
    overlapping = sum(bool(cited & set(names)) for _, names in validation.values())
    twice = len(training) - len(train) - len(tune)
    numbers = {
        "documents": len(documents),
        "training claims": len(training),
        "validation claims": len(validation),
        "citations": sum(len(names) for claims in (training, validation) for _, names in claims.values()),
    }
    check_counts(str(path), numbers, counts)
    return RetrievalSet(
        name="scifact",
        documents=documents,
        queries={
            split: {claim: text for claim, (text, _) in split_claims.items()}
            for split, split_claims in claims_by_split.items()
        },
        relevance={
            claim: dict.fromkeys(names, 1.0)
            for split_claims in claims_by_split.values()
            for claim, (_, names) in split_claims.items()
        },
        fingerprint=fingerprint([path]),
        notes=(
            "reported: the validation claims (the test claims cite nothing)",
            f"{overlapping} of the {len(validation)} reported claims cite an abstract that a "
            "training claim cites too, as published",
            f"{twice} training claims left out, whose text is a validation claim",
        ),
    )


Claims = dict[str, tuple[str, tuple[str, ...]]]  # id -> text, documents cited


class DocumentRow(NamedTuple):
    """``abstract``: a printed list of sentences."""

    doc_id: str
    title: str
    abstract: str


class ClaimRow(NamedTuple):
    """``cited_doc_ids``: a printed list of numbers."""

    id: str
    claim: str
    cited_doc_ids: str


def _documents(path: Path) -> dict[str, str]:
    documents: dict[str, str] = {}
    for location, row in rows(_member(path, "corpus_train.csv"), f"{path}: corpus_train.csv", DocumentRow):
        key = str(number(row.doc_id, location, "doc_id"))
        if key in documents:
            raise DataError(f"{location}: doc_id {key} appears twice")
        text = one_line(f"{row.title} {_abstract(row.abstract, location)}")
        if not text:
            raise DataError(f"{location}: document {key} has neither title nor abstract")
        documents[key] = text
    return documents


def _abstract(value: str, location: str) -> str:
    """Sentences out of a printed array of them, ``['A b.'\\n "C's d."]``: quoted as Python does, nothing but
    blanks between.
    """
    printed = value.strip()
    if not (printed.startswith("[") and printed.endswith("]")) or SENTENCE.sub("", printed[1:-1]).strip():
        raise DataError(f"{location}: abstract {value[:40]!r}… is not a printed list of sentences")
    try:
        return " ".join(str(ast.literal_eval(sentence)) for sentence in SENTENCE.findall(printed))
    except (SyntaxError, ValueError):
        raise DataError(f"{location}: abstract {value[:40]!r}… is not a printed list of sentences") from None


def _claims(path: Path, member: str, documents: Mapping[str, str]) -> Claims:
    claims: Claims = {}
    for location, row in rows(_member(path, member), f"{path}: {member}", ClaimRow):
        key, text = f"claim-{number(row.id, location, 'id')}", one_line(row.claim)
        if not text:
            raise DataError(f"{location}: the claim has no text")
        if not CITED.fullmatch(row.cited_doc_ids.strip()):
            raise DataError(
                f"{location}: cited_doc_ids {row.cited_doc_ids!r} is not a list of numbers in brackets"
            )
        cited = tuple(dict.fromkeys(re.findall(r"\d+", row.cited_doc_ids)))
        if not cited:
            raise DataError(f"{location}: the claim cites no document")
        for document in cited:
            if document not in documents:
                raise DataError(f"{location}: cites document {document}, which is not in corpus_train.csv")
        if claims.setdefault(key, (text, cited)) != (text, cited):
            raise DataError(f"{location}: {key.replace('-', ' ')} differs from its row above")
    return claims


def _divided(claims: Claims) -> tuple[Claims, Claims]:
    """(training, tuning): claims that cite a common document, also by way of others, stay together."""
    group: dict[str, str] = {}  # document -> the group's representative, found by following

    def root(document: str) -> str:
        while group.setdefault(document, document) != document:
            document = group[document]
        return document

    for _, cited in claims.values():
        first, *others = sorted(map(root, cited))
        group.update(dict.fromkeys(others, first))
    tune_claims = {claim for claim, (_, cited) in claims.items() if bucket(root(cited[0]), TUNE_PARTS) == 0}
    return {c: both for c, both in claims.items() if c not in tune_claims}, {
        c: both for c, both in claims.items() if c in tune_claims
    }


def _member(path: Path, name: str) -> str:
    try:
        with open_zip(path) as archive:
            if name not in archive.namelist():
                raise DataError(f"{path}: no {name} in it")
            return archive.read(name).decode("utf-8").removeprefix("\ufeff")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a valid zip file ({error}); fetch it again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {name} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
