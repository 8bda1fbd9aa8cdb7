"""Keys and plan of a throughput study: mistakes are one line, the plan says what will be timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import arch_lab
from arch_lab.cli import main
from arch_lab.study.plan import Plan
from blocks.errors import UserError
from tests.experiments.throughput.speed_study import GROUPS, opened, write_study

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lenghts=[32]", "unknown option 'lenghts'; did you mean 'lengths'"),
        ("budget.parms=1", "unknown option 'parms'; did you mean 'params'"),
        ("budget.train_flops=1e9", "unknown option 'train_flops'"),
        ("learning_rates=[0.1]", "unknown option 'learning_rates'"),
        ("arms.0.options.windw=4", "unknown option 'windw'; did you mean 'window'"),
        ("arms.1.name=gemma3", "two arms are called 'gemma3'"),
        ("modes=[forwrd]", "did you mean 'forward'"),
        ("levels=[]", "levels: must not be empty"),
        ("lengths=[64,64]", "lengths: must not repeat 64"),
        ("repeats=2", "repeats: must be at least 3"),
        ("cell_seconds=0", "cell_seconds: must be positive"),
        ("subject=m2_gtp", "subject 'm2_gtp' is not an arm; did you mean 'm2_gpt'"),
        ("threads=0", "threads: must be at least 1"),
        ("dtype=float16", "'float16' is not one of"),
        ("arms.0.architecture=m2_bert", "bidirectional encoder"),
        ("experiment=througput", "unknown experiment 'througput'; did you mean 'throughput'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_right_key(tmp_path: Path, override: str, message: str) -> None:
    arms = [{"architecture": "gemma3"}, {"architecture": "m2_gpt"}]  # encoders have other options
    path = write_study(tmp_path, **({"arms": arms} if "m2_bert" in override else {}))
    with pytest.raises(UserError) as caught:
        arch_lab.compare(str(path), overrides=[override], output=tmp_path / "runs", quiet=True)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "runs").rglob("*.json*"))


def test_bfloat16_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="dtype bfloat16 is 16 to 60 times slower"):
        arch_lab.plan(str(write_study(tmp_path)), overrides=["dtype=bfloat16"])


def test_a_study_without_data_refuses_a_data_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(write_study(tmp_path)), "--data-root", "x"]) == 2
    assert "reads no data" in capsys.readouterr().err


def test_the_key_threads_sets_the_threads_of_a_study(tmp_path: Path) -> None:
    class Planned(Exception):
        """Ends the study before anything is timed."""

    def observer(event: str, facts: object) -> None:
        raise Planned(torch.get_num_threads())

    with pytest.raises(Planned, match=r"^2$"):
        path = write_study(tmp_path, threads=2)
        arch_lab.compare(str(path), output=tmp_path / "runs", observer=observer)


def test_a_plan_survives_json() -> None:
    plan = opened().planned
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_plan_times_short_lengths_first_and_decodes_models_only() -> None:
    groups = list(opened().groups.values())
    assert [group.tokens for group in groups] == [32] * GROUPS + [64] * GROUPS
    assert {group.level for group in groups if group.mode in ("prefill", "decode")} == {"model"}


def test_a_compiled_group_is_another_task_than_the_eager_one() -> None:
    study = opened(levels=["model"], modes=["step"], compiled=[False, True], lengths=[32])
    assert list(study.groups) == ["model_step_T32", "model_step_T32_compiled"]


def test_the_printed_plan_shows_shapes_and_cells_with_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(write_study(tmp_path)), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    for part in ("model decode", "32 cells; about", "60k body+head parameters"):
        assert part in out


def test_the_shipped_study_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--list", "--json"]) == 0
    (entry,) = [s for s in json.loads(capsys.readouterr().out) if s["name"] == "throughput"]
    assert entry["summary"].startswith("speed and memory")


def test_the_shipped_study_reaches_16384_tokens_at_matched_sizes() -> None:
    plan = arch_lab.plan("throughput")
    assert plan.matched and max(task.facts["tokens"] for task in plan.tasks) >= 16_384
    assert {arm.architecture for arm in plan.arms} == {"gemma2", "gemma3", "m2_gpt"}


def test_the_readme_keeps_a_place_for_the_measured_tables() -> None:
    text = (ROOT / "experiments/throughput/README.md").read_text(encoding="utf-8")
    assert text.index("<!-- throughput:begin -->") < text.index("<!-- throughput:end -->")
