"""The engine of studies over tasks, on an experiment whose scores are a formula: choice, pairing, resume, refusals, files."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from arch_lab import sealed
from arch_lab.files import OutputError
from arch_lab.judge.measures import Measure
from arch_lab.study.engine import silent
from arch_lab.study.study_file import read_study
from arch_lab.tasks import Cell, Fitted, Method, Task, TaskEngine, TaskStudyConfig
from arch_lab.tasks.engine import Study, refuse_changed
from arch_lab.tasks.results import summarise
from arch_lab.tasks.terminal import Terminal, render_results
from blocks.errors import ConfigError, UserError
from tests.cli.stored import tree

ACCURACY = Measure(key="accuracy", name="accuracy", higher_is_better=True)
ERROR = Measure(key="error", name="error")
F1 = Measure(key="f1", name="F1", higher_is_better=True)
# what each method is worth at its best rate, and that rate
WORTH = {"strong": (0.9, 0.004), "weak": (0.6, 0.002)}


@dataclass(frozen=True, kw_only=True)
class FormulaConfig(TaskStudyConfig):
    gain: float = 1.0


@dataclass
class FormulaPrepared:
    """Scores fall with the distance of the rate from the best one (in octaves), and move with the seed."""

    config: FormulaConfig
    fitted: list[str] = field(default_factory=list)
    chosen: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    fails_at: str = ""
    tasks: tuple[Task, ...] = (
        Task(name="easy", measures=(ACCURACY, F1), counted=("accuracy", "f1"), facts={"dev": 1000}),
        Task(name="hard", measures=(ERROR,)),
        Task(name="third", measures=(ACCURACY,), counted=("accuracy",)),
    )
    absent: dict[str, str] = field(default_factory=lambda: {"qqp": "no train.tsv in QQP"})
    methods: tuple[Method, ...] = (
        Method(name="weak", facts={"parameters": 1_000_000}),
        Method(name="strong", facts={"parameters": 1_000_000}),
        Method(name="closed", tuned=False, tasks=("easy", "third")),
        Method(name="constant", tuned=False, seeded=False, baseline=True),
    )

    def fingerprint(self, task: str) -> str:
        return f"data of {task}"

    def fit(self, cell: Cell, folder: Path, tell: Any) -> Fitted:
        from math import log2

        if cell.label == self.fails_at:
            raise KeyboardInterrupt
        self.fitted.append(cell.label)
        tell("half way")
        if cell.method == "constant":
            value = 0.5
        elif cell.learning_rate is None:
            value = 0.55 + 0.01 * cell.seed
        else:
            top, best = WORTH[cell.method]
            value = top - 0.1 * abs(log2(cell.learning_rate / best)) + 0.01 * cell.seed
        value *= self.config.gain
        if cell.method == "weak" and cell.learning_rate == 0.016:
            return Fitted(scores=None)
        score = 1 - value if cell.task == "hard" else value
        scores = (
            {"error": score}
            if cell.task == "hard"
            else {"accuracy": score, "f1": score - 0.1}
            if cell.task == "easy"
            else {"accuracy": score}
        )
        # the reported split disagrees with the tuning one about which rate is best: nobody may notice
        reported = {k: v + (0.5 if cell.learning_rate == 0.001 else 0.0) for k, v in scores.items()}
        return Fitted(
            scores=reported,
            tuned=score,
            facts={"seconds": 1.5},
            curve=((1, "train/loss", 2.0), (2, "train/loss", 1.0)),
        )

    def finish(self, chosen: dict[tuple[str, str], list[Path]], folder: Path, tell: Any) -> list[str]:
        self.chosen = chosen
        return ["wrote a file"]


class Formula:
    config = FormulaConfig

    def open(self, config: Any, cache: Path, tell: Any) -> FormulaPrepared:
        return FormulaPrepared(config)


STUDY: dict[str, Any] = {
    "name": "formula",
    "experiment": "masked",  # a folder of sources to fingerprint; the engine is asked directly
    "tasks": ["easy", "hard", "third"],
    "learning_rates": [0.001, 0.002, 0.004, 0.008],
    "seeds": [0, 1, 2],
    "tuning_seeds": [0],
}


def config(**changes: Any) -> FormulaConfig:
    return FormulaConfig.from_options({**STUDY, **changes}, where="study 'formula'")


def run(folder: Path, prepared: FormulaPrepared) -> dict[str, Any]:
    return Study(prepared.config, prepared, folder, silent).run("arch-lab compare formula")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FormulaPrepared, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("formula") / "formula"
    prepared = FormulaPrepared(config())
    return folder, prepared, run(folder, prepared)


def test_every_method_gets_the_same_grid_and_the_other_seeds_only_the_chosen_rate(finished: Any) -> None:
    _, prepared, study = finished
    assert len(prepared.fitted) == study["cells"] == len(study["rows"])
    for name in ("weak", "strong"):
        mine = [r for r in study["rows"] if (r["task"], r["method"]) == ("easy", name)]
        assert sorted(r["learning_rate"] for r in mine if r["seed"] == 0) == STUDY["learning_rates"]
        assert [r["learning_rate"] for r in mine if r["seed"] != 0] == [WORTH[name][1]] * 2
    assert [r["seed"] for r in study["rows"] if (r["task"], r["method"]) == ("easy", "constant")] == [0]
    assert not [r for r in study["rows"] if (r["task"], r["method"]) == ("hard", "closed")]


def test_the_rate_is_chosen_on_the_tuning_rows_whatever_the_reported_ones_say(finished: Any) -> None:
    _, _, study = finished
    for task in STUDY["tasks"]:
        assert study["chosen"][task]["strong"] == 0.004 and study["chosen"][task]["weak"] == 0.002
        assert study["chosen"][task].get("constant") is None


def test_means_and_pairs_are_those_of_the_formula_in_both_directions(finished: Any) -> None:
    _, _, study = finished
    at = {(s["task"], s["method"]): s for s in study["summary"]}
    strong = at["easy", "strong"]["scores"]["accuracy"]
    assert (
        strong["mean"] == pytest.approx(0.91) and strong["median"] == pytest.approx(0.91) and strong["n"] == 3
    )
    for task in ("easy", "hard"):
        pair = next(p for p in study["pairs"] if (p["task"], p["a"], p["b"]) == (task, "strong", "weak"))
        assert abs(pair["difference"]) == pytest.approx(0.3) and pair["better"] == "strong", pair["text"]
    assert at["easy", "strong"]["beats"] == ["constant"] and at["hard", "strong"]["beats"] == ["constant"]
    assert "constant" not in {name for p in study["pairs"] for name in (p["a"], p["b"])}


def test_the_average_is_over_counted_tasks_and_says_which_are_absent(finished: Any) -> None:
    _, _, study = finished
    averages = {a["method"]: a for a in study["averages"]}
    # easy counts the mean of its two measures, hard counts nothing
    assert averages["strong"]["mean"] == pytest.approx((0.91 - 0.05 + 0.91) / 2)
    assert averages["constant"]["mean"] == pytest.approx((0.45 + 0.5) / 2)
    assert "Average over 2 tasks (easy, third, without qqp)" in study["verdict"]["text"]
    assert study["warnings"][0] == "qqp is left out: no train.tsv in QQP"


def test_a_finished_study_is_kept_and_a_killed_one_goes_on(tmp_path: Path, finished: Any) -> None:
    _, _, whole = finished
    killed = FormulaPrepared(config(), fails_at="hard: strong lr 0.002 seed 0")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed)
    again = FormulaPrepared(config())
    study = run(tmp_path, again)
    assert again.fitted[0] == killed.fails_at and not set(again.fitted) & set(killed.fitted)
    drop = ("environment", "checksum")  # the time of day is in one and sealed by the other
    assert {k: v for k, v in study.items() if k not in drop} == {
        k: v for k, v in whole.items() if k not in drop
    }
    third = FormulaPrepared(config())
    run(tmp_path, third)
    assert third.fitted == []


def test_more_tasks_seeds_or_rates_keep_what_was_fitted_and_other_settings_are_refused(
    tmp_path: Path,
) -> None:
    run(tmp_path, FormulaPrepared(config(seeds=[0], learning_rates=[0.002, 0.004])))
    more = FormulaPrepared(config())
    run(tmp_path, more)
    assert "easy: strong lr 0.002 seed 0" not in more.fitted and "easy: strong lr 0.004 seed 2" in more.fitted
    with pytest.raises(OutputError, match=r"settings\.gain changed.*never mixed"):
        run(tmp_path, FormulaPrepared(config(gain=0.5)))


def test_a_damaged_result_is_refused_and_a_deleted_one_fitted_again(tmp_path: Path) -> None:
    run(tmp_path, FormulaPrepared(config()))
    cell = tmp_path / "runs/easy/strong/lr-0.004_seed-1"
    (cell / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"seed-1/result.json is damaged .*; delete .*seed-1 to fit it again"):
        run(tmp_path, FormulaPrepared(config()))
    shutil.rmtree(cell)
    again = FormulaPrepared(config())
    run(tmp_path, again)
    assert again.fitted == ["easy: strong lr 0.004 seed 1"]


def test_a_repeated_study_over_tasks_writes_no_file_again(tmp_path: Path) -> None:
    first = run(tmp_path, FormulaPrepared(config()))
    before = tree(tmp_path)
    again = FormulaPrepared(config())
    assert run(tmp_path, again) == first and not again.fitted
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "lost"), [({"seeds": [0, 1]}, "2"), ({"learning_rates": [0.002, 0.004]}, "0.001, 0.008")]
)
def test_a_finished_study_over_tasks_is_not_made_smaller(
    tmp_path: Path, change: dict[str, Any], lost: str
) -> None:
    run(tmp_path, FormulaPrepared(config()))
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=rf"this call leaves out {lost} "):
        refuse_changed(config(**change), tmp_path)
    assert tree(tmp_path) == before


def test_the_grid_grows_for_all_methods_of_the_task_while_an_optimum_sits_on_its_edge(tmp_path: Path) -> None:
    prepared = FormulaPrepared(config(learning_rates=[0.001, 0.002, 0.004], widen=2))
    study = run(tmp_path, prepared)
    tried = {
        m: sorted({r["learning_rate"] for r in study["rows"] if (r["task"], r["method"]) == ("easy", m)})
        for m in ("weak", "strong")
    }
    assert tried["weak"] == tried["strong"] == [0.001, 0.002, 0.004, 0.008]
    assert not [w for w in study["warnings"] if "is the largest of the grid" in w]


def test_an_optimum_on_the_edge_a_single_rate_and_a_diverged_fit_are_said(tmp_path: Path) -> None:
    study = run(tmp_path / "a", FormulaPrepared(config(learning_rates=[0.001, 0.002, 0.004])))
    assert any(
        w.startswith("easy: strong: its best learning rate 0.004 is the largest of the grid")
        for w in study["warnings"]
    )
    study = run(tmp_path / "b", FormulaPrepared(config(learning_rates=[0.016], tuning_seeds=None)))
    assert any("only one learning rate (0.016) was tried" in w for w in study["warnings"])
    assert any(w.startswith("diverged and left out, 9 of ") for w in study["warnings"])
    weak = next(s for s in study["summary"] if (s["task"], s["method"]) == ("easy", "weak"))
    assert weak["diverged_seeds"] == [0, 1, 2] and weak["scores"]["accuracy"]["mean"] is None
    assert "weak" not in {a["method"] for a in study["averages"] if a["mean"] is not None}


def test_what_scores_the_same_everywhere_is_no_choice_and_no_verdict(finished: Any) -> None:
    _, _, study = finished
    rows = [
        {**r, "tuned": 0.5, "scores": dict.fromkeys(r["scores"], 0.5)}
        for r in study["rows"]
        if r["task"] == "hard"
    ]
    planned = {**study, "tasks": [t for t in study["tasks"] if t["name"] == "hard"]}
    judged = summarise(planned, rows, {"hard": {"weak": 0.001, "strong": 0.001, "constant": None}})
    assert (
        "hard: strong: the score is the same at every learning rate tried, so the choice of 0.001 is arbitrary"
        in judged["warnings"]
    )
    assert "hard (error): weak and strong cannot be judged" in judged["verdict"]["text"]
    three = {**planned, "methods": [*planned["methods"], {**planned["methods"][0], "name": "third"}]}
    rows += [{**r, "method": "third"} for r in rows if r["method"] == "weak"]
    judged = summarise(
        three, rows, {"hard": {"weak": 0.001, "strong": 0.001, "constant": None, "third": 0.001}}
    )
    assert "hard (error): no two of weak, strong and third can be judged" in judged["verdict"]["text"]


def test_the_files_hold_every_fit_and_the_report_stands_alone(finished: Any) -> None:
    folder, prepared, study = finished
    rows = list(csv.DictReader((folder / "results.csv").open(encoding="utf-8")))
    assert (
        len(rows) == len(study["rows"])
        and sum(int(r["chosen"]) for r in rows if r["method"] == "strong") == 9
    )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (
        "strong is better than" in page
        and "qqp is left out" in page
        and "http://" not in page.replace("http://www.w3.org", "")
    )
    assert json.loads((folder / "study.json").read_text(encoding="utf-8"))["verdict"] == study["verdict"]
    assert yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))["tasks"] == STUDY["tasks"]
    assert [p.name for p in prepared.chosen["easy", "strong"]] == [
        "lr-0.004_seed-0",
        "lr-0.004_seed-1",
        "lr-0.004_seed-2",
    ]
    events = list((folder / "runs").rglob("events.out.tfevents.*"))
    assert len(events) == len(study["rows"])


def test_tensorboard_holds_the_curve_and_the_scores_of_a_fit(finished: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _, _ = finished
    events = EventAccumulator(str(folder / "runs/easy/strong/lr-0.004_seed-1")).Reload()
    assert {"train/loss", "final/accuracy", "final/f1"} <= set(events.Tags()["scalars"])
    assert [s.value for s in events.Scalars("train/loss")] == [2.0, 1.0]
    assert events.Scalars("final/accuracy")[0].value == pytest.approx(0.91)


def test_a_logger_holds_the_curve_and_the_scores_of_a_fit(tmp_path: Path) -> None:
    prepared = FormulaPrepared(config(loggers=[{"class_path": "CSVLogger"}], tasks=["easy"]))
    run(tmp_path / "formula", prepared)
    with (tmp_path / "formula/loggers/easy/strong/lr-0.004_seed-1/metrics.csv").open(
        encoding="utf-8"
    ) as file:
        table = list(csv.DictReader(file))
    assert [row["train/loss"] for row in table] == ["2.0", "1.0", ""]
    assert float(table[-1]["final/accuracy"]) == pytest.approx(0.91)


def test_other_loggers_repeat_no_fit(tmp_path: Path) -> None:
    run(tmp_path / "formula", FormulaPrepared(config()))
    prepared = FormulaPrepared(config(loggers=["CSVLogger"]))
    refuse_changed(prepared.config, tmp_path / "formula")
    before = tree(tmp_path)
    run(tmp_path / "formula", prepared)
    assert not prepared.fitted and tree(tmp_path) == before


def test_a_logger_that_does_not_exist_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "formula.yaml").write_text(
        yaml.safe_dump({**STUDY, "loggers": ["CSVLoger"]}), encoding="utf-8"
    )
    with pytest.raises(
        ConfigError, match=r"study 'formula'\.loggers\[0\]\.class_path: .* did you mean 'CSVLogger'"
    ):
        TaskEngine(Formula()).plan(str(tmp_path / "formula.yaml"), overrides=[], data_root=None, threads=None)


def test_markdown_and_report_are_written_again_from_the_files(finished: Any) -> None:
    folder = finished[0]
    engine = TaskEngine(Formula())
    text = engine.markdown(folder)
    assert "| strong | 0.910 ± 0.025" in text and "`arch-lab compare formula`" in text
    (folder / "report.html").unlink()
    assert engine.report(folder).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_without_a_study_is_one_line(tmp_path: Path) -> None:
    sealed.write(tmp_path / "study.json", {"study": "x"})
    with pytest.raises(UserError, match="lacks experiment, tasks, absent"):
        TaskEngine(Formula()).report(tmp_path)


def test_the_terminal_shows_plan_fits_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    prepared = FormulaPrepared(config(seeds=[0, 1]))
    Study(prepared.config, prepared, tmp_path, terminal).run("arch-lab compare formula")
    terminal.close()
    shown = capsys.readouterr()
    assert "[1/" in shown.err and "easy: closed seed 0: 0.5500 accuracy" in shown.err
    assert "scores" in shown.out and "verdict" in shown.out and "left out: no train.tsv in QQP" in shown.out


def test_results_render_for_one_method_alone(finished: Any) -> None:
    _, _, study = finished
    alone = [m for m in study["methods"] if m["name"] == "strong"]
    planned = {**study, "methods": alone}
    rows = [r for r in study["rows"] if r["method"] == "strong"]
    chosen = {task: {"strong": rates["strong"]} for task, rates in study["chosen"].items()}
    judged = summarise(planned, rows, chosen)
    assert judged["verdict"]["text"].startswith("There is only one method")
    render_results(
        {**planned, **judged, "rows": rows, "chosen": chosen}, Console(width=160, file=io.StringIO())
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "tasks: must not be empty"),
        ({"seeds": [0, 0]}, "seeds: must not repeat 0"),
        ({"learning_rates": [0.0]}, r"learning_rates\[0\]: must be positive, got 0"),
        ({"tuning_seeds": [7]}, "tuning_seeds must be some of seeds"),
        ({"widen": -1}, "widen: must be at least 0"),
        ({"gian": 1.0}, "did you mean 'gain'"),
    ],
)
def test_a_bad_configuration_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(**changes)
    assert "\n" not in str(caught.value)


def test_data_root_and_overrides_go_through_the_parser_of_the_experiment(tmp_path: Path) -> None:
    path = tmp_path / "formula.yaml"
    path.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    engine = TaskEngine(Formula())
    planned = engine.plan(
        str(path), overrides=["seeds=[0]", "tuning_seeds=[0]"], data_root=str(tmp_path), threads=1
    )
    assert planned["seeds"] == [0] and planned["cells"] == 3 * (2 * 4 + 1) + 2
    with pytest.raises(ConfigError, match="did you mean 'seeds'"):
        engine.plan(str(path), overrides=["sedes=[0]"], data_root=None, threads=1)
    assert read_study(path, name="x")["name"] == "formula"
