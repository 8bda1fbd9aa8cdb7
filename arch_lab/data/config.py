"""What text a study reads and how it becomes tokens: strict, plain values, the ``data:`` part of a study file.

Sources: ``embedded`` (prose that every machine already has), ``files`` (on disk), ``hub`` (Hugging Face datasets).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from blocks.contract import BlockConfig
from blocks.errors import ConfigError

ROOT_VARIABLE = "ARCH_LAB_DATA"
SMALLEST_BPE = 257  # 256 bytes and the separator: below this some text could not be written
DEFAULT_BPE = 4096


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(BlockConfig):
    """Bytes, BPE trained on the training split, or a saved ``tokenizer.json``.

    ``separator`` names the special token put before every document of a saved tokenizer (default: its own
    end-of-text token, or ``<|document|>`` added behind its vocabulary).
    """

    kind: Literal["bytes", "bpe", "file"] = "bpe"
    vocabulary: int | None = None  # bpe: entries, the separator included (4096 when not given)
    path: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "file") != (self.path is not None):
            raise ConfigError("tokenizer: kind 'file' and the option 'path' go together; give both or neither")
        if self.separator is not None and self.kind != "file":
            raise ConfigError(f"tokenizer: 'separator' is for kind 'file'; kind {self.kind!r} has its own")
        if self.kind == "bpe" and self.entries < SMALLEST_BPE:
            needed = f"{SMALLEST_BPE} entries (256 bytes and the separator)"
            raise ConfigError(f"tokenizer: a BPE vocabulary needs at least {needed}, got {self.entries}")
        if self.kind == "bytes" and self.vocabulary not in (None, SMALLEST_BPE):
            raise ConfigError(
                f"tokenizer: bytes have {SMALLEST_BPE} entries, got vocabulary {self.vocabulary}; leave it out or choose kind 'bpe'"
            )

    @property
    def entries(self) -> int:
        """Size a BPE is trained to."""
        return DEFAULT_BPE if self.vocabulary is None else self.vocabulary


@dataclass(frozen=True, kw_only=True)
class FilesConfig(BlockConfig):
    """Files per split: one path or a list, relative to the data root. A folder stands for the text files below it, a pattern
    such as ``texts/**/*.txt`` for the files that it matches.

    ``.jsonl`` and ``.parquet`` hold one document per row, ``.tar`` text files, one document each; anything else is text. Each is
    also read compressed, with the suffix ``.gz`` or ``.zst`` behind its own.
    """

    train: str | tuple[str, ...]
    validation: str | tuple[str, ...] | None = None
    tune: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None

    def of(self, split: str) -> tuple[str, ...]:
        paths = getattr(self, split)
        return () if paths is None else (paths,) if isinstance(paths, str) else tuple(paths)


@dataclass(frozen=True, kw_only=True)
class HubConfig(BlockConfig):
    """A Hugging Face dataset: its name, or the path of a local one. ``validation``/``tune``/``test`` are split names.

    ``streaming`` reads rows without downloading the whole; ``limit_documents`` stops after that many rows a split.
    """

    name: str
    subset: str | None = None
    revision: str | None = None  # pins the version; without it the first download is kept in the cache
    train: str = "train"
    validation: str | None = None
    tune: str | None = None
    test: str | None = None
    streaming: bool = False
    limit_documents: int | None = None

    def __post_init__(self) -> None:
        if self.streaming and self.limit_documents is None:
            raise ConfigError("data.hub: streaming needs limit_documents (how many rows of a split to read)")
        if self.limit_documents is not None and self.limit_documents < 1:
            raise ConfigError(f"data.hub.limit_documents: must be at least 1, got {self.limit_documents}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(BlockConfig):
    """Text, its splits and its tokenizer.

    ``document_start``: regular expression found in the first line of every document (``^ = [^=].* = $`` for
    WikiText); rows of a row format then count as lines. Without it a text file or a row is one document; a file in an
    archive always is.
    ``tune_fraction`` of the training bytes, whole documents chosen by a hash of their text, is held out to choose
    learning rates; so is ``validation_fraction`` when the source has no validation split.
    ``count_line_ends``: each line adds one word, as the token counts published for WikiText do.
    ``limit_bytes``: how much text of the train source to keep; shares of that are held out.
    Raises: ConfigError, also for an unknown key (with the nearest valid one).
    """

    source: Literal["embedded", "files", "hub"] = "embedded"
    root: str | None = None
    files: FilesConfig | None = None
    hub: HubConfig | None = None
    text_column: str = "text"  # key of the text in jsonl, parquet and hub rows
    document_start: str | None = None
    count_line_ends: bool = False
    tune_fraction: float = 0.05
    validation_fraction: float = 0.05
    limit_bytes: int | None = None
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)

    def __post_init__(self) -> None:
        for source in ("files", "hub"):
            if (self.source == source) != (getattr(self, source) is not None):
                raise ConfigError(f"data: source {source!r} and the option {source!r} go together; give both or neither")
        for name in ("tune_fraction", "validation_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise ConfigError(f"data.{name}: must lie between 0 and 0.5, got {getattr(self, name):g}")
        if self.limit_bytes is not None and self.limit_bytes < 1:
            raise ConfigError(f"data.limit_bytes: must be at least 1, got {self.limit_bytes}")
        if self.document_start is not None:
            try:
                re.compile(self.document_start)
            except re.error as error:
                raise ConfigError(f"data.document_start: {self.document_start!r} is no regular expression ({error})") from None

    @property
    def folder(self) -> Path:
        """Where relative paths begin: ``root``, else the variable ARCH_LAB_DATA, else the current folder."""
        return Path(self.root or os.environ.get(ROOT_VARIABLE) or ".").expanduser()
