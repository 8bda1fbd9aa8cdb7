"""Mutated checkpoint folders through ``convert``, ``generate`` and ``score``: one clear line or success, in bounded time.

What fails names the seed that reproduces it: ``pytest tests/cli/test_mutated_checkpoints.py -m "" -k SEED``.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conversions import edit
from tests.drawn_families import t5gemma
from tests.exports import checkpoint_with, tokenizer_of
from tests.gemma_checkpoints import their_model
from tests.mutations import answer, damaged_bytes, damaged_json, seeds

transformers = pytest.importorskip("transformers")
FAST, SLOW = 50, 750
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of each kind; a name that starts with ``ours`` is a folder of arch-lab."""
    folder = tmp_path_factory.mktemp("stock")
    for name in ("gemma", "gemma2", "gemma3-factor-8"):
        their_model(name).save_pretrained(folder / name)
    their_model("gemma3").save_pretrained(folder / "sharded", max_shard_size="20KB")
    config = transformers.T5GemmaConfig(**t5gemma(random.Random(1)))
    transformers.T5GemmaForConditionalGeneration(config).save_pretrained(folder / "t5gemma")
    from_us = folder / "exported"
    checkpoint = checkpoint_with(tokenizer_of("bpe", folder), folder)
    answer(["convert", str(checkpoint), str(from_us), "--to", "huggingface"], folder, seed=None, codes=(0,))
    for name, source in (("ours", from_us), ("ours-t5gemma", folder / "t5gemma")):
        answer(["convert", str(source), str(folder / name)], folder, seed=None, codes=(0,))
    return folder


def damage_header(data: bytes, draw: random.Random) -> bytes:
    """The JSON in front of a safetensors file damaged, its length mended."""
    (size,) = struct.unpack("<Q", data[:8])
    header = damaged_json(data[8 : 8 + size].decode(), draw)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def damage(folder: Path, draw: random.Random) -> str:
    """One file of the folder changed; its name."""
    documents = [
        path
        for path in sorted(folder.glob("*.json"))
        if path.name not in ("tokenizer.json", "tokenizer_config.json")
    ]
    path = draw.choice([*documents, *documents, *sorted(folder.glob("*.safetensors"))[:2]])
    data = path.read_bytes()
    if path.suffix == ".json":
        changed = damaged_json(data.decode(), draw)
    else:
        change: Callable[[bytes, random.Random], bytes] = draw.choice((damage_header, damaged_bytes))
        changed = change(data, draw)
    path.write_bytes(changed)
    return path.name


def run_one(seed: str, stock: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    names = sorted(
        path.name
        for path in stock.iterdir()
        if (path.is_dir() and (path / "config.json").is_file()) or path.name.startswith("ours")
    )
    name = draw.choice(names)
    source = Path(shutil.copytree(stock / name, tmp_path / "work" / "source"))
    changed = damage(source, draw)
    convert = ["convert", "source", "target", *(["--to", "huggingface"] if name.startswith("ours") else [])]
    (tmp_path / "work/a.txt").write_text("The tide comes in.")
    generate, score = (
        ["generate", "source", "--prompt", "a", "--max-tokens", "2"],
        ["score", "source", "--text", "a.txt", "--context", "2"],
    )
    answer(draw.choice((convert, generate, score)), tmp_path / "work", seed=f"{seed} ({name}/{changed})")


@pytest.mark.parametrize("seed", seeds(FAST, "fast"))
def test_a_damaged_checkpoint_ends_in_one_line_or_works(seed: str, stock: Path, tmp_path: Path) -> None:
    run_one(seed, stock, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(SLOW, "slow"))
def test_700_damaged_checkpoints_end_in_one_line_or_work(seed: str, stock: Path, tmp_path: Path) -> None:
    run_one(seed, stock, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "field", "value"),
    [
        ("gemma2", "config.json", "num_hidden_layers", 100_000_000),
        ("gemma2", "config.json", "num_hidden_layers", 999),
        ("gemma2", "config.json", "hidden_size", 2**63),
        ("gemma2", "config.json", "vocab_size", 2**31 - 1),
        ("gemma2", "config.json", "rope_parameters", [[]]),
        ("t5gemma", "config.json", "encoder.num_hidden_layers", 100_000_000),
        ("ours", "arch-lab.json", "shape.depth", 100_000_000),
        ("ours", "arch-lab.json", "architecture", ["gemma3"]),
        ("ours", "arch-lab.json", "vocabulary", 2**63),
        ("ours-t5gemma", "arch-lab.json", "options.encoder", {"width": 8, "depth": 10**8, "ffn_width": 8}),
    ],
)
def test_sizes_the_files_cannot_fill_are_refused_at_once(
    name: str, file: str, field: str, value: object, stock: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(stock / name, tmp_path / "work" / "source"))
    edit(source, {field: value}, file)
    to = ["--to", "huggingface"] if name.startswith("ours") else []
    done = answer(["convert", "source", "target", *to], tmp_path / "work", seed=field, seconds=2, codes=(2,))
    assert done.err.count("\n") == 1 and any(words in done.err for words in (file, "the configuration says"))


def test_json_of_great_depth_is_one_line(stock: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(stock / "gemma2", tmp_path / "work" / "source"))
    (source / "config.json").write_text('{"model_type": ' + "[" * 200_000 + "]" * 200_000 + "}")
    done = answer(["convert", "source", "target"], tmp_path / "work", seed="deep", codes=(2,))
    assert done.err.count("\n") == 1 and "config.json" in done.err
