"""Checkpoints of T5Gemma: read, written back bit for bit, and refused by name where our blocks would compute something else.

Legend: W the decoder's window, R the encoder's (keys on each side), V vocabulary.
Both are saved by ``transformers``: balanced, and unbalanced with an encoder wider, deeper and of other heads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from arch_lab import cli
from arch_lab.checkpoints import CheckpointError
from arch_lab.checkpoints.convert import convert
from arch_lab.checkpoints.folder import load_encoder_decoder, load_model, read_manifest
from arch_lab.checkpoints.interop.t5gemma import HEAD, TABLE
from blocks.errors import ConfigError
from tests.conversions import (
    assert_a_second_round_writes_the_same_files,
    assert_equal_bit_for_bit,
    copied,
    edit,
    refusal,
    there_and_back,
)

V, W, R = 97, 6, 4
STACK: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 8.0,
    "sliding_window": W,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
WIDER = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 5,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "balanced": ({"sliding_window": R, "eos_token_id": [1, 5]}, {"eos_token_id": [1, 5]}),
    "unbalanced": ({**WIDER, "sliding_window": R}, {}),
    "epsilon": ({"sliding_window": R, "rms_norm_eps": 0.2}, {"rms_norm_eps": 0.2}),
    # each stack scaled by its own head width, scores without a cap
    "scales": (
        {**WIDER, "query_pre_attn_scalar": 8, "attn_logit_softcapping": None},
        {"query_pre_attn_scalar": 12, "attn_logit_softcapping": None},
    ),
}
# fields that say where a file came from, not what it computes
ORIGIN = ("_name_or_path", "architectures", "transformers_version", "dtype")


def their_model(case: str) -> nn.Module:
    """Weights of order one, gains far from 1, so that a norm or a window in the wrong place is seen."""
    transformers = pytest.importorskip("transformers")
    encoder, decoder = CASES[case]
    torch.manual_seed(0)
    config = transformers.T5GemmaConfig(
        encoder={**STACK, **encoder}, decoder={**STACK, **decoder}, vocab_size=V, attn_implementation="eager"
    )
    model: nn.Module = transformers.T5GemmaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn_like(parameter)
                * (0.3 if parameter.dim() == 1 else 1.5 * parameter.shape[1] ** -0.5)
            )
    return model.eval()


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A model of transformers and its folder, as ``there_and_back`` leaves it."""
    model = their_model(request.param)
    return model, there_and_back(model, tmp_path_factory.mktemp(request.param))


def tokens(t: int, seed: int) -> Tensor:
    return torch.randint(6, V, (2, t), generator=torch.Generator().manual_seed(seed))


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {k: comparable(v) if isinstance(v, dict) else v for k, v in config.items() if k not in ORIGIN}


@torch.no_grad()
def test_a_converted_model_computes_the_logits_of_transformers(pair: tuple[nn.Module, Path]) -> None:
    theirs, folder = pair
    ours = load_encoder_decoder(folder / "ours", read_manifest(folder / "ours"))
    ids = torch.ones(2, 25, dtype=torch.long)
    ids[1, :9] = 0  # padded on the left
    for s, t, padding in ((R, W - 1, None), (25, 23, None), (25, 23, ids)):
        source, target = tokens(s, 1), tokens(t, 2)
        expected = theirs(input_ids=source, attention_mask=padding, decoder_input_ids=target).logits
        assert expected.abs().max() > 3  # large enough that a mistake would show
        torch.testing.assert_close(ours(source, target, padding), expected, rtol=0, atol=1e-4)


def test_there_and_back_every_tensor_is_bit_for_bit_the_same(pair: tuple[nn.Module, Path]) -> None:
    assert_equal_bit_for_bit(pair[1] / "theirs", pair[1] / "back")


@torch.no_grad()
def test_transformers_loads_what_is_written_back_and_finds_its_own_configuration(
    pair: tuple[nn.Module, Path],
) -> None:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    theirs, folder = pair
    first, last = (
        comparable(AutoConfig.from_pretrained(folder / name).to_dict()) for name in ("theirs", "back")
    )
    assert last == first
    again, told = AutoModelForSeq2SeqLM.from_pretrained(
        folder / "back", attn_implementation="eager", output_loading_info=True
    )
    assert not any(told.values())  # no key missing, unexpected or of another shape
    source, target = tokens(25, 1), tokens(23, 2)
    logits = [model(input_ids=source, decoder_input_ids=target).logits for model in (again.eval(), theirs)]
    assert torch.equal(*logits)


def test_a_second_round_writes_the_same_files(pair: tuple[nn.Module, Path], tmp_path: Path) -> None:
    assert_a_second_round_writes_the_same_files(pair[1], tmp_path)


# --- files and fields -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    their_model("unbalanced").save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    return copied(saved, tmp_path)


