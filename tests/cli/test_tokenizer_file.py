"""A tokenizer.json of the user's: sound ones work, broken or random ones end in one line and never end the process."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arch_lab.data import ByteTokenizer, DataError, Tokenizer, TokenizerConfig, tokenizer_from, train_bpe
from arch_lab.data.tokenizer_choice import make_tokenizer

TEXT = ["The quick brown fox jumps over the lazy dog.\n" * 5, "Zwölf Boxkämpfer, 日本語.\n"]
SOUND = json.loads(train_bpe(TEXT, 300).to_dict()["json"])


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), train_bpe(TEXT, 300)], ids=["bytes", "bpe"])
def test_one_text_and_a_list_of_texts_are_encoded(tokenizer: Tokenizer) -> None:
    alone, together = tokenizer.encode(TEXT[1]), tokenizer.encode(TEXT)
    assert isinstance(alone, np.ndarray) and np.array_equal(alone, together[1])
    assert tokenizer.decode(alone) == TEXT[1] and tokenizer.encode("").tolist() == []


def use(layout: Any, folder: Path) -> Tokenizer:
    (folder / "tokenizer.json").write_text(layout if isinstance(layout, str) else json.dumps(layout))
    return make_tokenizer(TokenizerConfig(kind="file", path="tokenizer.json"), TEXT, folder)


def test_a_sound_file_encodes_as_the_tokenizer_that_wrote_it(tmp_path):
    assert use(SOUND, tmp_path).encode(TEXT[0]).tolist() == train_bpe(TEXT, 300).encode(TEXT[0]).tolist()


def changed(**parts: Any) -> dict[str, Any]:
    """The sound layout with values replaced, named by their place: model__dropout=0.1."""
    layout = copy.deepcopy(SOUND)
    for name, value in parts.items():
        *place, last = name.split("__")
        node = layout
        for key in place:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[last] = value
    return layout


def charsmap(text: str) -> dict[str, Any]:
    return changed(normalizer={"type": "Precompiled", "precompiled_charsmap": text})


NESTED = json.dumps(changed(normalizer=0)).replace(
    '"normalizer": 0', f'"normalizer": {"[" * 99_999}{"]" * 99_999}'
)
BROKEN = {
    "no json": ("{", "is not a tokenizer.json"),
    "a list": ([], "it has no 'model'"),
    "deep": (NESTED, "nested too deeply"),
    "dropout": (
        changed(model__dropout=0.1),
        "model.dropout is 0.1: encodings would be random; set it to null",
    ),
    "huge id": (changed(model__vocab__a=2**31), "id 2147483648 is outside"),
    "huge added id": (changed(added_tokens__0__id=2**31), "id 2147483648 is outside"),
    "text as id": (changed(model__vocab__a="7"), "id '7' is not a whole number"),
    "one id twice": (
        changed(model__vocab__a=70, model__vocab__b=70),
        "two tokens of model.vocab have one id",
    ),
    "huge padding": (
        changed(padding={"strategy": {"Fixed": 2**40}, "pad_id": 0}),
        "padding.strategy.Fixed is 1099511627776",
    ),
    "cut charsmap": (charsmap("AAAA"), "precompiled_charsmap is cut off or damaged"),
    "empty charsmap": (charsmap("AAAAAAAAAAA="), "precompiled_charsmap is cut off or damaged"),
    "charsmap no base64": (charsmap("!!"), "precompiled_charsmap is not base64 text"),
    "charsmap of noise": (charsmap("BAAAAP////8AAAAA"), "not a usable tokenizer.json"),
    "pieces of no length": (
        changed(pre_tokenizer={"type": "FixedLength", "length": 0}),
        "chunk size must be non-zero",
    ),
    "panic": (changed(model__continuing_subword_prefix="é" * 10), "out of range"),
    "slow expression": (
        changed(normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}),
        "not a usable",
    ),
    "unknown merge": (changed(model__merges=[["zz", "yy"]]), "out of vocabulary"),
}


@pytest.mark.parametrize(("layout", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_or_random_file_is_refused_in_one_line(tmp_path, layout, message, capfd):
    with pytest.raises(DataError) as refusal:
        use(layout, tmp_path)
    assert message in str(refusal.value) and "tokenizer.json" in str(refusal.value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
    assert capfd.readouterr().err == ""  # the library prints its panics


def test_a_broken_tokenizer_inside_a_checkpoint_is_refused_in_one_line():
    for layout, _ in BROKEN.values():
        text = layout if isinstance(layout, str) else json.dumps(layout)
        try:
            tokenizer = tokenizer_from({"kind": "bpe", "separator": "<|document|>", "json": text})
        except DataError as refusal:
            assert "\n" not in str(refusal)
        else:  # loads, and may still fail at a text
            assert tokenizer.vocabulary < 2000
