"""Images from files to batches: what is read, how it is split and stored, what is refused; batches depend on (seed, step) alone."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arch_lab.data import DataError
from arch_lab.data.streams import CHUNK, UNSUSPECTED
from blocks.errors import ConfigError
from experiments.images.data import (
    ImageLoader,
    ImageOrder,
    ImagesConfig,
    PreparedImages,
    prepare_images,
    scoring_batches,
)
from experiments.images.data.order import augment
from experiments.images.data.prepare import held_out
from experiments.images.data.read import read_idx
from tests.experiments.images.image_files import (
    CLASSES,
    digits,
    idx,
    jpeg,
    pictures,
    write_archive,
    write_cifar,
    write_mnist,
)

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
ARCHIVE = "cifar10_train_jpeg.tar.gz"


def mnist(folder: Path, **options: Any) -> ImagesConfig:
    return ImagesConfig(source="mnist", root=str(folder), patch=7, tune_fraction=0.25, **options)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    folder = tmp_path_factory.mktemp("mnist")
    return prepare_images(mnist(write_mnist(folder / "data")), folder / "cache")


def test_every_image_and_label_arrives_once(prepared: PreparedImages) -> None:
    pixels, labels = digits(12, 0)
    assert (len(prepared.train), len(prepared.tune), len(prepared.test)) == (90, 30, 30)
    kept = np.concatenate([prepared.train.pixels, prepared.tune.pixels])[:, 0]
    known = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    assert {
        image.tobytes(): label
        for image, label in zip(kept, [*prepared.train.labels, *prepared.tune.labels], strict=True)
    } == known
    assert np.array_equal(prepared.test.pixels[:, 0], digits(3, 1)[0])
    assert prepared.vocabulary == 10 and prepared.summary()["splits"]["train"] == {
        "images": 90,
        "tokens": 90 * 16,
        "fingerprint": prepared.train.fingerprint,
    }


def test_the_held_out_part_has_the_same_share_of_every_class_whatever_the_order() -> None:
    pixels, labels = digits(12, 0)
    (_, _), (chosen, of) = held_out((pixels[:, None], labels), 0.25)
    assert np.bincount(of).tolist() == [3] * 10
    order = np.random.default_rng(3).permutation(len(labels))
    (_, _), (again, _) = held_out((pixels[order][:, None], labels[order]), 0.25)
    assert {i.tobytes() for i in chosen} == {i.tobytes() for i in again}


def test_the_second_call_opens_what_the_first_stored_and_a_damaged_entry_is_read_again(
    tmp_path: Path,
) -> None:
    config, said = mnist(write_mnist(tmp_path / "data")), []
    first = prepare_images(config, tmp_path / "cache", said.append)
    assert said
    said.clear()
    assert prepare_images(config, tmp_path / "cache", said.append).fingerprint == first.fingerprint
    assert not said
    path = next((tmp_path / "cache").rglob("train.pixels"))
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert prepare_images(config, tmp_path / "cache", said.append).fingerprint == first.fingerprint
    assert said


def test_other_pixels_patches_or_augmentation_are_other_data(tmp_path: Path) -> None:
    data, cache = write_mnist(tmp_path / "data"), tmp_path / "cache"
    found = [
        prepare_images(mnist(data, **options), cache).fingerprint
        for options in ({}, {"augmentation": "crop"})
    ]
    found.append(
        prepare_images(
            ImagesConfig(source="mnist", root=str(data), patch=4, tune_fraction=0.25), cache
        ).fingerprint
    )
    found.append(prepare_images(mnist(write_mnist(tmp_path / "more", train=13)), cache).fingerprint)
    assert len(set(found)) == 4


def test_jpeg_archives_are_decoded_in_the_order_of_their_names(tmp_path: Path) -> None:
    config = ImagesConfig(source="cifar10", root=str(write_cifar(tmp_path)), tune_fraction=0.34)
    first = prepare_images(config, tmp_path / "cache")
    assert (len(first.train), len(first.tune), len(first.test)) == (40, 20, 20)
    assert first.test.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert first.test.pixels.shape[1:] == (3, 32, 32)
    red = first.test.pixels[:, 0].mean(axis=(1, 2))
    assert abs(red[-1] - 225) < 6 and abs(red[10] - 125) < 6  # 25 a class: RGB, not BGR, channels first
    other = tmp_path / "other"
    other.mkdir()
    for split, images, seed in (("train", 6, 0), ("test", 2, 1)):
        write_archive(other / f"cifar10_{split}_jpeg.tar.gz", pictures(split, images, seed)[::-1])
    again = prepare_images(
        ImagesConfig(source="cifar10", root=str(other), tune_fraction=0.34), tmp_path / "cache"
    )
    assert again.fingerprint == first.fingerprint


def test_test_images_that_stand_in_the_training_split_are_counted(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for part in ("images-idx3", "labels-idx1"):
        (tmp_path / f"t10k-{part}-ubyte.gz").write_bytes((tmp_path / f"train-{part}-ubyte.gz").read_bytes())
    assert prepare_images(mnist(tmp_path), tmp_path / "cache").about["test_images_also_in_train"] == 120


# --- malformed input ------------------------------------------------------------------------------------------------


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Rewrites the unpacked content of a file."""
    return lambda folder: (
        (folder / name).write_bytes(gzip.compress(change(gzip.decompress((folder / name).read_bytes()))))
        and None
    )


