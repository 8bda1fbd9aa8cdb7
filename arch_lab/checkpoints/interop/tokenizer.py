"""The tokenizer of an exported folder: files that ``AutoTokenizer`` of transformers reads.

Ids are those of our tokenizer. Called with special tokens (the default of transformers) the text begins with
the separator, as each document did in training; without them it does not. Text that spells a special token
out stays text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch_lab.checkpoints.storage import write_object
from arch_lab.data import ByteTokenizer, Tokenizer
from arch_lab.data.tokenizer import MASK, SEPARATOR, byte_of_character
from arch_lab.stored import Json

# transformers picks GemmaTokenizer for a Gemma without this, which rebuilds the vocabulary and fails on the
# first text
TOKENIZER_CLASS = "PreTrainedTokenizerFast"


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_tokens: int) -> None:
    """Write tokenizer.json, tokenizer_config.json, generation_config.json and our tokenizer_kind.json."""
    tokenizer.save(folder)
    parts = tokenizer.to_dict()
    separator = parts["separator"]
    inner = bytes_as_bpe(tokenizer) if isinstance(tokenizer, ByteTokenizer) else _copy(parts["json"])
    inner.post_processor = _separator_first(separator, tokenizer.separator)
    inner.save(str(folder / "tokenizer.json"))
    config: Json = {
        "tokenizer_class": TOKENIZER_CLASS,
        "bos_token": separator,
        "eos_token": separator,
        "pad_token": separator,  # masked wherever it pads
        "add_bos_token": True,  # what tokenizer.json does; transformers reads it there
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_max_length": max_tokens,
    }
    if tokenizer.mask is not None:
        config["mask_token"] = MASK
    write_object(folder / "tokenizer_config.json", config)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.separator)
    write_object(folder / "generation_config.json", ids)


def bytes_as_bpe(tokenizer: ByteTokenizer) -> Any:
    """The byte tokenizer as a ``tokenizers.Tokenizer``.

    A byte-level BPE without merges; the id is the byte.
    """
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    inner = tokenizers.Tokenizer(models.BPE(vocab=byte_of_character(), merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    special = [SEPARATOR] if tokenizer.mask is None else [SEPARATOR, MASK]
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return inner


def _copy(text: str) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(text)


def _separator_first(separator: str, number: int) -> Any:
    """The template that puts the separator before a text.

    Also between the two texts of a pair.
    """
    from tokenizers import processors

    single = [separator, "$A"]
    return processors.TemplateProcessing(
        single=single, pair=[*single, f"{separator}:1", "$B:1"], special_tokens=[(separator, number)]
    )
