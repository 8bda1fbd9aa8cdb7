"""Embedded text: prose only, every machine has it, nothing in it twice."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from arch_lab.data import DataConfig, prepare
from arch_lab.data.embedded import clean, environment_key, without_variants

PROSE = (
    "This is the text of a document that is long enough to be kept. It has a few sentences, and all of them are in plain English. "
    * 2
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(cache):
    return prepare(DataConfig.from_options({"tokenizer": {"kind": "bytes"}}), cache)


def test_there_are_megabytes_of_training_text(prepared):
    assert prepared.train.bytes > 3_000_000


def test_the_text_is_read_once_and_split_the_same_way_ever_after(prepared, cache, caplog):
    lines: list[str] = []
    config = DataConfig.from_options({"tokenizer": {"kind": "bytes"}})
    with caplog.at_level(logging.WARNING):
        again = prepare(config, cache, lines.append)
    assert not any("docstrings" in line for line in lines) and not caplog.records
    assert again.validation.fingerprint == prepared.validation.fingerprint


def test_the_text_is_not_read_again_for_a_part_of_it(prepared, cache):
    lines: list[str] = []
    config = DataConfig.from_options({"tokenizer": {"kind": "bytes"}, "limit_bytes": 50_000})
    part = prepare(config, cache, lines.append)
    assert not any("docstrings" in line for line in lines)
    assert part.train.bytes + part.tune.bytes + part.validation.bytes == 50_000


def test_no_document_is_in_two_splits(prepared):
    seen: set[bytes] = set()
    for split in (prepared.train, prepared.tune, prepared.validation):
        starts = np.flatnonzero(split.ids == prepared.tokenizer.separator)
        documents = {ids.tobytes() for ids in np.split(split.ids, starts[1:])}
        assert len(documents) == split.documents and seen.isdisjoint(documents)
        seen |= documents


def test_the_summary_names_the_versions_it_depends_on(prepared):
    assert {"python", "torch", "numpy"} <= set(prepared.summary()["environment"])


def test_the_key_of_an_unchanged_environment_stays():
    assert environment_key() == environment_key()


def test_examples_and_code_are_dropped():
    text = PROSE + "\n\n>>> f(1)\n2\n\n{a[0]: (1, 2), b[1]: (3, 4)}\n\nExample::\n"
    assert clean(text, set()) == PROSE.strip() + "\n"


@pytest.mark.parametrize(
    "text", ["Short.", "x = 1; y[0] += {3}\n" * 40, "parameter tensor output dimension size " * 20]
)
def test_what_is_no_prose_is_no_document(text):
    assert clean(text, set()) is None


def test_a_paragraph_is_kept_at_its_first_occurrence_only():
    seen: set[bytes] = set()
    assert clean(PROSE, seen) is not None
    assert clean(PROSE.upper(), seen) is None


def test_a_variant_of_an_earlier_document_is_dropped():
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(200)]
    other = words[::-1]
    assert without_variants([" ".join(words), " ".join(["new", *words[1:]]), " ".join(other)]) == [
        " ".join(words),
        " ".join(other),
    ]
