"""The vocabulary a study plans with, known before any text is read."""

from __future__ import annotations

from typing import Any


def planned_vocabulary(data: Any) -> int:
    """Rows of the token table: what the tokenizer of this DataConfig has or must be trained to.

    Raises: UserError when a saved tokenizer cannot be read.
    """
    from arch_lab.data.config import SMALLEST_BPE
    from arch_lab.data.tokenizer_choice import make_tokenizer

    tokenizer = data.tokenizer
    if tokenizer.kind == "bytes":
        return SMALLEST_BPE
    if tokenizer.kind == "bpe":
        return int(tokenizer.entries)
    return int(make_tokenizer(tokenizer, [], data.folder).vocabulary)
