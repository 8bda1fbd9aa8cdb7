"""Documents and their splits: cutting text at headings, holding out whole documents, counting.

A split is a list of documents (str). Every choice is a function of the documents' text, so it is the same on
every machine and does not depend on the order in which files are listed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import regex

from arch_lab.data.formats import DataError

SPLITS = ("train", "tune", "validation", "test")
Splits = dict[str, list[str]]
_MATCHING = 1.0  # seconds of processor that finding document starts may take, and per character of the text:
_MATCHING_CHARACTER = 2e-6
_FOREIGN = {
    b"\x1f\x8b": "gzip; end its name in .gz",
    b"\x28\xb5\x2f\xfd": "zstandard; end its name in .zst",
    b"PAR1": "parquet; end its name in .parquet",
    b"PK\x03\x04": "a zip archive or an office document; extract its text",
    b"BZh": "bzip2; decompress it",
    b"\xfd7zXZ": "xz; decompress it",
    b"%PDF": "PDF; extract its text",
    b"\xff\xfe": "UTF-16; convert it with iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "UTF-16; convert it with iconv -f utf-16 -t utf-8",
}


@dataclass(frozen=True)
class Counts:
    documents: int
    bytes: int
    words: int


def count(documents: Iterable[str], *, line_ends: bool) -> Counts:
    """Documents, UTF-8 bytes and white-space separated words; ``line_ends`` adds one word a line."""
    number = size = words = 0
    for text in documents:
        number += 1
        size += len(text.encode())
        words += len(text.split())
        if line_ends:
            words += text.count("\n") + (not text.endswith("\n"))
    return Counts(number, size, words)


def document_hash(text: str, purpose: str = "") -> bytes:
    """16 bytes that depend on the text and on what they are used for, equal on every machine."""
    return hashlib.blake2b(text.encode(), digest_size=16, person=purpose.encode()).digest()


def lines_of(text: str) -> Iterator[str]:
    """Lines with their ends.

    Only "\\n" ends a line: str.splitlines would also cut at form feeds inside one.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def cut_documents(lines: Iterable[str], start: str, location: str) -> list[str]:
    """Documents that begin at each line in which ``start`` is found.

    Joined they are the lines, byte for byte.

    Blank lines before the first heading belong to the first document, other text there is a document of its
    own.
    Raises: DataError when no line matches, or when matching takes too long.
    """
    is_start = _matcher(start, location)
    documents: list[list[str]] = [[]]
    has_start = False
    for line in lines:
        if is_start(line.rstrip("\n")):
            if has_start or any(text.strip() for text in documents[-1]):
                documents.append([])
            has_start = True
        documents[-1].append(line)
    if not has_start:
        raise DataError(
            f"{location}: no line matches document_start {start!r}; correct it, "
            "or leave it out for one document a file"
        )
    return ["".join(document) for document in documents]


def _matcher(start: str, location: str) -> Callable[[str], bool]:
    """Whether a line holds ``start``; backtracking without end is a DataError after a few seconds."""
    try:
        pattern = regex.compile(start)
    except (regex.error, RecursionError, MemoryError, OverflowError) as error:
        raise DataError(f"data.document_start: {start!r} cannot be used ({error}); simplify it") from None
    allowed, spent, number = _MATCHING, 0.0, 0

    def is_start(line: str) -> bool:
        nonlocal allowed, spent, number
        number += 1
        allowed += len(line) * _MATCHING_CHARACTER
        began = time.thread_time()
        try:
            match = pattern.search(line, timeout=_MATCHING)
        except TimeoutError:
            match, spent = None, allowed
        spent += time.thread_time() - began
        if spent > allowed:
            raise DataError(
                f"{location} line {number}: matching document_start {start!r} takes seconds, "
                "because it backtracks too much; write it without nested repeats such as (a+)+"
            )
        return match is not None

    return is_start


