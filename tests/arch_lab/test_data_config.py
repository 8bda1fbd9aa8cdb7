"""The data configuration is strict: what it does not know, or cannot mean, is refused in one line."""

from __future__ import annotations

import pytest

from arch_lab.data import DataConfig
from blocks.errors import ConfigError


def test_an_unknown_option_names_the_nearest_valid_one():
    with pytest.raises(ConfigError, match="did you mean 'tokenizer'"):
        DataConfig.from_options({"tokeniser": {"kind": "bytes"}}, where="data")


def test_an_unknown_option_inside_a_section_is_refused_too():
    with pytest.raises(ConfigError, match=r"data\.tokenizer.*did you mean 'vocabulary'"):
        DataConfig.from_options({"tokenizer": {"vocabulry": 300}}, where="data")


@pytest.mark.parametrize(
    "options",
    [
        {"source": "files"},
        {"source": "hub"},
        {"files": {"train": "a.txt"}},
        {"source": "flies"},
        {"tune_fraction": 0},
        {"validation_fraction": 0.5},
        {"limit_bytes": 0},
        {"document_start": "("},
        {"tokenizer": {"kind": "bpe", "vocabulary": 256}},
        {"tokenizer": {"kind": "bytes", "vocabulary": 1000}},
        {"tokenizer": {"kind": "file"}},
        {"tokenizer": {"kind": "bpe", "path": "tokenizer.json"}},
        {"source": "hub", "hub": {"name": "x", "streaming": True}},
        {"source": "files", "files": {"validation": "a.txt"}},
    ],
)
def test_an_impossible_configuration_ends_in_one_line(options):
    with pytest.raises(ConfigError) as refusal:
        DataConfig.from_options(options)
    assert "\n" not in str(refusal.value)


def test_a_file_list_and_a_single_file_mean_the_same():
    one = DataConfig.from_options({"source": "files", "files": {"train": "a.txt"}})
    many = DataConfig.from_options({"source": "files", "files": {"train": ["a.txt"]}})
    assert one.files is not None and many.files is not None
    assert one.files.of("train") == many.files.of("train") == ("a.txt",)
    assert one.files.of("test") == ()


def test_the_root_option_comes_before_the_variable(monkeypatch):
    monkeypatch.setenv("ARCH_LAB_DATA", "/from/variable")
    assert str(DataConfig().folder) == "/from/variable"
    assert str(DataConfig(root="/from/option").folder) == "/from/option"
