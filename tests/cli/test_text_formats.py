"""Formats of own text: all give the same documents; what is damaged, or expands without end, ends in one line."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from arch_lab.data import DataConfig, DataError, prepare
from arch_lab.data.files import read_documents

DOCUMENTS = [f"Document {i}: the quick brown fox, {'é' * i} and more.\n" for i in range(12)]
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def json_lines() -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS).encode()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": DOCUMENTS}), buffer)
    return buffer.getvalue()


def tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


WRITERS = {
    ".jsonl": json_lines,
    ".parquet": parquet,
    ".tar": lambda: tar([(f"{i:02}.txt", text.encode()) for i, text in enumerate(DOCUMENTS)]),
}


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_of_documents_gives_the_same_documents(tmp_path, kind, compression):
    (tmp_path / f"a{kind}{compression}").write_bytes(PACK[compression](WRITERS[kind]()))
    assert read_documents(tmp_path / f"a{kind}{compression}") == DOCUMENTS


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("kind", [".txt", ".md", ".log", ""])
def test_every_text_file_is_one_document(tmp_path, kind, compression):
    (tmp_path / f"a{kind}{compression}").write_bytes(PACK[compression]("".join(DOCUMENTS).encode()))
    assert read_documents(tmp_path / f"a{kind}{compression}") == ["".join(DOCUMENTS)]


def test_frames_of_zstandard_follow_each_other(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(PACK[".zst"](b"one ") + PACK[".zst"](b"two"))
    assert read_documents(tmp_path / "a.txt.zst") == ["one two"]


def test_one_corpus_in_every_format_has_one_fingerprint(tmp_path):
    fingerprints = set()
    for kind, writer in WRITERS.items():
        for compression, pack in PACK.items():
            (tmp_path / f"a{kind}{compression}").write_bytes(pack(writer()))
            options = {"source": "files", "root": str(tmp_path), "tokenizer": {"kind": "bytes"}}
            config = DataConfig.from_options({**options, "files": {"train": f"a{kind}{compression}"}})
            fingerprints.add(prepare(config, tmp_path / "cache").fingerprint)
    assert len(fingerprints) == 1


def refusal(path: Path, content: bytes, **options) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_documents(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 600
    return message.removeprefix(str(path))


def binary_parquet() -> bytes:
    """Rows 0 and 1 are text, row 2 is no UTF-8, in a column that claims to be text."""
    values = pa.array([b"one", b"two", b"\xff\xfe"], pa.binary()).view(pa.string())
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": values}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.txt",
            b"one\ntwo\nthr\xe9e\n",
            ": not UTF-8 at byte 11 (0xe9), line 3; convert it, for example with iconv",
        ),
        ("a.txt", "text".encode("utf-16"), "it looks like UTF-16; convert it with iconv -f utf-16"),
        ("a.txt", gzip.compress(b"text", mtime=0), "it looks like gzip; end its name in .gz"),
        ("a.txt", PACK[".zst"](b"text"), "it looks like zstandard; end its name in .zst"),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", " line 2: JSON nested too deeply"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2; convert it"),
        ("a.jsonl", b'{"text": null}\n', " line 1: the text is null; drop such rows"),
        ("a.jsonl", b'{"text": %s}\n' % (b"9" * 5000), " line 1: not JSON"),
        ("a.parquet", binary_parquet(), " row 2: not UTF-8 at byte 0; write the column again as UTF-8 text"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), ": not a valid parquet file"),
        ("a.txt.zst", b"no zstandard", ": not a valid zstandard file"),
        ("a.txt.zst", PACK[".zst"](b"some text " * 99)[:-4], ": not a valid zstandard file"),
        ("a.txt.zst", b"", ": the file is empty"),
        ("a.tar.zst", PACK[".zst"](b"no archive"), ": not a valid tar archive"),
        ("a.tar", tar([("deep/b.txt", b"a\nb\xff")]), ":deep/b.txt: not UTF-8 at byte 3 (0xff), line 2"),
    ],
)
def test_a_defect_names_the_file_the_line_or_row_and_a_remedy(tmp_path, name, content, message):
    assert message in refusal(tmp_path / name, content)


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_an_archive_that_claims_more_than_it_holds_is_refused(tmp_path, compression):
    raw = bytearray(tar([("a.txt", b"text")]))
    header = tarfile.TarInfo("a.txt")
    header.size = 1 << 38
    raw[:512] = header.tobuf(tarfile.GNU_FORMAT)[:512]
    message = refusal(tmp_path / f"a.tar{compression}", PACK[compression](bytes(raw)))
    assert "a.txt claims 274877906944 bytes" in message or "GB of text" in message


BOMBS = """
import resource, sys, time
from pathlib import Path
from arch_lab.data import DataError
from arch_lab.data.files import read_documents
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    start = time.process_time()
    try:
        read_documents(Path(name))
    except DataError as error:
        print(time.process_time() - start, error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_bombs_end_in_one_line_within_bounded_memory(tmp_path):
    member = gzip.compress(
        bytes(16 << 20)
    )  # members of a gzip file follow each other: quick to write, long to read
    (tmp_path / "a.txt.gz").write_bytes(member * 256)
    (tmp_path / "a.jsonl.zst").write_bytes(PACK[".zst"](bytes(512 << 20)))
    header = tarfile.TarInfo("a.txt")
    header.size = 4 << 30
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(header.tobuf()) + member * 256)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run([sys.executable, "-c", BOMBS, *paths], capture_output=True, text=True, timeout=240)
    *lines, peak = done.stdout.strip().splitlines()
    assert done.returncode == 0 and len(lines) == len(paths), done.stderr
    for path, line in zip(paths, lines, strict=True):
        seconds, _, message = line.partition(" ")
        assert message.startswith(path) and float(seconds) < 5
    assert int(peak) * 1024 < 1e9
