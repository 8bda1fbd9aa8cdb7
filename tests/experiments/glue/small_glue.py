"""GLUE small enough for tests: files in the benchmark's layout whose labels follow from the words, and a pretrained study of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch_lab.study.engine import compare
from arch_lab.study.task_study import Fitted
from arch_lab.study.trial import Trial
from experiments.glue.config import GlueStudyConfig
from experiments.glue.experiment import EXPERIMENT, GlueStudy
from tests.experiments import trials
from tests.small_study import small_study

ARMS = [
    {"architecture": "gemma_encoder", "options": {"radius": 8, "generation_options": {"pattern": "LG"}}},
    {"architecture": "m2_bert", "options": {"filter_order": 16}},
]
THINGS = ["film", "cast", "plot", "score", "scene", "idea", "house", "road", "song", "tale"]
PLACES = ["here", "there", "at home", "in town", "by the sea", "on stage", "at night"]


def pretrained(folder: Path) -> Path:
    """A finished masked study of two arms and one seed."""
    path = small_study(
        folder,
        experiment="masked",
        arms=ARMS,
        budget={"params": 3.0e4, "train_flops": 1.4e9, "tolerance": 0.02},
        training={"sequence_length": 48, "batch_size": 2, "evaluations": 1},
        objective={"mask_share": 0.3, "evaluation_windows": 4},
    )
    compare(str(path), output=folder / "runs", cache=folder / "cache")
    return folder / "runs/small"


def sentence(i: int) -> str:
    return f"the {THINGS[i % 10]} {i} was {'good' if i % 2 else 'bad'} {PLACES[i % 7]}"


def glue_files(root: Path) -> Path:
    """``root``/glue with SST-2, STS-B and WNLI (its test file as long as the real one), MNLI-subset, and no other."""
    sst = ["sentence\tlabel", *(f"{sentence(i)}\t{i % 2}" for i in range(80))]
    write(root, "SST-2/train.tsv", sst)
    write(root, "SST-2/dev.tsv", ["sentence\tlabel", *(f"{sentence(i)}\t{i % 2}" for i in range(100, 130))])
    sts = [f"{sentence(i)}\t{sentence(i if i % 3 else i + 5)}\t{5.0 if i % 3 else 0.4}" for i in range(60)]
    write(root, "STS-B/train.tsv", ["sentence1\tsentence2\tscore", *sts])
    write(root, "STS-B/dev.tsv", ["sentence1\tsentence2\tscore", *sts[:20]])
    for split, rows in (("train", 50), ("dev", 12)):
        write(
            root,
            f"WNLI/{split}.tsv",
            [
                "index\tsentence1\tsentence2\tlabel",
                *(f"{i}\t{sentence(i)}\t{sentence(i + 1)}\t{i % 2}" for i in range(rows)),
            ],
        )
    write(
        root,
        "WNLI/test.tsv",
        ["index\tsentence1\tsentence2", *(f"{i}\t{sentence(i)}\t{sentence(i + 1)}" for i in range(146))],
    )
    three = ("entailment", "neutral", "contradiction")
    for split, rows in (("train", 60), ("validation", 15)):
        write(
            root,
            f"MNLI-subset/{split}.tsv",
            [
                "sentence1\tsentence2\tgold_label",
                *(f"{sentence(i)}\t{sentence(i + 2)}\t{three[i % 3]}" for i in range(rows)),
            ],
        )
    return root


def write(root: Path, name: str, lines: list[str]) -> Path:
    path = root / "glue" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


Made = tuple[Path, Path]  # pretrained study, data root
FINETUNING = {"epochs": 1, "batch_size": 16, "max_tokens": 40, "pairs": "separate"}
INCOMPLETE = ["sst2", "stsb", "wnli", "mnli_subset"]


def options(study: Path, root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "experiment": "glue",
        "pretrained": str(study),
        "root": str(root),
        "tasks": ["sst2"],
        "data": {"incomplete": INCOMPLETE},
        "finetuning": FINETUNING,
        "learning_rates": [0.002],
        "seeds": [0],
        **changes,
    }


def config(study: Path, root: Path, **changes: Any) -> GlueStudyConfig:
    return GlueStudyConfig.from_options(options(study, root, **changes), where="study 'tiny'")


def opened(made: Made, **changes: Any) -> GlueStudy:
    study: GlueStudy = trials.opened(EXPERIMENT, config(*made, **changes))
    return study


def fit(
    study: GlueStudy,
    folder: Path,
    arm: str = "m2_bert",
    task: str = "sst2",
    rate: float | None = 0.002,
    seed: int = 0,
) -> Fitted:
    return trials.fit(study, Trial(task=task, arm=arm, learning_rate=rate, seed=seed), folder)


def accuracy(fitted: Fitted) -> float:
    assert fitted.scores is not None
    return fitted.scores["accuracy"]