def archive(members: list[tuple[str, bytes]]) -> Callable[[Path], None]:
    return lambda folder: write_archive(folder / ARCHIVE, members) and None


def only(classes: tuple[str, ...]) -> list[tuple[str, bytes]]:
    return [(name, content) for name, content in pictures("train", 1, 0) if name.split("/")[2] in classes]


@pytest.mark.parametrize(
    ("source", "break_it", "message"),
    [
        ("mnist", lambda f: (f / IMAGES).unlink(), "no file 'train-images-idx3-ubyte.gz' in .*--data-root"),
        ("mnist", lambda f: (f / IMAGES).write_bytes(b"no gzip"), "not a sound|not a valid"),
        (
            "mnist",
            lambda f: (f / IMAGES).write_bytes((f / IMAGES).read_bytes()[:-9]),
            "not a sound|not a valid",
        ),
        (
            "mnist",
            spoil(IMAGES, lambda raw: raw[:-1]),
            "its header says 120 x 28 x 28; the file is cut or damaged",
        ),
        (
            "mnist",
            spoil(IMAGES, lambda raw: b"\0\0\x08\x01" + raw[4:]),
            "no idx file of unsigned bytes with 3 dimensions",
        ),
        ("mnist", spoil(IMAGES, lambda raw: raw[:3]), "no idx file"),
        ("mnist", spoil(IMAGES, lambda raw: idx(digits(12, 0, side=27)[0])), "the images are 1 x 27 x 27"),
        (
            "mnist",
            spoil(LABELS, lambda raw: idx(np.zeros(7, np.uint8))),
            "7 labels for the 120 images of train-images",
        ),
        (
            "mnist",
            spoil(LABELS, lambda raw: idx(np.full(120, 10, np.uint8))),
            "label 10 is not one of the 10 classes",
        ),
        (
            "mnist",
            spoil(LABELS, lambda raw: idx(np.zeros(120, np.uint8))),
            "no image of class '1' in the train split",
        ),
        ("cifar10", lambda f: (f / ARCHIVE).write_bytes(b"no archive"), "not a sound|not a valid"),
        (
            "cifar10",
            lambda f: (f / ARCHIVE).write_bytes((f / ARCHIVE).read_bytes()[:-2000]),
            "not a sound|not a valid",
        ),
        (
            "mnist",
            lambda f: (f / IMAGES).write_bytes(gzip.compress(bytes(UNSUSPECTED + 2 * CHUNK))),
            "expand to more than",
        ),
        (
            "cifar10",
            lambda f: archive([("cifar10/train/cat/1.jpg", bytes(UNSUSPECTED + 2 * CHUNK))])(f),
            "expand to more than",
        ),
        ("cifar10", archive([]), "the archive holds no images"),
        (
            "cifar10",
            archive([("cifar10/train/cat/1.jpg", b"no image")]),
            "member 'cifar10/train/cat/1.jpg' is not an image that can be decoded",
        ),
        ("cifar10", archive([("cifar10/train/kat/1.jpg", b"")]), "unknown class 'kat'; did you mean 'cat'"),
        ("cifar10", archive([("cat/1.jpg", b"")]), "is not under train/<class>/"),
        ("cifar10", archive([("cifar10/test/cat/1.jpg", b"")]), "is not under train/<class>/"),
        (
            "cifar10",
            archive([("cifar10/train/cat/1.jpg", jpeg(np.zeros((16, 32, 3), np.uint8)))]),
            "has 16 x 32 pixels, expected 32 x 32",
        ),
        ("cifar10", archive(only(CLASSES[:-1])), "no image of class 'truck' in the train split"),
    ],
)
def test_malformed_files_are_refused_in_one_line(
    tmp_path: Path, source: str, break_it: Callable[[Path], None], message: str
) -> None:
    (write_mnist if source == "mnist" else write_cifar)(tmp_path)
    break_it(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        prepare_images(
            ImagesConfig.from_options({"source": source, "root": str(tmp_path), "tune_fraction": 0.25}),
            tmp_path / "cache",
        )
    assert "\n" not in str(caught.value)


def test_a_class_too_small_to_share_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, train=1)
    with pytest.raises(DataError, match="class 0 has 1 training images: no 25% of them can be held out"):
        prepare_images(mnist(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "cifar"}, "did you mean 'cifar10'"),
        ({"source": "mnist", "patch": 5}, "28 x 28 pixels cannot be cut into patches of 5 x 5"),
        (
            {"source": "mnist", "augmentation": "crop_flip"},
            "changes the meaning of images of 'mnist'; use crop",
        ),
        ({"source": "mnist", "tune_fraction": 0.6}, "tune_fraction: must be below 0.5, got 0.6"),
        ({"source": "mnist", "pach": 4}, "did you mean 'patch'"),
    ],
)
def test_options_no_set_has_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImagesConfig.from_options(options, where="data")


