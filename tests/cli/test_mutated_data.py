"""Mutated text files and tokenizers through ``score`` and ``plan``: a number or one clear line, in bounded time.

What fails names the seed that reproduces it: ``pytest tests/cli/test_mutated_data.py -m "" -k SEED``.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import zstandard

import arch_lab
from arch_lab.data import ByteTokenizer, Tokenizer, train_bpe
from arch_lab.data.tokenizer import read_tokenizer
from arch_lab.models import Shape, recipe
from tests.mutations import answer, damaged_bytes, damaged_json, seeds

DOCUMENTS = [f"Document {i}: the quick brown fox, {'é' * i} and more.\n" for i in range(30)]
TEXT = "".join(DOCUMENTS).encode()
CONTEXT = 4  # tokens: the certificate of a longer model would take most of the time
STUDY = """\
description: reads a tokenizer
arms: [{architecture: gemma1, shape: {width: 32, depth: 1, ffn_width: 32}}]
budget: {params: 1.0e+4, tokens: 640, allow_unmatched: true}
data: {source: files, root: ., files: {train: sound.txt}, tokenizer: {kind: file, path: model/tokenizer.json}}
training: {sequence_length: 32, batch_size: 2}
learning_rates: [0.004]
seeds: [0]
"""


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": DOCUMENTS, "number": list(range(30))}), buffer)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é" * 99}
    ) as archive:
        for number, text in enumerate(DOCUMENTS[:8]):
            info = tarfile.TarInfo(f"{'deep/' * 25}é{number}.txt")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def unigram() -> dict[str, Any]:
    """A SentencePiece-like tokenizer with byte fallback and an (empty) charsmap."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [
        ("<unk>", 0.0),
        *((f"<0x{value:02X}>", -9.0) for value in range(256)),
        ("\u2581", -2.0),
        ("the", -1.0),
    ]
    inner = Tokenizer(models.Unigram(pieces, 0, True))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return json.loads(inner.to_str())


def bpe() -> dict[str, Any]:
    layout = json.loads(train_bpe(DOCUMENTS, 290).to_dict()["json"])
    return {**layout, "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0,
                                  "pad_type_id": 0, "pad_token": "x"},
            "truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}}  # fmt: skip


def charsmap(draw: random.Random) -> bytes:
    import base64

    size = draw.choice((4, 8, 64, 1024))
    raw = (
        size.to_bytes(4, "little") + draw.randbytes(size) + draw.choice((b"", b"a\0b\0", draw.randbytes(40)))
    )
    part = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}
    return json.dumps({**draw.choice((bpe, unigram))(), "normalizer": part}).encode()


def packed(pack: Callable[[bytes], bytes], raw: bytes) -> Callable[[random.Random], bytes]:
    """Damage inside the compressed file, or to it."""
    return lambda draw: (
        pack(damaged_bytes(raw, draw)) if draw.random() < 0.5 else damaged_bytes(pack(raw), draw)
    )


ZSTD = zstandard.ZstdCompressor().compress
LINES = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in DOCUMENTS).encode()
INPUTS: dict[str, Callable[[random.Random], bytes]] = {
    "a.txt": lambda draw: damaged_bytes(TEXT, draw),
    "a.md.gz": packed(gzip.compress, TEXT),
    "a.txt.zst": packed(ZSTD, TEXT),
    "a.jsonl": lambda draw: damaged_bytes(LINES, draw),
    "b.jsonl": lambda draw: b"\n".join(damaged_json(line, draw) for line in LINES.decode().splitlines()[:3]),
    "a.parquet": lambda draw: damaged_bytes(parquet(), draw),
    "a.tar": lambda draw: damaged_bytes(tar(), draw),
    "a.tar.gz": packed(gzip.compress, tar()),
    "bpe/tokenizer.json": lambda draw: damaged_json(json.dumps(bpe()), draw),
    "unigram/tokenizer.json": lambda draw: damaged_json(json.dumps(unigram()), draw),
    "charsmap/tokenizer.json": charsmap,
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound text, a study, a model of bytes, and an exported model for each tokenizer."""
    folder = tmp_path_factory.mktemp("stock") / "work"
    folder.mkdir()
    (folder / "sound.txt").write_bytes(TEXT)
    (folder / "study.yaml").write_text(STUDY)
    save_model(ByteTokenizer(), folder / "bytes.ckpt")
    for name, layout in (("bpe", bpe()), ("unigram", unigram())):
        (folder / "tokenizer.json").write_text(json.dumps(layout))
        save_model(read_tokenizer(folder / "tokenizer.json"), folder / "model.ckpt")
        arch_lab.convert(folder / "model.ckpt", folder / name, to="huggingface")
    return folder


def save_model(tokenizer: Tokenizer, path: Path) -> None:
    """An untrained checkpoint, as ``arch-lab fit`` leaves one."""
    shape, sizes = (
        Shape(width=8, depth=1, ffn_width=8),
        {"vocabulary": tokenizer.vocabulary, "max_tokens": CONTEXT},
    )
    model = recipe("gemma1", {}).model(shape, **sizes)
    settings = {"architecture": "gemma1", "options": {}, **vars(shape), **sizes}
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"hyper_parameters": settings, "state_dict": weights, "tokenizer": tokenizer.to_dict()}, path)


def check(name: str, seed: str, stock: Path, tmp_path: Path) -> None:
    """Damage one file; read it by ``score``, a tokenizer also by ``plan``."""
    draw = random.Random(seed)
    damaged, folder = INPUTS[name](draw), tmp_path / "work"
    kind, _, file = name.rpartition("/")
    folder.mkdir()
    for part in ("sound.txt", "study.yaml", "bytes.ckpt"):
        shutil.copy(stock / part, folder)
    command = ["score", "bytes.ckpt", "--text", name, "sound.txt", "--document-start", "^Document", "--json"]
    if kind:
        shutil.copytree(
            stock / draw.choice(("bpe", "unigram") if kind == "charsmap" else (kind,)), folder / "model"
        )
        (folder / "model" / file).write_bytes(damaged)
        command = draw.choice(
            (["score", "model", "--text", "sound.txt", "--json"], ["plan", "study.yaml", "--json"])
        )
    else:
        (folder / file).write_bytes(damaged)
    before = contents(folder)
    done = answer(command, folder, seed=seed)
    assert contents(folder) == before, f"seed {seed}: an input changed"
    if done.code == 0:
        json.loads(done.out)
    else:
        assert any(part in done.err for part in (file, "sound.txt", "tokenizer")), f"seed {seed}: {done.err}"


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts
    }


def cases(count: int) -> list[Any]:
    return [
        pytest.param(name, seed, id=seed.replace("/", "-")) for name in INPUTS for seed in seeds(count, name)
    ]


@pytest.mark.parametrize(("name", "seed"), cases(4))
def test_mutated_data_are_read_or_refused_in_one_line(
    name: str, seed: str, stock: Path, tmp_path: Path
) -> None:
    check(name, seed, stock, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), cases(80))
def test_many_mutated_data_are_read_or_refused_in_one_line(
    name: str, seed: str, stock: Path, tmp_path: Path
) -> None:
    check(name, seed, stock, tmp_path)
