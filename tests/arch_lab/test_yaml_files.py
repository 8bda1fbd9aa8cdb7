"""User YAML and JSON: what is ambiguous or endless is refused in one line, within a second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from arch_lab.yaml_files import load_json, load_yaml, parse_json, parse_yaml
from blocks.errors import ConfigError

NINE = ",".join(["*a{}"] * 9)
ALIAS_BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{NINE.format(*[i] * 9)}]\n" for i in range(9)
)
MERGE_BOMB = "m0: &m0 {x: 1, y: 2}\n" + "".join(
    f"m{i + 1}: &m{i + 1} {{<<: [*m{i}, *m{i}, *m{i}]}}\n" for i in range(20)
)

REFUSED = {
    "a key twice": (
        "a: 1\nb: 2\na: 3\n",
        "line 3, column 1: the key 'a' appears twice, first in line 1, column 1",
    ),
    "a nested key twice": (
        "x:\n- {k: 1, 'k': 2}\n",
        "line 2, column 10: the key 'k' appears twice, first in line 2, column 4",
    ),
    "an alias bomb": (ALIAS_BOMB, "more than 100,000 values (aliases written out)"),
    "a merge bomb": (MERGE_BOMB, "more than 100,000 values (aliases written out)"),
    "many aliases": ("a: &a 1\nb: [" + "*a," * 200 + "]", "more than 100 aliases"),
    "a list inside itself": ("a: &a [*a]", "line 1, column 8: the alias *a stands inside what it names"),
    "deep lists": ("[" * 5000, "line 1, column 51: nested deeper than 50 levels"),
    "deep mappings": ("{a: " * 100_000, "nested deeper than 50 levels"),
    "deep blocks": (
        "\n".join(" " * i + "a:" for i in range(300)),
        "line 51, column 51: nested deeper than 50 levels",
    ),
    "a long integer": ("seeds: [" + "9" * 5000 + "]", "line 1, column 9: a number of 5,000 characters"),
    "a sexagesimal": ("a: " + "1:" * 200_000 + "1", "a number of 400,001 characters"),
    "a tab": ("a:\n\tb: 1\n", "line 2, column 1: found character"),
    "a NUL": ("a: \0b\n", "line 1, column 4: control characters are not allowed"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2, column 1: a second document begins here"),
    "a Python object": ("a: !!python/object/apply:os.system ['true']", "line 1, column 4: the tag"),
    "a wrong tag": ("a: !!int abc", "a value cannot be read"),
    "an impossible date": ("a: 2026-99-99", "a value cannot be read"),
    "a list as key": ("{[a]: b}", "line 1, column 2: a key must be text"),
    "a megabyte of seeds": ("seeds: [" + "1," * 400_000 + "2]", "more than 100,000 values"),
    "ten megabytes": ("x" * 10_000_000, "larger than 1,048,576 bytes"),
    "broken": ("a: [\nb: {", "line 3, column 1: did not find expected node content"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_yaml_that_cannot_be_trusted_is_refused_within_a_second(tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "f.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert time.process_time() - start < 1.0
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))


def test_ordinary_yaml_reads_as_ever() -> None:
    text = "base: &b {x: 1, y: [1, 2.5, true, null, 'a']}\nmine: {<<: *b, x: 3}\nagain: *b\n"
    base = {"x": 1, "y": [1, 2.5, True, None, "a"]}
    assert parse_yaml(text, origin="f") == {"base": base, "mine": {**base, "x": 3}, "again": base}


@pytest.mark.parametrize("content", [b"a: \xff\n", b"\xff\xfea\x00"])
def test_text_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"f\.yaml: not UTF-8 at byte \d"):
        load_yaml(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_yaml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply, more than 100 levels"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested too deeply, more than 100 levels"),
        ('[{"a": 1, "b": 2, "a": 1}]', "the key 'a' appears twice in one object"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[" + "9" * 5000 + "]", "a number of 5,000 digits"),
        ('{"a":\n[1,}', "line 2, column 4: "),
        ("", "line 1, column 1: "),
    ],
)
def test_json_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_json(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_ordinary_json_reads_as_ever() -> None:
    assert parse_json('{"a": [1, 2.5, null, -12345678901234567890]}', origin="f") == {
        "a": [1, 2.5, None, -12345678901234567890]
    }
