"""The gate around stored studies: nothing is reported as a comparison because a file says it is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import arch_lab
from arch_lab import report, sealed
from arch_lab.budget import BudgetError, deviations
from arch_lab.cli import main
from arch_lab.study.plan import Plan
from arch_lab.study.recheck import misses_of
from arch_lab.study.training_study import TrainingStudy
from blocks.errors import ConfigError, UserError
from experiments.perplexity.experiment import Perplexity
from tests.small_study import small_study
from tests.study_fixture import write_study

Edit = Callable[[dict[str, Any]], None]


def write(folder: Path) -> Path:
    """The report of a stored study."""
    return report.write_all(folder, report.load(folder))


def edited(folder: Path, edit: Edit, **options: Any) -> Path:
    """A study folder whose study.json somebody changed by hand."""
    study = write_study(folder / "quickstart", seeds=2, exponents=(-9, -8), diverged=(), **options)
    content = json.loads((study / "study.json").read_text())
    edit(content)
    sealed.write(study / "study.json", content)
    return study


def fatter(study: dict[str, Any]) -> None:
    """The second arm gets 5 % more parameters; every flag goes on saying that all is well."""
    for group in ("body", "total"):
        study["arms"][1]["parameters"][group] += 50_000


def longer(study: dict[str, Any]) -> None:
    study["arms"][1]["steps"] = round(1.03 * study["arms"][1]["steps"])


def thirstier(study: dict[str, Any]) -> None:
    study["arms"][1]["flops_per_token"] *= 1.03


def cut_short(study: dict[str, Any]) -> None:
    run = next(r for r in study["results"] if r["arm"] == "m2_gpt")
    run["tokens"] = run["tokens"] // 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (fatter, r"arm 'm2_gpt' is \+5\.\d+% off .* on params"),
        (longer, r"arm 'm2_gpt' is \+[23]\.\d+% off .* on train_flops"),
        (thirstier, r"arm 'm2_gpt' is \+[23]\.\d+% off .* on train_flops"),
        (
            cut_short,
            r"arm 'm2_gpt', learning rate 0\.00\d+, seed 0 trained on [\d,]+ tokens, -50\.\d+% off its plan",
        ),
    ],
)
def test_a_study_edited_to_be_unmatched_gets_no_report(edit: Edit, message: str, tmp_path: Path) -> None:
    study = edited(tmp_path, edit)
    with pytest.raises(BudgetError, match=message) as caught:
        write(study)
    assert "\n" not in str(caught.value)
    assert not (study / "report.html").exists()


def test_stored_deviations_and_flags_are_not_believed(tmp_path: Path) -> None:
    def edit(study: dict[str, Any]) -> None:
        fatter(study)
        study["matched"], study["misses"] = True, []
        for arm in study["arms"]:
            arm["deviation"] = {"params": 0.0, "train_flops": 0.0}

    with pytest.raises(BudgetError, match="on params"):
        write(edited(tmp_path, edit))


def test_an_unmatched_study_that_lost_its_override_gets_no_report(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="allow_unmatched"):
        write(edited(tmp_path, lambda study: study.pop("override"), deviation=0.03))


def test_an_overridden_study_carries_the_banner_whatever_else_it_says(tmp_path: Path) -> None:
    def edit(study: dict[str, Any]) -> None:
        fatter(study)
        study["override"], study["matched"], study["misses"] = True, True, []

    page = write(edited(tmp_path, edit)).read_text()
    assert 'class="banner"' in page and "At least one arm misses the budget" in page
    assert "off the budget on params" in page
    assert "The budgets are not matched, so this is not a comparison at equal cost." in page


def test_a_matched_study_keeps_its_report_without_a_banner(tmp_path: Path) -> None:
    page = write(edited(tmp_path, lambda study: None)).read_text()
    assert 'class="banner"' not in page


def test_a_tolerance_widened_by_hand_is_no_budget(tmp_path: Path) -> None:
    def edit(study: dict[str, Any]) -> None:
        fatter(study)
        study["tolerance"] = 0.5

    with pytest.raises(ConfigError, match=r"budget\.tolerance: must be at most 0.1, got 0.5"):
        write(edited(tmp_path, edit))


def test_arms_without_counts_cannot_be_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be checked again.*steps"):
        write(edited(tmp_path, lambda study: study["arms"][0].pop("steps")))


def test_the_command_line_refuses_in_one_line_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(edited(tmp_path, fatter))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "refused" in error and error.count("\n") == 1


class Fattening(TrainingStudy):
    """A study whose plan is changed after the gate has let it pass, and goes on saying that it is matched."""

    def calibrate(self, plan: Plan, previous: Plan | None, progress: Any) -> Plan:
        arm = plan.arms[0]
        counts = {**arm.parameters, "body": arm.parameters["body"] + 5000}
        return replace(plan, arms=(replace(arm, parameters=counts),))


class FatteningPerplexity(Perplexity):
    """An experiment with such a study."""

    def open(self, config: Any) -> Fattening:
        return Fattening(self, super().open(config).config)


FATTENING = FatteningPerplexity()


def test_the_engine_refuses_arms_that_were_changed_after_the_plan(tmp_path: Path) -> None:
    """The last door before study.json: it asks the counts again, so a planned "matched" does not open it."""
    path = small_study(
        tmp_path,
        experiment=f"{__name__}:FATTENING",
        arms=[{"architecture": "gemma1"}],
        budget={"params": 6.0e4, "train_flops": 8.0e8, "tolerance": 0.03},
    )
    with pytest.raises(BudgetError, match="on params"):
        arch_lab.compare(str(path), output=tmp_path / "runs", cache=tmp_path / "cache", quiet=True)
    assert not (tmp_path / "runs/small/study.json").exists()


def test_every_given_axis_has_a_deviation_of_its_own() -> None:
    parameters = {"embedding": 5, "head": 0, "body": 101, "total": 106}
    spent = {"flops_per_token": 9.0, "train_flops": 880.0, "tokens": 98}
    budget = {
        "params": 100,
        "flops_per_token": 10.0,
        "train_flops": 800.0,
        "tokens": 100,
        "seconds": 4.0,
        "match_on": "body",
    }
    expected = {"params": 0.01, "flops_per_token": -0.1, "train_flops": 0.1, "tokens": -0.02, "seconds": 0.25}
    measured = deviations(budget, parameters=parameters, spent=spent, seconds=5.0)
    assert measured == pytest.approx(expected)


def test_a_plan_can_be_checked_as_a_study_can() -> None:
    assert misses_of(arch_lab.plan("quickstart")) == []