def test_a_plain_idx_file_is_read_back(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "a.gz", dimensions=3), array)


# --- order and augmentation -----------------------------------------------------------------------------------------


def order(data: PreparedImages, seed: int = 0, augmentation: Any = "crop") -> ImageOrder:
    return ImageOrder(data, batch=8, seed=seed, augmentation=augmentation)


def test_an_epoch_meets_every_image_at_most_once_and_the_next_in_another_order(
    prepared: PreparedImages,
) -> None:
    made = order(prepared)
    first, second = (np.concatenate([made.indices(e * 11 + i) for i in range(11)]) for e in range(2))
    assert made.steps_per_epoch == 11 and len(set(first)) == 88
    assert not np.array_equal(first, second)


def test_a_batch_is_a_function_of_seed_and_step(prepared: PreparedImages) -> None:
    whole = order(prepared).batch(14)
    again = order(prepared)
    again.batch(3)
    assert torch.equal(again.batch(14).images, whole.images)
    for rank in range(2):
        share = order(prepared).batch(14, rank=rank, world=2)
        assert torch.equal(share.images, whole.images[rank::2]) and torch.equal(
            share.labels, whole.labels[rank::2]
        )
    assert not torch.equal(order(prepared, seed=1).batch(14).images, whole.images)


def test_a_loader_resumes_at_the_next_batch(prepared: PreparedImages) -> None:
    whole = [batch.images for batch in ImageLoader(order(prepared), steps=4)]
    stopped = ImageLoader(order(prepared), steps=4)
    for _, _ in zip(range(2), stopped, strict=False):
        pass
    state = stopped.state_dict()
    resumed = ImageLoader(order(prepared), steps=4)
    resumed.load_state_dict(state)
    rest = [batch.images for batch in resumed]
    assert len(rest) == 4 - state["step"]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[-len(rest) :], strict=True))
    with pytest.raises(ConfigError, match="cannot resume the data order"):
        ImageLoader(order(prepared, seed=5), steps=4).load_state_dict(state)


def test_a_crop_is_the_image_shifted_by_at_most_an_eighth_and_a_flip_its_mirror() -> None:
    images = torch.arange(2 * 16 * 16, dtype=torch.float32).view(2, 1, 16, 16) + 1
    shifts = np.array([[0, 4, 0, 0], [3, 2, 2**63, 0]], np.uint64)  # padding 2: rows 0..4, columns 0..4
    cropped = augment(images, shifts, flip=False)
    assert torch.equal(cropped[0, 0, 2:, :-2], images[0, 0, :-2, 2:])
    assert not cropped[0, 0, :2].any() and not cropped[0, 0, :, -2:].any()
    assert torch.equal(cropped[1, 0, :-1], images[1, 0, 1:])
    mirrored = augment(images, shifts, flip=True)
    assert torch.equal(mirrored[0], cropped[0]) and torch.equal(mirrored[1], cropped[1].flip(-1))


def test_without_augmentation_a_batch_holds_the_normed_pixels(prepared: PreparedImages) -> None:
    made = order(prepared, augmentation="none")
    batch = made.batch(0)
    pixels = torch.from_numpy(prepared.train.pixels[made.indices(0)]).float() / 255
    torch.testing.assert_close(batch.images * float(prepared.std[0]) + float(prepared.mean[0]), pixels)
    everything = torch.from_numpy(np.array(prepared.train.pixels)).double() / 255
    assert everything.mean().item() == pytest.approx(prepared.mean[0]) and everything.std(
        correction=0
    ).item() == pytest.approx(prepared.std[0])


def test_scoring_meets_every_image_once_whatever_the_batch(prepared: PreparedImages) -> None:
    for size in (7, 1000):
        batches = list(scoring_batches(prepared.test, prepared, batch=size))
        assert torch.cat([b.labels for b in batches]).tolist() == prepared.test.labels.tolist()
        assert torch.cat([b.images for b in batches]).shape == (30, 1, 28, 28)
