"""Tokenizers: bytes, BPE trained on the training split, or a saved ``tokenizer.json``.

Legend: V vocabulary. All are lossless: the bytes of the tokens, one after the other, are the UTF-8 bytes of
the text. That makes bits per byte comparable between vocabularies, so what is not lossless is refused
(``verify``). Every document is preceded by one separator, a special token of zero bytes; text that spells it
out is ordinary text.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, overload

import numpy as np

from arch_lab.data.formats import DataError
from arch_lab.data.tokenizer_file import check_file, check_layout, rust_errors
from arch_lab.files import write_bytes
from arch_lab.yaml_files import load_json

SEPARATOR = "<|document|>"
MASK = "[MASK]"
_KNOWN_SEPARATORS = (
    SEPARATOR,
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<bos>",
    "<s>",
    "</s>",
    "[SEP]",
)
_BATCH = 1 << 21  # characters encoded at once: bounds memory, loses no speed


class Tokenizer(ABC):
    """Text <-> ids. ``vocabulary`` entries, ``separator`` the id put before every document.

    ``mask`` is the id of the special token that hides another one, None until ``with_mask`` adds it: no text
    is ever encoded to it.
    """

    kind: str
    vocabulary: int
    separator: int
    mask: int | None = None

    @overload
    # a str is a sequence of str as well
    def encode(self, text: str) -> np.ndarray: ...  # type: ignore[overload-overlap]
    @overload
    def encode(self, text: Sequence[str]) -> list[np.ndarray]: ...
    def encode(self, text: str | Sequence[str]) -> np.ndarray | list[np.ndarray]:
        """Ids (int64) without separators: an array for one text, a list of arrays for a sequence of texts."""
        return self.encode_each([text])[0] if isinstance(text, str) else self.encode_each(text)

    @abstractmethod
    def encode_each(self, documents: Sequence[str]) -> list[np.ndarray]:
        """Ids (int64) of each document, without separators."""

    @abstractmethod
    def pieces(self) -> list[bytes]:
        """The bytes of each id, V entries; b"" for special tokens."""

    @abstractmethod
    def with_mask(self) -> Tokenizer:
        """This tokenizer with a mask token.

        Every id keeps its meaning, a ``[MASK]`` it does not have comes behind them all.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, str]:
        """``kind``, ``separator``, ``json`` (the text of a tokenizer.json) and, if it has one, ``mask``: what
        ``tokenizer_from`` reads.
        """

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json`` and ``tokenizer_kind.json``; ``load_tokenizer`` reads them."""
        parts = self.to_dict()
        write_bytes(folder / "tokenizer.json", parts.pop("json").encode())
        write_bytes(folder / "tokenizer_kind.json", json.dumps(parts).encode())

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Equal fingerprints encode equally."""

    def encode_documents(self, documents: Sequence[str]) -> np.ndarray:
        """All documents, each preceded by one separator.

        Ids in uint16, or uint32 where V needs it.
        """
        parts = [np.empty(0, self.dtype)]
        for batch in _batches(documents):
            for ids in self.encode_each(batch):
                parts += [np.array([self.separator], self.dtype), ids.astype(self.dtype)]
        return np.concatenate(parts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; special tokens leave no trace, bytes that are no UTF-8 (a character cut off) become
        U+FFFD.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        flat = np.asarray(ids).reshape(-1)
        piece = self.pieces().__getitem__
        parts = (
            flat[start : start + _BATCH].tolist() for start in range(0, len(flat), _BATCH)
        )  # a list takes 8 times the array
        return b"".join(b"".join(map(piece, chunk)) for chunk in parts)

    def token_bytes(self) -> np.ndarray:
        """int32 (V,): bytes of each token, 0 for special ones.

        What bits per byte and the mask of scored tokens need.
        """
        return np.array([len(piece) for piece in self.pieces()], np.int32)

    def verify(self, documents: Sequence[str], ids: np.ndarray, location: str) -> None:
        """Raises: DataError unless ``ids`` decode to exactly the bytes of ``documents``."""
        starts = np.flatnonzero(ids == self.separator)
        parts = np.split(ids, starts[1:]) if len(starts) else []
        for text, text_ids in zip_longest(documents, parts):
            if text is None or text_ids is None or self.decode_bytes(text_ids) != text.encode():
                raise DataError(
                    f"{location}: the tokenizer changes the text (document {(text or '')[:30]!r}…), "
                    "so bits per byte would be wrong; use a byte-level one without normalisation"
                )

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return id_dtype(self.vocabulary)


class ByteTokenizer(Tokenizer):
    """One token a byte, id = byte; 256 is the separator, 257 the mask if there is one."""

    kind = "bytes"
    separator = 256

    def __init__(self, *, mask: bool = False) -> None:
        self.mask = 257 if mask else None
        self._pieces = [bytes([value]) for value in range(256)] + [b""] * (2 if mask else 1)
        self.vocabulary = len(self._pieces)

    @property
    def fingerprint(self) -> str:
        return f"bytes-{self.vocabulary}"

    def with_mask(self) -> ByteTokenizer:
        return ByteTokenizer(mask=True)

    def encode_each(self, documents: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in documents]

    def encode_documents(self, documents: Sequence[str]) -> np.ndarray:
        """As of every tokenizer, without an int64 copy of a long document."""
        parts = [np.empty(0, self.dtype)]
        for text in documents:
            parts += [
                np.array([self.separator], self.dtype),
                np.frombuffer(text.encode(), np.uint8).astype(self.dtype),
            ]
        return np.concatenate(parts)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        flat = np.asarray(ids).reshape(-1)
        if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < self.vocabulary:
            raise IndexError(f"ids must be in 0 … {self.vocabulary - 1}")
        return flat[flat < 256].astype(np.uint8).tobytes()

    def pieces(self) -> list[bytes]:
        return self._pieces

    def to_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "separator": SEPARATOR, "json": "{}"} | (
            {"mask": MASK} if self.mask is not None else {}
        )


