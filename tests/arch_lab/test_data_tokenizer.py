"""Tokenizers are lossless, deterministic, and know the bytes of each of their tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.data import ByteTokenizer, DataError, TokenizerConfig, load_tokenizer, train_bpe
from arch_lab.data.tokenizer import SEPARATOR
from arch_lab.data.tokenizer_choice import make_tokenizer

WORDS = ["sound", "sign", "song", "sense"] * 30
TEXT = [
    f"The {word} of the north wind, {i} times; naïve café, größer, 東京と京都。\n"
    for i, word in enumerate(WORDS)
]
TOKENIZERS = {"bytes": ByteTokenizer(), "bpe": train_bpe(TEXT, 320)}
any_text = st.text(alphabet=st.characters(codec="utf-8"), max_size=60)


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=100)
@given(documents=st.lists(any_text, max_size=5))
def test_any_text_comes_back_exactly(kind, documents):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode_documents(documents)
    assert tokenizer.decode(ids) == "".join(documents)
    tokenizer.verify(documents, ids, "here")


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=100)
@given(documents=st.lists(any_text, max_size=5))
def test_the_bytes_of_the_tokens_sum_to_those_of_the_text(kind, documents):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode_documents(documents)
    assert int(tokenizer.token_bytes()[ids].sum()) == sum(len(text.encode()) for text in documents)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_document_follows_one_separator_even_if_it_spells_it(kind):
    tokenizer = TOKENIZERS[kind]
    documents = ["one", f"says {SEPARATOR} aloud", ""]
    ids = tokenizer.encode_documents(documents)
    assert ids[0] == tokenizer.separator and (ids == tokenizer.separator).sum() == 3
    assert tokenizer.token_bytes()[tokenizer.separator] == 0
    assert tokenizer.decode(ids) == "".join(documents)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_saved_tokenizer_encodes_as_before(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    documents = [*TEXT, SEPARATOR]
    assert (
        again.fingerprint == tokenizer.fingerprint
        and again.vocabulary == tokenizer.vocabulary
        and again.kind == kind
    )
    assert np.array_equal(again.encode_documents(documents), tokenizer.encode_documents(documents))


def test_training_twice_gives_the_same_tokenizer():
    assert train_bpe(TEXT, 320).fingerprint == TOKENIZERS["bpe"].fingerprint


def test_a_cut_character_decodes_to_a_replacement_not_to_an_error():
    assert ByteTokenizer().decode([0xE6, 0x9D]) == "\ufffd"


def test_a_vocabulary_that_the_text_cannot_fill_is_refused_with_what_it_can():
    with pytest.raises(DataError, match=r"cannot reach 5000 entries on .* bytes.*it ends at"):
        train_bpe(TEXT, 5000)


def test_a_saved_file_of_another_library_user_serves_with_an_added_separator(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXT, tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = make_tokenizer(TokenizerConfig(kind="file", path="tokenizer.json"), [], tmp_path)
    assert tokenizer.vocabulary == 301 and tokenizer.separator == 300
    tokenizer.verify(TEXT, tokenizer.encode_documents(TEXT), "here")


def test_a_tokenizer_that_changes_the_text_is_refused(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    TOKENIZERS["bpe"].save(tmp_path)
    layout = json.loads((tmp_path / "tokenizer.json").read_text())
    layout["normalizer"] = {"type": "Lowercase"}
    tokenizers.Tokenizer.from_str(json.dumps(layout)).save(str(tmp_path / "lower.json"))
    tokenizer = make_tokenizer(TokenizerConfig(kind="file", path="lower.json"), [], tmp_path)
    with pytest.raises(DataError, match="changes the text"):
        tokenizer.verify(["Upper"], tokenizer.encode_documents(["Upper"]), "the train split")


@pytest.mark.parametrize("content", ["{}", "no json", None])
def test_a_file_that_is_no_tokenizer_ends_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.path.*t\.json") as refusal:
        make_tokenizer(TokenizerConfig(kind="file", path="t.json"), [], tmp_path)
    assert "\n" not in str(refusal.value)
