"""``arch-lab convert`` of what is released: configurations as published, text parts, stored forms, old files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from arch_lab import cli
from arch_lab.checkpoints import open_checkpoint
from tests.conversions import edit
from tests.gemma_checkpoints import FAMILIES, V, W, their_model

transformers = pytest.importorskip("transformers")
CASES = ("gemma", "gemma2", "gemma3")


def saved(name: str, folder: Path) -> Path:
    their_model(name).save_pretrained(folder / "theirs")  # type: ignore[operator]
    return folder / "theirs"


def convert(source: Path, target: Path, *options: str) -> Path:
    assert cli.main(["convert", str(source), str(target), *options]) == 0
    return target


def refusal(source: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a conversion that must fail."""
    capsys.readouterr()
    assert cli.main(["convert", str(source), str(source.parent / "target")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert not (source.parent / "target").exists()
    return printed.err


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(
        change(load_file(folder / "model.safetensors")),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


@torch.no_grad()
def assert_same_logits(ours: Path, theirs: nn.Module, limit: float = 1e-4) -> None:
    row = torch.randint(6, V, (2, 3 * W + 2), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(open_checkpoint(ours).model(row), theirs(row).logits, rtol=0, atol=limit)


# --- the released Gemma 2 9B ------------------------------------------------------------------------------------------


def test_a_second_name_of_the_same_window_is_accepted(tmp_path: Path) -> None:
    source = saved("gemma2", tmp_path)
    edit(source, {"sliding_window_size": W})
    assert_same_logits(convert(source, tmp_path / "ours"), their_model("gemma2"))


def test_a_second_name_of_another_window_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved("gemma2", tmp_path)
    edit(source, {"sliding_window_size": W + 1})
    assert f"sliding_window_size = {W + 1} is not supported: sliding_window is {W}" in refusal(source, capsys)


# --- Gemma3ForConditionalGeneration -----------------------------------------------------------------------------------


def with_vision(folder: Path) -> nn.Module:
    """A small Gemma3ForConditionalGeneration in ``folder``; its text part has the weights of the small Gemma 3."""
    text = their_model("gemma3-factor-8")
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes = {"image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config=text.config.to_dict(), vision_config={**vision, **sizes}, mm_tokens_per_image=1
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    return text


OLD = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision": "vision",
    "model.multi": "multi",
}


def renamed(weights: dict[str, Tensor], pairs: dict[str, str]) -> dict[str, Tensor]:
    names = {
        name: next((new + name[len(old) :] for old, new in pairs.items() if name.startswith(old)), name)
        for name in weights
    }
    return {names[name]: value for name, value in weights.items()}


@pytest.mark.parametrize("naming", ["old", "new"])
def test_the_text_part_of_a_model_with_vision_converts(naming: str, tmp_path: Path) -> None:
    text = with_vision(tmp_path / "theirs")
    new = {old: name for name, old in OLD.items()}
    rewrite(tmp_path / "theirs", lambda weights: renamed(weights, OLD if naming == "old" else new))
    prefix = "language_model.model." if naming == "old" else "model.language_model."
    assert any(name.startswith(prefix) for name in load_file(tmp_path / "theirs/model.safetensors"))
    assert_same_logits(convert(tmp_path / "theirs", tmp_path / "ours"), text)


def test_the_text_part_is_written_as_gemma3_for_causal_lm(tmp_path: Path) -> None:
    text = with_vision(tmp_path / "theirs")
    convert(convert(tmp_path / "theirs", tmp_path / "ours"), tmp_path / "back", "--to", "huggingface")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", attn_implementation="eager"
    ).eval()
    assert type(again).__name__ == "Gemma3ForCausalLM"
    row = torch.arange(6, 30)[None]
    with torch.no_grad():
        assert torch.equal(again(row).logits, text(row).logits)


def test_fields_that_a_released_text_part_leaves_out_have_their_defaults(tmp_path: Path) -> None:
    """As the published 4B: five fields. Only the configuration is read: the files hold other sizes."""
    from arch_lab.checkpoints.interop.huggingface import read_config

    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
    }
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    outer = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "eoi_token_index": 256000,
    }
    outer |= {
        "eos_token_id": [1, 106],
        "image_token_index": 262144,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
    }
    outer |= {
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "vision_config": {},
    }
    (tmp_path / "config.json").write_text(json.dumps({**outer, "text_config": text}))
    manifest, _ = read_config(tmp_path)
    blueprint = manifest.blueprint
    assert (blueprint.vocabulary, blueprint.max_tokens, manifest.end_text) == (262_208, 131_072, [1, 106])
    expected = {
        "heads": 8,
        "kv_heads": 4,
        "head_width": 256,
        "window": 1024,
        "rope_factor": 8.0,
        "pattern": "LLLLLG",
    }
    assert {name: blueprint.options[name] for name in expected} == expected


# --- stored forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int32, "I32"), (torch.bool, "BOOL")],
)
def test_weights_that_are_no_floats_are_refused_by_tensor_and_type(
    dtype: torch.dtype, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved("gemma3", tmp_path)
    tensor = "model.layers.2.mlp.up_proj.weight"
    rewrite(source, lambda weights: {**weights, tensor: weights[tensor].to(dtype)})
    assert f"tensor '{tensor}' is {name}" in refusal(source, capsys)


def test_a_converted_folder_with_int8_weights_is_refused_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = convert(saved("gemma3", tmp_path), tmp_path / "ours")
    rewrite(ours, lambda weights: {**weights, "norm.weight": weights["norm.weight"].to(torch.int8)})
    capsys.readouterr()
    assert cli.main(["generate", str(ours), "--prompt", "a"]) == 2
    assert "tensor 'norm.weight' is I8" in capsys.readouterr().err


# --- files of older versions ------------------------------------------------------------------------------------------


def frequencies(base: float, factor: float = 1.0) -> Tensor:
    return base ** -(torch.arange(0, 12, 2) / 12) / factor


def test_saved_rotary_frequencies_are_accepted_where_they_are_the_formula(tmp_path: Path) -> None:
    source = saved("gemma", tmp_path)
    more = {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": frequencies(10_000.0).bfloat16() for i in range(2)
    }
    rewrite(source, lambda weights: {**weights, **more})
    assert_same_logits(convert(source, tmp_path / "ours"), their_model("gemma"))


def test_saved_rotary_frequencies_of_another_base_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved("gemma2", tmp_path)
    rewrite(source, lambda weights: {**weights, "model.rotary_emb.inv_freq": frequencies(20_000.0)})
    assert "'model.rotary_emb.inv_freq' does not equal the frequencies of its configuration" in refusal(
        source, capsys
    )


def test_both_sets_of_frequencies_of_gemma3_are_known(tmp_path: Path) -> None:
    source = saved("gemma3-factor-8", tmp_path)
    more = {
        "model.rotary_emb.inv_freq": frequencies(500_000.0, 8.0),
        "model.rotary_emb_local.inv_freq": frequencies(9_000.0),
    }
    rewrite(source, lambda weights: {**weights, **more})
    assert_same_logits(convert(source, tmp_path / "ours"), their_model("gemma3-factor-8"))


# --- epsilon ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_another_epsilon_of_the_norms_is_followed_there_and_back(name: str, tmp_path: Path) -> None:
    theirs = their_model(name)
    theirs.config.rms_norm_eps = 0.3
    for module in theirs.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.eps = 0.3
    theirs.save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    ours = convert(tmp_path / "theirs", tmp_path / "ours")
    assert_same_logits(ours, theirs)
    with pytest.raises(AssertionError):  # large enough to show
        assert_same_logits(ours, their_model(name))
    back = convert(ours, tmp_path / "back", "--to", "huggingface")
    assert json.loads((back / "config.json").read_text())["rms_norm_eps"] == 0.3


# --- hints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["gemma4_text", "vaultgemma", "gemma22", "", None, 3])
def test_an_unknown_model_type_is_told_the_known_ones(
    model_type: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved("gemma2", tmp_path)
    edit(source, {"model_type": model_type})
    message = refusal(source, capsys)
    assert (
        f"model_type {model_type!r} is not supported; those that are: gemma, gemma2, gemma3, gemma3_text, t5gemma"
        in message
    )
    assert "did you mean" not in message and set(CASES) <= set(FAMILIES)
