"""Retrieval sets on disk: SciFact, Cranfield, TREC QA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from arch_lab.data import DataError
from blocks.errors import did_you_mean
from experiments.retrieval.readers import cranfield, scifact, trec_qa
from experiments.retrieval.readers.sets import RetrievalSet

Reader = Callable[..., RetrievalSet]
RETRIEVAL_SETS: dict[
    str, tuple[Reader, Mapping[str, int]]
] = {  # name -> reader, and what a complete copy holds
    "scifact": (scifact.read_scifact, scifact.COUNTS),
    "cranfield": (cranfield.read_cranfield, cranfield.COUNTS),
    "trec_qa": (trec_qa.read_trec_qa, trec_qa.COUNTS),
}


def read_retrieval(name: str, root: str | Path, *, complete: bool = True) -> RetrievalSet:
    """The set of that name under ``root``.

    ``complete``: it must hold what was published. Raises: DataError, one line.
    """
    if name not in RETRIEVAL_SETS:
        raise DataError(f"unknown retrieval set {name!r}{did_you_mean(name, RETRIEVAL_SETS)}")
    read, counts = RETRIEVAL_SETS[name]
    return read(Path(root), counts=counts if complete else None)


__all__ = ["RETRIEVAL_SETS", "RetrievalSet", "read_retrieval"]
