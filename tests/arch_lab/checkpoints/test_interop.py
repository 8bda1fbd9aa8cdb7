"""Checkpoints of Hugging Face: read, computed as transformers does, written back bit for bit; the command.

Legend: W window, V vocabulary, T tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from arch_lab import cli
from arch_lab.checkpoints.convert import convert
from arch_lab.checkpoints.folder import load_model, read_manifest
from arch_lab.generation import Meter, Sampling, decode
from tests.conversions import (
    assert_a_second_round_writes_the_same_files,
    assert_equal_bit_for_bit,
    copied,
    there_and_back,
)
from tests.gemma_checkpoints import FAMILIES, V, W, their_model

# fields that say where a file came from, not what it computes
ORIGIN = ("_name_or_path", "architectures", "transformers_version")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A model of transformers and its folder, as ``there_and_back`` leaves it."""
    model = their_model(request.param)
    return model, there_and_back(model, tmp_path_factory.mktemp(request.param))


def prompt(t: int) -> Tensor:
    return torch.randint(6, V, (1, t), generator=torch.Generator().manual_seed(t))


@torch.no_grad()
def test_a_converted_model_computes_the_logits_of_transformers(pair: tuple[nn.Module, Path]) -> None:
    theirs, folder = pair
    ours = load_model(folder / "ours", read_manifest(folder / "ours"))
    for t in (W - 1, W + 1, 3 * W + 2):
        expected = theirs(prompt(t)).logits
        assert expected.abs().max() > 3  # large enough that a mistake would show
        torch.testing.assert_close(ours(prompt(t)), expected, rtol=0, atol=1e-4)


def test_greedy_decoding_gives_the_tokens_of_transformers_over_three_windows(
    pair: tuple[nn.Module, Path],
) -> None:
    theirs, folder = pair
    manifest = read_manifest(folder / "ours")
    for t in (5, 2 * W + 3):  # a prompt inside the window, and one beyond it
        new = 4 * W
        settings = {
            "max_new_tokens": new,
            "do_sample": False,
            "use_cache": True,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        expected = theirs.generate(prompt(t), **settings)[0, t:].tolist()  # type: ignore[operator]
        found = decode(
            load_model(folder / "ours", manifest),
            prompt(t)[0].tolist(),
            max_tokens=new,
            sampling=Sampling(),
            seed=0,
            end=frozenset(),
            meter=Meter(),
        )
        assert list(found) == expected
        assert len(set(expected)) > 2  # not one token for ever


def test_there_and_back_every_tensor_is_bit_for_bit_the_same(pair: tuple[nn.Module, Path]) -> None:
    assert_equal_bit_for_bit(pair[1] / "theirs", pair[1] / "back")


@torch.no_grad()
def test_transformers_loads_what_is_written_back_and_finds_its_own_configuration(
    pair: tuple[nn.Module, Path],
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    theirs, folder = pair
    first, last = (
        {k: v for k, v in AutoConfig.from_pretrained(folder / name).to_dict().items() if k not in ORIGIN}
        for name in ("theirs", "back")
    )
    assert last == first
    again = AutoModelForCausalLM.from_pretrained(folder / "back", attn_implementation="eager").eval()
    assert torch.equal(again(prompt(21)).logits, theirs(prompt(21)).logits)


def test_a_second_round_writes_the_same_files(pair: tuple[nn.Module, Path], tmp_path: Path) -> None:
    assert_a_second_round_writes_the_same_files(pair[1], tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    their_model("gemma2").save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    return copied(saved, tmp_path)


def test_the_command_prints_what_it_wrote(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(source), str(tmp_path / "ours"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    weights = load_file(tmp_path / "ours/model.safetensors")
    assert found["parameters"] == sum(w.numel() for w in weights.values()) and found["tensors"] == len(
        weights
    )
    assert (found["architecture"], found["to"], found["dtype"]) == ("gemma2", "arch-lab", "float32")
    assert cli.main(["convert", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "huggingface"]) == 0
    assert (
        capsys.readouterr().out
        == f"{tmp_path / 'back'}: gemma2, {found['parameters']:,} parameters in {found['tensors']} tensors (float32)\n"
    )


@pytest.mark.parametrize("to", ["arch-lab", "huggingface"])
def test_converting_to_the_format_it_has_is_refused(
    to: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(source, tmp_path / "ours")
    given = tmp_path / "ours" if to == "arch-lab" else source
    assert cli.main(["convert", str(given), str(tmp_path / "again"), "--to", to]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and "already is a" in printed


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(tmp_path / "none"), str(tmp_path / "target")]) == 2
    assert "no such folder" in capsys.readouterr().err
