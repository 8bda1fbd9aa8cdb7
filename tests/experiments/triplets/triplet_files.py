"""Small files in the layouts of the UCI sets, the music moods, Japanese Vowels and Omniglot, made from a seed."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from experiments.triplets.readers.japanese_vowels import COEFFICIENTS, COUNTS
from experiments.triplets.readers.music import MOODS


def pack_tar(path: Path, members: Mapping[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            content = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(f"uci_regression/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def uci_members(
    folder: str = "yacht", rows: int = 120, features: int = 4, seed: int = 0, splits: int = 2
) -> dict[str, str]:
    """A set whose label is a kink along one direction, which a dense layer with ReLU can find and the axes do not show."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, features))
    y = 5 + np.abs(x @ draw.normal(size=features)) + 0.05 * draw.normal(size=rows) ** 2
    lines = [" ".join(f"{v:.6f}" for v in (*row, label)) for row, label in zip(x, y, strict=True)]
    members = {
        "data.txt": "\n".join(lines) + "\n\n",
        "n_splits.txt": f"{splits}\n",
    }  # a blank line ends some of the real files
    members |= {
        "index_features.txt": "\n".join(map(str, range(features))) + "\n",
        "index_target.txt": f"{features}\n",
    }
    for k in range(splits):
        order = np.random.default_rng(k).permutation(rows)
        for part, chosen in (("test", order[: rows // 5]), ("train", order[rows // 5 :])):
            members[f"index_{part}_{k}.txt"] = "\n".join(map(str, chosen)) + "\n"
    return {f"{folder}/data/{name}": text for name, text in members.items()}


def write_uci(root: Path, members: Mapping[str, str | bytes]) -> Path:
    return pack_tar(root / "uci_regression" / "uci_regression.tar.gz", members)


def write_music(root: Path, songs: int = 10, rows: list[str] | None = None) -> Path:
    """``songs`` of each mood with three features; ``rows`` are put behind them."""
    draw = np.random.default_rng(0)
    lines = ["Class,_A,_B,_C"]
    for mood, place in MOODS.items():
        for point in draw.normal(size=(songs, 3)) + np.array([*place, 0]):
            lines.append(",".join(f'"{cell}"' for cell in (mood, *(f"{v:.3f}" for v in point))))
    path = root / "turkish_music_emotion" / "Acoustic_Features.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, *(rows or [])]) + "\n")
    return path


def vowels(split: str, seed: int = 0) -> list[str]:
    """Utterances as text: nine men a unit apart from each other, seven frames each."""
    men = np.random.default_rng(99).normal(size=(9, COEFFICIENTS))
    draw = np.random.default_rng(seed)
    found = []
    for man, count in enumerate(COUNTS[split]):
        for _ in range(count):
            frames = (
                men[man] + 0.7 * draw.normal(size=COEFFICIENTS) + 0.3 * draw.normal(size=(7, COEFFICIENTS))
            )
            found.append("\n".join(" ".join(f"{v:.4f}" for v in frame) for frame in frames))
    return found


def write_vowels(root: Path, split: str, utterances: list[str] | None = None) -> Path:
    path = root / "japanese_vowels" / f"ae.{split}.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(vowels(split, seed=len(split)) if utterances is None else utterances) + "\n"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def drawing(strokes: int, wobble: int, size: int = 105) -> bytes:
    """A character is a few strokes drawn by its number; who draws it adds some pixels and a place on the paper."""
    image = Image.new("1", (size, size), 1)
    pen, hand = np.random.default_rng(strokes), np.random.default_rng([strokes, wobble])
    shift = hand.integers(-8, 8, size=2)
    points = pen.integers(24, size - 24, size=(4, 2)) + hand.integers(-4, 5, size=(4, 2)) + shift
    ImageDraw.Draw(image).line([tuple(p) for p in points.tolist()], fill=0, width=3)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def character_members(which: int, alphabets: Mapping[str, int], drawings: int = 6) -> dict[str, bytes]:
    members: dict[str, bytes] = {f"images_background_small{which}/": b""}
    for a, (alphabet, count) in enumerate(alphabets.items()):
        for c in range(1, count + 1):
            folder = f"images_background_small{which}/{alphabet}/character{c:02}/"
            members[folder] = b""
            members |= {
                f"{folder}{c:04}_{d:02}.png": drawing(1000 * which + 100 * a + c, d)
                for d in range(1, drawings + 1)
            }
    return members


def run_members(runs: int = 1) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for r in range(1, runs + 1):
        lines = []
        for i in range(1, 21):
            test, train = f"run{r:02}/test/item{i:02}.png", f"run{r:02}/training/class{21 - i:02}.png"
            members |= {test: drawing(50 * r + i, 1), train: drawing(50 * r + i, 2)}
            lines.append(f"{test} {train}")
        members[f"run{r:02}/class_labels.txt"] = "\n".join(lines).encode() + b"\n"
    return members


def write_zip(root: Path, name: str, members: Mapping[str, bytes]) -> Path:
    path = root / "omniglot" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def write_omniglot(root: Path) -> None:
    write_zip(root, "images_background_small1.zip", character_members(1, {"Alpha": 4, "Beta": 4, "Gamma": 4}))
    write_zip(root, "images_background_small2.zip", character_members(2, {"Alpha": 4, "Delta": 6}))
    write_zip(root, "all_runs.zip", run_members())
