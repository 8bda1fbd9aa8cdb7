"""m2_vit and vit: published counts to the last parameter, what each knows of the order of patches, and who refuses them.

Counts of ViT: timm's vit_{tiny,small,base,large}_patch16_224. Those of Monarch Mixer's paper are rounded to a million ("45M", "88M",
"33M"); the exact ones follow from HazyResearch/safari's hyena-vit.yaml and the closed form below.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import arch_lab
from arch_lab import cli
from arch_lab.accounting import ledger, prove
from arch_lab.accounting.ledger import Ledger
from arch_lab.budget import Budget, BudgetError, solve, solve_each
from arch_lab.models import ImageClassifier, ImageRecipe, Shape, architectures, recipe, require_kind
from arch_lab.models.presets import preset
from arch_lab.training.module import LanguageModel
from blocks.errors import ConfigError
from tests.small_study import small_study

SMALL = {"image": [8, 12], "channels": 2, "patch": 4}  # 6 patches
OPTIONS = {"vit": {"head_width": 8}, "m2_vit": {"filter_order": 8, "filter_emb": 5}}
SHAPE, CLASSES = Shape(width=32, depth=2, ffn_width=64), 5


def small(name: str, **options: object) -> ImageClassifier:
    """Float64, with no parameter at zero: long convolutions start there."""
    made = recipe(name, {**SMALL, **OPTIONS[name], **options})
    assert isinstance(made, ImageRecipe)
    model = made.classifier(SHAPE, classes=CLASSES).build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 2, 8, 12, dtype=torch.float64)


def book(architecture: str, size: str, **options: object) -> Ledger:
    p = preset(architecture, size)
    config = recipe(architecture, {**p.options, **options}).config(
        p.shape, vocabulary=p.vocabulary, max_tokens=p.max_tokens
    )
    return ledger(config, tokens=p.max_tokens, batch=1)


# --- counts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "size", "options", "total"),
    [
        ("vit", "ti", {}, 5_717_416),
        ("vit", "s", {}, 22_050_664),
        ("vit", "b", {}, 86_567_656),
        ("vit", "l", {}, 304_326_632),
        ("vit", "monarch-b", {}, 33_483_496),
        ("m2_vit", "b", {}, 45_554_920),
        ("m2_vit", "b", {"bidirectional": True}, 46_984_936),
        ("m2_vit", "b", {"train_positions": True}, 45_554_920 + 12 * 196 * 33),
        ("m2_vit", "hyena-b", {}, 88_022_248),
    ],
)
def test_a_published_size_has_exactly_its_parameters(
    architecture: str, size: str, options: dict[str, object], total: int
) -> None:
    assert book(architecture, size, **options).parameters["total"] == total


def test_the_parts_of_m2_vit_are_those_of_its_closed_form() -> None:
    """d 768, filter 33 -> 128 -> 128 -> d with one frequency vector, 5 taps on 3d channels, 4 blocks, biases up and down."""
    d, e, r, depth = 768, 33, 128, 12
    one_filter = (e + 1) * r + (r + 1) * r + r * d
    parts = {c.name: c.parameters for c in book("m2_vit", "b").components}
    assert parts == {
        "embedding": d * 3 * 16 * 16 + d,
        "layers.*.mixer_norm": depth * 2 * d,
        "layers.*.mixer": depth * (4 * d * d + 4 * d + 3 * d * (5 + 1) + one_filter + r + d),
        "layers.*.channel_norm": depth * 2 * d,
        "layers.*.channel": depth * (2 * d * (4 * d) // 4 + 5 * d),
        "pooler": 0,
        "head": 2 * d + 1000 * d + 1000,
    }


def test_embedding_head_and_body_are_told_apart() -> None:
    found, d = book("vit", "b").parameters, 768
    assert found["embedding"] == 3 * 256 * d + d + d + 197 * d
    assert found["head"] == 2 * d + 1000 * (d + 1)
    assert found["body"] == 12 * (12 * d * d + 13 * d)


def test_a_class_token_is_work_of_the_patches_it_stands_before() -> None:
    """196 tokens of an image pay for the 197 that the layers read: 24 D² + 4 (T + 1) D FLOPs each of those."""
    d, rows = 768, 197
    layers = 12 * rows * (24 * d * d + 4 * rows * d)
    ends = 2 * 196 * 768 * d + 2 * 1000 * d
    assert book("vit", "b").forward == pytest.approx((layers + ends) / 196, rel=1e-12)


# --- the models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", {}),
        ("vit", {"pool": "mean", "linear": "monarch"}),
        ("vit", {"positions": False}),
        ("m2_vit", {}),
        ("m2_vit", {"bidirectional": True, "train_positions": True}),
        ("m2_vit", {"mlp": "dense", "residual_long_conv": True}),
    ],
)
def test_what_a_model_costs_is_what_its_graph_executes(name: str, options: dict[str, object]) -> None:
    """The blocks one by one, then the whole model: features do nothing beside them that counts."""
    from arch_lab.accounting.counter import count_forward

    made = recipe(name, {**SMALL, **OPTIONS[name], **options})
    config = made.config(SHAPE, vocabulary=CLASSES, max_tokens=6)
    model = config.build("meta")
    assert prove(model, 6, batch=3) == 6  # patches, a norm, both mixers, pooler, head
    counted = count_forward(lambda: model(torch.empty(3, 2, 8, 12, device="meta")))
    assert not counted.unknown
    assert counted.total == model.cost(6).forward(3)
    built = made.model(SHAPE, vocabulary=CLASSES, max_tokens=6)
    assert [(n, p.shape) for n, p in built.named_parameters()] == [
        (n, p.shape) for n, p in model.named_parameters()
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_image_is_scored_alike_alone_and_in_a_batch(name: str) -> None:
    model, batch = small(name), images(3)
    scores = model(batch)
    assert scores.shape == (3, CLASSES)
    torch.testing.assert_close(model(batch[1:2]), scores[1:2], rtol=0, atol=1e-10)
    assert model.features(batch).shape == (3, SHAPE.width)


@pytest.mark.parametrize("name", OPTIONS)
def test_autograd_agrees_with_differences(name: str) -> None:
    model, batch = small(name), images(1).requires_grad_()
    assert torch.autograd.gradcheck(model, (batch,), fast_mode=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(name: str) -> None:
    model = small(name)
    model(images()).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("key.bias"):
            continue  # one number added to all scores of a query: softmax does not see it
        assert (
            parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
        ), parameter_name


@pytest.mark.parametrize("name", OPTIONS)
def test_a_state_dict_and_the_options_as_json_rebuild_the_same_function(name: str) -> None:
    model, batch = small(name), images()
    again = (
        recipe(name, json.loads(json.dumps({**SMALL, **OPTIONS[name]})))
        .model(SHAPE, vocabulary=CLASSES, max_tokens=6)
        .double()
        .eval()
    )
    assert not torch.equal(again(batch), model(batch))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch), model(batch))


def shuffled(batch: torch.Tensor) -> torch.Tensor:
    """The same patches in another order: the two columns on the right change places."""
    return torch.cat([batch[..., :4], batch[..., 8:], batch[..., 4:8]], dim=-1)


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_vit_without_positions_does_not_see_the_order_of_patches(pool: str) -> None:
    model, batch = small("vit", positions=False, pool=pool), images()
    torch.testing.assert_close(model(shuffled(batch)), model(batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"), [("vit", {}), ("m2_vit", {}), ("m2_vit", {"bidirectional": True})]
)
def test_positions_or_convolutions_make_the_order_of_patches_matter(
    name: str, options: dict[str, object]
) -> None:
    model, batch = small(name, **options), images()
    scores = model(batch)
    assert (model(shuffled(batch)) - scores).abs().max() > 1e-3 * scores.abs().max()


@pytest.mark.parametrize(("bidirectional", "moves"), [(False, False), (True, True)])
def test_a_patch_sees_those_after_it_in_the_bidirectional_reading_only(
    bidirectional: bool, moves: bool
) -> None:
    model, batch = small("m2_vit", bidirectional=bidirectional), images(1)
    changed = batch.clone()
    changed[..., 4:, 8:] += 1  # the last of the 6 patches
    apart = (model.hidden(changed) - model.hidden(batch))[:, :5].abs().max()
    assert (apart > 1e-6).item() is moves


# --- the solver, the command line -----------------------------------------------------------------------------------


def test_the_solver_sizes_both_to_one_budget() -> None:
    options = {"image": [32, 32], "patch": 4}
    recipes = [recipe("m2_vit", options), recipe("vit", {**options, "head_width": 32})]
    budget = Budget(params=1_000_000, tokens=1_000_000)
    for made, found in zip(recipes, solve_each(recipes, budget, vocabulary=10, max_tokens=64), strict=True):
        assert abs(found.deviation) <= 0.01
        model = made.model(found.shape, vocabulary=10, max_tokens=64)
        assert found.parameters["total"] == sum(p.numel() for p in model.parameters())
        exact = ledger(made.config(found.shape, vocabulary=10, max_tokens=64), tokens=64, batch=1).training
        assert found.flops_per_token == pytest.approx(float(exact), rel=1e-12)


def test_a_budget_no_image_model_meets_is_refused_without_proposing_other_classes_or_lengths() -> None:
    with pytest.raises(BudgetError, match="no shape of 'vit' has 100 parameters") as caught:
        solve(
            recipe("vit", {"image": [32, 32], "patch": 4}),
            Budget(params=100, tokens=1),
            vocabulary=10,
            max_tokens=64,
        )
    assert "vocabulary" not in str(caught.value) and "sequence_length" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["vit", "--preset", "b", "--seq-len", "100"], "is 196 tokens, not 100"),
        (
            ["m2_vit", "--preset", "b", "--options", "patch=15"],
            "224 x 224 pixels cannot be cut into patches of 15 x 15",
        ),
        (["vit", "--preset", "bb"], "did you mean 'b'"),
        (["m2_bert", "--preset", "80m"], "give --seq-len T"),
    ],
)
def test_the_cost_of_an_image_that_does_not_fit_is_refused(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert cli.main(["cost", *argv]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_length_is_read_off_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "m2_vit", "--preset", "b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"]["total"], found["seq_len"], found["state_bytes"]) == (45_554_920, 196, None)
    assert cli.main(["cost", "vit", "--preset", "b", "--options", "image=[384, 384]"]) == 0
    out = capsys.readouterr().out
    assert "576 tokens" in out and "384 x 384 pixels" in out and "classes 1,000" in out


def test_they_are_refused_where_text_is_asked_for(tmp_path: Path) -> None:
    assert architectures("image_classifier") == ["m2_vit", "vit"]
    for ask in (lambda: LanguageModel(architecture="vit"), lambda: require_kind(recipe("m2_vit"), "decoder")):
        with pytest.raises(
            ConfigError, match=r"classifies images: it reads pixels, not tokens; choose a decoder: .*gemma3"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)
    path = small_study(tmp_path, arms=[{"architecture": "gemma3"}, {"name": "eye", "architecture": "vit"}])
    with pytest.raises(ConfigError, match=r"experiment 'perplexity', arm 'eye': .*'vit' classifies images"):
        arch_lab.plan(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": [30, 32], "patch": 4}, "30 x 32 pixels cannot be cut"),
        ({"image": [32], "patch": 4}, "image must be two numbers"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"head_width": 0}, "head_width must be at least 1"),
        ({"pach": 4}, "did you mean 'patch'"),
    ],
)
def test_options_of_no_image_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe("vit", options)


def test_images_of_another_size_are_refused_by_the_model() -> None:
    with pytest.raises(ConfigError, match="images of 8 x 8 pixels, this model was built for 8 x 12"):
        small("m2_vit")(torch.zeros(1, 2, 8, 8, dtype=torch.float64))
    with pytest.raises(ConfigError, match="width 32 is not a multiple of head_width 24"):
        small("vit", head_width=24)
    with pytest.raises(ConfigError, match="6 tokens, not 9"):
        recipe("vit", SMALL).config(SHAPE, vocabulary=5, max_tokens=9)
    assert small("vit").state_bytes(6) == 0
