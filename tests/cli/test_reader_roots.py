"""Readers of task sets take the folder that holds their sets as a string or as a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from arch_lab.data import DataError
from experiments.glue.hub import read_glue_hub
from experiments.glue.reader import read_glue
from experiments.retrieval.readers import read_retrieval
from experiments.retrieval.readers.cranfield import read_cranfield
from experiments.retrieval.readers.scifact import read_scifact
from experiments.retrieval.readers.trec_qa import read_trec_qa
from experiments.triplets.readers.japanese_vowels import read_utterances
from experiments.triplets.readers.music import read_music
from experiments.triplets.readers.omniglot import read_drawings, read_one_shot
from experiments.triplets.readers.uci import UciArchive

READERS: dict[str, Callable[[Any], Any]] = {
    "read_glue": lambda root: read_glue("rte", "dev", root),
    "read_glue_hub": lambda root: read_glue_hub("rte", "dev", root=root),
    "read_utterances": lambda root: read_utterances(root, "train"),
    "read_music": read_music,
    "read_drawings": lambda root: read_drawings(root, 1, 28),
    "read_one_shot": lambda root: read_one_shot(root, 28),
    "read_retrieval": lambda root: read_retrieval("scifact", root),
    "read_cranfield": read_cranfield,
    "read_scifact": read_scifact,
    "read_trec_qa": read_trec_qa,
    "UciArchive": UciArchive,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_a_missing_set_is_one_line_and_the_same_for_a_string_and_a_path(reader, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    messages = []
    for root in (str(tmp_path), tmp_path):
        with pytest.raises(DataError) as refusal:
            reader(root)
        messages.append(str(refusal.value))
    assert messages[0] == messages[1] and "\n" not in messages[0]


def test_rows_of_glue_are_read_from_a_root_that_is_a_string(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "dev.tsv").write_text(
        "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n"
    )
    assert read_glue("rte", "dev", str(tmp_path)) == read_glue("rte", "dev", tmp_path)
