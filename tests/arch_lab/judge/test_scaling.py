"""Scaling laws, frontiers and optima of slices, against closed forms and published fits."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.judge.frontier import Frontier, crossing, power_law, slice_optimum
from arch_lab.judge.scaling import Points, ScalingLaw, fit, huber_cost
from blocks.errors import ConfigError

SIZES, TOKENS = np.geomspace(3e4, 5e5, 5), np.geomspace(3e5, 3e7, 4)
FAST = ScalingLaw(E=1.3, A=30.0, alpha=0.30, B=60.0, beta=0.28)
SLOW = ScalingLaw(E=1.3, A=100.0, alpha=0.40, B=500.0, beta=0.40)


def points_of(law: ScalingLaw, noise: float = 0.0, seed: int = 0) -> Points:
    """Five trunks of four branches; ``noise`` of a trunk and of a branch, in log loss."""
    generator = np.random.default_rng(seed)
    rows = []
    for n in SIZES:
        trunk = generator.normal(scale=noise)
        for d in TOKENS:
            loss = law.loss(n, d) * math.exp(trunk + generator.normal(scale=noise))
            rows.append((float(n), float(d), loss, f"{n:.0f}"))
    sizes, tokens, losses, trunks = zip(*rows, strict=True)
    return Points(sizes=sizes, tokens=tokens, losses=losses, trunks=trunks)


laws = st.builds(
    ScalingLaw,
    E=st.floats(0.5, 2.0),
    A=st.floats(10, 100),
    alpha=st.floats(0.2, 0.6),
    B=st.floats(20, 200),
    beta=st.floats(0.2, 0.6),
)


@settings(max_examples=15)
@given(law=laws)
def test_losses_without_noise_give_their_law_back(law: ScalingLaw) -> None:
    fitted = fit({"arm": points_of(law)})["arm"]
    for name, value in law.to_json().items():
        assert getattr(fitted, name) == pytest.approx(value, rel=1e-6), name


def test_a_tied_fit_finds_the_shared_floor_of_two_arms() -> None:
    fitted = fit({"fast": points_of(FAST), "slow": points_of(SLOW)}, tied=True)
    assert fitted["fast"].E == fitted["slow"].E == pytest.approx(1.3, rel=1e-6)
    assert fitted["slow"].beta == pytest.approx(0.4, rel=1e-6)


def test_an_untied_fit_finds_the_floor_of_each_arm() -> None:
    other = ScalingLaw(E=1.1, A=50.0, alpha=0.40, B=200.0, beta=0.40)
    fitted = fit({"fast": points_of(FAST), "other": points_of(other)}, tied=False)
    assert [law.E for law in fitted.values()] == pytest.approx([1.3, 1.1], rel=1e-6)


def test_one_outlier_hardly_moves_a_huber_fit() -> None:
    clean = points_of(FAST)
    losses = (*clean.losses[:-1], 1.5 * clean.losses[-1])
    outlier = Points(sizes=clean.sizes, tokens=clean.tokens, losses=losses, trunks=clean.trunks)
    assert fit({"arm": outlier})["arm"].loss(1e5, 1e7) == pytest.approx(FAST.loss(1e5, 1e7), rel=2e-3)


def test_the_best_size_is_the_minimum_over_sizes() -> None:
    flops = 1e12
    best = FAST.best_size(flops)
    around = [FAST.loss(n, flops / 6 / n) for n in (0.99 * best, best, 1.01 * best)]
    assert around[1] == min(around) == pytest.approx(FAST.best_loss(flops), rel=1e-12)


def test_the_flops_for_a_loss_invert_the_best_loss() -> None:
    assert FAST.flops_for(FAST.best_loss(3e12)) == pytest.approx(3e12, rel=1e-9)
    assert FAST.flops_for(FAST.E) == math.inf


def test_points_that_determine_no_law_are_an_error() -> None:
    few = Points(sizes=(1e5,) * 9, tokens=tuple(range(1, 10)), losses=(2.0,) * 9, trunks=("a",) * 9)
    with pytest.raises(ConfigError, match="9 points of 1 sizes and 9 token counts"):
        fit({"arm": few})
    with pytest.raises(ConfigError, match="positive and finite"):
        Points(sizes=(1.0,), tokens=(1.0,), losses=(math.nan,), trunks=("a",))


def test_bands_of_noisy_trunks_hold_the_true_loss() -> None:
    inside = 0
    for seed in range(12):
        noisy = {"fast": points_of(FAST, 0.002, seed), "slow": points_of(SLOW, 0.002, 100 + seed)}
        band = Frontier.fitted(noisy, tied=True, resamples=40, seed=seed).loss("fast", 1e13)
        assert band.low <= band.estimate <= band.high
        inside += band.low <= FAST.best_loss(1e13) <= band.high
    assert inside >= 8  # bootstraps of five trunks are too narrow: about 80 % instead of 95 %


def test_the_compute_ratio_of_an_arm_that_needs_twice_the_flops_is_two() -> None:
    # the same law with twice the FLOPs: N and D each times sqrt(2) for the same terms
    half = ScalingLaw(E=1.3, A=30 * 2**0.15, alpha=0.30, B=60 * 2**0.14, beta=0.28)
    frontier = Frontier.fitted({"a": points_of(FAST), "b": points_of(half)}, tied=True, resamples=5)
    for flops in (1e11, 1e13):
        assert frontier.compute_ratio("a", "b", flops).estimate == pytest.approx(2, rel=1e-5)
        assert frontier.compute_ratio("b", "a", flops).estimate == pytest.approx(0.5, rel=1e-5)


def test_a_crossover_lies_where_both_arms_have_the_same_loss() -> None:
    frontier = Frontier.fitted({"fast": points_of(FAST), "slow": points_of(SLOW)}, tied=True, resamples=5)
    cross = frontier.crossover("fast", "slow", 1e8, 1e16)
    assert cross.flops is not None
    assert FAST.best_loss(cross.flops) == pytest.approx(SLOW.best_loss(cross.flops), rel=1e-6)
    assert cross.share == 1
    assert crossing(FAST, ScalingLaw(E=1.4, A=30.0, alpha=0.30, B=60.0, beta=0.28), 1e8, 1e16) is None


def test_a_slice_without_an_inner_minimum_says_on_which_edge_it_ends() -> None:
    assert slice_optimum([1, 2, 4], [3.0, 2.0, 1.0]).edge == "largest"
    assert slice_optimum([4, 2, 1], [3.0, 2.0, 1.0]).edge == "smallest"
    inner = slice_optimum([1, 2, 4], [2.0, 1.0, 2.0])
    assert (inner.edge, inner.size) == (None, pytest.approx(2.0))
    with pytest.raises(ConfigError, match="three or more different sizes"):
        slice_optimum([1, 1, 2], [1.0, 1.0, 1.0])


def published(name: str) -> list[dict[str, str]]:
    folder = os.environ.get("ARCH_LAB_DATA")
    path = Path(folder or "", "scaling_curves", name)
    if not folder or not path.exists():
        pytest.skip("set ARCH_LAB_DATA to a folder that holds scaling_curves/")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_chinchillas_points_give_the_published_law() -> None:
    """Epoch's refit (arXiv 2404.10102), without the five points of highest loss."""
    rows = sorted(published("chinchilla_fig4_svg_extracted_data.csv"), key=lambda row: float(row["loss"]))[
        :240
    ]
    sizes, flops, losses = (
        tuple(float(row[key]) for row in rows) for key in ("Model Size", "Training FLOP", "loss")
    )
    tokens = tuple(c / 6 / n for n, c in zip(sizes, flops, strict=True))
    points = {
        "all": Points(sizes=sizes, tokens=tokens, losses=losses, trunks=tuple(map(str, range(len(rows)))))
    }
    law = fit(points)["all"]
    assert pytest.approx(1.8169, abs=0.026) == law.E
    assert law.alpha == pytest.approx(0.3478, abs=0.015)
    assert law.beta == pytest.approx(0.3658, abs=0.021)
    theirs = ScalingLaw(E=1.8169, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
    assert huber_cost(points, {"all": law}) < huber_cost(points, {"all": theirs})


GROUP = ("table", "dataset", "hparams", "warmup", "decay", "param_count", "val")


def test_porians_optima_give_their_published_exponents() -> None:
    optima, fits = published("porian_optima.csv"), published("porian_published_fits.csv")
    assert len(fits) == 30
    for row in fits:
        own = [optimum for optimum in optima if all(optimum[key] == row[key] for key in GROUP)]
        flops, sizes = ([float(optimum[key]) for optimum in own] for key in ("flops", "n_star"))
        deviations = [float(optimum["n_star_std"] or "nan") for optimum in own]
        law = power_law(flops, sizes, deviations if row["kind"] == "weighted" else None)
        assert law.exponent == pytest.approx(float(row["n_exponent"]), abs=1e-9)
        assert law.coefficient == pytest.approx(float(row["n_coef"]), rel=1e-9)


def test_porians_slices_give_their_published_optima() -> None:
    points = published("porian_isoflop_points.csv")
    errors = []
    for row in published("porian_optima.csv"):
        own = [p for p in points if all(p[key] == row[key] for key in (*GROUP, "flops"))]
        losses = {float(p["n_params"]): float(p["loss"]) for p in own}
        if len(losses) >= 3 and math.isfinite(float(row["n_star"] or "nan")):
            best = slice_optimum(tuple(losses), tuple(losses.values()))
            errors.append(abs(math.log(best.size / float(row["n_star"]))))
    assert len(errors) > 100
    assert np.quantile(errors, 0.9) < 0.03  # the published ones are means over resampled noise
