"""Checkpoints of Hugging Face: read, written back bit for bit, and refused by name where our blocks would compute something else.

Legend: w window, V vocabulary, T tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from arch_lab import cli
from arch_lab.generation import Meter, Sampling, decode
from arch_lab.interop import InteropError
from arch_lab.interop.convert import convert
from arch_lab.interop.folder import load_model, read_manifest

V, W = 97, 8
COMMON: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
TWO_BASES = {"sliding_attention": {"rope_type": "default", "rope_theta": 9_000.0}}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {"num_hidden_layers": 2, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "sliding_window": W,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 8.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {"num_hidden_layers": 7, "num_key_value_heads": 1, "sliding_window": W, "eos_token_id": [1, 5]},
    ),
    "gemma3-factor-8": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "sliding_window": W,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "rope_parameters": {**TWO_BASES, "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0}},
        },
    ),
}
# fields that say where a file came from, not what it computes
ORIGIN = ("_name_or_path", "architectures", "transformers_version")


def their_model(name: str) -> nn.Module:
    """Random weights of order one, gains far from 1; a small table, or a tied model repeats its last token for ever."""
    transformers = pytest.importorskip("transformers")
    config, cls, own = FAMILIES[name]
    torch.manual_seed(4)  # of the first seeds, one whose greedy texts vary in every family
    model: nn.Module = getattr(transformers, cls)(getattr(transformers, config)(**COMMON, **own))
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            size = 0.3 if parameter.dim() == 1 else 0.1 if "embed" in label else 1.5 * parameter.shape[1] ** -0.5
            parameter.copy_(torch.randn_like(parameter) * size)
        model.model.norm.weight.add_(5)  # logits as large as in a trained model
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A model of transformers and a folder with ``theirs`` (saved), ``ours`` (converted) and ``back`` (converted back)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = their_model(request.param)
    model.save_pretrained(folder / "theirs")  # type: ignore[operator]
    convert(folder / "theirs", folder / "ours")
    convert(folder / "ours", folder / "back", to="huggingface")
    return model, folder


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


def test_greedy_decoding_gives_the_tokens_of_transformers_over_three_windows(pair: tuple[nn.Module, Path]) -> None:
    theirs, folder = pair
    manifest = read_manifest(folder / "ours")
    for t in (5, 2 * W + 3):  # a prompt inside the window, and one beyond it
        new = 4 * W
        settings = {"max_new_tokens": new, "do_sample": False, "use_cache": True, "eos_token_id": None, "pad_token_id": 0}
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
    _, folder = pair
    first, last = load_file(folder / "theirs/model.safetensors"), load_file(folder / "back/model.safetensors")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) and first[name].dtype == last[name].dtype for name in first)


@torch.no_grad()
def test_transformers_loads_what_is_written_back_and_finds_its_own_configuration(pair: tuple[nn.Module, Path]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    theirs, folder = pair
    first, last = (
        {k: v for k, v in AutoConfig.from_pretrained(folder / name).to_dict().items() if k not in ORIGIN} for name in ("theirs", "back")
    )
    assert last == first
    again = AutoModelForCausalLM.from_pretrained(folder / "back", attn_implementation="eager").eval()
    assert torch.equal(again(prompt(21)).logits, theirs(prompt(21)).logits)


def test_a_second_round_writes_the_same_files(pair: tuple[nn.Module, Path], tmp_path: Path) -> None:
    _, folder = pair
    convert(folder / "back", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / "back" / name).read_bytes()
    assert (tmp_path / "ours/arch-lab.json").read_bytes() == (folder / "ours/arch-lab.json").read_bytes()


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    their_model("gemma2").save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture
def source(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "source"))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(source: Path, target: Path, **options: Any) -> str:
    """The one line a conversion that must fail ends with; nothing may be left behind."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(InteropError) as error:
        convert(source, target, **options)
    assert sorted(target.parent.iterdir()) == before and "\n" not in str(error.value)
    return str(error.value)


