"""Files on disk: every format gives the same documents, every defect one line that names the file."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from arch_lab.data import DataConfig, DataError, prepare
from arch_lab.data.files import read_files

DOCUMENTS = ["Der Fluß.\nZweite Zeile.\n", "日本語の文章。\n", "plain text \x00 with a zero\n"]


def config(root, train, **options):
    given = {"source": "files", "root": str(root), "files": {"train": train}, "tokenizer": {"kind": "bytes"}}
    return DataConfig.from_options({**given, **options})


def write(path, content):
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path.name


def rows(documents, key="text"):
    return "".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in documents)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_hold_one_document_a_row(tmp_path, name):
    assert read_files(config(tmp_path, write(tmp_path / name, rows(DOCUMENTS))))["train"] == DOCUMENTS


def test_parquet_holds_one_document_a_row(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"body": DOCUMENTS, "other": [1, 2, 3]}), tmp_path / "a.parquet")
    assert read_files(config(tmp_path, "a.parquet", text_column="body"))["train"] == DOCUMENTS


@pytest.mark.parametrize("suffix", [".txt", ".tokens.gz", ""])
def test_a_text_file_is_one_document(tmp_path, suffix):
    names = [write(tmp_path / f"{i}{suffix}", text) for i, text in enumerate(DOCUMENTS)]
    assert read_files(config(tmp_path, names))["train"] == DOCUMENTS


def archive(path, members):
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in members:
            raw = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path.name


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_a_file_in_an_archive_is_one_document_wherever_it_stands_in_it(tmp_path, name):
    members = [
        ("novels/b.txt", DOCUMENTS[1]),
        ("novels/a.txt", "\ufeff" + DOCUMENTS[0].replace("\n", "\r\n")),
        ("novels/blank.txt", " \n"),
    ]
    found = read_files(config(tmp_path, archive(tmp_path / name, members), document_start="^ = "))["train"]
    assert found == DOCUMENTS[:2]
    assert read_files(config(tmp_path, archive(tmp_path / name, members[::-1])))["train"] == found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], "not a valid gzip file"),
        (lambda raw: b"text and no archive", "not a valid gzip file"),
        (lambda raw: gzip.compress(b"text and no archive"), "not a valid tar archive"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-9000]), "not a valid tar archive"),
    ],
)
def test_a_damaged_archive_ends_in_one_line(tmp_path, damage, message):
    archive(tmp_path / "a.tar.gz", [("a.txt", "".join(map(chr, range(32, 3000))))])
    (tmp_path / "a.tar.gz").write_bytes(damage((tmp_path / "a.tar.gz").read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        read_files(config(tmp_path, "a.tar.gz"))
    assert "a.tar.gz" in str(caught.value) and "\n" not in str(caught.value)


def test_an_archive_names_the_file_in_it_that_is_no_text_and_refuses_to_be_empty(tmp_path):
    with pytest.raises(DataError, match=r"a\.tar:deep/b\.txt: not UTF-8 at byte 1"):
        read_files(config(tmp_path, archive(tmp_path / "a.tar", [("deep/b.txt", b"a\xff")])))
    with pytest.raises(DataError, match="no file with text"):
        read_files(config(tmp_path, archive(tmp_path / "a.tar", [])))


def test_byte_order_mark_and_carriage_returns_do_not_count(tmp_path):
    name = write(tmp_path / "dos.txt", "\ufeffone\r\ntwo\r\n")
    assert read_files(config(tmp_path, name))["train"] == ["one\ntwo\n"]


def test_wikitext_layout_is_cut_at_its_headings_and_counted_as_published(tmp_path):
    article = " \n = Title {0} = \n \n Some text of article {0} . \n = = Section = = \n More <unk> text . \n"
    name = write(tmp_path / "wiki.train.tokens.gz", "".join(article.format(i) for i in range(40)))
    valid = write(tmp_path / "wiki.valid.tokens.gz", "".join(article.format(i) for i in range(100, 104)))
    options = {
        "document_start": "^ = [^=].* = $",
        "count_line_ends": True,
        "files": {"train": name, "validation": valid},
    }
    data = prepare(config(tmp_path, name, **options), tmp_path / "cache")
    # an article has 4 + 6 + 5 + 4 words and 6 lines
    assert data.validation.documents == 4
    assert data.validation.words == 4 * (19 + 6)
    assert data.train.documents + data.tune.documents == 40
    assert data.train.words + data.tune.words == 40 * (19 + 6)


def test_rows_are_lines_when_documents_have_a_start(tmp_path):
    name = write(tmp_path / "lines.jsonl", rows([" = A = \n", "", " text \n", " = B = \n", " more"]))
    documents = read_files(config(tmp_path, name, document_start="^ = "))["train"]
    assert documents == [" = A = \n\n text \n", " = B = \n more\n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("empty.txt.gz", b"", "is empty"),
        ("blank.txt", b" \n\n", "no document"),
        ("latin.txt", b"abc\xe9def", "not UTF-8 at byte 3"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("keys.jsonl", b'{"txt": "a"}\n', "did you mean 'txt'"),
        ("number.jsonl", b'{"text": 3}\n', "expected text, got int"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
        ("bad.parquet", b"no parquet at all", "not a valid parquet"),
    ],
)
def test_a_defect_ends_in_one_line_that_names_the_file(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as refusal:
        read_files(config(tmp_path, name))
    assert name in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-12], lambda raw: b"no gzip", lambda raw: raw[:12] + b"\xff" * 8 + raw[20:]]
)
def test_a_damaged_gzip_file_ends_in_one_line(tmp_path, damage):
    (tmp_path / "a.txt.gz").write_bytes(damage(gzip.compress(b"some words " * 50)))
    with pytest.raises(DataError, match="not a valid gzip file"):
        read_files(config(tmp_path, "a.txt.gz"))


def test_a_missing_file_names_the_path_the_variable_and_the_nearest_name(tmp_path):
    write(tmp_path / "train.txt", "text")
    with pytest.raises(DataError, match=r"no file 'tain.txt'.*did you mean 'train.txt'.*ARCH_LAB_DATA"):
        read_files(config(tmp_path, "tain.txt"))


def test_relative_paths_begin_at_the_variable(tmp_path, monkeypatch):
    write(tmp_path / "train.txt", "text")
    monkeypatch.setenv("ARCH_LAB_DATA", str(tmp_path))
    assert read_files(DataConfig.from_options({"source": "files", "files": {"train": "train.txt"}}))[
        "train"
    ] == ["text"]
