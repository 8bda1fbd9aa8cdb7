"""Mutated text files and tokenizers: documents or one clear line, in bounded time, nothing written beside the cache.

What fails names the seed that reproduces it: ``pytest tests/cli/test_mutated_data.py -m "" -k SEED``.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from arch_lab.data import DataConfig, DataError, prepare, train_bpe
from blocks.errors import ConfigError
from tests.mutations import damaged_bytes, damaged_json, seeds

DOCUMENTS = [f"Document {i}: the quick brown fox, {'é' * i} and more.\n" for i in range(30)]
TEXT = "".join(DOCUMENTS).encode()
SECONDS = 5.0


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": DOCUMENTS, "number": list(range(30))}), buffer)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é" * 99}) as archive:
        for number, text in enumerate(DOCUMENTS[:8]):
            info = tarfile.TarInfo(f"{'deep/' * 25}é{number}.txt")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def unigram() -> dict[str, Any]:
    """A SentencePiece-like tokenizer with byte fallback and an (empty) charsmap."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [("<unk>", 0.0), *((f"<0x{value:02X}>", -9.0) for value in range(256)), ("\u2581", -2.0), ("the", -1.0)]
    inner = Tokenizer(models.Unigram(pieces, 0, True))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return json.loads(inner.to_str())


def bpe() -> dict[str, Any]:
    layout = json.loads(train_bpe(DOCUMENTS, 290).to_dict()["json"])
    return {**layout, "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0,
                                  "pad_type_id": 0, "pad_token": "x"},
            "truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}}  # fmt: skip


def charsmap(draw: random.Random) -> bytes:
    import base64

    size = draw.choice((4, 8, 64, 1024))
    raw = size.to_bytes(4, "little") + draw.randbytes(size) + draw.choice((b"", b"a\0b\0", draw.randbytes(40)))
    part = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}
    return json.dumps({**draw.choice((bpe, unigram))(), "normalizer": part}).encode()


def packed(pack: Callable[[bytes], bytes], raw: bytes) -> Callable[[random.Random], bytes]:
    """Damage inside the compressed file, or to it."""
    return lambda draw: pack(damaged_bytes(raw, draw)) if draw.random() < 0.5 else damaged_bytes(pack(raw), draw)


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


def check(name: str, seed: str, folder: Path) -> None:
    """Prepare a corpus whose file ``name`` is damaged."""
    path = folder / "input" / name
    path.parent.mkdir(parents=True)
    (folder / "input" / "sound.txt").write_bytes(TEXT)
    path.write_bytes(INPUTS[name](random.Random(seed)))
    tokenizer = {"kind": "file", "path": name} if name.endswith("tokenizer.json") else {"kind": "bytes"}
    files = {"train": "sound.txt" if name.endswith("tokenizer.json") else [name, "sound.txt"]}
    options = {"source": "files", "root": str(folder / "input"), "files": files, "document_start": "^Document", "tokenizer": tokenizer}
    before = {file: file.read_bytes() for file in (folder / "input").rglob("*") if file.is_file()}
    start = time.process_time()
    try:
        data = prepare(DataConfig.from_options(options), folder / "cache")
        assert int(data.token_bytes[data.train.ids].sum()) == data.train.bytes, seed
    except (DataError, ConfigError) as refusal:
        message = str(refusal)
        assert "\n" not in message and len(message) < 1500, f"{seed}: {message}"
        assert Path(name).name in message or "sound.txt" in message or "tokenizer" in message or "split" in message, f"{seed}: {message}"
    assert time.process_time() - start < SECONDS, seed
    assert before == {file: file.read_bytes() for file in (folder / "input").rglob("*") if file.is_file()}, seed
    assert {entry.name for entry in folder.iterdir()} <= {"input", "cache"}, seed


def cases(count: int) -> list[Any]:
    return [pytest.param(name, seed, id=seed.replace("/", "-")) for name in INPUTS for seed in seeds(count, name)]


@pytest.mark.parametrize(("name", "seed"), cases(6))
def test_mutated_data_are_read_or_refused_in_one_line(name, seed, tmp_path):
    check(name, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), cases(80)[6:])
def test_many_mutated_data_are_read_or_refused_in_one_line(name, seed, tmp_path):
    check(name, seed, tmp_path)
