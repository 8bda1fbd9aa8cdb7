"""Documents: cutting loses nothing, holding out is by whole documents and depends on their text alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.data import DataError
from arch_lab.data.documents import complete, count, cut_documents, hold_out, limit, lines_of

texts = st.lists(
    st.text(alphabet="ab =é\n\x0c", min_size=1, max_size=30), min_size=2, max_size=30, unique=True
)
relaxed = settings(deadline=None, max_examples=60)


@relaxed
@given(st.text(alphabet="ab=\n\x0c\x85\u2028", max_size=60))
def test_lines_joined_are_the_text(text):
    assert "".join(lines_of(text)) == text


@relaxed
@given(st.lists(st.sampled_from(["= a =\n", "text\n", "\n", "= = b = =\n"]), max_size=20))
def test_cut_documents_joined_are_the_lines(lines):
    lines = [*lines, "= last =\n"]
    documents = cut_documents(lines, "^= [^=]* =$", "here")
    assert "".join(documents) == "".join(lines)
    assert all(document.count("= a =") + document.count("= last =") <= 1 for document in documents)


def test_a_document_start_that_matches_nothing_is_refused():
    with pytest.raises(DataError, match="no line matches document_start"):
        cut_documents(["a\n"], "^#", "a.txt")


@relaxed
@given(texts, st.sampled_from([0.05, 0.2, 0.4]))
def test_held_out_documents_are_whole_and_nothing_is_lost(documents, fraction):
    kept, held = hold_out(documents, fraction, "tune")
    assert kept and held
    assert sorted(kept + held) == sorted(documents)


@relaxed
@given(texts, st.randoms(use_true_random=False))
def test_what_is_held_out_does_not_depend_on_the_order_of_documents(documents, random):
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert set(hold_out(documents, 0.2, "tune")[1]) == set(hold_out(shuffled, 0.2, "tune")[1])


def test_the_held_out_share_is_near_the_fraction():
    documents = [f"document {i} " + "word " * (i % 17) for i in range(2000)]
    _, held = hold_out(documents, 0.1, "tune")
    assert 0.1 <= sum(map(len, held)) / sum(map(len, documents)) < 0.102


def test_a_single_document_cannot_be_held_out_and_the_message_says_what_to_do():
    with pytest.raises(DataError, match="document_start"):
        hold_out(["only one", "only one"], 0.1, "tune")


@relaxed
@given(
    st.lists(st.sampled_from("abcdefghijklmnop"), min_size=12, max_size=60),
    st.lists(st.sampled_from("abc"), max_size=5),
)
def test_no_document_is_in_two_splits(train, test):
    given_splits = (
        {"train": [*train, "x", "y", "z"], "test": test} if test else {"train": [*train, "x", "y", "z"]}
    )
    splits, dropped = complete(given_splits, tune_fraction=0.1, validation_fraction=0.1, limit_bytes=None)
    sets = [set(documents) for documents in splits.values()]
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert dropped == sum(text in test for text in train)


@relaxed
@given(texts, st.integers(1, 400))
def test_a_limit_keeps_that_many_bytes_but_never_half_a_character(documents, size):
    total = count(documents, line_ends=False).bytes
    kept = count(limit(documents, size), line_ends=False).bytes
    assert min(size, total) - 3 <= kept <= min(size, total)


def test_line_ends_count_as_words_only_when_asked():
    assert count(["a b\nc\n", "d"], line_ends=False).words == 4
    assert count(["a b\nc\n", "d"], line_ends=True).words == 7
