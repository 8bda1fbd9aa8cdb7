"""Hugging Face datasets: by name, or a local folder or file that ``datasets`` can read.

Left alone, the client spends half a minute in retries before it says that a hub cannot be reached; a short
question first turns that into one line at once.
"""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arch_lab.data.config import DataConfig, HubConfig
from arch_lab.data.documents import SPLITS, Splits, check_text
from arch_lab.data.files import from_rows
from arch_lab.data.formats import DataError
from arch_lab.data.paths import expand_home
from blocks.config import Options
from blocks.errors import did_you_mean

ALTERNATIVE = "use source 'files' with a copy on disk, or 'embedded', which needs no download"
PATIENCE = 4.0  # seconds for the first answer of the hub
_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_TRUE = ("1", "ON", "YES", "TRUE")  # what huggingface_hub takes for true


def read_hub(config: DataConfig) -> Splits:
    """The documents of every named split. Raises: DataError at once when the hub is out of reach."""
    assert config.hub is not None
    splits: Splits = {}
    for split in SPLITS:
        name = getattr(config.hub, split)
        if name is not None:
            location = f"hub dataset {config.hub.name!r} split {name!r}"
            rows = load_rows(config, name)
            documents = from_rows(_texts(rows, config, location), config.document_start, location)
            splits[split] = [document for document in documents if document.strip()]
    return splits


def content_keys(config: DataConfig) -> dict[str, list[str]]:
    """Sizes and times of a local copy, which identify its version offline."""
    assert config.hub is not None
    local = local_path(config)
    if local is None:
        return {}
    files = sorted(p for p in local.rglob("*") if p.is_file()) if local.is_dir() else [local]
    stats = [(str(p.relative_to(local)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return {"local": [hashlib.sha256(repr(stats).encode()).hexdigest()]}


def local_path(config: DataConfig) -> Path | None:
    assert config.hub is not None
    path = config.folder / expand_home(config.hub.name, "data.hub.name")
    return path if path.exists() else None


def reachable(address: str, patience: float = PATIENCE) -> bool:
    """Whether the hub answers within ``patience`` seconds, through the proxy if there is one."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=patience).close()
            answered.set()
        except urllib.error.HTTPError:
            answered.set()  # a refusal is an answer
        except (OSError, ValueError):
            pass

    # a thread, because the time-out of a socket does not cover a name server that stays silent
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    return answered.is_set()


def load_rows(config: DataConfig, split: str, *, alternative: str = ALTERNATIVE) -> Any:
    """The rows of one split as ``datasets`` gives them.

    ``alternative``: what to use when the hub is out of reach. Raises: DataError.
    """
    try:
        import datasets
        from huggingface_hub import constants
    except ImportError:
        raise DataError(
            "data source 'hub' needs the package datasets (pip install datasets); "
            "'files' and 'embedded' do not"
        ) from None
    hub = config.hub
    assert hub is not None
    local = local_path(config)
    if local is None:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE
        # set after the import the variable has no effect on the client, which would then try the network
        if (offline and not constants.HF_HUB_OFFLINE) or not (
            offline or reachable(os.environ.get("HF_ENDPOINT", constants.ENDPOINT))
        ):
            raise _out_of_reach(hub, offline, alternative)
    try:
        if (
            local is not None
            and local.is_dir()
            and any((local / name).exists() for name in ("dataset_dict.json", "state.json"))
        ):
            loaded = datasets.load_from_disk(str(local))
            return _split_of(loaded, hub, split) if isinstance(loaded, datasets.DatasetDict) else loaded
        options: Options = {"split": split, "streaming": hub.streaming}
        if local is not None and local.is_file():
            return datasets.load_dataset(
                _FORMATS.get(local.suffix.lower(), "text"), data_files={split: str(local)}, **options
            )
        return datasets.load_dataset(str(local or hub.name), hub.subset, revision=hub.revision, **options)
    except DataError:
        raise
    except ConnectionError:
        raise _out_of_reach(hub, bool(constants.HF_HUB_OFFLINE), alternative) from None
    except (
        Exception
    ) as error:  # the library raises its own and its readers' many types for one and the same cause
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"hub dataset {hub.name!r}, split {split!r}, cannot be loaded: {reason}") from None


def _out_of_reach(hub: HubConfig, offline: bool, alternative: str) -> DataError:
    reason = (
        "HF_HUB_OFFLINE is set and it is not in the local cache" if offline else "the hub does not answer"
    )
    return DataError(f"hub dataset {hub.name!r}: {reason}; {alternative}")


def _split_of(loaded: Any, hub: HubConfig, split: str) -> Any:
    if split not in loaded:
        raise DataError(f"hub dataset {hub.name!r} has no split {split!r}{did_you_mean(split, list(loaded))}")
    return loaded[split]


def _texts(rows: Any, config: DataConfig, location: str) -> Iterator[str]:
    assert config.hub is not None
    column = config.text_column
    names = rows.column_names
    if names is not None and column not in names:
        raise DataError(f"{location}: no column {column!r} (data.text_column){did_you_mean(column, names)}")
    for number, row in enumerate(rows):
        if config.hub.limit_documents is not None and number >= config.hub.limit_documents:
            return
        yield check_text(row.get(column), f"{location} row {number}")
