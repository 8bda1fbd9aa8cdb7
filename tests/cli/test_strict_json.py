"""JSON files that a user edited: a key that appears twice is one line with file and key, whichever command reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arch_lab import cli, convert, sealed
from arch_lab.data import train_bpe
from arch_lab.models import Shape, recipe

SIZES = {"width": 32, "depth": 2, "ffn_width": 64}
WORDS = "the tide comes in and the tide goes out\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in both forms, ``theirs`` and ``ours``, and a sealed study.json."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = train_bpe([WORDS * 20], 270)
    options = {"window": 8, "pattern": "LG"}
    model = recipe("gemma3", options).model(Shape(**SIZES), vocabulary=270, max_tokens=32)
    settings = {**SIZES, "architecture": "gemma3", "options": options, "vocabulary": 270, "max_tokens": 32}
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save(
        {"hyper_parameters": settings, "state_dict": weights, "tokenizer": tokenizer.to_dict()},
        folder / "a.ckpt",
    )
    convert(folder / "a.ckpt", folder / "theirs", to="huggingface")
    convert(folder / "theirs", folder / "ours")
    (folder / "study").mkdir()
    sealed.write(folder / "study/study.json", {"study": "small"})
    (folder / "text.txt").write_text(WORDS, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("file", "key", "command"),
    [
        ("theirs/config.json", "head_dim", "convert theirs new"),
        ("theirs/tokenizer_config.json", "bos_token", "convert theirs new"),
        ("theirs/tokenizer.json", "model", "convert theirs new"),
        ("theirs/tokenizer_kind.json", "kind", "score theirs --text text.txt"),
        ("ours/arch-lab.json", "vocabulary", "score ours --text text.txt"),
        ("ours/tokenizer.json", "model", "score ours --text text.txt"),
        ("study/study.json", "study", "report study"),
    ],
)
def test_a_key_that_appears_twice_is_one_line(
    file: str,
    key: str,
    command: str,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(saved)
    path = Path(file)
    text = path.read_text(encoding="utf-8")
    assert f'"{key}"' in text
    try:
        path.write_text(text.replace("{", f'{{"{key}": 1, ', 1), encoding="utf-8")
        code = cli.main(command.split())
    finally:
        path.write_text(text, encoding="utf-8")
    shown = capsys.readouterr()
    assert code == 2 and shown.err.count("\n") == 1 and file in shown.err, shown.err
    assert f"the key '{key}' appears twice in one object" in shown.err
    assert not Path("new").exists()