def decode(raw: bytes | bytearray, location: str) -> str:
    """Text of a file: UTF-8, without a byte-order mark, CRLF as LF.

    Raises: DataError naming ``location``, the line and a remedy.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        position = f"byte {error.start} (0x{raw[error.start]:02x}), line {line}"
        raise DataError(f"{location}: not UTF-8 at {position}; {_remedy(raw)}") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _remedy(raw: bytes | bytearray) -> str:
    for start, kind in _FOREIGN.items():
        if raw.startswith(start):
            return f"it looks like {kind}"
    return "convert it, for example with iconv -f latin1 -t utf-8"


def check_text(text: object, location: str) -> str:
    """``text`` if it can be written as UTF-8. Raises: DataError naming ``location``."""
    if text is None:
        raise DataError(
            f"{location}: the text is null; drop such rows, or name another column with data.text_column"
        )
    if not isinstance(text, str):
        raise DataError(
            f"{location}: expected text, got {type(text).__name__}; name the right column with "
            "data.text_column"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{location}: character {error.start} is half a surrogate pair, which UTF-8 cannot encode; "
            "repair that row"
        ) from None
    return text


def hold_out(documents: list[str], fraction: float, purpose: str) -> tuple[list[str], list[str]]:
    """(kept, held out): whole documents, about ``fraction`` of the bytes, both in their original order.

    Documents are taken in the order of a hash of their text until the fraction is reached: place plays no
    part, and copies of one text go to one side. A document that would bring the share above twice the
    fraction is passed over.
    Raises: DataError when there are fewer than two different documents.
    """
    sizes: dict[bytes, int] = {}
    hashes = [document_hash(text, purpose) for text in documents]
    for key, text in zip(hashes, documents, strict=True):
        sizes[key] = sizes.get(key, 0) + len(text.encode())
    if len(sizes) < 2:
        raise DataError(
            f"the train split has {len(sizes)} different document{'s' * (len(sizes) != 1)}: "
            f"no {purpose} split can be held out; "
            f"cut it with data.document_start ('^$' cuts at blank lines) or give {purpose} its own files"
        )
    target = fraction * sum(sizes.values())
    held_out: set[bytes] = set()
    held_bytes = 0
    for key in sorted(sizes):
        if held_bytes < target and held_bytes + sizes[key] <= 2 * target:
            held_out.add(key)
            held_bytes += sizes[key]
    if not held_out:  # every document is large: the smallest disturbs training least
        held_out.add(min(sizes, key=lambda key: (sizes[key], key)))
    remaining = [text for key, text in zip(hashes, documents, strict=True) if key not in held_out]
    return remaining, [text for key, text in zip(hashes, documents, strict=True) if key in held_out]


def limit(documents: list[str], size: int) -> list[str]:
    """About ``size`` bytes (at most 3 fewer).

    Whole documents in the order of their hash, the last one cut.
    """
    texts: dict[int, str] = {}
    left = size
    for index in sorted(range(len(documents)), key=lambda i: (document_hash(documents[i], "limit"), i)):
        if left <= 0:
            break
        raw = documents[index].encode()
        # a cut inside a character drops its incomplete bytes
        text = documents[index] if len(raw) <= left else raw[:left].decode(errors="ignore")
        left -= len(raw)
        if text:
            texts[index] = text
    return [texts[index] for index in sorted(texts)]


def complete(
    provided: Splits, *, tune_fraction: float, validation_fraction: float, limit_bytes: int | None
) -> tuple[Splits, int]:
    """All splits, with no document in two of them, and how many training documents that cost.

    A document that a held-out split also has is dropped from train (and from tune), never from what is
    reported on. ``limit_bytes`` of the training documents are kept before shares of them are held out.
    """
    splits = {name: list(provided.get(name, ())) for name in SPLITS}
    for name, documents in splits.items():
        if name in provided and not documents:
            raise DataError(f"the {name} split has no document with text; check its files")
    reported = {document_hash(text) for name in ("validation", "test") for text in splits[name]}
    train_count = len(splits["train"])
    splits["tune"] = [text for text in splits["tune"] if document_hash(text) not in reported]
    held_out_hashes = reported | {document_hash(text) for text in splits["tune"]}
    splits["train"] = [text for text in splits["train"] if document_hash(text) not in held_out_hashes]
    dropped = train_count - len(splits["train"])
    if limit_bytes is not None:
        splits["train"] = limit(splits["train"], limit_bytes)
    if not splits["validation"]:
        splits["train"], splits["validation"] = hold_out(splits["train"], validation_fraction, "validation")
    if not splits["tune"]:
        splits["train"], splits["tune"] = hold_out(splits["train"], tune_fraction, "tune")
    if not splits["train"]:
        raise DataError("no training document is left: every one is also in a held-out split")
    return {name: documents for name, documents in splits.items() if documents}, dropped