def test_a_sharded_checkpoint_is_read_as_a_whole_one(saved: Path, tmp_path: Path) -> None:
    their_model("gemma2").save_pretrained(tmp_path / "sharded", max_shard_size="20KB")  # type: ignore[operator]
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    convert(tmp_path / "sharded", tmp_path / "ours")
    convert(saved, tmp_path / "expected")
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (tmp_path / "expected/model.safetensors").read_bytes()


def test_bfloat16_stays_bfloat16(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "source")
    edit(tmp_path / "source", dtype="bfloat16")
    weights = {name: value.bfloat16() for name, value in load_file(saved / "model.safetensors").items()}
    save_file(weights, tmp_path / "source/model.safetensors")
    assert convert(tmp_path / "source", tmp_path / "ours").dtype == "bfloat16"
    model = load_model(tmp_path / "ours", read_manifest(tmp_path / "ours"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == "bfloat16"
    assert all(torch.equal(weights[name], value) for name, value in load_file(tmp_path / "back/model.safetensors").items())


def test_the_files_of_a_tokenizer_travel_along_both_ways(source: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        (source / name).write_text(name)
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    assert all((tmp_path / "back" / name).read_text() == name for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


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
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.scale": "part.safetensors"}}))


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": "part.safetensors"}}))


def shard_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": "../part.safetensors"}}))


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (with_weights(lambda w: w.pop("model.norm.weight")), "tensor 'model.norm.weight' is missing"),
    "extra": (with_weights(lambda w: w.update(score=torch.ones(2))), "tensor 'score' belongs to no part"),
    "shape": (
        with_weights(lambda w: w.update({"model.norm.weight": torch.ones(31)})),
        r"'model.norm.weight' has shape \[31\].*says \[32\]",
    ),
    "untied": (with_weights(lambda w: w.update({"lm_head.weight": torch.ones(V, 32)})), "'lm_head.weight' differs from"),
    "cut short": (cut_short, "model.safetensors: damaged or cut short"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    "pickled": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only pytorch_model.bin; save it as safetensors"),
    "lying index": (lying_index, "'model.norm.scale' is not in it"),
    "lost shard": (lost_shard, "part.safetensors is missing"),
    "shard elsewhere": (shard_elsewhere, "the file in this folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "no Hugging Face checkpoint"),
    "config cut short": (lambda f: (f / "config.json").write_text('{"model_type":'), "config.json: not readable as JSON"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_damaged_checkpoint_is_one_line_and_leaves_nothing_behind(how: str, source: Path, tmp_path: Path) -> None:
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


def test_a_conversion_that_dies_while_writing_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("arch_lab.interop.convert.write_tensors", full)
    with pytest.raises(OSError):
        convert(source, tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


# --- fields ---------------------------------------------------------------------------------------------------------

UNSUPPORTED: list[tuple[str, Any]] = [
    ("attention_bias", True),
    ("hidden_activation", "gelu"),
    ("hidden_activation", "silu"),
    ("tie_word_embeddings", False),
    ("use_bidirectional_attention", True),
    ("rms_norm_eps", 1e-5),
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
def test_a_field_that_changes_the_function_is_refused_by_name_and_value(name: str, value: Any, source: Path, tmp_path: Path) -> None:
    key = name.partition(".")[0].partition("[")[0]
    edit(source, **{key: value})
    message = refusal(source, tmp_path / "target")
    assert "config.json: " in message
    assert ("rope_parameters.rope_type" if key == "rope_scaling" else name) in message
    if not isinstance(value, (dict, list)) and value is not None:
        assert repr(value) in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0), ("rope_parameters.sliding_attention.rope_type", "linear")],
)
def test_gemma3_refuses_what_only_its_configuration_knows(name: str, value: Any, tmp_path: Path) -> None:
    """transformers reads attn_logit_softcapping of Gemma 3 and computes the same without it: whoever set it expects otherwise."""
    their_model("gemma3-factor-8").save_pretrained(tmp_path / "source")  # type: ignore[operator]
    if "." in name:
        edit(tmp_path / "source", rope_parameters={"sliding_attention": {"rope_type": value, "factor": 2.0}})
    else:
        edit(tmp_path / "source", **{name: value})
    assert name in refusal(tmp_path / "source", tmp_path / "target")


def test_fields_without_influence_and_fields_at_their_defaults_are_accepted(source: Path, tmp_path: Path) -> None:
    edit(source, torch_dtype="float32", cache_implementation="hybrid", initializer_range=0.1, pruned_heads={}, is_encoder_decoder=False)
    convert(source, tmp_path / "ours")


def test_the_older_spelling_of_the_fields_means_the_same(tmp_path: Path) -> None:
    """As on the hub: flat rotary fields, a number for the pattern, no layer_types."""
    their_model("gemma3").save_pretrained(tmp_path / "new")  # type: ignore[operator]
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    content = json.loads((tmp_path / "old/config.json").read_text())
    for key in ("rope_parameters", "layer_types", "_sliding_window_pattern"):
        del content[key]
    older = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None, "sliding_window_pattern": 6}
    (tmp_path / "old/config.json").write_text(json.dumps({**content, **older}))
    for name in ("new", "old"):
        convert(tmp_path / name, tmp_path / f"{name}-ours")
    assert (tmp_path / "new-ours/arch-lab.json").read_bytes() == (tmp_path / "old-ours/arch-lab.json").read_bytes()


def test_the_first_gemma_calls_its_tanh_gelu_gelu(tmp_path: Path) -> None:
    their_model("gemma").save_pretrained(tmp_path / "source")  # type: ignore[operator]
    edit(tmp_path / "source", hidden_act="gelu", hidden_activation=None)
    convert(tmp_path / "source", tmp_path / "ours")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma22"}, "did you mean 'gemma2'"),
        ({"model_type": "mamba"}, "gemma, gemma2, gemma3_text"),
        ({"model_type": "gemma3", "vision_config": {}}, "multimodal"),
    ],
)
def test_another_model_is_refused_with_the_ones_there_are(changes: dict[str, Any], message: str, source: Path, tmp_path: Path) -> None:
    edit(source, **changes)
    assert message in refusal(source, tmp_path / "target")


def test_what_the_foreign_format_cannot_say_is_refused(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "ours")
    path = tmp_path / "ours/arch-lab.json"
    content = json.loads(path.read_text())
    content["options"]["query_scale"] = 0.7
    path.write_text(json.dumps(content))
    assert "query_scale 0.7 is not the inverse root" in refusal(tmp_path / "ours", tmp_path / "back", to="huggingface")


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_wrote(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(source), str(tmp_path / "ours"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    weights = load_file(tmp_path / "ours/model.safetensors")
    assert found["parameters"] == sum(w.numel() for w in weights.values()) and found["tensors"] == len(weights)
    assert (found["architecture"], found["to"], found["dtype"]) == ("gemma2", "arch-lab", "float32")
    assert cli.main(["convert", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "huggingface"]) == 0
    assert (
        capsys.readouterr().out
        == f"{tmp_path / 'back'}: gemma2, {found['parameters']:,} parameters in {found['tensors']} tensors (float32)\n"
    )


@pytest.mark.parametrize("to", ["arch-lab", "huggingface"])
def test_converting_to_the_format_it_has_is_refused(to: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(source, tmp_path / "ours")
    given = tmp_path / "ours" if to == "arch-lab" else source
    assert cli.main(["convert", str(given), str(tmp_path / "again"), "--to", to]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and "already is a" in printed


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(tmp_path / "none"), str(tmp_path / "target")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_rotations_the_format_cannot_say_are_refused(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "ours")
    manifest = tmp_path / "ours/arch-lab.json"
    content = json.loads(manifest.read_text())
    content["options"]["rope_fraction"] = 0.25
    manifest.write_text(json.dumps(content))
    assert "rope_fraction 0.25 cannot be written" in refusal(tmp_path / "ours", tmp_path / "back", to="huggingface")
