"""Study files: strict to the last key, one line an error, and --set goes through the same parser."""

from __future__ import annotations

from pathlib import Path

import pytest

import arch_lab
from arch_lab.study.engine import open_study
from arch_lab.study.library import find_study, studies
from arch_lab.study.study_file import read_study
from arch_lab.study.task_study import TaskStudy
from blocks.errors import ConfigError, UserError
from tests.small_study import small_study


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("buget.params=1", "unknown option 'buget'; did you mean 'budget'"),
        ("budget.parms=1", "unknown option 'parms'; did you mean 'params'"),
        ("training.batchsize=2", "did you mean 'batch_size'"),
        ("training.batch_size=two", "training.batch_size: expected a whole number, got 'two'"),
        ("training.batch_size=0", "training.batch_size: must be at least 1, got 0"),
        ("training.precision=fp16", "training.precision"),
        ("data.tokenizer.knd=bytes", "did you mean 'kind'"),
        ("data.source=file", "did you mean 'files'"),
        ("learning_rates=[]", "learning_rates"),
        ("learning_rates=[-1]", "positive"),
        ("seeds=[1,1]", "must not repeat"),
        ("arms.0.architecture=gema3", "unknown architecture 'gema3'; did you mean 'gemma3'"),
        ("arms.0.options.windw=4", "unknown option 'windw'; did you mean 'window'"),
        ("arms.1.name=gemma3", "two arms are called 'gemma3'"),
        ("experiment=perplexty", "unknown experiment 'perplexty'; did you mean 'perplexity'"),
        ("budget", "expected key.path=value"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_right_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        arch_lab.compare(
            str(small_study(tmp_path)),
            overrides=[override],
            output=tmp_path / "runs",
            cache=tmp_path / "cache",
            quiet=True,
        )
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "runs").rglob("*.json"))


def test_broken_yaml_names_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("arms: [\nbudget: {", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken.yaml: line \d+, column \d+"):
        open_study(str(path))


def test_an_unknown_study_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="study 'quikstart' not found; did you mean 'quickstart'"):
        find_study("quikstart")


def test_overrides_reach_the_plan(tmp_path: Path) -> None:
    plan = arch_lab.plan(
        str(small_study(tmp_path)), overrides=["training.sequence_length=16", "budget.params=7e4"]
    )
    assert plan.sequence_length == 16 and plan.budget["params"] == 70_000


SHIPPED = {name: read_study(path, name=name) for name, path in studies().items()}


@pytest.mark.parametrize("name", [name for name, content in SHIPPED.items() if "tasks" not in content])
def test_every_shipped_study_plans_within_its_tolerance(name: str) -> None:
    plan = arch_lab.plan(name)
    assert plan.matched
    for arm in plan.models:
        assert arm.deviation and all(abs(d) <= plan.tolerance for d in arm.deviation.values())


@pytest.mark.parametrize("name", [name for name, content in SHIPPED.items() if "tasks" in content])
def test_every_shipped_study_over_tasks_says_what_its_experiment_understands(name: str) -> None:
    opened = open_study(name)  # its plan reads data that this machine may not have
    assert isinstance(opened, TaskStudy) and opened.config.name == name


def test_optimizer_groups_stand_in_the_plan_and_one_that_reaches_nothing_is_refused(tmp_path: Path) -> None:
    rule = {"name": "filters", "rate": 0.1}
    study = small_study(tmp_path, training={"sequence_length": 32, "batch_size": 2, "groups": [rule]})
    gemma, m2 = arch_lab.plan(str(study)).arms
    assert "filters × 0.1" in [group.label for group in m2.optimizer_groups]
    assert "filters" not in [group.name for group in gemma.optimizer_groups]
    assert sum(group.parameters for group in m2.optimizer_groups) == m2.parameters["total"]
    lost = {**rule, "match": ["*.filtre.*"]}
    wrong = small_study(
        tmp_path, name="wrong", training={"sequence_length": 32, "batch_size": 2, "groups": [lost]}
    )
    with pytest.raises(ConfigError, match="matches no parameter of any arm"):
        arch_lab.plan(str(wrong))