UNSUPPORTED: list[tuple[str, Any]] = [
    ("dropout_rate", 0.1),
    ("attention_dropout", 0.1),
    ("tie_word_embeddings", False),
    ("is_encoder_decoder", False),
    ("new_trick", "on"),
    ("encoder", None),
    ("decoder", "gemma2"),
    *((f"{stack}.{name}", value) for stack in ("encoder", "decoder") for name, value in (
        ("model_type", "gemma3_text"),
        ("dropout_rate", 0.1),
        ("attention_dropout", 0.1),
        ("attention_bias", True),
        ("hidden_activation", "silu"),
        ("tie_word_embeddings", False),
        ("use_bidirectional_attention", True),
        ("rope_parameters.rope_type", {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}),
        ("partial_rotary_factor", 0.5),
        ("layer_types[1]", ["sliding_attention", "chunked_attention", "full_attention", "full_attention", "full_attention"]),
        ("sliding_window", None),
        ("quantization_config", {"bits": 4}),
        ("new_trick", "on"),
    )),
    ("encoder.is_decoder", True),
    ("decoder.is_decoder", False),
    ("decoder.cross_attention_hidden_size", 32),
    ("decoder.final_logit_softcapping", -1.0),
    # one value for both stacks: the encoder is named, the decoder's value stands in the reason
    ("encoder.vocab_size", V + 1),
    ("encoder.max_position_embeddings", 32),
    ("encoder.attn_logit_softcapping", 3.0),
    ("encoder.query_pre_attn_scalar", 8),
    ("encoder.rms_norm_eps", 1e-5),
    ("encoder.rope_theta", 10_000.0),
    ("encoder.layer_types", ["full_attention"] * 5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED, ids=[f"{n}={v}"[:50] for n, v in UNSUPPORTED])
def test_a_field_that_changes_the_function_is_refused_by_name_and_value(
    name: str, value: Any, source: Path, tmp_path: Path
) -> None:
    key = name.partition("[")[0].removesuffix(".rope_type")
    if key == "decoder.layer_types":
        value = value[:3]
    edit(
        source,
        {"encoder.rope_parameters": {"rope_theta": value}} if name == "encoder.rope_theta" else {key: value},
    )
    message = refusal(source, tmp_path / "target")
    assert f"config.json: {name} " in message
    if not isinstance(value, (dict, list)) and value is not None:
        assert repr(value) in message


def test_what_changes_no_logit_is_accepted(source: Path, tmp_path: Path) -> None:
    """A cap behind the encoder caps nothing, and a classifier's dropout belongs to another model."""
    convert(source, tmp_path / "expected")
    edit(
        source,
        {
            "encoder.final_logit_softcapping": 3.0,
            "classifier_dropout_rate": 0.1,
            "encoder.use_cache": False,
            "vocab_size": 7,
        },
    )
    convert(source, tmp_path / "ours")
    assert (tmp_path / "ours/arch-lab.json").read_bytes() == (
        tmp_path / "expected/arch-lab.json"
    ).read_bytes()


def test_ids_left_out_are_those_of_the_decoder(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "config.json").read_text())
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        content.pop(name, None)
    content["decoder"] |= {"bos_token_id": 3, "eos_token_id": [4, 5]}
    (source / "config.json").write_text(json.dumps(content))
    convert(source, tmp_path / "ours")
    manifest = read_manifest(tmp_path / "ours")
    assert (manifest.begin_text, manifest.end_text, manifest.padding) == (3, [4, 5], 0)


def test_a_repeated_head_is_dropped_and_another_head_refused(source: Path, tmp_path: Path) -> None:
    weights = load_file(source / "model.safetensors")
    save_file({**weights, HEAD: weights[TABLE].clone()}, source / "model.safetensors")
    assert convert(source, tmp_path / "ours").tensors == len(weights)
    save_file({**weights, HEAD: weights[TABLE] + 1}, source / "model.safetensors")
    assert f"tensor {HEAD!r} differs from {TABLE!r}" in refusal(source, tmp_path / "target")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options.query_scale": 0.7}, "query_scale 0.7 is not the inverse square root"),
        ({"options.encoder_radius": 0}, "encoder_radius 0 cannot be written"),
        (
            {"options.heads": 3, "options.kv_heads": 1},
            "width 32 cannot be written: the format needs a multiple of its 3 heads",
        ),
    ],
)
def test_what_the_foreign_format_cannot_say_is_refused(
    changes: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    convert(source, tmp_path / "ours")
    edit(tmp_path / "ours", changes, "arch-lab.json")
    if "options.heads" in changes:  # the tensors of the other heads, or their shapes would be the complaint
        rewrite(tmp_path / "ours")
    assert message in refusal(tmp_path / "ours", tmp_path / "back", to="huggingface")


def rewrite(folder: Path) -> None:
    """Tensors of the shapes the manifest asks for."""
    from arch_lab.checkpoints.interop import family_for

    blueprint = read_manifest(folder).blueprint
    shapes = family_for(blueprint.architecture).skeleton(blueprint)
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "model.safetensors")


# --- what else the folder is asked for --------------------------------------------------------------------------------


def test_generation_without_a_source_is_refused_in_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(source, tmp_path / "ours")
    assert cli.main(["generate", str(tmp_path / "ours"), "--prompt", "Once"]) == 2
    printed = capsys.readouterr().err
    assert (
        printed.count("\n") == 1
        and "is an encoder–decoder: it needs a source" in printed
        and str(tmp_path / "ours") in printed
    )


def test_each_loader_names_the_other_kind(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "ours")
    with pytest.raises(ConfigError, match="encoder–decoder"):
        load_model(tmp_path / "ours", read_manifest(tmp_path / "ours"))
    edit(tmp_path / "ours", {"architecture": "gemma2", "options": {}}, "arch-lab.json")
    with pytest.raises(CheckpointError, match="'gemma2' is not an encoder–decoder"):
        load_encoder_decoder(tmp_path / "ours", read_manifest(tmp_path / "ours"))


def test_t5gemma2_is_refused_with_the_reason_both_ways(source: Path, tmp_path: Path) -> None:
    edit(source, {"model_type": "t5gemma2"})
    assert "'t5gemma2' is not supported: its encoder holds a vision tower" in refusal(
        source, tmp_path / "target"
    )
    edit(source, {"model_type": "t5gemma"})
    convert(source, tmp_path / "ours")
    edit(tmp_path / "ours", {"architecture": "t5gemma2", "options": {}}, "arch-lab.json")
    assert "'t5gemma2' has no Hugging Face form here: its encoder" in refusal(
        tmp_path / "ours", tmp_path / "back", to="huggingface"
    )
