"""Released M2-BERT state dicts: read, written back bit for bit, equal in what they compute, refused by name where they differ.

Legend: D width, F ffn_width, L max_tokens, R filter order, V vocabulary.
The released names and shapes are written out here a second time, from HazyResearch/m2, bert/src/bert_layers.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from arch_lab import cli
from arch_lab.checkpoints import CheckpointError
from arch_lab.checkpoints.convert import convert
from arch_lab.checkpoints.folder import load_encoder, read_manifest
from arch_lab.generation import generate
from arch_lab.models import Encoder
from blocks.errors import UserError
from tests.blocks.m2_goldens import close, golden, group

D, F, L, R, V, LAYERS, BLOCKS = 16, 32, 32, 8, 11, 2, 4
LAYER = "bert.encoder.layer.0"


def released_filter(prefix: str) -> dict[str, Tensor]:
    frequency = torch.rand(1, R)
    state = {
        f"{prefix}.bias": torch.randn(D),
        f"{prefix}.pos_emb.z": torch.randn(1, L, 5),
        f"{prefix}.pos_emb.t": torch.linspace(0, 1, L)[None, :, None],
        f"{prefix}.modulation.deltas": torch.linspace(-3.0701134573253945, -15.350567286626973, D)[
            None, None
        ],  # ln 0.01 / 1.5, / 0.3
    }
    for direction in ("implicit_filter", "implicit_filter_rev"):
        for k, (rows, columns) in {0: (R, 5), 2: (R, R), 4: (R, R), 6: (D, R)}.items():
            state[f"{prefix}.{direction}.{k}.weight"] = torch.randn(rows, columns)
            if k < 6:
                state[f"{prefix}.{direction}.{k}.bias"] = torch.randn(rows)
                state[f"{prefix}.{direction}.{k + 1}.freq"] = frequency
    return state


def released(residual: bool = True, legacy: bool = False) -> dict[str, Tensor]:
    """``legacy``: trained with hyena_training_additions, as the first 80M."""
    words = torch.randn(V, D)
    state = {
        "bert.embeddings.word_embeddings.weight": words,
        "bert.embeddings.position_embeddings.weight": torch.randn(L, D),
        "bert.embeddings.token_type_embeddings.weight": torch.randn(2, D),
        "bert.embeddings.position_ids": torch.arange(L)[None],
        "bert.embeddings.LayerNorm.weight": torch.randn(D),
        "bert.embeddings.LayerNorm.bias": torch.randn(D),
        "cls.predictions.transform.dense.weight": torch.randn(D, D),
        "cls.predictions.transform.dense.bias": torch.randn(D),
        "cls.predictions.transform.LayerNorm.weight": torch.randn(D),
        "cls.predictions.transform.LayerNorm.bias": torch.randn(D),
        "cls.predictions.decoder.weight": words,
        "cls.predictions.decoder.bias": torch.randn(V),
    }
    for i in range(LAYERS):
        mixer, mlp = f"bert.encoder.layer.{i}.attention", f"bert.encoder.layer.{i}.mlp"
        state |= released_filter(f"{mixer}.filter_fn")
        state |= released_filter(f"{mixer}.filter_fn2") if residual else {}
        state |= (
            {f"{mixer}.layernorm.weight": torch.randn(D), f"{mixer}.layernorm.bias": torch.randn(D)}
            if legacy
            else {}
        )
        state |= {
            f"{mixer}.in_linear.weight": torch.randn(3 * D, D),
            f"{mixer}.in_linear.bias": torch.randn(3 * D),
            f"{mixer}.out_linear.weight": torch.randn(D, D),
            f"{mixer}.out_linear.bias": torch.randn(D),
            f"{mixer}.short_filter.weight": torch.randn(3 * D, 1, 3),
            f"{mixer}.short_filter.bias": torch.randn(3 * D),
            f"{mlp}.gated_layers.weight": torch.randn(BLOCKS, 2 * F // BLOCKS, D // BLOCKS),
            f"{mlp}.wo.weight": torch.randn(BLOCKS, D // BLOCKS, F // BLOCKS),
            f"{mlp}.wo.bias": torch.randn(D),
            f"{mlp}.layernorm.weight": torch.randn(D),
            f"{mlp}.layernorm.bias": torch.randn(D),
        }
    return state


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "released.pt")
    return folder / "released.pt"


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(("residual", "legacy"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back_every_released_tensor_is_the_same_to_the_bit(
    tmp_path: Path, residual: bool, legacy: bool, dtype: torch.dtype
) -> None:
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in released(residual, legacy).items()
    }
    convert(saved(state, tmp_path), tmp_path / "ours", source_format="m2-bert")
    convert(tmp_path / "ours", tmp_path / "theirs", to="m2-bert")
    again = torch.load(tmp_path / "theirs" / "pytorch_model.bin", weights_only=True)
    assert {name: value.dtype for name, value in again.items()} == {
        name: value.dtype for name, value in state.items()
    }
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_sizes_and_options_are_read_off_the_tensors(tmp_path: Path) -> None:
    convert(saved(released(), tmp_path), tmp_path / "ours", source_format="m2-bert")
    found = read_manifest(tmp_path / "ours").blueprint
    assert vars(found.shape) == {"width": D, "depth": LAYERS, "ffn_width": F}
    assert (found.architecture, found.vocabulary, found.max_tokens) == ("m2_bert", V, L)
    assert found.options == {
        "blocks": BLOCKS,
        "filter_order": R,
        "filter_emb": 5,
        "residual_long_conv": True,
        "start": "released",
        "input_norm": False,
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: prefixed(s, "model."),
        lambda s: {"state": {"model": prefixed(s, "model.")}},
        lambda s: {"state_dict": prefixed(s, "module.model.")},
    ],
    ids=["composer model", "composer checkpoint", "lightning checkpoint"],
)
def test_what_a_trainer_wraps_around_a_state_dict_is_taken_off(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    state = released()
    convert(saved(wrap(state), tmp_path), tmp_path / "ours", source_format="m2-bert")
    assert torch.equal(
        load_encoder(tmp_path / "ours").embedding.words, state["bert.embeddings.word_embeddings.weight"]
    )


def test_converted_layers_compute_what_the_released_modules_compute(tmp_path: Path) -> None:
    """Recorded inputs and outputs of the released sequence and channel mixer, in float64."""
    mixer, channel = golden("seqmixer_bidir_f64"), golden("channelmixer_glu_blockdiag")
    state = {
        name: value.double() if value.is_floating_point() else value
        for name, value in released(residual=False).items()
    }
    state |= {f"{LAYER}.attention.{name}": value for name, value in group(mixer, "param.").items()}
    state |= {f"{LAYER}.mlp.{name}": value for name, value in group(channel, "param.").items()}
    convert(saved(state, tmp_path), tmp_path / "ours", source_format="m2-bert")
    model = load_encoder(tmp_path / "ours")
    assert isinstance(model, Encoder)
    layer = model.layers[0]
    close(layer.mixer(mixer["in.u"]), mixer["out.y"])
    x = channel["in.x"]
    close(layer.norm(x + layer.channel(x)), channel["out.y"])


def test_the_norm_of_a_legacy_checkpoint_is_of_what_the_mixer_and_its_residual_read(tmp_path: Path) -> None:
    """u is normed once, before both convolutions read it; epsilon 1e-5, which a small input shows."""
    state = released(legacy=True)
    convert(saved(state, tmp_path), tmp_path / "ours", source_format="m2-bert")
    model = load_encoder(tmp_path / "ours").double()
    layer, x = model.layers[0], 1e-3 * torch.randn(2, 9, D, dtype=torch.float64)
    weight, bias = (state[f"{LAYER}.attention.layernorm.{leaf}"].double() for leaf in ("weight", "bias"))
    h = layer.mixer(torch.nn.functional.layer_norm(x, (D,), weight, bias, eps=1e-5))
    close(layer(x), layer.norm(h + layer.channel(h)))


def test_a_converted_encoder_reads_text_and_writes_none(tmp_path: Path) -> None:
    convert(saved(released(), tmp_path), tmp_path / "ours", source_format="m2-bert")
    assert load_encoder(tmp_path / "ours")(torch.randint(V, (2, 9))).shape == (2, 9, V)
    with pytest.raises(UserError, match="'m2_bert' is a bidirectional encoder"):
        generate(tmp_path / "ours", "x")


def without(*names: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: {name: value for name, value in state.items() if name not in names}


def having(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: {**state, name: value}


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "one legacy norm": (
        having(f"{LAYER}.attention.layernorm.weight", torch.ones(D)),
        "layernorm.bias' is missing",
    ),
    "attention": (
        having(f"{LAYER}.attention.self.Wqkv.weight", torch.ones(3 * D, D)),
        "its layers are attention",
    ),
    "pooler": (
        having("bert.pooler.dense.weight", torch.ones(D, D)),
        "'bert.pooler.dense.weight' is not supported: m2_bert has no pooler",
    ),
    "classifier": (having("classifier.weight", torch.ones(2, D)), "no classifier"),
    "unknown": (having("bert.extra", torch.ones(1)), "'bert.extra' is not part of this model"),
    "missing": (without(f"{LAYER}.mlp.wo.bias"), "mlp.wo.bias' is missing"),
    "missing layer": (
        lambda s: {n: v for n, v in s.items() if ".layer.0." not in n},
        "layer.0.mlp.gated_layers.weight' is missing",
    ),
    "one direction": (lambda s: {n: v for n, v in s.items() if "_rev" not in n}, "m2_bert is bidirectional"),
    "no positions": (without("bert.embeddings.position_embeddings.weight"), "m2_bert learns its positions"),
    "dense mlp": (
        having(f"{LAYER}.mlp.gated_layers.weight", torch.ones(2 * F, D)),
        "block-diagonal channel mixers",
    ),
    "no gate": (
        having(f"{LAYER}.mlp.gated_layers.weight", torch.ones(BLOCKS, F // BLOCKS, D // BLOCKS)),
        "channel mixer is gated",
    ),
    "other shape": (
        having(f"{LAYER}.attention.short_filter.weight", torch.ones(3 * D, 1, 4)),
        r"has shape \[48, 1, 4\]",
    ),
    "three types": (
        having("bert.embeddings.token_type_embeddings.weight", torch.ones(3, D)),
        r"has shape \[3, 16\]",
    ),
    "untied": (
        having("cls.predictions.decoder.weight", torch.ones(V, D)),
        "arch-lab ties them to one tensor",
    ),
    "two frequencies": (
        having(f"{LAYER}.attention.filter_fn.implicit_filter_rev.3.freq", torch.ones(1, R)),
        "arch-lab ties them to one tensor",
    ),
    "trained decay": (
        having(f"{LAYER}.attention.filter_fn.modulation.deltas", torch.ones(1, 1, D)),
        "differs from its formula",
    ),
    "other model": (lambda _: {"weight": torch.ones(2)}, "not a state dict of M2-BERT"),
    "not tensors": (lambda _: {"weight": 3}, r"not a state dict \(a mapping of names to tensors\)"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_what_m2_bert_does_not_compute_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(saved(change(released()), tmp_path), tmp_path / "ours", source_format="m2-bert")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_a_configuration_beside_the_weights_may_not_say_otherwise(tmp_path: Path) -> None:
    torch.save(released(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"hyena_w_mod": 2, "vocab_size": V}))
    with pytest.raises(CheckpointError, match="hyena_w_mod = 2 is not supported"):
        convert(tmp_path, tmp_path / "ours", source_format="m2-bert")


def test_files_that_are_no_state_dicts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.bin").write_text("no tensors")
    for source, message in (
        (tmp_path / "text.bin", "not readable as plain tensors"),
        (tmp_path, "pytorch_model.bin: no such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "ours", source_format="m2-bert")
    with pytest.raises(CheckpointError, match="use --from m2-bert"):
        convert(tmp_path, tmp_path / "ours", to="m2-bert")


def test_the_command_reads_and_writes_the_released_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(released(), tmp_path)
    assert cli.main(["convert", "--from", "m2-bert", str(path), str(tmp_path / "ours"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    model = load_encoder(tmp_path / "ours")
    assert (told["architecture"], told["parameters"]) == (
        "m2_bert",
        sum(p.numel() for p in model.parameters()),
    )
    assert cli.main(["convert", "--to", "m2-bert", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
