"""Studies with sizes: every arm at several sizes for each budget, from one trunk under WSD."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import arch_lab
from arch_lab import sealed
from arch_lab.budget import BudgetError
from arch_lab.judge.records import Choice, Record
from arch_lab.study.choices import Choices
from arch_lab.study.plan import Plan
from arch_lab.study.recheck import matched_plan
from arch_lab.study.sizes import auto_sizes, spare_sizes, task_name
from arch_lab.study.study import Study
from blocks.errors import ConfigError
from tests.small_study import small_study

ARMS = [{"architecture": "gemma3", "options": {"pattern": "G"}}, {"architecture": "m2_gpt"}]
BUDGETS = [8.0e8, 1.6e9]
SIZES = [12_000, 20_000]
SHAPES = {"width_multiple": 4, "head_width": 4, "hidden_ratio": 2}
WSD = {"sequence_length": 32, "batch_size": 2, "evaluations": 1, "schedule": "wsd", "warmup_tokens": 640}
SPACE = {"learning_rate": {"center": 0.01, "span": 4}, "weight_decay": {"center": 0.1, "span": 10}}
SEARCH = {"method": "sobol", "draws": 2, "keep": 1, "space": SPACE}


def write(folder: Path, name: str = "sized", **changes: Any) -> Path:
    options: dict[str, Any] = {
        "arms": ARMS,
        "budget": {"train_flops": BUDGETS, "sizes": SIZES, "shapes": SHAPES},
        "training": WSD,
        "search": SEARCH,
        "learning_rates": None,
        "seeds": [0, 1],
        "tuning_seeds": [0],
        **changes,
    }
    return small_study(folder, name, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sized")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return arch_lab.compare(str(write(folder)), output=folder / "runs")


def records(study: Study, **wanted: Any) -> list[Record]:
    return [r for r in study.results if all(getattr(r, key) == value for key, value in wanted.items())]


def test_auto_sizes_lie_around_twenty_tokens_per_parameter_on_one_lattice() -> None:
    assert auto_sizes(3e11) == [32_000, 64_000, 128_000]
    assert set(auto_sizes(1.2e12)) & set(auto_sizes(3e11))
    assert spare_sizes([32_000, 64_000, 128_000], 1) == [16_000, 256_000]
    assert task_name(4e11, [4e11]) == "" and task_name(1.5e12, [4e11, 1.5e12]) == "1.5TFLOP"


def test_one_size_has_no_spare_and_a_spare_off_the_budget_is_dropped(tmp_path: Path) -> None:
    assert spare_sizes([60_000], 1) == []
    one = {"train_flops": 8.0e8, "sizes": [20_000], "shapes": SHAPES}
    search = {"space": {"learning_rate": {"center": 0.01, "span": 4}}}
    plan = arch_lab.plan(str(write(tmp_path, budget=one, search=search, widen=1)))
    assert [m.size for m in plan.sizes["gemma3"]] == [20_000]
    few = {"train_flops": 1.6e8, "sizes": [12_000, 20_000], "shapes": SHAPES, "tolerance": 0.03}
    training = {**WSD, "batch_size": 1, "warmup_tokens": 64}
    plan = arch_lab.plan(str(write(tmp_path, budget=few, search=search, widen=3, training=training)))
    assert plan.matched
    for models in plan.sizes.values():  # of the larger ones, some would need a fraction of a step
        assert all(abs(m.deviation["train_flops"]) <= 0.03 for m in models)


def test_every_arm_gets_the_same_trials_at_every_budget(study: Study) -> None:
    for arm in ("gemma3", "m2_gpt"):
        first, second = (records(study, arm=arm, task=task.name) for task in study.tasks)
        assert len(first) == len(SIZES) * 2 + 1 and len(second) == len(SIZES) * 1 + 1
        assert {r.draw for r in first} == {0, 1} and len({r.draw for r in second}) == 1
    assert study.trials == len(study.results)


def test_the_best_settings_of_a_budget_go_on_to_the_next(study: Study) -> None:
    for arm in ("gemma3", "m2_gpt"):
        small, large = (task.name for task in study.tasks)
        tried = [r for r in records(study, arm=arm, task=small) if r.seed == 0]
        best = min(tried, key=lambda r: r.tuned or 9.0)
        assert {r.draw for r in records(study, arm=arm, task=large)} == {best.draw}


def test_an_arm_is_reported_at_its_best_size_and_other_seeds_run_there(study: Study) -> None:
    for task in study.tasks:
        for arm in ("gemma3", "m2_gpt"):
            tried = [r for r in records(study, arm=arm, task=task.name) if r.seed == 0]
            best = min(tried, key=lambda r: r.tuned or 9.0)
            assert study.selected(arm, task.name) == best.choice
            assert [r.choice for r in records(study, arm=arm, task=task.name, seed=1)] == [best.choice]


def test_training_flops_are_equal_at_every_point_and_counted_once(study: Study) -> None:
    for task, flops in zip(study.tasks, BUDGETS, strict=True):
        for record in records(study, task=task.name):
            assert record.flops == pytest.approx(flops, rel=0.01)
    for record in records(study, task=study.tasks[0].name):
        assert record.reused_flops is None
    trunks = {(r.arm, r.choice, r.seed) for r in records(study, task=study.tasks[0].name)}
    again = [r for r in records(study, task=study.tasks[1].name) if (r.arm, r.choice, r.seed) in trunks]
    assert again
    for record in again:  # the trunk of half the length, without its decay of 20 %
        assert record.reused_flops == pytest.approx(0.8 * BUDGETS[0], rel=0.02)


@pytest.mark.parametrize("arm", ["gemma3", "m2_gpt"])
def test_a_branch_equals_a_run_planned_for_its_length(study: Study, folder: Path, arm: str) -> None:
    """Bit for bit: the run of the larger budget went on from the trunk of the smaller, this one starts at step 0."""
    budget = {"train_flops": BUDGETS[1], "sizes": SIZES, "shapes": SHAPES}
    search = {key: value for key, value in SEARCH.items() if key != "keep"}
    arms = [one for one in ARMS if one["architecture"] == arm]
    path = write(
        folder, f"alone_{arm}", budget=budget, search=search, arms=arms, seeds=[0], tuning_seeds=None
    )
    alone = arch_lab.compare(str(path), output=folder / "runs")
    branched = [r for r in records(study, arm=arm, task=study.tasks[1].name, seed=0) if r.reused_flops]
    assert branched
    for record in branched:
        (other,) = (r for r in alone.results if r.choice == record.choice)
        assert other.reused_flops is None
        assert (other.tuned, other.scores, other.steps) == (record.tuned, record.scores, record.steps)


def test_a_branch_keeps_the_whole_curve(study: Study, folder: Path) -> None:
    record = next(r for r in records(study, task=study.tasks[1].name) if r.reused_flops)
    from arch_lab.study.trial import Trial

    lines = (Trial.of(record).folder(folder / "runs" / "sized") / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps) and steps[0] < 10 and steps[-1] == record.steps


def test_a_finished_study_is_found_finished_and_a_larger_budget_is_added(study: Study, folder: Path) -> None:
    notes: list[str] = []
    path = str(folder / "sized.yaml")
    again = arch_lab.compare(
        path,
        output=folder / "runs",
        observer=lambda event, facts: notes.append(str(facts.get("text", event))),
    )
    assert again == study and any(note.startswith("already finished") for note in notes)


def test_a_record_off_its_budget_is_refused(study: Study) -> None:
    short = [replace(r, tokens=(r.tokens or 0) // 2) if i == 3 else r for i, r in enumerate(study.results)]
    with pytest.raises(BudgetError, match="off its plan"):
        matched_plan(study, short, "study")


def test_slices_hold_a_point_of_every_size_and_say_why_there_is_no_law(study: Study) -> None:
    from arch_lab.judge.slices import Slices
    from arch_lab.study.judged_sizes import SLICES

    slices = Slices.from_json(study.details[SLICES])
    assert [(s.task, s.arm) for s in slices.slices] == [
        (task.name, arm) for task in study.tasks for arm in ("gemma3", "m2_gpt")
    ]
    assert all([p.nominal for p in s.points] == SIZES for s in slices.slices)
    assert not slices.fits and "three sizes and three budgets" in slices.unfitted


@pytest.mark.parametrize("company", [1, 2, 5])
def test_a_shape_does_not_depend_on_the_company(tmp_path: Path, company: int) -> None:
    others = [
        {"architecture": name, "name": f"other_{name}"} for name in ("m2_gpt", "gemma1", "gemma2", "hybrid")
    ]
    path = write(tmp_path, arms=[ARMS[0], *others][:company])
    models = arch_lab.plan(str(path)).sizes["gemma3"]
    assert [(m.width, m.depth, m.ffn_width) for m in models] == SHAPES_OF_GEMMA3


SHAPES_OF_GEMMA3 = [(24, 1, 48), (24, 2, 64)] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": {"train_flops": BUDGETS, "params": 1000}}, "several train_flops need sizes"),
        (
            {"budget": {"train_flops": 1e9, "sizes": SIZES, "params": 1000}},
            "sizes cannot be combined with params",
        ),
        ({"budget": {"sizes": SIZES}}, "sizes need train_flops"),
        ({"budget": {"train_flops": 1e9, "sizes": SIZES}}, "keep is about the next budget"),
        ({"training": {**WSD, "warmup_tokens": None}}, "add warmup_tokens"),
        ({"training": {**WSD, "warmup_tokens": 10_000_000}}, "before the warm-up of"),
        ({"learning_rates": [0.1]}, "give one of learning_rates and search, not both"),
        ({"search": None}, "not neither"),
        (
            {"arms": [{**ARMS[1], "shape": {"width": 8, "depth": 1, "ffn_width": 16}}]},
            "has a shape of its own, and budget.sizes asks for several",
        ),
        (
            {"budget": {"train_flops": BUDGETS, "sizes": [20_000, 20_001]}},
            "must differ in their first four digits",
        ),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        arch_lab.plan(str(write(tmp_path, **changes)))


def test_a_size_that_no_shape_meets_is_refused_by_name(tmp_path: Path) -> None:
    budget = {"train_flops": BUDGETS, "sizes": [100, 20_000], "shapes": SHAPES}
    with pytest.raises(BudgetError, match=r"budget.sizes 100: .*no shape of 'gemma3'"):
        arch_lab.plan(str(write(tmp_path, budget=budget)))


def ladder(plan: Plan) -> Choices:
    return Choices(plan, plan.tasks[0].name)


def test_an_optimum_on_an_edge_adds_a_rate_and_a_size_for_every_arm(tmp_path: Path) -> None:
    budget = {"train_flops": 8.0e8, "sizes": SIZES, "shapes": SHAPES}
    search = {
        "space": {"learning_rate": {"center": 0.01, "span": 4, "size_exponent": -0.5}},
        "reference_size": 2e4,
    }
    plan = arch_lab.plan(str(write(tmp_path, budget=budget, search=search, widen=1)))
    choices = ladder(plan)
    assert choices.rates == [0.005, 0.01, 0.02] and choices.sizes == SIZES
    middle = Choice(learning_rate=0.01, size=20_000)
    edge = next(c for c in choices.of("m2_gpt") if c.size == 12_000 and choices.setting(c) == 0.02)
    added = choices.widen({"gemma3": middle, "m2_gpt": edge})
    assert choices.rates == [0.005, 0.01, 0.02, 0.04]
    assert choices.sizes[0] in (7200, 12_000)  # where both arms can be built that small
    assert added["gemma3"] == added["m2_gpt"] and len(set(added["gemma3"])) == len(added["gemma3"])
    every = set(choices.of("gemma3"))
    assert every == {*added["gemma3"], *ladder(plan).of("gemma3")}


def test_the_stored_plan_of_sizes_reads_back(study: Study, folder: Path) -> None:
    content = sealed.read(folder / "runs" / "sized" / "study.json", advice="")
    content.pop(sealed.CHECKSUM)
    assert Study.from_json(content) == study


def test_the_report_shows_slices_state_and_settings_and_the_verdict_is_about_the_largest_budget(
    study: Study, folder: Path
) -> None:
    from arch_lab.report import write_all
    from arch_lab.report.contents import sections

    page = write_all(folder / "runs" / "sized", study).read_text(encoding="utf-8")
    assert all(text in page for text in ("Size at equal compute", "Best sizes", "Scores at equal size"))
    titles = [section.title for section in sections(study)]
    assert "Frontier" not in titles and "Learning rates" not in titles
    assert study.verdict.text.startswith("At 1.6 GFLOP of training, each arm at its best size, ")
    assert "arXiv 2504.11393" in study.verdict.limits
    rows = (folder / "runs" / "sized" / "results.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("task,arm,architecture,size,learning_rate,draw,seed")
    assert len(rows) == 1 + len(study.results)


def test_a_forecast_needs_laws_and_a_budget_beyond_the_largest(study: Study, tmp_path: Path) -> None:
    from arch_lab.study.forecast import forecast_of

    with pytest.raises(ConfigError, match=r"is not beyond 1\.6 GFLOP"):
        forecast_of(study, [1.0e9])
    with pytest.raises(ConfigError, match="too few points"):
        forecast_of(study, [1.0e10])


def test_a_forecast_that_a_study_cannot_test_is_refused_before_it_trains(tmp_path: Path) -> None:
    from arch_lab.judge.forecast import Expected, Forecast
    from arch_lab.judge.frontier import Band
    from arch_lab.sealed import DamagedError
    from arch_lab.study.forecast import write_forecast

    band = Band(estimate=2.0, low=1.9, high=2.1)
    forecast = Forecast(
        source="earlier",
        identity="0",
        measure="bits per byte",
        created="2026-01-01",
        trained_to=1e8,
        expected=(Expected(arm="gemma3", flops=BUDGETS[1], tied=True, loss=band, size=band),),
        differences=(),
    )
    path = tmp_path / "forecast.json"
    assert len(write_forecast(path, forecast)) == 64
    with pytest.raises(ConfigError, match="is there already"):
        write_forecast(path, forecast)
    assert arch_lab.plan(str(write(tmp_path, forecast=str(path)))).matched
    other = {"train_flops": [4e8, 8e8], "sizes": SIZES, "shapes": SHAPES}
    with pytest.raises(ConfigError, match="trains none of them there"):
        arch_lab.plan(str(write(tmp_path, forecast=str(path), budget=other)))
    path.write_text(path.read_text().replace('"estimate": 2.0', '"estimate": 2.5'))
    with pytest.raises(DamagedError, match="was edited"):
        arch_lab.plan(str(write(tmp_path, forecast=str(path))))


def test_the_figure_of_a_study_with_sizes_is_one_file(study: Study, folder: Path, tmp_path: Path) -> None:
    from arch_lab.cli import main

    path, again = tmp_path / "slices.svg", tmp_path / "again.svg"
    assert main(["report", str(folder / "runs" / "sized"), "--frontier", str(path)]) == 0
    assert main(["report", str(folder / "runs" / "sized"), "--frontier", str(again)]) == 0
    assert path.read_bytes() == again.read_bytes() and "size (n_eff)" in path.read_text(encoding="utf-8")
