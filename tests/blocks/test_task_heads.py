"""Heads against their formulas and the properties their sources promise; costs, gradients and isolation are under the laws."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import blocks
from arch_lab.laws.strategies import seeds
from blocks import (
    ClassificationHead,
    ConfigError,
    EntityLibraryHead,
    LabelLogitHead,
    RangeRegressionHead,
    RegressionHead,
    TokenClassificationHead,
)
from blocks.heads.label_logit import worst_policy

D = 6


def head(name: str, **options: Any) -> Any:
    return blocks.build(name, **options).double().eval()


# --- classes ----------------------------------------------------------------------------------------------------------


def test_the_loss_of_classes_is_torchs_and_the_prediction_the_largest_logit() -> None:
    h: ClassificationHead = head("classification", width=D, classes=4, hidden=5)
    x, target = torch.randn(7, D, dtype=torch.float64), torch.randint(4, (7,))
    torch.testing.assert_close(h.loss(x, target), F.cross_entropy(h(x), target))
    assert torch.equal(h.predict(x), h(x).argmax(dim=-1))


def test_a_hidden_layer_makes_the_head_nonlinear_and_none_leaves_it_affine() -> None:
    """A released "two-layer" head of the literature was linear: nothing stood between its layers."""
    x, y = torch.randn(2, D, dtype=torch.float64)
    for hidden, affine in ((None, True), (5, False)):
        h = head("classification", width=D, classes=4, hidden=hidden)
        straight = torch.allclose(h((x + y) / 2), (h(x) + h(y)) / 2, rtol=0, atol=1e-12)
        assert straight is affine


def test_dropout_acts_in_train_mode_only() -> None:
    h, x = blocks.build("classification", width=D, classes=4, dropout=0.5), torch.randn(50, D)
    assert not torch.equal(h(x), h(x))
    h.eval()
    assert torch.equal(h(x), h(x))


@pytest.mark.parametrize("target", [torch.tensor([0, 4]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0])])
def test_a_label_that_is_no_class_is_one_clear_error(target: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"label -?\d is not in 0 … 3|labels must be integers") as caught:
        head("classification", width=D, classes=4).loss(torch.randn(2, D, dtype=torch.float64), target)
    assert "\n" not in str(caught.value)


def test_labels_of_another_shape_are_refused_and_not_broadcast() -> None:
    with pytest.raises(ConfigError, match=r"need labels \(2,\)"):
        head("classification", width=D, classes=4).loss(
            torch.randn(2, D, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.long)
        )


@settings(max_examples=25)
@given(seed=seeds(), cut=st.integers(0, 5))
def test_the_token_loss_does_not_depend_on_padding_or_on_unlabelled_tokens(seed: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    h: TokenClassificationHead = head("token_classification", width=D, classes=3)
    x = torch.randn(2, 5, D, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (2, 5), generator=generator)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, cut:] = False
    found = h.loss(x.masked_fill(~valid[..., None], float("nan")), target.masked_fill(~valid, 77), valid)
    torch.testing.assert_close(found, F.cross_entropy(h(x[valid]), target[valid]))
    torch.testing.assert_close(h.loss(x, target.masked_fill(~valid, -100)), found)


def test_a_batch_without_a_labelled_token_has_loss_zero_and_no_nan() -> None:
    h = head("token_classification", width=D, classes=3)
    loss = h.loss(torch.randn(2, 5, D, dtype=torch.float64), torch.full((2, 5), -100))
    loss.backward()
    assert loss.item() == 0 and all(p.grad.isfinite().all() for p in h.parameters())


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_regression_loss_never_broadcasts_a_batch_against_itself() -> None:
    h: RegressionHead = head("regression", width=D)
    x, target = torch.randn(4, D, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(h.loss(x, target), (h(x)[:, 0] - target).square().mean())
    assert torch.equal(h.loss(x, target), h.loss(x, target[:, None]))
    assert h.predict(x).shape == (4,) and head("regression", width=D, outputs=3).predict(x).shape == (4, 3)


@settings(max_examples=60)
@given(
    bounds=st.tuples(st.floats(-10, 10), st.floats(0.1, 10)),
    z=st.floats(-1e4, 1e4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_bounded_answer_never_leaves_its_range(
    bounds: tuple[float, float], z: float, dtype: torch.dtype
) -> None:
    low, high = bounds[0], bounds[0] + bounds[1]
    h: RangeRegressionHead = blocks.build("range_regression", width=1, low=low, high=high).to(dtype).eval()
    with torch.no_grad():
        h.readout.output.weight.fill_(1.0)
    y = h(torch.tensor([[z]], dtype=dtype))
    low_t, high_t = torch.tensor([low, high]).to(dtype)  # the bounds as this dtype holds them
    assert (
        low_t - 1e-5 * abs(low) <= y.item() <= high_t + 1e-5 * abs(high)
        if dtype == torch.float32
        else low <= y.item() <= high
    )


def test_a_bounded_answer_keeps_the_order_of_its_logits() -> None:
    h: RangeRegressionHead = head("range_regression", width=1, low=0, high=5)
    x = torch.linspace(-8, 8, 100, dtype=torch.float64)[:, None] * h.readout.output.weight.sign()
    assert (h.predict(x).diff() > 0).all()


def test_the_bounded_loss_is_least_at_the_mean_of_the_targets_and_zero_when_perfect() -> None:
    """Calibration: targets 1, 1, 4 at the same input are answered with 2."""
    h: RangeRegressionHead = head("range_regression", width=1, low=0, high=5)
    z = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    with torch.no_grad():
        h.readout.output.weight.fill_(1.0)
        losses = [h.loss(v.reshape(1, 1).expand(3, 1), torch.tensor([1.0, 1.0, 4.0])).item() for v in z[::10]]
        best = z[::10][int(torch.tensor(losses).argmin())]
        assert abs(h(best.reshape(1, 1)).item() - 2) < 0.02  # a grid step of 0.02 in z is 0.024 in y there
        assert h.loss(torch.tensor([[log(0.25)]]).double(), torch.tensor([1.0])).item() == pytest.approx(
            0, abs=1e-12
        )  # 5·1/5 = 1


def test_the_bounded_loss_still_teaches_at_the_far_end_of_the_scale() -> None:
    """The squared error of the same map has a gradient of 5·5·s(1 - s)·2, below 1e-3 there."""
    h: RangeRegressionHead = head("range_regression", width=1, low=0, high=5)
    with torch.no_grad():
        h.readout.output.weight.fill_(1.0)
    for target, z in ((5.0, -20.0), (0.0, 20.0)):
        x = torch.tensor([[z]], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(h.loss(x, torch.tensor([target])), x)
        assert abs(gradient.item()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("target", [5.1, -0.1, float("nan")])
def test_a_target_off_the_scale_is_refused(target: float) -> None:
    with pytest.raises(ConfigError, match=r"is not in \[0, 5\]"):
        head("range_regression", width=1).loss(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([target]))


# --- label logits -----------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(seed=seeds(), alpha=st.sampled_from([0.0, 1e-3, 0.5, 10.0]), temperature=st.floats(0.2, 5))
def test_label_logits_follow_the_published_formula(seed: int, alpha: float, temperature: float) -> None:
    logits = 3 * torch.randn(4, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    h: LabelLogitHead = head("label_logit", vocabulary=11, yes=7, no=2, alpha=alpha, temperature=temperature)
    likely = logits.log_softmax(dim=-1)
    yes, no = (likely[:, 7] / temperature).exp(), (likely[:, 2] / temperature).exp()
    torch.testing.assert_close(
        h.probability(logits), (yes + alpha) / (yes + no + 2 * alpha), rtol=1e-10, atol=0
    )
    torch.testing.assert_close(h(logits).exp().sum(dim=-1), torch.ones(4, dtype=torch.float64))


def test_label_logits_survive_where_both_likelihoods_underflow() -> None:
    logits = torch.zeros(1, 11)
    logits[0, 2], logits[0, 7] = -900.0, -899.0
    for alpha, wanted in ((0.0, exp(1) / (1 + exp(1))), (1e-30, 0.5)):
        h: LabelLogitHead = blocks.build("label_logit", vocabulary=11, yes=7, no=2, alpha=alpha)
        x = logits.clone().requires_grad_()
        h.loss(x, torch.tensor([1])).backward()
        assert (
            h.probability(logits).item() == pytest.approx(wanted, rel=1e-5)
            and x.grad is not None
            and x.grad.isfinite().all()
        )


def test_a_constant_added_to_both_labels_changes_nothing_without_smoothing_and_much_smoothing_gives_a_half() -> (
    None
):
    logits = torch.randn(5, 11, dtype=torch.float64)
    moved = logits.clone()
    moved[:, [2, 7]] += 3
    h = head("label_logit", vocabulary=11, yes=7, no=2)
    torch.testing.assert_close(h(moved), h(logits), rtol=0, atol=1e-12)
    smooth = head("label_logit", vocabulary=11, yes=7, no=2, alpha=1e9)
    torch.testing.assert_close(
        smooth.probability(logits), torch.full((5,), 0.5, dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert not torch.allclose(
        head("label_logit", vocabulary=11, yes=7, no=2, alpha=0.1)(moved), h(moved), atol=1e-3
    )


def test_the_verdict_over_policies_is_the_worst_of_them() -> None:
    assert worst_policy(torch.tensor([[0.1, 0.9], [0.3, 0.2]])).tolist() == pytest.approx([0.9, 0.3])


# --- entity library ---------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(seed=seeds(), factor=st.floats(0.01, 100))
def test_cosine_logits_do_not_depend_on_the_length_of_query_or_rows(seed: int, factor: float) -> None:
    torch.manual_seed(seed)
    h: EntityLibraryHead = head("entity_library", width=D, entities=9)
    x = torch.randn(4, D, dtype=torch.float64)
    before = h(x)
    torch.testing.assert_close(h(factor * x), before, rtol=0, atol=1e-12)
    with torch.no_grad():
        h.library[3] *= factor
    torch.testing.assert_close(h(x), before, rtol=0, atol=1e-12)
    assert before.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(
        before, F.cosine_similarity(x[:, None], h.library[None], dim=-1), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("score", ["cosine", "dot"])
def test_permuting_entities_permutes_logits_and_a_temperature_divides_them(score: str) -> None:
    h: EntityLibraryHead = head("entity_library", width=D, entities=9, entity_width=4, score=score)
    x, order = torch.randn(4, D, dtype=torch.float64), torch.randperm(9)
    before = h(x)
    cool = head("entity_library", width=D, entities=9, entity_width=4, score=score, temperature=0.1)
    cool.load_state_dict(h.state_dict())
    torch.testing.assert_close(cool(x), before / 0.1)
    with torch.no_grad():
        h.library.copy_(h.library[order].clone())
    torch.testing.assert_close(h(x), before[:, order], rtol=0, atol=1e-12)


def test_a_shared_library_is_one_parameter_with_one_gradient() -> None:
    speakers = torch.nn.Embedding(9, D).double()
    h: EntityLibraryHead = head("entity_library", width=D, entities=9).share_with(speakers.weight)
    model = torch.nn.ModuleList([speakers, h])
    assert sum(p.numel() for p in model.parameters()) == 9 * D
    kept = speakers.weight.detach().clone()
    h.reset_parameters()
    assert torch.equal(speakers.weight, kept), "the owner draws it, not the head"
    x = speakers(torch.tensor([1, 2]))
    h.loss(x, torch.tensor([1, 2])).backward()
    assert h.library.grad is speakers.weight.grad and speakers.weight.grad is not None
    with pytest.raises(ConfigError, match=r"a table of \(9, 6\) can be shared, got \(8, 6\)"):
        h.share_with(torch.nn.Parameter(torch.zeros(8, D)))


def test_a_cosine_loss_without_temperature_stops_at_its_floor() -> None:
    """ln(1 + (N - 1)·e⁻²): every other entity points the other way. N = 401 entities: 4.01 of 5.99 nats."""
    h: EntityLibraryHead = head("entity_library", width=1, entities=401)
    with torch.no_grad():
        h.library.fill_(-1.0)
        h.library[5] = 1.0
    loss = h.loss(torch.ones(1, 1, dtype=torch.float64), torch.tensor([5])).item()
    assert loss == pytest.approx(log(1 + 400 * exp(-2)), abs=1e-12) == pytest.approx(4.01, abs=0.01)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("classification", {"width": 4, "classes": 0}, "classes must be at least 1"),
        (
            "classification",
            {"width": 4, "classes": 2, "dropout": 1.0},
            "dropout must be at least 0 and below 1",
        ),
        ("classification", {"width": 4, "classes": 2, "hidden": 0}, "hidden must be at least 1"),
        ("range_regression", {"width": 4, "low": 5, "high": 0}, "low must be below high"),
        ("label_logit", {"vocabulary": 5, "yes": 5, "no": 1}, "yes must be in 0 … 4"),
        ("label_logit", {"vocabulary": 5, "yes": 1, "no": 1}, "the same token"),
        ("label_logit", {"vocabulary": 5, "yes": 1, "no": 2, "alpha": -1}, "alpha must be 0 or more"),
        (
            "label_logit",
            {"vocabulary": 5, "yes": 1, "no": 2, "temperature": 0},
            "temperature must be positive",
        ),
        ("entity_library", {"width": 4, "entities": 3, "hidden": 3}, "hidden is not an option"),
        ("entity_library", {"width": 4, "entities": 3, "temperature": 0}, "temperature must be positive"),
        ("triplet", {"width": 4, "embedding_width": 3, "margin": 0}, "margin must be a positive number"),
        ("triplet", {"width": 4, "embedding_width": 3, "dropout": 0.1}, "one dense layer"),
    ],
)
def test_impossible_heads_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        blocks.build(name, **options)
