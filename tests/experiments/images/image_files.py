"""Small MNIST and CIFAR-10 look-alikes on disk, in the formats of the real files: classes a model can tell by brightness and place."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits(images: int, seed: int, *, side: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """``images`` a class: noise, and a bright band at a height of the class's own."""
    draw, labels = np.random.default_rng(seed), np.repeat(np.arange(10, dtype=np.uint8), images)
    pixels = draw.integers(0, 60, (len(labels), side, side), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label + 2 : 2 * label + 5] += 150
    order = draw.permutation(len(labels))
    return pixels[order], labels[order]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, train: int = 12, test: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, images, seed in (("train", train, 0), ("t10k", test, 1)):
        pixels, labels = digits(images, seed)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels), 1))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels), 1))
    return folder


def jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_archive(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def pictures(split: str, images: int, seed: int) -> list[tuple[str, bytes]]:
    """``images`` a class, one colour a class with noise on it."""
    draw, members = np.random.default_rng(seed), []
    for label, name in enumerate(CLASSES):
        colour = np.array([25 * label, 250 - 25 * label, 60 * (label % 4)], dtype=np.int64)
        for number in range(images):
            pixels = (colour + draw.integers(-20, 20, (32, 32, 3))).clip(0, 255).astype(np.uint8)
            members.append((f"cifar10/{split}/{name}/{number:04d}.jpg", jpeg(pixels)))
    return members


def write_cifar(folder: Path, *, train: int = 6, test: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, images, seed in (("train", train, 0), ("test", test, 1)):
        write_archive(folder / f"cifar10_{split}_jpeg.tar.gz", pictures(split, images, seed))
    return folder
