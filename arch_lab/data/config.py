"""The ``data:`` section of a study file: sources of text and the tokenizer.

Sources: ``embedded`` (prose that every machine already has), ``files`` (on disk), ``hub`` (Hugging Face
datasets).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from arch_lab.data.paths import data_root
from arch_lab.fields import HeldOutFraction, PathText
from blocks.config import Bounds, Config, Doc, Length, Options
from blocks.errors import ConfigError

Paths = PathText | Annotated[tuple[PathText, ...], Length(1, 100_000)]
SMALLEST_BPE = 257  # 256 bytes and the separator: below this some text could not be written
DEFAULT_BPE = 4096


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Config):
    """Bytes, BPE trained on the training split, or a saved ``tokenizer.json``.

    ``separator`` names the special token put before every document of a saved tokenizer (default: its own
    end-of-text token, or ``<|document|>`` added behind its vocabulary).
    """

    kind: Annotated[
        Literal["bytes", "bpe", "file"],
        Doc("Bytes, BPE trained on the training split, or a saved tokenizer.json."),
    ] = "bpe"
    vocabulary: Annotated[
        int | None,
        Bounds(minimum=1, maximum=2**24),
        Doc("Entries of a BPE, the separator included; null: 4,096."),
    ] = None
    path: Annotated[PathText | None, Doc("The saved tokenizer.json, for kind file.")] = None
    separator: Annotated[
        str | None,
        Length(1, 1000),
        Doc("Token put before every document, for kind file; null: its own end-of-text token."),
    ] = None

    def __post_init__(self) -> None:
        if (self.kind == "file") != (self.path is not None):
            raise ConfigError(
                "tokenizer: kind 'file' and the option 'path' go together; give both or neither"
            )
        if self.separator is not None and self.kind != "file":
            raise ConfigError(f"tokenizer: 'separator' is for kind 'file'; kind {self.kind!r} has its own")
        if self.kind == "bpe" and self.entries < SMALLEST_BPE:
            needed = f"{SMALLEST_BPE} entries (256 bytes and the separator)"
            raise ConfigError(f"tokenizer: a BPE vocabulary needs at least {needed}, got {self.entries}")
        if self.kind == "bytes" and self.vocabulary not in (None, SMALLEST_BPE):
            raise ConfigError(
                f"tokenizer: bytes have {SMALLEST_BPE} entries, got vocabulary {self.vocabulary}; "
                "leave it out or choose kind 'bpe'"
            )

    @property
    def entries(self) -> int:
        """Size a BPE is trained to."""
        return DEFAULT_BPE if self.vocabulary is None else self.vocabulary


@dataclass(frozen=True, kw_only=True)
class FilesConfig(Config):
    """Files per split: one path or a list, relative to the data root.

    A folder stands for the text files below it, a pattern such as ``texts/**/*.txt`` for the files that it
    matches.

    ``.jsonl`` and ``.parquet`` hold one document per row, ``.tar`` text files, one document each; anything
    else is text. Each is also read compressed, with the suffix ``.gz`` or ``.zst`` behind its own.
    """

    train: Annotated[
        Paths, Doc("Training text: a file, a folder, a pattern such as texts/**/*.txt, or a list of these.")
    ]
    validation: Annotated[
        Paths | None, Doc("Text that is reported on; null: held out of the training text.")
    ] = None
    tune: Annotated[
        Paths | None, Doc("Text that learning rates are chosen on; null: held out of the training text.")
    ] = None
    test: Annotated[Paths | None, Doc("Text that is never used for training or for choices.")] = None

    def of(self, split: str) -> tuple[str, ...]:
        paths = getattr(self, split)
        return () if paths is None else (paths,) if isinstance(paths, str) else tuple(paths)


@dataclass(frozen=True, kw_only=True)
class HubConfig(Config):
    """A Hugging Face dataset: its name, or the path of a local one.

    ``validation``/``tune``/``test`` are split names.

    ``streaming`` reads rows without downloading the whole; ``limit_documents`` stops after that many rows a
    split.
    """

    name: Annotated[PathText, Doc("Name of the dataset on Hugging Face, or path of a local copy.")]
    subset: Annotated[str | None, Length(1, 1000), Doc("Configuration of the dataset.")] = None
    revision: Annotated[
        str | None,
        Length(1, 1000),
        Doc("Version to read; null: the newest at the first download, then the one in the cache."),
    ] = None
    train: Annotated[str, Length(1, 1000), Doc("Split to train on.")] = "train"
    validation: Annotated[
        str | None, Length(1, 1000), Doc("Split that is reported on; null: held out of the training split.")
    ] = None
    tune: Annotated[
        str | None,
        Length(1, 1000),
        Doc("Split that rates are chosen on; null: held out of the training split."),
    ] = None
    test: Annotated[
        str | None, Length(1, 1000), Doc("Split that is never used for training or for choices.")
    ] = None
    streaming: Annotated[bool, Doc("Read rows without downloading the whole; needs limit_documents.")] = False
    limit_documents: Annotated[
        int | None, Bounds(minimum=1), Doc("Rows to read of each split; null: all.")
    ] = None

    def __post_init__(self) -> None:
        if self.streaming and self.limit_documents is None:
            raise ConfigError("data.hub: streaming needs limit_documents (how many rows of a split to read)")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Text, its splits and its tokenizer.

    ``document_start``: regular expression found in the first line of every document (``^ = [^=].* = $`` for
    WikiText); rows of a row format then count as lines. Without it a text file or a row is one document; a
    file in an archive always is. ``tune_fraction`` of the training bytes, whole documents chosen by a hash of
    their text, is held out to choose learning rates; so is ``validation_fraction`` when the source has no
    validation split.
    ``count_line_ends``: each line adds one word, as the token counts published for WikiText do.
    ``limit_bytes``: how much text of the train source to keep; shares of that are held out.
    Raises: ConfigError, also for an unknown key (with the nearest valid one).
    """

    source: Annotated[
        Literal["embedded", "files", "hub"],
        Doc(
            "English prose from installed documentation (no download), your files, or a Hugging Face dataset."
        ),
    ] = "embedded"
    root: Annotated[
        PathText | None,
        Doc("Folder that relative paths start from; null: ARCH_LAB_DATA, else the current one."),
    ] = None
    files: Annotated[FilesConfig | None, Doc("Files per split, for source files.")] = None
    hub: Annotated[HubConfig | None, Doc("The dataset, for source hub.")] = None
    text_column: Annotated[str, Length(1, 1000), Doc("Key of the text in JSONL, parquet and hub rows.")] = (
        "text"
    )
    document_start: Annotated[
        str | None,
        Length(0, 1000),
        Doc("Regular expression for the first line of a document; null: a file or row is a document."),
    ] = None
    count_line_ends: Annotated[
        bool, Doc("Count one word per line end, as the published counts of WikiText do.")
    ] = False
    tune_fraction: Annotated[
        HeldOutFraction, Doc("Share of the training bytes held out to choose learning rates.")
    ] = 0.05
    validation_fraction: Annotated[
        HeldOutFraction,
        Doc("Share of the training bytes held out to report on, if the source has no validation split."),
    ] = 0.05
    limit_bytes: Annotated[
        int | None,
        Bounds(minimum=1),
        Doc("Bytes of training text to use, held-out shares included; null: all."),
    ] = None
    tokenizer: Annotated[TokenizerConfig, Doc("How text becomes tokens.")] = field(
        default_factory=TokenizerConfig
    )

    def __post_init__(self) -> None:
        for source in ("files", "hub"):
            if (self.source == source) != (getattr(self, source) is not None):
                raise ConfigError(
                    f"data: source {source!r} and the option {source!r} go together; give both or neither"
                )
        if self.document_start is not None:
            try:
                re.compile(self.document_start)
            except re.error as error:
                raise ConfigError(
                    f"data.document_start: {self.document_start!r} is not a regular expression ({error})"
                ) from None

    @classmethod
    def from_options(cls, options: Options, *, where: str = "") -> DataConfig:
        for split in FilesConfig.__dataclass_fields__:
            if split in options:
                raise ConfigError(
                    f"{where or 'data'}: {split!r} belongs below 'files' or 'hub', as in files: {{{split}: "
                    "…}"
                )
        return super().from_options(options, where=where)

    @property
    def folder(self) -> Path:
        """Where relative paths begin: ``root``, else the variable ARCH_LAB_DATA, else the current folder."""
        return data_root(self.root, "data.root")