class SubwordTokenizer(Tokenizer):
    """A ``tokenizers.Tokenizer``: byte-level, or SentencePiece-like with byte fallback.

    ``separator`` names the special token before documents; without one it is added behind the vocabulary.
    ``mask`` likewise names the token that hides others; without one there is none.
    """

    def __init__(
        self, inner: Any, *, kind: str, separator: str | None = None, mask: str | None = None
    ) -> None:
        from tokenizers import AddedToken

        self.kind = kind
        entries = inner.get_vocab(with_added_tokens=True)
        name = separator or next(
            (candidate for candidate in _KNOWN_SEPARATORS if candidate in entries), SEPARATOR
        )
        if name not in entries and separator is not None:
            raise DataError(
                f"tokenizer.separator: {name!r} is not a token of this tokenizer; "
                "leave it out to have one added"
            )
        added = [name] if mask is None else [name, mask]
        inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
        inner.encode_special_tokens = True  # text that looks like a special token stays text
        inner.no_padding()
        inner.no_truncation()
        inner.post_processor = None  # whether and where others put special tokens changes no encoding here
        self._inner = inner
        self.separator_name = name
        self.separator = inner.token_to_id(name)
        self.mask = None if mask is None else inner.token_to_id(mask)
        self._pieces = _pieces(inner)
        self.vocabulary = len(self._pieces)

    def encode_each(self, documents: Sequence[str]) -> list[np.ndarray]:
        fast = getattr(
            self._inner, "encode_batch_fast", self._inner.encode_batch
        )  # the fast one keeps no offsets
        with rust_errors("the tokenizer cannot encode this text"):
            return [
                np.array(encoding.ids, np.int64)
                for encoding in fast(list(documents), add_special_tokens=False)
            ]

    def pieces(self) -> list[bytes]:
        return self._pieces

    def to_dict(self) -> dict[str, str]:
        parts = {"kind": self.kind, "separator": self.separator_name, "json": self._inner.to_str()}
        return parts if self.mask is None else {**parts, "mask": MASK}

    def with_mask(self) -> SubwordTokenizer:
        inner = _library().Tokenizer.from_str(
            self._inner.to_str()
        )  # a copy: the tokenizer of other studies stays as it is
        return SubwordTokenizer(inner, kind=self.kind, separator=self.separator_name, mask=MASK)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256((self._inner.to_str() + self.separator_name).encode()).hexdigest()


