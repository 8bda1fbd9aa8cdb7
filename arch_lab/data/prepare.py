"""Prepare the data of a study: read, split, tokenise, store.

The second call only opens what the first one stored.

The cache entry's name is a hash of the configuration, of the source's content and of the versions that shape
the ids, so anything that changes makes a new entry. The fingerprint of the result depends on ids, counts and
tokenizer alone: equal on every machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from arch_lab.data import embedded, files, hub
from arch_lab.data.config import DataConfig
from arch_lab.data.documents import SPLITS, Splits, complete, count, document_hash
from arch_lab.data.formats import DataError
from arch_lab.data.paths import expand_home
from arch_lab.data.store import Corrupt, TokenSplit, cache_errors, open_split, read_json, write_split
from arch_lab.data.tokenizer import Tokenizer, load_tokenizer
from arch_lab.data.tokenizer_choice import is_checkpoint, make_tokenizer, stored_tokenizer
from arch_lab.files import write_json
from arch_lab.stored import Json

_FORMAT = 2  # counts up when the meaning of the stored files changes
_log = logging.getLogger("arch_lab.data")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class PreparedData:
    """Splits as token ids and what is needed to read and score them.

    ``token_bytes`` int32 (vocabulary,): bytes of each token, 0 for special ones, whose nats no metric counts.
    """

    tokenizer: Tokenizer
    train: TokenSplit
    tune: TokenSplit
    validation: TokenSplit
    test: TokenSplit | None
    fingerprint: str
    about: Json  # source, dropped documents, versions
    config: DataConfig | None = None  # what it was prepared from

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.vocabulary

    @cached_property
    def token_bytes(self) -> np.ndarray:
        return self.tokenizer.token_bytes()

    @cached_property
    def bigrams(self) -> tuple[np.ndarray, np.ndarray]:
        """Bigrams of the training split as sorted keys (first · vocabulary + second), and how often each occurs."""
        ids = np.asarray(self.train.ids, dtype=np.int64)
        return np.unique(ids[:-1] * self.vocabulary + ids[1:], return_counts=True)

    def split(self, name: str) -> TokenSplit:
        """Raises: DataError for a split that this data does not have."""
        token_split = getattr(self, name) if name in SPLITS else None
        if token_split is None:
            raise DataError(
                f"this data has no {name} split; it has "
                f"{', '.join(s for s in SPLITS if getattr(self, s) is not None)}"
            )
        return token_split

    def summary(self) -> Json:
        """Plain values for reports."""
        tokenizer = {
            "kind": self.tokenizer.kind,
            "vocabulary": self.vocabulary,
            "fingerprint": self.tokenizer.fingerprint,
        }
        present = {name: getattr(self, name) for name in SPLITS}
        splits = {name: split.summary() for name, split in present.items() if split is not None}
        return {**self.about, "tokenizer": tokenizer, "splits": splits, "fingerprint": self.fingerprint}


def prepare(config: DataConfig, cache: Path, progress: Progress | None = None) -> PreparedData:
    """The data of a study, from ``cache`` when it holds it. ``progress`` is called with one line per stage.

    A damaged entry is built anew after one warning line. Raises: DataError.
    """
    report = progress or (lambda line: None)
    cache = Path(cache)
    key = _hash(_identity(config))
    folder = cache / f"{config.source}-{key[:20]}"
    if (folder / "data.json").exists():  # written last: a build that was killed is simply done again
        try:
            return dataclasses.replace(_open(folder, key), config=config)
        except Corrupt as damage:
            _log.warning("warning: cached data is damaged and will be built again: %s", damage)
    with cache_errors(cache):
        folder.mkdir(parents=True, exist_ok=True)
    _build(config, folder, key, report)
    try:
        return dataclasses.replace(_open(folder, key), config=config)
    except Corrupt as damage:
        raise DataError(
            f"the data cache does not return what was written to it: {damage}; choose another cache folder"
        ) from None


def _identity(config: DataConfig) -> Json:
    """Everything the ids depend on; not ``root``, because the content of files is in it."""
    identity: Json = {"format": _FORMAT, "config": {**dataclasses.asdict(config), "root": None}}
    if config.source == "embedded":
        identity["content"] = embedded.environment_key()
    elif config.source == "files":
        identity["content"] = files.content_keys(config)
        identity["config"]["files"] = None  # their names may change, their bytes may not
    else:
        identity["content"] = hub.content_keys(config)
    if config.tokenizer.kind != "bytes":
        identity["tokenizers"] = _version("tokenizers")
    if config.tokenizer.path is not None:
        path = config.folder / expand_home(config.tokenizer.path, "tokenizer.path")
        if is_checkpoint(path):  # by what it encodes: its weights change no id
            identity["config"]["tokenizer"]["path"] = stored_tokenizer(path).fingerprint
        else:
            identity["config"]["tokenizer"]["path"] = files.file_hash(path) if path.is_file() else None
    return identity


def _build(config: DataConfig, folder: Path, key: str, report: Progress) -> None:
    splits, dropped = complete(
        _read(config, folder.parent, report),
        tune_fraction=config.tune_fraction,
        validation_fraction=config.validation_fraction,
        limit_bytes=config.limit_bytes,
    )
    report(f"making the {config.tokenizer.kind} tokenizer")
    tokenizer = make_tokenizer(config.tokenizer, splits["train"], config.folder)
    about: Json = {
        "source": config.source,
        "dropped_documents": dropped,
        "count_line_ends": config.count_line_ends,
    }
    if config.source == "embedded":
        about["environment"] = embedded.environment()
    with cache_errors(folder):
        tokenizer.save(folder)
    seals = {}
    for name, documents in splits.items():
        report(f"encoding the {name} split ({len(documents)} document{'s' * (len(documents) != 1)})")
        ids = tokenizer.encode_documents(documents)
        tokenizer.verify(documents, ids, f"the {name} split")
        with cache_errors(folder):
            seals[name] = write_split(
                folder, name, ids, count(documents, line_ends=config.count_line_ends), key
            )
    tokenizer_files = {
        name: files.file_hash(folder / name) for name in ("tokenizer.json", "tokenizer_kind.json")
    }
    manifest = {"key": key, "about": about, "splits": seals, "tokenizer": tokenizer_files}
    with cache_errors(folder):
        write_json(folder / "data.json", {**manifest, "sha256": _hash(manifest)})


def _open(folder: Path, key: str) -> PreparedData:
    manifest = read_json(folder / "data.json")
    try:
        if manifest.pop("sha256") != _hash(manifest):
            raise Corrupt(f"{folder / 'data.json'} has changed")
        if manifest["key"] != key:
            raise Corrupt(f"{folder} belongs to other data")
        for name, digest in manifest["tokenizer"].items():
            if files.file_hash(folder / name) != digest:
                raise Corrupt(f"{folder / name} has changed")
        splits = {name: open_split(folder, name, key, seal) for name, seal in manifest["splits"].items()}
        tokenizer = load_tokenizer(folder, is_own=True)
        if any(len(split.ids) and int(split.ids.max()) >= tokenizer.vocabulary for split in splits.values()):
            raise Corrupt(f"{folder} holds ids beyond its vocabulary")
        content = {
            name: [split.fingerprint, split.bytes, split.words, split.documents]
            for name, split in splits.items()
        }
        return PreparedData(
            tokenizer=tokenizer,
            train=splits["train"],
            tune=splits["tune"],
            validation=splits["validation"],
            test=splits.get("test"),
            fingerprint=_hash([content, tokenizer.fingerprint]),
            about=dict(manifest["about"]),
        )
    except (KeyError, TypeError, AttributeError, DataError) as error:
        raise Corrupt(f"{folder} is incomplete ({error})") from None


def _read(config: DataConfig, cache: Path, report: Progress) -> Splits:
    if config.source == "embedded":
        return {"train": _embedded(cache, report)}
    report(f"reading {config.source}")
    return files.read_files(config) if config.source == "files" else hub.read_hub(config)


def _embedded(cache: Path, report: Progress) -> list[str]:
    """The embedded text, kept in the cache because parsing every installed module takes seconds."""
    key = embedded.environment_key()
    path = cache / f"embedded-text-{key[:20]}.json"
    if path.exists():
        try:
            cached = read_json(path)
            documents = cached["documents"]
            if cached["fingerprint"] == _text_fingerprint(documents):
                return documents
        except (Corrupt, KeyError, TypeError, AttributeError):
            pass
        _log.warning("warning: cached embedded text is damaged and will be built again: %s", path)
    documents = embedded.read_embedded(report)
    with cache_errors(cache):
        write_json(path, {"fingerprint": _text_fingerprint(documents), "documents": documents})
    return documents


def _text_fingerprint(documents: list[str]) -> str:
    return hashlib.sha256(b"".join(document_hash(text) for text in documents)).hexdigest()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
