"""From files to memory-mapped pixels: read, split, store once.

The second call only opens what the first one stored.

Legend: N images, C channels, H x W pixels.
A split is two files, ``<name>.pixels`` (uint8, N x C x H x W) and ``<name>.labels`` (uint8), under a manifest
that holds their sha256; what does not agree with it is built anew. The held-out part of the training images
is chosen class by class, by a hash of the pixels: the same on every machine, whatever the order of files.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arch_lab.data import DataError
from arch_lab.data.files import file_hash
from arch_lab.data.store import Corrupt, cache_errors, read_json
from arch_lab.files import write_bytes
from arch_lab.stored import Json, Stored
from blocks.errors import ConfigError
from experiments.images.data.config import Augmentation, ImagesConfig, ImageSet
from experiments.images.data.read import Labelled, located, read_split

_FORMAT = 1  # counts up when the meaning of the stored files changes
_log = logging.getLogger("arch_lab.data")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ImageSplit:
    """``pixels`` uint8 (N, C, H, W), memory-mapped; ``labels`` uint8 (N,); ``fingerprint`` is the sha256 of
    both.
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def require(self, images: int, consumer: str) -> None:
        """Raises: DataError when the split is smaller than ``images``."""
        if len(self) < images:
            raise DataError(f"the {self.name} split has {len(self)} images, {consumer} needs {images}")


@dataclass(frozen=True, kw_only=True)
class SplitFiles(Stored):
    """Number of images of a stored split, and the sha256 of its two files."""

    images: int
    pixels: str
    labels: str


@dataclass(frozen=True, kw_only=True)
class Manifest(Stored):
    """Content of ``images.json``. ``key``: hash of the source files and of what was done to them."""

    key: str
    about: Json
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: dict[str, SplitFiles]


@dataclass(frozen=True)
class PreparedImages:
    """The splits of a set. ``mean`` and ``std``: of the training pixels by channel, on the scale 0 to 1."""

    image_set: ImageSet
    patch: int
    train: ImageSplit
    tune: ImageSplit
    test: ImageSplit
    mean: np.ndarray
    std: np.ndarray
    augmentation: Augmentation  # of training batches
    fingerprint: str
    about: Json

    @property
    def vocabulary(self) -> int:
        """Classes: what the engine sizes the output with."""
        return len(self.image_set.classes)

    def summary(self) -> Json:
        """Plain values for reports."""
        tokens = self.image_set.height * self.image_set.width // self.patch**2
        splits = {
            split.name: {
                "images": len(split),
                "tokens": len(split) * tokens,
                "fingerprint": split.fingerprint,
            }
            for split in (self.train, self.tune, self.test)
        }
        return {
            **self.about,
            "channels": self.image_set.channels,
            "height": self.image_set.height,
            "width": self.image_set.width,
            "patch": self.patch,
            "augmentation": self.augmentation,
            "classes": list(self.image_set.classes),
            "splits": splits,
            "fingerprint": self.fingerprint,
        }


def prepare_images(config: ImagesConfig, cache: Path, progress: Progress | None = None) -> PreparedImages:
    """The data of a study, from ``cache`` when it holds it. ``progress`` is called with one line per stage.

    A damaged entry is built anew after one warning line. Raises: DataError.
    """
    files = located(config)
    content = {split: [file_hash(path) for path in paths] for split, paths in files.items()}
    key = _hash([_FORMAT, config.source, config.tune_fraction, content])
    folder = Path(cache) / f"{config.source}-{key[:20]}"
    if (folder / "images.json").exists():  # written last: a build that was killed is simply done again
        try:
            return _open(config, folder, key)
        except Corrupt as damage:
            _log.warning("warning: cached images are damaged and will be read again: %s", damage)
    with cache_errors(Path(cache)):
        folder.mkdir(parents=True, exist_ok=True)
    _build(config, files, folder, key, progress or (lambda line: None))
    try:
        return _open(config, folder, key)
    except Corrupt as damage:
        raise DataError(
            f"the data cache does not return what was written to it: {damage}; choose another cache folder"
        ) from None


