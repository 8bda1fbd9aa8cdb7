"""The fields of a configuration: refused by name and value where our blocks would compute something else, in both directions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from arch_lab.checkpoints.convert import convert
from tests.conversions import copied, edit, refusal
from tests.gemma_checkpoints import their_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    their_model("gemma2").save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    return copied(saved, tmp_path)


UNSUPPORTED: list[tuple[str, Any]] = [
    ("attention_bias", True),
    ("hidden_activation", "gelu"),
    ("hidden_activation", "silu"),
    ("tie_word_embeddings", False),
    ("use_bidirectional_attention", True),
    ("rms_norm_eps", 0.0),
    ("rms_norm_eps", "1e-6"),
    ("sliding_window_size", 9),
    ("num_hidden_layers", 100_000_000),
    ("hidden_size", 2**63),
    ("rope_parameters", [1]),
    ("eos_token_id", "</s>"),
    ("attention_dropout", 0.1),
    ("attn_logit_softcapping", -1.0),
    ("rope_parameters.rope_type", {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}),
    ("rope_parameters.rope_type", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
    ("partial_rotary_factor", 0.5),
    ("layer_types", ["sliding_attention", "full_attention"]),
    ("layer_types[1]", ["sliding_attention", "chunked_attention", "full_attention"]),
    ("sliding_window", 0),
    ("num_hidden_layers", "three"),
    ("head_dim", None),
    ("quantization_config", {"bits": 4}),
    ("is_encoder_decoder", True),
    ("new_trick", "on"),
]


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED, ids=[f"{n}={v}"[:50] for n, v in UNSUPPORTED])
def test_a_field_that_changes_the_function_is_refused_by_name_and_value(
    name: str, value: Any, source: Path, tmp_path: Path
) -> None:
    key = name.partition(".")[0].partition("[")[0]
    edit(source, {key: value})
    message = refusal(source, tmp_path / "target")
    assert "config.json: " in message
    assert ("rope_parameters.rope_type" if key == "rope_scaling" else name) in message
    if not isinstance(value, (dict, list)) and value is not None:
        assert repr(value) in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("rope_parameters.sliding_attention.rope_type", "linear"),
    ],
)
def test_gemma3_refuses_what_only_its_configuration_knows(name: str, value: Any, tmp_path: Path) -> None:
    """transformers reads attn_logit_softcapping of Gemma 3 and computes the same without it: whoever set it expects otherwise."""
    their_model("gemma3-factor-8").save_pretrained(tmp_path / "source")  # type: ignore[operator]
    if "." in name:
        edit(
            tmp_path / "source",
            {"rope_parameters": {"sliding_attention": {"rope_type": value, "factor": 2.0}}},
        )
    else:
        edit(tmp_path / "source", {name: value})
    assert name in refusal(tmp_path / "source", tmp_path / "target")


def test_fields_without_influence_and_fields_at_their_defaults_are_accepted(
    source: Path, tmp_path: Path
) -> None:
    idle = {
        "torch_dtype": "float32",
        "cache_implementation": "hybrid",
        "initializer_range": 0.1,
        "pruned_heads": {},
        "is_encoder_decoder": False,
    }
    edit(source, idle)
    convert(source, tmp_path / "ours")


def test_the_older_spelling_of_the_fields_means_the_same(tmp_path: Path) -> None:
    """As on the hub: flat rotary fields, a number for the pattern, no layer_types."""
    their_model("gemma3").save_pretrained(tmp_path / "new")  # type: ignore[operator]
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    content = json.loads((tmp_path / "old/config.json").read_text())
    for key in ("rope_parameters", "layer_types", "_sliding_window_pattern"):
        del content[key]
    older = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": None,
        "sliding_window_pattern": 6,
    }
    (tmp_path / "old/config.json").write_text(json.dumps({**content, **older}))
    for name in ("new", "old"):
        convert(tmp_path / name, tmp_path / f"{name}-ours")
    assert (tmp_path / "new-ours/arch-lab.json").read_bytes() == (
        tmp_path / "old-ours/arch-lab.json"
    ).read_bytes()


def test_the_first_gemma_calls_its_tanh_gelu_gelu(tmp_path: Path) -> None:
    their_model("gemma").save_pretrained(tmp_path / "source")  # type: ignore[operator]
    edit(tmp_path / "source", {"hidden_act": "gelu", "hidden_activation": None})
    convert(tmp_path / "source", tmp_path / "ours")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma22"}, "those that are: gemma, gemma2"),
        ({"model_type": "mamba"}, "gemma, gemma2, gemma3, gemma3_text, t5gemma"),
        ({"model_type": "gemma3", "vision_config": {}}, "text_config is missing"),
        ({"vision_config": {}}, "vision_config = {} is not supported"),
    ],
)
def test_another_model_is_refused_with_the_ones_there_are(
    changes: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    edit(source, changes)
    assert message in refusal(source, tmp_path / "target")


def test_what_the_foreign_format_cannot_say_is_refused(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "ours")
    path = tmp_path / "ours/arch-lab.json"
    content = json.loads(path.read_text())
    content["options"]["query_scale"] = 0.7
    path.write_text(json.dumps(content))
    assert "query_scale 0.7 is not the inverse square root" in refusal(
        tmp_path / "ours", tmp_path / "back", to="huggingface"
    )


def test_rotations_the_format_cannot_say_are_refused(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "ours")
    manifest = tmp_path / "ours/arch-lab.json"
    content = json.loads(manifest.read_text())
    content["options"]["rope_fraction"] = 0.25
    manifest.write_text(json.dumps(content))
    assert "rope_fraction 0.25 cannot be written" in refusal(
        tmp_path / "ours", tmp_path / "back", to="huggingface"
    )
