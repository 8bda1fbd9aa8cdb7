"""Budgets on every axis, from a study file to its plan and its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import arch_lab
from arch_lab.budget import BudgetError
from tests.small_study import small_study

BUDGETS: list[dict[str, Any]] = [
    {"params": 6.0e4, "tokens": 64000},
    {"params": 6.0e4, "seconds": 3600},
    {"flops_per_token": 4.0e5, "train_flops": 2.56e10},
    {"flops_per_token": 4.0e5, "tokens": 64000},
    {"params": 1.0e6, "flops_per_token": 6.5e6, "tokens": 64000},
    {"train_flops": 2.56e10, "tokens": 64000},
]


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: "-".join(b))
def test_a_plan_meets_every_axis_of_its_budget(budget: dict[str, Any], tmp_path: Path) -> None:
    plan = arch_lab.plan(str(small_study(tmp_path, budget=budget)))
    for arm in plan.arms:
        assert set(arm.deviation) == set(budget)
        assert all(abs(off) <= 0.01 for off in arm.deviation.values())
    assert {axis: plan.budget[axis] for axis in budget} == budget


def test_the_default_pair_keeps_the_keys_its_readers_know(tmp_path: Path) -> None:
    plan = arch_lab.plan(str(small_study(tmp_path)))
    assert plan.budget == {"params": 60_000, "train_flops": 1.6e9, "tokens": None, "match_on": "body+head"}
    for arm in plan.arms:
        assert list(arm.deviation) == ["params", "train_flops"] and arm.calibration is None


def test_a_plan_in_seconds_says_that_its_steps_are_an_estimate(tmp_path: Path) -> None:
    plan = arch_lab.plan(str(small_study(tmp_path, budget={"params": 6.0e4, "seconds": 3600})))
    assert "estimate" in plan.warnings[0]
    for arm in plan.arms:
        assert arm.calibration.source == "estimate"
        assert arm.steps == pytest.approx(3600 / arm.calibration.seconds_per_step, rel=1e-2)


@pytest.mark.slow
def test_seconds_are_measured_once_and_a_resumed_study_keeps_its_steps(tmp_path: Path) -> None:
    path = small_study(tmp_path, budget={"params": 6.0e4, "seconds": 1.5})
    where = {"output": tmp_path / "runs", "cache": tmp_path / "cache", "quiet": True}
    first = arch_lab.compare(str(path), **where)
    stored = json.loads((tmp_path / "runs/small/plan.json").read_text())
    assert all(arm["calibration"]["source"] == "measured" for arm in stored["arms"])
    assert all(abs(arm["deviation"]["seconds"]) <= 0.01 for arm in stored["arms"])
    again = arch_lab.compare(str(path), **where)
    assert [arm.calibration for arm in again.arms] == [arm.calibration for arm in first.arms]
    assert [r.steps for r in again.results] == [r.steps for r in first.results]


def test_too_few_steps_to_meet_a_length_are_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        BudgetError,
        match=r"spends 64 tokens a step.*budget.tokens within 1.0%.*raise budget.tokens above 3.2e\+03",
    ):
        arch_lab.plan(str(small_study(tmp_path, budget={"params": 6.0e4, "tokens": 96})))


def test_the_rule_of_shapes_sizes_heads_where_an_arm_does_not(tmp_path: Path) -> None:
    arms = [
        {"architecture": "gemma1"},
        {"name": "wide", "architecture": "gemma1", "options": {"head_width": 32}},
        {"architecture": "m2_gpt"},
    ]
    budget = {"params": 6.0e4, "train_flops": 1.6e10, "shapes": {"head_width": 16}}
    plan = arch_lab.plan(str(small_study(tmp_path, arms=arms, budget=budget)))
    assert [arm.options.get("head_width") for arm in plan.arms] == [16, 32, None]