def _build(
    config: ImagesConfig, files: dict[str, tuple[Path, ...]], folder: Path, key: str, report: Progress
) -> None:
    train, tune = held_out(read_split(config, files["train"], "train", report), config.tune_fraction)
    test = read_split(config, files["test"], "test", report)
    mean, std = _statistics(train[0])
    training_hashes = set(_hashes(train[0])) | set(_hashes(tune[0]))
    about = {
        "source": config.source,
        "test_images_also_in_train": sum(h in training_hashes for h in _hashes(test[0])),
    }
    splits: dict[str, SplitFiles] = {}
    for name, (pixels, labels) in {"train": train, "tune": tune, "test": test}.items():
        report(f"storing {len(labels):,} images of the {name} split")
        with cache_errors(folder):
            for ending, array in (("pixels", pixels), ("labels", labels)):
                write_bytes(folder / f"{name}.{ending}", np.ascontiguousarray(array).tobytes())
        digests = {ending: file_hash(folder / f"{name}.{ending}") for ending in ("pixels", "labels")}
        splits[name] = SplitFiles(images=len(labels), **digests)
    manifest = Manifest(
        key=key, about=about, mean=tuple(mean.tolist()), std=tuple(std.tolist()), splits=splits
    )
    with cache_errors(folder):
        write_bytes(folder / "images.json", json.dumps(manifest.to_json(), indent=1).encode())


def held_out(labelled: Labelled, fraction: float) -> tuple[Labelled, Labelled]:
    """(the rest, ``fraction`` of every class), each in the order of ``labelled``.

    Raises: DataError where a class is too small to share.
    """
    pixels, labels = labelled
    hashes, held_mask = np.array(_hashes(pixels)), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            share = f"no {fraction:.0%} of them can be held out"
            raise DataError(
                f"class {label} has {len(members)} training images: {share}; change data.tune_fraction"
            )
        held_mask[members[np.argsort(hashes[members], kind="stable")[:count]]] = True
    return (pixels[~held_mask], labels[~held_mask]), (pixels[held_mask], labels[held_mask])


def _hashes(pixels: np.ndarray) -> list[str]:
    return [hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest() for image in pixels]


def _statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by channel, from exact counts of the 256 values."""
    value = np.arange(256) / 255
    counts = [np.bincount(pixels[:, c].reshape(-1), minlength=256) for c in range(pixels.shape[1])]
    mean = np.array([(n * value).sum() / n.sum() for n in counts])
    variance = np.array([(n * (value - m) ** 2).sum() / n.sum() for n, m in zip(counts, mean, strict=True)])
    return mean, np.sqrt(variance).clip(min=1 / 255)  # a channel of one value is left where it is


def _open(config: ImagesConfig, folder: Path, key: str) -> PreparedImages:
    image_set = config.set
    try:
        manifest = Manifest.from_json(read_json(folder / "images.json"))
        if manifest.key != key:
            raise Corrupt(f"{folder} belongs to other data")
        splits = {
            name: _open_split(folder, name, entry, image_set) for name, entry in manifest.splits.items()
        }
        return PreparedImages(
            image_set=image_set,
            patch=config.patch,
            **{name: splits[name] for name in ("train", "tune", "test")},
            mean=np.array(manifest.mean),
            std=np.array(manifest.std),
            augmentation=config.augmentation,
            # how images are trained on belongs to what determines a run, as a tokenizer does
            fingerprint=_hash(
                [{n: s.fingerprint for n, s in splits.items()}, config.patch, config.augmentation]
            ),
            about=dict(manifest.about),
        )
    except (KeyError, TypeError, ValueError, OSError, ConfigError, DataError) as error:
        raise Corrupt(f"{folder} is incomplete ({error})") from None


def _open_split(folder: Path, name: str, entry: SplitFiles, image_set: ImageSet) -> ImageSplit:
    for ending, digest in (("pixels", entry.pixels), ("labels", entry.labels)):
        if file_hash(folder / f"{name}.{ending}") != digest:
            raise Corrupt(f"{folder / name}.{ending} does not match the manifest")
    shape = (entry.images, image_set.channels, image_set.height, image_set.width)
    pixels = np.memmap(folder / f"{name}.pixels", np.uint8, mode="r", shape=shape)
    labels = np.fromfile(folder / f"{name}.labels", np.uint8)
    return ImageSplit(
        name=name, pixels=pixels, labels=labels, fingerprint=_hash([entry.pixels, entry.labels])
    )


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
