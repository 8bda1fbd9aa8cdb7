"""Foreign ``tokenizer.json`` files: checked before the library that reads them sees them.

That library is Rust: a broken file can end the whole process (an allocation by a number in the file), or
print a panic and raise outside ``Exception``. Structure is checked here; what remains is tried once in a
process of its own.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arch_lab.data.formats import DataError
from arch_lab.stored import Json
from arch_lab.yaml_files import parse_json

LARGEST_FILE = 256 * 10**6  # bytes; the largest published one is near 35 MB
LARGEST_LENGTH = 1 << 20  # of a token, of padding, of anything else that a number in the file stands for
PATIENCE = 60  # seconds for one trial
_SPARE = 1 << 16  # ids that may be missing between those there are
# runs where nothing else does: loads the file, encodes odd text twice, decodes it
_TRIAL = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
except (ImportError, ValueError, OSError):
    pass
from tokenizers import Tokenizer
sample = ["a" * 300 + "!", "ab " * 300, "", " "]
sample += ["The quick brown fox; 3.14 jumps\\n\\tover"]
sample += ["\\u00e9\\u65e5\\u672c\\U0001f600\\u0301 \\u2581<s>[MASK]"]
try:
    inner = Tokenizer.from_file(sys.argv[1])
    inner.no_padding()
    inner.no_truncation()
    encodings = [inner.encode_batch(sample, add_special_tokens=False) for _ in range(2)]
    first, second = ([encoding.ids for encoding in batch] for batch in encodings)
    inner.decode(first[0])
    inner.get_vocab(with_added_tokens=True)
    inner.to_str()
    reason = "" if first == second else "it encodes one text in two ways"
except BaseException as error:
    reason = str(error).strip() or type(error).__name__
print(reason.splitlines()[0][:300] if reason else "")
sys.exit(3 if reason else 0)
"""
_tried: set[tuple[int, int, int, int]] = set()


def check_file(path: Path) -> None:
    """Raises: DataError, one line, for a file that the library cannot read safely or that encodes at
    random.
    """
    try:
        stat = path.stat()
        if stat.st_size > LARGEST_FILE:
            raise DataError(
                f"tokenizer.path: {path} has {stat.st_size} bytes, too many for a tokenizer.json; "
                "name another file"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"tokenizer.path: {path} cannot be read as text ({error})") from None
    check_layout(text, f"tokenizer.path: {path}")
    stamp = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    if stamp not in _tried:
        _try(path)
        _tried.add(stamp)


def check_layout(text: str, origin: str) -> None:
    """Structure of a tokenizer.json: types, ids, sizes, no randomness.

    Raises: DataError beginning with ``origin``.
    """
    layout = parse_json(text, origin=f"{origin} is not a tokenizer.json", error=DataError)
    try:
        _check(layout)
    except _Broken as error:
        raise DataError(f"{origin} is not a usable tokenizer.json ({error})") from None


@contextlib.contextmanager
def rust_errors(origin: str) -> Iterator[None]:
    """Anything the library raises as one DataError line; its panics are no ``Exception``."""
    try:
        yield
    except (DataError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{origin} ({reason[:300]})") from None


class _Broken(Exception):
    """What is wrong with a layout."""


def _check(layout: Any) -> None:
    if not isinstance(layout, dict) or not isinstance(layout.get("model"), dict):
        raise _Broken("it has no 'model'")
    model = layout["model"]
    for name in ("dropout", "alpha", "nbest_size"):
        if model.get(name):
            raise _Broken(
                f"model.{name} is {str(model[name])[:30]}: encodings would be random; set it to null"
            )
    vocabulary = _vocabulary(model.get("vocab"))
    added = layout.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        raise _Broken("added_tokens is not a list of tokens with 'content'")
    ids = [*vocabulary.values(), *(token.get("id") for token in added)]
    for token_id in ids:
        if type(token_id) is not int:
            raise _Broken(f"id {str(token_id)[:30]!r} is not a whole number")
    limit = 2 * len(ids) + _SPARE
    outside = next((token_id for token_id in ids if not 0 <= token_id < limit), None)
    if outside is not None:
        raise _Broken(
            f"id {str(outside)[:30]} is outside 0 … {limit - 1}, the range of its {len(ids)} tokens"
        )
    if len(set(vocabulary.values())) < len(vocabulary):
        raise _Broken("two tokens of model.vocab have one id")
    for section in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"):
        _check_part(layout.get(section), section)
    for name in ("max_input_chars_per_word", "cache_capacity"):
        _check_size(model.get(name), f"model.{name}")


def _vocabulary(vocab: Any) -> Json:
    """Token -> id; the list of a unigram model numbers its pairs."""
    if isinstance(vocab, dict):
        return vocab
    if isinstance(vocab, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in vocab
    ):
        return {f"{number} {pair[0]}": number for number, pair in enumerate(vocab)}
    raise _Broken("model.vocab is neither a table of ids nor a list of scores")


def _check_part(node: Any, path: str) -> None:
    if isinstance(node, dict):
        if node.get("type") == "Precompiled":
            _check_charsmap(node.get("precompiled_charsmap"), path)
        for name, value in node.items():
            _check_part(value, f"{path}.{name}")
    elif isinstance(node, list):
        for entry in node:
            _check_part(entry, path)
    else:
        _check_size(node, path)


def _check_size(value: Any, path: str) -> None:
    if isinstance(value, int) and not -LARGEST_LENGTH <= value <= LARGEST_LENGTH:
        raise _Broken(f"{path} is {str(value)[:30]}, beyond any length")


def _check_charsmap(value: Any, path: str) -> None:
    """SentencePiece's table: 4 bytes of length, a trie of that many bytes, then text."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _Broken(f"{path}.precompiled_charsmap is not base64 text") from None
    size = int.from_bytes(raw[:4], "little")
    if len(raw) < 8 or size % 4 or not 4 <= size <= len(raw) - 4:
        raise _Broken(f"{path}.precompiled_charsmap is cut off or damaged")


def _try(path: Path) -> None:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    command = [sys.executable, "-c", _TRIAL, str(path.resolve())]
    try:
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"tokenizer.path: {path} takes over {PATIENCE} s to load and encode a few words; use another one"
        ) from None
    if process.returncode:
        reason = (
            process.stdout.strip()
            if process.returncode == 3
            else f"the tokenizers library ended with status {process.returncode}"
        )
        raise DataError(f"tokenizer.path: {path} is not a usable tokenizer.json ({reason})")
