"""Encoder–decoders: the laws over whole models, published sizes, exact accounting, and who refuses them."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import arch_lab
from arch_lab.accounting import ledger, prove
from arch_lab.cli import main
from arch_lab.laws import LAWS, ModelSubject, model_subject
from arch_lab.models import (
    EncoderDecoder,
    EncoderDecoderConfig,
    Recipe,
    Shape,
    architectures,
    recipe,
    require_kind,
)
from arch_lab.models.direction import bidirectional_mixer, causal_mixer
from arch_lab.models.encoder_decoder import halves
from arch_lab.models.presets import PRESETS, preset
from blocks import GeGLUConfig
from blocks.attention.gemma import Gemma2AttentionConfig
from blocks.attention.masks import attended_pairs, sides, sides_of_width, visible
from blocks.contract import tensors_nbytes
from blocks.errors import ConfigError
from tests.small_study import small_study

VOCABULARY, LONGEST, SHAPE = 23, 40, Shape(width=32, depth=2, ffn_width=32)
UNBALANCED = {"width": 24, "depth": 3, "ffn_width": 16, "heads": 3, "kv_heads": 1, "head_width": 8}
MODELS: dict[str, dict[str, Any]] = {
    "t5gemma": {"window": 5, "encoder_radius": 4},
    "t5gemma unbalanced": {"window": 5, "encoder_radius": 4, "encoder": UNBALANCED},
    "t5gemma2": {"window": 5, "encoder_span": 6, "pattern": "LG"},
}


def recipe_of(name: str) -> Recipe:
    return recipe(name.split()[0], MODELS[name])


def config_of(name: str) -> EncoderDecoderConfig:
    return recipe_of(name).config(SHAPE, vocabulary=VOCABULARY, max_tokens=LONGEST)


class Given(nn.Module):
    """An encoder–decoder and a source that stays: a causal language model of the target, so its laws apply."""

    causal = True

    def __init__(self, model: EncoderDecoder, source: Tensor) -> None:
        super().__init__()
        self.model, self.config, self.embedding = model, model.config, model.embedding
        self.register_buffer("source", source)

    def forward(self, target: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.model(self.source.expand(target.shape[0], -1), target, None, segments)  # type: ignore[no-any-return, operator]

    def init_state(self, batch: int, max_tokens: int) -> Any:
        return self.model.init_state(self.source.expand(batch, -1), None, max_tokens)  # type: ignore[operator]

    def prefill(self, target: Tensor, state: Any) -> Any:
        return self.model.prefill(target, state)

    def step(self, target: Tensor, state: Any) -> Any:
        return self.model.step(target, state)


@cache
def subject(name: str) -> ModelSubject:
    torch.manual_seed(0)  # made once and shared: which test comes first must not choose the weights
    return model_subject(name, Given(EncoderDecoder(config_of(name)), torch.arange(1, 12)[None]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("law", ["causality", "prefix consistency", "decoding", "isolation", "numerics"])
def test_given_a_source_the_target_is_modelled_lawfully(name: str, law: str) -> None:
    for batch, tokens, seed in ((1, 1, 0), (2, 2, 1), (1, 6, 2), (2, 11, 3)):
        LAWS[law].probe(subject(name), batch, tokens, seed)


def tokens(batch: int, t: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, t), generator=torch.Generator().manual_seed(seed))


@cache
def built(name: str) -> EncoderDecoder:
    model = subject(name).module.model
    assert isinstance(model, EncoderDecoder)
    return model


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_target_token_depends_on_every_source_token(name: str) -> None:
    model, source, target = built(name), tokens(1, 9), tokens(1, 7, 1)
    y = model(source, target)
    for s in range(9):
        changed = source.clone()
        changed[0, s] = (changed[0, s] + 1) % VOCABULARY
        assert ((model(changed, target) - y).abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_padding_of_the_source_changes_nothing_on_either_side(name: str) -> None:
    model, source, target = built(name), tokens(2, 9), tokens(2, 7, 1)
    y = model(source, target)
    for left, right in ((3, 0), (0, 4), (2, 5)):
        padded = torch.cat([tokens(2, left, 2), source, tokens(2, right, 3)], dim=1)
        ids = torch.zeros_like(padded)
        ids[:, left : left + 9] = 1
        torch.testing.assert_close(model(padded, target, ids), y, rtol=0, atol=1e-9 * float(y.abs().max()))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_pairs_packed_in_one_row_never_meet(name: str) -> None:
    model = built(name)
    sources, targets = (tokens(1, 6, 1), tokens(1, 9, 2)), (tokens(1, 8, 3), tokens(1, 5, 4))
    source_ids, target_ids = torch.tensor([[2] * 6 + [5] * 9]), torch.tensor([[2] * 8 + [5] * 5])
    packed = model(torch.cat(sources, 1), torch.cat(targets, 1), source_ids, target_ids)
    alone = torch.cat([model(s, t) for s, t in zip(sources, targets, strict=True)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-9 * float(alone.abs().max()))


# --- accounting and sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_part_costs_what_its_graph_executes_and_the_state_is_what_it_says(name: str) -> None:
    model, twin = EncoderDecoder(config_of(name)), config_of(name).build("meta")
    assert [(n, p.shape) for n, p in model.named_parameters()] == [
        (n, p.shape) for n, p in twin.named_parameters()
    ]
    for t in (2, 6, LONGEST):
        assert prove(twin, t) >= 5
    state = model.init_state(tokens(2, 9), None, LONGEST)
    for t in range(LONGEST):
        assert tensors_nbytes(state) == 2 * model.pair_state_bytes(9, t)
        _, state = model.step(tokens(2, 1, t)[:, 0], state)


def test_the_cost_of_both_lengths_is_that_of_the_layers_at_their_own() -> None:
    """By hand, matmuls only: encoder at S, decoder at T, keys and values of the cross-attention at S, scores T·S."""
    model = config_of("t5gemma unbalanced").build("meta")
    s, t = 11, 7
    encoder = 3 * (2 * s * 24 * 8 * (2 * 3 + 2) + 2 * s * 3 * 24 * 16)
    for radius in (4, None, 4):
        encoder += 4 * 3 * 8 * attended_pairs(s, causal=False, radius=radius)
    heads = model.decoder.layers[0].cross.config
    inner, kv = heads.heads * heads.channels, heads.kv_heads * heads.channels
    cross = 2 * t * 32 * inner * 2 + 2 * s * 24 * kv * 2 + 4 * inner * t * s
    own = 2 * t * 32 * inner * 2 + 2 * t * 32 * kv * 2
    decoder = 2 * (own + cross + 2 * t * 3 * 32 * 32)
    for window in (5, None):
        decoder += 4 * inner * attended_pairs(t, window=window)
    assert model.pair_cost(s, t).matmul == encoder + decoder + 2 * t * 32 * VOCABULARY


PUBLISHED = [  # total, embedding
    ("s-s", 312_517_632, 262_144_000),
    ("b-b", 591_490_560, 393_216_000),
    ("l-l", 1_241_761_792, 524_288_000),
    ("ml-ml", 2_200_345_344, 589_824_000),
    ("xl-xl", 3_766_980_608, 1_048_576_000),
    ("2b-2b", 5_596_853_760, 1_179_648_000),
    ("9b-2b", 12_292_375_296, 1_507_328_000),
    ("9b-9b", 20_333_401_088, 1_835_008_000),
]
PUBLISHED_2 = [  # a stack, the released embedding: the table and one vector for the end of an image
    ("270m-270m", 100_326_016, 167_772_800),
    ("1b-1b", 697_896_064, 301_991_040),
    ("4b-4b", 3_209_010_688, 671_091_200),
]


def counts(architecture: str, size: str) -> dict[str, int]:
    p = preset(architecture, size)
    config = recipe(architecture, p.options).config(p.shape, vocabulary=p.vocabulary, max_tokens=p.max_tokens)
    return ledger(config, tokens=128, batch=1).parameters


@pytest.mark.parametrize(("size", "total", "embedding"), PUBLISHED)
def test_a_t5gemma_has_exactly_its_published_parameters(size: str, total: int, embedding: int) -> None:
    assert counts("t5gemma", size) == {
        "embedding": embedding,
        "head": 0,
        "body": total - embedding,
        "total": total,
    }


@pytest.mark.parametrize(
    ("size", "cross"), [("2b-2b", 368_169_984), ("9b-2b", 436_327_424), ("9b-9b", 1_849_989_120)]
)
def test_cross_attention_alone_has_its_published_parameters(size: str, cross: int) -> None:
    """368.2M, 436.3M and 1,850.0M in print: the attention and the two norms of its sub-layer."""
    p = preset("t5gemma", size)
    config = recipe("t5gemma", p.options).config(p.shape, vocabulary=p.vocabulary, max_tokens=64)
    parts = {c.name: c.parameters for c in ledger(config, tokens=64, batch=1).components}
    found = sum(parts[f"decoder.layers.*.{name}"] for name in ("cross_norm", "cross", "cross_out_norm"))
    assert found == cross


@pytest.mark.parametrize(("size", "stack", "released"), PUBLISHED_2)
def test_a_t5gemma_2_has_two_published_stacks_and_one_table(size: str, stack: int, released: int) -> None:
    p = preset("t5gemma2", size)
    found = counts("t5gemma2", size)
    assert found["body"] == 2 * stack
    assert found["embedding"] == p.vocabulary * p.shape.width == released - p.shape.width


@pytest.mark.parametrize("size", ["270m-270m", "1b-1b", "4b-4b"])
def test_each_stack_of_t5gemma_2_is_the_gemma_3_of_its_size(size: str) -> None:
    ours, gemma = preset("t5gemma2", size), preset("gemma3", size.partition("-")[0])
    assert ours.shape == gemma.shape
    assert {k: ours.options[k] for k in gemma.options} == gemma.options


@pytest.mark.parametrize("architecture", ["t5gemma", "t5gemma2"])
def test_the_cost_verb_prints_an_encoder_decoder(
    architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = next(iter(PRESETS[architecture]))
    assert main(["cost", architecture, "--preset", size, "--seq-len", "65", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["source_tokens"], facts["target_tokens"]) == halves(65) == (32, 33)
    assert facts["parameters"] == counts(architecture, size) and facts["state_bytes"] > 0
    assert sum(c["parameters"] for c in facts["components"]) == facts["parameters"]["total"]


# --- what is refused, and what switches ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5gemma", "t5gemma2"])
def test_where_one_sequence_is_asked_for_an_encoder_decoder_is_refused_in_one_line(name: str) -> None:
    made = recipe_of(name)
    with pytest.raises(
        ConfigError, match=f"'{name}' is an encoder–decoder: it needs a source .* choose a decoder: .*gemma2"
    ) as caught:
        require_kind(made, "decoder")
    assert "\n" not in str(caught.value)
    assert name in architectures("encoder_decoder") and name not in architectures("encoder")


@pytest.mark.parametrize("name", ["t5gemma", "t5gemma2"])
def test_a_perplexity_study_refuses_it_by_the_name_of_the_arm(name: str, tmp_path: Path) -> None:
    path = small_study(tmp_path, arms=[{"architecture": "gemma3"}, {"name": "pair", "architecture": name}])
    with pytest.raises(ConfigError, match=r"experiment 'perplexity', arm 'pair': .*encoder–decoder"):
        arch_lab.plan(str(path))


def test_t5gemma_2_refuses_stacks_of_two_sizes() -> None:
    with pytest.raises(ConfigError, match="the encoder cannot have a different size"):
        recipe("t5gemma2", {"encoder": UNBALANCED}).config(SHAPE, vocabulary=VOCABULARY, max_tokens=LONGEST)


def test_a_single_token_cannot_be_split_in_source_and_target() -> None:
    with pytest.raises(ConfigError, match="needs 2 or more, got 1"):
        ledger(config_of("t5gemma"), tokens=1, batch=1)


def test_a_local_layer_needs_a_radius_and_a_window_by_name() -> None:
    local = Gemma2AttentionConfig(width=8, window=4)
    with pytest.raises(ConfigError, match="needs a radius"):
        bidirectional_mixer(local, radius=None)
    both = bidirectional_mixer(local, radius=(3, 2))
    with pytest.raises(ConfigError, match="needs a window"):
        causal_mixer(both, window=None)
    assert causal_mixer(both, window=4) == local


def test_only_blocks_with_two_directions_are_switched() -> None:
    with pytest.raises(ConfigError, match="GeGLUConfig has no bidirectional form"):
        bidirectional_mixer(GeGLUConfig(width=8, ffn_width=8), radius=None)


@pytest.mark.parametrize("keys", range(1, 12))
def test_a_span_is_as_many_keys_as_it_says_and_leans_forward(keys: int) -> None:
    """(keys + 1) // 2 - 1 before and keys // 2 after, as T5Gemma 2's mask function has them."""
    before, after = sides(sides_of_width(keys))
    assert before + 1 + after == keys and after - before in (0, 1)
    mask = visible(30, 30, causal=False, radius=sides_of_width(keys))
    assert mask is not None and mask[0, 0, 15].nonzero().flatten().tolist() == list(
        range(15 - before, 15 + after + 1)
    )
    assert int(mask.sum()) == attended_pairs(30, causal=False, radius=sides_of_width(keys))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_name_options_and_state_dict_rebuild_the_same_function(name: str) -> None:
    options = json.loads(json.dumps(MODELS[name]))
    made = recipe(name.split()[0], options)
    again = made.model(SHAPE, vocabulary=VOCABULARY, max_tokens=LONGEST).double().eval()
    file = io.BytesIO()
    torch.save(built(name).state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again(tokens(2, 5), tokens(2, 6)), built(name)(tokens(2, 5), tokens(2, 6)))
