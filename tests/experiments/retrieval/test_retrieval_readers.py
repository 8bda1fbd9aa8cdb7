"""Retrieval sets: what is read, how it is split, what is refused and in which line."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arch_lab.data import DataError
from experiments.retrieval.readers import RETRIEVAL_SETS, RetrievalSet, read_retrieval
from tests.experiments.retrieval import retrieval_files as made


def test_scifact_is_claims_and_the_abstracts_they_cite(tmp_path: Path) -> None:
    made.scifact(tmp_path)
    data = read_retrieval("scifact", tmp_path, complete=False)
    assert data.documents["11"] == "Cold iron Iron rusts in rain. It doesn't rust in oil."
    assert data.documents["19"] == "Old bread Bread dries. Bread moulds."
    assert data.queries["test"] == {"claim-1": "Oil keeps iron from rust.", "claim-3": "Honey keeps."}
    assert data.relevance["claim-2"] == {"11": 1.0, "12": 1.0} and data.candidates is None
    assert "claim-12" not in data.relevance  # the text of a reported claim is not trained on


def test_scifact_claims_that_share_an_abstract_are_never_on_both_sides_of_tuning(tmp_path: Path) -> None:
    made.scifact(tmp_path)
    queries = read_retrieval("scifact", tmp_path, complete=False).queries
    assert {
        len({c in queries[split] for c in ("claim-0", "claim-2", "claim-4")}) for split in ("train", "tune")
    } == {1}
    assert len(queries["train"]) + len(queries["tune"]) == 6


def test_cranfield_judgements_name_queries_by_position_and_any_value_above_0_is_relevant(
    tmp_path: Path,
) -> None:
    made.cranfield(tmp_path)
    data = read_retrieval("cranfield", tmp_path, complete=False)
    texts = {key: text for split in data.queries.values() for key, text in split.items()}
    assert texts == {str(i): f"{text} ." for i, text in enumerate(made.QUESTIONS, start=1)}
    assert data.documents["2"] == "wing number 2 in a flow ." and "471" not in data.documents
    assert data.relevance["1"] == {"2": 1.0, "5": 1.0} and data.relevance["2"] == {"3": 1.0}


def test_cranfield_queries_keep_their_split_when_others_come_and_go(tmp_path: Path) -> None:
    made.cranfield(tmp_path)
    before = read_retrieval("cranfield", tmp_path, complete=False).queries
    judged = "".join(line + "\r\n" for line in made.JUDGEMENTS.split("\r\n") if not line.startswith("1 "))
    made.cranfield(tmp_path, judgements=judged)
    after = read_retrieval("cranfield", tmp_path, complete=False).queries
    assert after == {
        split: {key: text for key, text in queries.items() if key != "1"} for split, queries in before.items()
    }


def test_trec_qa_ranks_a_questions_own_answers_and_leaves_out_what_cannot_be_scored(tmp_path: Path) -> None:
    made.trec_qa(tmp_path)
    data = read_retrieval("trec_qa", tmp_path, complete=False)
    assert {split: list(queries.values()) for split, queries in data.queries.items()} == {
        "train": ["who sang", "who ate"],
        "tune": ["who ran"],
        "test": ["who hid"],
    }
    (query,) = data.queries["test"]
    assert [data.documents[d] for d in data.ranked(query)] == ["they hid", "cold", "warm"]
    assert [data.documents[d] for d in data.relevance[query]] == ["they hid"]
    assert "tune: 1 questions without an answer and 1 with answers only left out" in data.notes


BROKEN: list[tuple[str, dict[str, str], str]] = [
    (
        "scifact",
        {"corpus_train": made.CORPUS.replace("doc_id", "id")},
        "no column 'doc_id'; did you mean 'id'?",
    ),
    (
        "scifact",
        {"corpus_train": made.CORPUS.replace("['Glass is not a liquid.']", "Glass")},
        "line 7: abstract 'Glass'… is not a printed",
    ),
    (
        "scifact",
        {"corpus_train": made.CORPUS.replace("15,Glass,['Glass is not a liquid.']", "15,,[]")},
        "neither title nor abstract",
    ),
    ("scifact", {"corpus_train": made.CORPUS.replace("12,Warm", "11,Warm")}, "doc_id 11 appears twice"),
    ("scifact", {"corpus_train": made.CORPUS[: made.CORPUS.index("Bread moulds")]}, "is the file cut off?"),
    (
        "scifact",
        {"claims_train": made.TRAINING_CLAIMS.replace("[16]", "[99]")},
        "cites document 99, which is not in corpus_train.csv",
    ),
    (
        "scifact",
        {"claims_train": made.TRAINING_CLAIMS.replace("[16]", "16")},
        "cited_doc_ids '16' is not a list",
    ),
    (
        "scifact",
        {"claims_train": made.TRAINING_CLAIMS.replace("[16]", "[]")},
        "line 9: the claim cites no document",
    ),
    (
        "scifact",
        {"claims_train": made.TRAINING_CLAIMS.replace(",[1],[11]", ",[1],[12]")},
        "claim 0 differs from its row above",
    ),
    ("scifact", {"claims_train": made.CLAIMS + "x,A.,,,[],[11]\n"}, "line 2: id 'x' is not a whole number"),
    ("scifact", {"claims_train": made.CLAIMS + "1,A.,[11]\n"}, "line 2: not the 6 columns of the header"),
    ("cranfield", {"documents": made.DOCUMENTS[:-9]}, "not valid XML"),
    (
        "cranfield",
        {"documents": made.DOCUMENTS.replace("wing number 3\nin a flow .", " ")},
        "document 3 has no text",
    ),
    ("cranfield", {"documents": made.DOCUMENTS.replace("<docno>3", "<docno>2")}, "document 2 appears twice"),
    ("cranfield", {"documents": "<nothing/>"}, "no <doc> in it"),
    (
        "cranfield",
        {"queries": made.QUERIES.replace("what of wing 4 at speed\r\n.", "")},
        "query 4 has no text",
    ),
    (
        "cranfield",
        {"judgements": made.JUDGEMENTS + "11 0 1 1\r\n"},
        "line 22: query '11' is not one of the 10 positions",
    ),
    ("cranfield", {"judgements": made.JUDGEMENTS + "1 0 99 1\r\n"}, "line 22: document '99' does not exist"),
    ("cranfield", {"judgements": made.JUDGEMENTS + "1 0 2\r\n"}, "line 22: 3 columns, expected 4"),
    ("cranfield", {"judgements": made.JUDGEMENTS + "1 0 2 yes\r\n"}, "value 'yes' is not a whole number"),
    (
        "cranfield",
        {"judgements": made.JUDGEMENTS + "1 0 2 1\r\n"},
        "document 2 is judged for query 1 a second time",
    ),
    ("cranfield", {"judgements": ""}, "the file is empty"),
    ("trec_qa", {"dev": made.table([("who ran", 2, "a")])}, "line 2: label '2' is not 0 or 1"),  # type: ignore[list-item]
    ("trec_qa", {"dev": made.table([("who ran", 1, " ")])}, "line 2: the answer has no text"),
    (
        "trec_qa",
        {"dev": made.table([("who ran", 1, "a"), ("who ran", 0, "a")])},
        "line 3: the answer 'a' is judged 0 and 1",
    ),
    (
        "trec_qa",
        {"dev": made.table([("who sang", 1, "a"), ("who sang", 0, "b")])},
        "question 'who sang' is in train too",
    ),
    (
        "trec_qa",
        {"dev": made.table([("who ran", 1, "a")])},
        "each of train, tune, test needs a query; has train 2, tune 0, test 1",
    ),
    ("trec_qa", {"dev": "qtext,label\r\n"}, "no column 'atext'"),
    ("trec_qa", {"dev": "qtext,label,atext\r\n"}, "no rows"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BROKEN)
def test_what_contradicts_itself_is_refused_in_one_line_that_says_where(
    name: str, changes: dict[str, str], message: str, tmp_path: Path
) -> None:
    getattr(made, name)(tmp_path, **changes)
    with pytest.raises(DataError) as caught:
        read_retrieval(name, tmp_path, complete=False)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_damaged_archives_are_named(tmp_path: Path) -> None:
    for name in RETRIEVAL_SETS:
        with pytest.raises(DataError, match=r"^no .* in "):
            read_retrieval(name, tmp_path)
    path = made.scifact(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="not a valid zip file"):
        read_retrieval("scifact", tmp_path)
    made.zipped(path, {"corpus_train.csv": made.CORPUS})
    with pytest.raises(DataError, match=r"no claims_train\.csv in it"):
        read_retrieval("scifact", tmp_path)
    file = made.trec_qa(tmp_path) / "train.csv.gz"
    file.write_bytes(gzip.compress(b"qtext,label,atext\r\n" * 50)[:-9])
    with pytest.raises(DataError, match="not a valid gzip file"):
        read_retrieval("trec_qa", tmp_path)
    with pytest.raises(DataError, match="did you mean 'cranfield'"):
        read_retrieval("cranfeld", tmp_path)


@pytest.mark.parametrize("name", RETRIEVAL_SETS)
def test_a_set_of_another_size_than_published_is_taken_for_cut_off(name: str, tmp_path: Path) -> None:
    made.all_sets(tmp_path)
    with pytest.raises(DataError, match=r"expected .*; is a file cut off or of another version"):
        read_retrieval(name, tmp_path)


def test_a_set_whose_judgements_make_no_sense_cannot_be_made(tmp_path: Path) -> None:
    made.trec_qa(tmp_path)
    good = read_retrieval("trec_qa", tmp_path, complete=False)
    (query,) = good.queries["test"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"relevance": {**good.relevance, query: {}}}, "needs a relevant and an irrelevant document"),
        (
            {"relevance": {**good.relevance, query: {"train-0-0": 1.0}}},
            "needs a relevant and an irrelevant document",
        ),
        (
            {"relevance": {**good.relevance, query: dict.fromkeys(good.ranked(query), 1.0)}},
            "needs a relevant and an irrelevant document",
        ),
        (
            {"candidates": {**good.candidates, query: [*good.ranked(query), "none"]}},
            "names? document 'none', which does not exist",
        ),  # type: ignore[dict-item]
        ({"documents": {**good.documents, "test-0-0": " "}}, "document 'test-0-0' has no text"),
        (
            {"queries": {**good.queries, "test": {**good.queries["test"], "tune-0": "again"}}},
            "is in two splits",
        ),
    ]
    for change, message in changes:
        with pytest.raises(DataError, match=message):
            replace(good, **change)


# --- the published sets ---------------------------------------------------------------------------------------------

SIZES = {  # documents; queries and pairs of train, tune, test
    "scifact": (5183, [(658, 751), (149, 166), (300, 339)]),
    "cranfield": (1398, [(91, 657), (48, 319), (86, 635)]),
    "trec_qa": (7177, [(78, 342), (65, 205), (68, 248)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_published_files_are_read_whole(name: str) -> None:
    folder = os.environ.get("ARCH_LAB_DATA")
    if folder is None or not (Path(folder) / "scifact").is_dir():
        pytest.skip("set ARCH_LAB_DATA to a folder that holds scifact/, cranfield/ and trecqa_wang/")
    data: RetrievalSet = read_retrieval(name, Path(folder))
    documents, splits = SIZES[name]
    assert len(data.documents) == documents
    assert [(len(data.queries[s]), len(data.pairs(s))) for s in ("train", "tune", "test")] == splits
    texts = {split: set(queries.values()) for split, queries in data.queries.items()}
    assert not texts["test"] & (texts["train"] | texts["tune"])
