"""Own text as folders, patterns and files: what is read, in which order, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from arch_lab.cli import main
from arch_lab.data import DataConfig, DataError, prepare
from arch_lab.data.files import expand_paths
from blocks.errors import UserError
from tests.small_study import small_study


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six text files, two hidden ones and a picture in three folders."""
    for name in (
        "b.txt",
        "a.md",
        "deep/c.txt",
        "deep/er/d.txt",
        "deep/e.jsonl",
        ".hidden.txt",
        ".git/f.txt",
        "deep/picture.png",
        "B.txt",
    ):
        file = tmp_path / "corpus" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'{{"text": "{name}"}}\n')
    return tmp_path / "corpus"


def names(patterns, root: Path, **options) -> list[str]:
    return [path.relative_to(root).as_posix() for path in expand_paths(patterns, root, **options)]


ALL = ["B.txt", "a.md", "b.txt", "deep/c.txt", "deep/e.jsonl", "deep/er/d.txt"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (".", ALL),
        ("*.txt", ["B.txt", "b.txt"]),
        ("**/*.txt", ["B.txt", "b.txt", "deep/c.txt", "deep/er/d.txt"]),
        ("deep/**", ["deep/c.txt", "deep/e.jsonl", "deep/er/d.txt"]),
        ("d*", ["deep/c.txt", "deep/e.jsonl", "deep/er/d.txt"]),
        ("**/[cd].txt", ["deep/c.txt", "deep/er/d.txt"]),
        ("?.md", ["a.md"]),
        (["deep/er", "b.txt", "*.txt"], ["deep/er/d.txt", "b.txt", "B.txt"]),
        ("deep/picture.png", ["deep/picture.png"]),
        (".hidden.txt", [".hidden.txt"]),
        ("**/**/d.txt", ["deep/er/d.txt"]),
    ],
)
def test_patterns_stand_for_sorted_visible_files(corpus, patterns, expected):
    assert names(patterns, corpus) == expected


def test_the_order_does_not_depend_on_how_the_folder_lists(corpus, monkeypatch):
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(listing(self))))
    assert names(".", corpus) == ALL


def test_loops_of_links_end_and_a_linked_file_is_read_once(corpus):
    os.symlink(corpus, corpus / "deep" / "again")
    os.symlink(corpus / "self", corpus / "self")
    os.symlink(corpus / "b.txt", corpus / "z.txt")
    assert names(".", corpus) == ALL
    assert names("**/*.txt", corpus) == ["B.txt", "b.txt", "deep/c.txt", "deep/er/d.txt"]


def test_a_name_with_brackets_is_first_a_name(corpus):
    (corpus / "notes[1].txt").write_text("x")
    assert names("notes[1].txt", corpus) == ["notes[1].txt"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            "tezts/*.txt",
            r"^--text: no file matches 'tezts/\*.txt': there is no folder '.*tezts'; did you mean 'texts'\?",
        ),
        ("texts/*.csv", r"no file matches 'texts/\*.csv' below .*texts, which holds no such file"),
        ("texts/one.tx", r"no file 'texts/one.tx' in .*did you mean 'one.txt'"),
        (
            "pictures",
            r"pictures holds no file that is read in folders \(.txt, .*\.parquet.*each also with .gz or .zst\)",
        ),
        ("blank", r"--text: 2 files are empty: .*blank/1.txt, .*blank/2.txt; fill or remove them"),
        ("blank/1.txt", r"the file is empty: .*1.txt"),
        ("pipe", "neither a file nor a folder"),
        ("", "is not a path"),
        ("a\0b", "is not a path"),
        ("x" * 5000, "cannot be read"),
        ("*" * 5000, "cannot be read"),
        ("~nobody_at_all/x", "nobody_at_all"),
        ([], "the list is empty"),
    ],
)
def test_what_stands_for_no_file_is_refused_in_one_line(tmp_path, patterns, message):
    for folder in ("texts", "pictures", "blank"):
        (tmp_path / folder).mkdir()
    (tmp_path / "texts" / "one.txt").write_text("text")
    (tmp_path / "pictures" / "a.png").write_text("text")
    for name in ("1.txt", "2.txt"):
        (tmp_path / "blank" / name).touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=message) as refusal:
        expand_paths(patterns, tmp_path, option="--text")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 700


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Thirty files in three groups: file n lies in group n % 3."""
    for number, key in enumerate(sorted(topics)[:30]):
        file = tmp_path / "parts" / f"group{number % 3}" / f"{number:02}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(topics[key], encoding="utf-8")
    return tmp_path


def over(folder: Path, **files) -> dict:
    return {"source": "files", "root": str(folder), "files": files, "tokenizer": {"kind": "bytes"}}


def test_splits_are_read_from_folders_and_patterns(parts):
    options = over(parts, train=["parts/group0", "parts/**/*1.md"], validation="parts/group2/*2.md")
    data = prepare(DataConfig.from_options(options), parts / "cache")
    assert data.train.documents + data.tune.documents == 10 + len({1, 11})  # 21 lies in group 0
    assert data.validation.documents == len({2})  # 12 and 22 lie elsewhere


def test_the_fingerprint_is_that_of_the_files_named_one_by_one(parts):
    listed = sorted(path.relative_to(parts).as_posix() for path in parts.rglob("*.md"))
    ways = ["parts", "parts/*", "parts/**/*.md", listed]
    assert (
        len(
            {
                prepare(DataConfig.from_options(over(parts, train=way)), parts / "cache").fingerprint
                for way in ways
            }
        )
        == 1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ["parts"]}, "'train' belongs below 'files' or 'hub', as in files: {train: …}"),
        (
            {"root": "~nobody_at_all", "files": {"train": "a"}},
            "'~nobody_at_all': could not determine home directory",
        ),
        (
            {"files": {"train": "a"}, "tokenizer": {"kind": "file", "path": "~nobody_at_all/t"}},
            "tokenizer.path: '~nobody_at_all/t'",
        ),
        ({"root": "a\0b", "files": {"train": "a"}}, "data.root: must be a path without control characters"),
        ({"files": {"train": []}}, "data.files.train: must not be empty"),
    ],
)
def test_options_that_name_no_place_are_refused_in_one_line(tmp_path, options, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("text")
    with pytest.raises(UserError) as refusal:
        prepare(DataConfig.from_options({"source": "files", **options}, where="data"), tmp_path / "cache")
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_one_file_in_two_splits_is_refused_by_name(parts, capsys, monkeypatch):
    study = small_study(parts, data=over(parts, train="parts", validation="parts/group1/01.md"))
    monkeypatch.setenv("ARCH_LAB_CACHE", str(parts / "cache"))
    assert main(["compare", str(study), "--output", str(parts / "runs"), "--json"]) == 2
    captured = capsys.readouterr()
    assert "01.md is in both train and validation" in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err