def train_bpe(documents: Sequence[str], vocabulary: int) -> SubwordTokenizer:
    """Byte-level BPE of exactly ``vocabulary`` entries: the separator (id 0), 256 bytes, merges.

    Same text, same result.

    Raises: DataError when the text has too few different pairs to get there.
    """
    tokenizers = _library()
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(documents, trainer, length=len(documents))
    reached = inner.get_vocab_size()
    if reached != vocabulary:
        size = sum(len(text.encode()) for text in documents)
        raise DataError(
            f"tokenizer.vocabulary: BPE cannot reach {vocabulary} entries on {size} bytes of training text, "
            f"it ends at {reached}; ask for at most {reached} or give more text"
        )
    return SubwordTokenizer(inner, kind="bpe")


def read_tokenizer(
    path: Path, separator: str | None = None, mask: str | None = None, *, is_own: bool = False
) -> SubwordTokenizer:
    """A saved ``tokenizer.json``; unless it ``is_own``, a broken or random one is found out first.

    Raises: DataError.
    """
    tokenizers = _library()
    if not path.is_file():
        raise DataError(f"tokenizer.path: no file {path}; name a tokenizer.json")
    if not is_own:
        check_file(path)
    with rust_errors(f"tokenizer.path: {path} is not a tokenizer.json"):
        return SubwordTokenizer(
            tokenizers.Tokenizer.from_file(str(path)), kind="file", separator=separator, mask=mask
        )


def load_tokenizer(folder: Path, *, is_own: bool = False) -> Tokenizer:
    """What ``save`` wrote there; ``is_own``: the files are known to be unchanged. Raises: DataError."""
    path = folder / "tokenizer_kind.json"
    if not path.is_file():
        raise DataError(f"{folder}: no saved tokenizer there (tokenizer.json and tokenizer_kind.json)")
    about = load_json(path, error=DataError)
    if not isinstance(about, dict) or not {"kind", "separator"} <= set(about):
        raise DataError(f"{path}: not a description of a tokenizer (with the keys kind and separator)")
    kind, separator, mask = about["kind"], about["separator"], about.get("mask")
    if kind == "bytes":
        return ByteTokenizer(mask=mask is not None)
    tokenizer = read_tokenizer(folder / "tokenizer.json", separator, mask, is_own=is_own)
    tokenizer.kind = kind
    return tokenizer


def tokenizer_from(parts: dict[str, str]) -> Tokenizer:
    """What ``to_dict`` returned, for instance out of a checkpoint. Raises: DataError."""
    try:
        kind, separator, text, mask = parts["kind"], parts["separator"], parts["json"], parts.get("mask")
    except (KeyError, TypeError):
        raise DataError(
            "the checkpoint's tokenizer is incomplete (kind, separator and json are needed)"
        ) from None
    if kind == "bytes":
        return ByteTokenizer(mask=mask is not None)
    if not all(isinstance(field, str) for field in (kind, separator, text)):
        raise DataError("the checkpoint's tokenizer is damaged (kind, separator and json must be text)")
    check_layout(text, "the checkpoint's tokenizer")
    with rust_errors("the checkpoint's tokenizer is unreadable"):
        return SubwordTokenizer(
            _library().Tokenizer.from_str(text), kind=kind, separator=separator, mask=mask
        )


def id_dtype(vocabulary: int) -> type[np.unsignedinteger[Any]]:
    """uint16 as long as every id fits."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise DataError(
            "tokenizer kinds 'bpe' and 'file' need the package tokenizers (pip install tokenizers); "
            "'bytes' does not"
        ) from None
    return tokenizers


def _batches(documents: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: character -> byte."""
    printable = set(chain(range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100)))
    others = (value for value in range(256) if value not in printable)
    return {chr(value): value for value in printable} | {
        chr(256 + index): value for index, value in enumerate(others)
    }


def _pieces(inner: Any) -> list[bytes]:
    layout = json.loads(inner.to_str())
    added = {token["id"]: token for token in layout.get("added_tokens", ())}
    byte_level = any(
        '"ByteLevel"' in json.dumps(layout.get(component)) for component in ("pre_tokenizer", "decoder")
    )
    entries = inner.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(entries.values()) + 1)
    alphabet = byte_of_character()
    for token, number in entries.items():
        if number in added:
            pieces[number] = b"" if added[number]["special"] else token.encode()
        elif byte_level and all(character in alphabet for character in token):
            pieces[number] = bytes(alphabet[character] for character in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            pieces[number] = bytes([int(token[3:5], 16)])
        else:
            pieces[number] = token.replace("\u2581", " ").encode()
    return pieces
