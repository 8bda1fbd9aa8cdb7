"""The files of a checkpoint: shards, types and tokenizers travel; a damaged one is one line and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from arch_lab.checkpoints.convert import convert
from arch_lab.checkpoints.folder import load_model, read_manifest
from tests.conversions import copied, edit, refusal
from tests.gemma_checkpoints import V, their_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    their_model("gemma2").save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    return copied(saved, tmp_path)


def test_a_sharded_checkpoint_is_read_as_a_whole_one(saved: Path, tmp_path: Path) -> None:
    their_model("gemma2").save_pretrained(tmp_path / "sharded", max_shard_size="20KB")  # type: ignore[operator]
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    convert(tmp_path / "sharded", tmp_path / "ours")
    convert(saved, tmp_path / "expected")
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (
        tmp_path / "expected/model.safetensors"
    ).read_bytes()


def test_bfloat16_stays_bfloat16(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "source")
    edit(tmp_path / "source", {"dtype": "bfloat16"})
    weights = {name: value.bfloat16() for name, value in load_file(saved / "model.safetensors").items()}
    save_file(weights, tmp_path / "source/model.safetensors")
    assert convert(tmp_path / "source", tmp_path / "ours").dtype == "bfloat16"
    model = load_model(tmp_path / "ours", read_manifest(tmp_path / "ours"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == "bfloat16"
    assert all(
        torch.equal(weights[name], value)
        for name, value in load_file(tmp_path / "back/model.safetensors").items()
    )


def test_the_files_of_a_tokenizer_travel_along_both_ways(source: Path, tmp_path: Path) -> None:
    texts = {"tokenizer.json": '{ "a":1 }', "tokenizer_config.json": '["b"]', "tokenizer.model": "any bytes"}
    for name, text in texts.items():
        (source / name).write_text(text)
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    assert {name: (tmp_path / "back" / name).read_text() for name in texts} == texts


def with_weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return spoil


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lying_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.scale": "part.safetensors"}})
    )


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "part.safetensors"}})
    )


def shard_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "../part.safetensors"}})
    )


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (with_weights(lambda w: w.pop("model.norm.weight")), "tensor 'model.norm.weight' is missing"),
    "extra": (
        with_weights(lambda w: w.update(score=torch.ones(2))),
        "tensor 'score' is not part of this model",
    ),
    "shape": (
        with_weights(lambda w: w.update({"model.norm.weight": torch.ones(31)})),
        r"'model.norm.weight' has shape \[31\].*says \[32\]",
    ),
    "untied": (
        with_weights(lambda w: w.update({"lm_head.weight": torch.ones(V, 32)})),
        "'lm_head.weight' differs from",
    ),
    "cut short": (cut_short, "model.safetensors: damaged or cut short"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "only pytorch_model.bin; save it as safetensors",
    ),
    "lying index": (lying_index, "'model.norm.scale' is not in it"),
    "lost shard": (lost_shard, "part.safetensors is missing"),
    "shard elsewhere": (shard_elsewhere, "the file in this folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "not a Hugging Face checkpoint"),
    "config cut short": (
        lambda f: (f / "config.json").write_text('{"model_type":'),
        "config.json: line 1, column 15",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_damaged_checkpoint_is_one_line_and_leaves_nothing_behind(
    how: str, source: Path, tmp_path: Path
) -> None:
    import re

    spoil, message = SPOILED[how]
    spoil(source)
    assert re.search(message, refusal(source, tmp_path / "target"))


def test_a_repeated_tied_table_is_accepted_and_dropped(source: Path, tmp_path: Path) -> None:
    with_weights(lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))(source)
    convert(source, tmp_path / "ours")
    assert "embedding.weight" in load_file(tmp_path / "ours/model.safetensors")


def test_a_target_that_holds_something_is_never_written_to(source: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    convert(source, tmp_path / "target")
    assert "exists and is not empty" in refusal(source, tmp_path / "target")


def test_a_conversion_that_dies_while_writing_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("arch_lab.checkpoints.convert.write_tensors", full)
    with pytest.raises(OSError):
        convert(source, tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
