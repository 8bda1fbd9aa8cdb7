"""Readers of the sets: MNIST's idx files and CIFAR-10 as JPEG in tar archives, to uint8 arrays.

Legend: N images, C channels, H x W pixels.
Formats: yann.lecun.com/exdb/mnist (idx: a magic number 0x0000TTDD, type and dimensions, the sizes,
big-endian, then the bytes); an archive of ``cifar10/<split>/<class>/<number>.jpg``. What does not fit is
refused by file, member and reason in one line.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from arch_lab.data import DataError
from arch_lab.data.archives import members
from arch_lab.data.paths import ROOT_VARIABLE
from arch_lab.data.streams import read_stream
from blocks.errors import did_you_mean
from experiments.images.data.config import ImagesConfig, ImageSet

Progress = Callable[[str], None]
Labelled = tuple[np.ndarray, np.ndarray]  # uint8 (N, C, H, W) and uint8 (N,)

FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "mnist": {
        "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    },
    "cifar10": {"train": ("cifar10_train_jpeg.tar.gz",), "test": ("cifar10_test_jpeg.tar.gz",)},
}
FOLDERS = {"mnist": "mnist", "cifar10": "cifar10_jpeg"}  # where a folder of several sets keeps it
UNSIGNED_BYTES = 0x08


def located(config: ImagesConfig) -> dict[str, tuple[Path, ...]]:
    """The files of each split, in the data root or in the set's own folder below it. Raises: DataError."""
    places = (config.folder, config.folder / FOLDERS[config.source])
    paths: dict[str, tuple[Path, ...]] = {}
    for split, names in FILES[config.source].items():
        for name in names:
            matches = [folder / name for folder in places if (folder / name).is_file()]
            if not matches:
                raise DataError(
                    f"data.source {config.source}: no file {name!r} in {config.folder.resolve()}; "
                    f"set data.root (--data-root) or the variable {ROOT_VARIABLE} to the folder that "
                    "contains it"
                )
            paths[split] = (*paths.get(split, ()), matches[0])
    return paths


def read_split(config: ImagesConfig, files: tuple[Path, ...], split: str, report: Progress) -> Labelled:
    """Images and labels of one split, in the order of the files. Raises: DataError."""
    read = _mnist if config.source == "mnist" else _cifar10
    images, labels = read(files, config.set, split, report)
    expected = (config.set.channels, config.set.height, config.set.width)
    if images.shape[1:] != expected:
        have, want = (" x ".join(map(str, shape)) for shape in (images.shape[1:], expected))
        raise DataError(
            f"{files[0]}: the images are {have} (channels, height, width), "
            f"those of {config.source} are {want}"
        )
    if len(labels) and int(labels.max()) >= len(config.set.classes):
        raise DataError(
            f"{files[-1]}: label {int(labels.max())} is not one of the {len(config.set.classes)} classes of "
            f"{config.source}"
        )
    for label, name in enumerate(config.set.classes):
        if not (labels == label).any():
            raise DataError(
                f"{files[-1]}: no image of class {name!r} in the {split} split; the file is incomplete"
            )
    return images, labels


# --- idx ----------------------------------------------------------------------------------------------------


def _mnist(files: tuple[Path, ...], image_set: ImageSet, split: str, report: Progress) -> Labelled:
    report(f"reading the {split} images")
    images, labels = read_idx(files[0], dimensions=3), read_idx(files[1], dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{files[1]}: {len(labels)} labels for the {len(images)} images of {files[0].name}")
    return images[:, None], labels


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """The array of an idx file of unsigned bytes, gzipped. Raises: DataError."""
    raw = read_stream(path, ".gz")
    magic = UNSIGNED_BYTES << 8 | dimensions
    head = 4 * (1 + dimensions)
    if len(raw) < head or struct.unpack(">I", raw[:4])[0] != magic:
        raise DataError(
            f"{path}: no idx file of unsigned bytes with {dimensions} dimensions (it does not start with "
            f"{magic:#010x})"
        )
    shape = struct.unpack(f">{dimensions}I", raw[4:head])
    if len(raw) - head != np.prod(shape, dtype=np.int64):
        sizes = " x ".join(map(str, shape))
        raise DataError(
            f"{path}: holds {len(raw) - head:,} bytes of data, its header says {sizes}; "
            "the file is cut or damaged"
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


# --- JPEG in a tar archive ----------------------------------------------------------------------------------


def _cifar10(files: tuple[Path, ...], image_set: ImageSet, split: str, report: Progress) -> Labelled:
    (path,) = files
    report(f"decoding the {split} images")
    decoded: list[tuple[str, int, np.ndarray]] = []
    decode = _decoder()
    for name, content in members(path, ".gz"):
        decoded.append(
            (name, _label(path, name, image_set, split), decode(path, name, bytes(content), image_set))
        )
        if len(decoded) % 10_000 == 0:
            report(f"decoding the {split} images: {len(decoded):,}")
    if not decoded:
        raise DataError(f"{path}: the archive holds no images")
    decoded.sort(
        key=lambda entry: entry[0]
    )  # by name: an archive packed anew in another order is the same data
    return np.stack([image for _, _, image in decoded]), np.array(
        [label for _, label, _ in decoded], np.uint8
    )


def _label(path: Path, name: str, image_set: ImageSet, split: str) -> int:
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or parts[-3] != split:
        raise DataError(f"{path}: member {name!r} is not under {split}/<class>/")
    if parts[-2] not in image_set.classes:
        raise DataError(
            f"{path}: member {name!r}: unknown class "
            f"{parts[-2]!r}{did_you_mean(parts[-2], image_set.classes)}"
        )
    return image_set.classes.index(parts[-2])


def _decoder() -> Callable[[Path, str, bytes, ImageSet], np.ndarray]:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading JPEG needs Pillow; install it (pip install pillow)") from None

    def decode(path: Path, name: str, content: bytes, image_set: ImageSet) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels: np.ndarray[Any, Any] = np.asarray(
                    image.convert("RGB") if image.mode != "RGB" else image
                )
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for files it cannot read
            raise DataError(
                f"{path}: member {name!r} is not an image that can be decoded "
                f"({' '.join(str(error).split())})"
            ) from None
        if pixels.shape != (image_set.height, image_set.width, 3):
            size = " x ".join(map(str, pixels.shape[:2]))
            raise DataError(
                f"{path}: member {name!r} has {size} pixels, expected {image_set.height} x {image_set.width}"
            )
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    return decode
