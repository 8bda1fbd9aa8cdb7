"""Events of trials and studies: `tensorboard --logdir runs` overlays the arms and fills the HParams table
with real metrics.

Two rules make the HParams page right. One experiment record, written at the study's root, declares the
columns; it is the
same for every study of an experiment, because TensorBoard reads only the first record it meets under a log
folder that holds
several (so of two experiments under one folder the table shows one's metrics: give the folder of one study).
Each
trial adds its own hyperparameters, and its metrics are plain scalars written when it ends: no placeholder
value is logged
at the start, so no table shows -1 and no curve a false point at (0, 0).
Source: records of `tensorboard.plugins.hparams.summary_v2`, which needs no TensorFlow (the documented `api`
module does).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab.judge.measures import Measure
from arch_lab.stored import Json
from arch_lab.study.plan import Plan
from blocks.errors import UserError

if TYPE_CHECKING:  # Lightning takes seconds to import, and no plan or refusal should wait for it
    from torch.utils.tensorboard import SummaryWriter

    from arch_lab.study.trial_loggers import TrialLoggers

METRICS = "metrics.jsonl"  # curve of a trial: one record per line
# hyperparameter -> (is text, column); the first two and the last ones only where a study has them
HPARAMS = {
    "task": (True, "task"),
    "architecture": (True, "architecture"),
    "arm": (True, "arm"),
    "learning_rate": (False, "learning rate"),
    "seed": (False, "seed"),
    "width": (False, "width"),
    "depth": (False, "depth"),
    "parameters": (False, "parameters"),
    "train_flops": (False, "training FLOPs"),
}
MODEL_COLUMNS = ("architecture", "width", "depth", "parameters", "train_flops")
SPEED = {"tokens_per_second": "tokens per second", "peak_memory_mib": "peak memory, MiB"}
# keys of a record of metrics.jsonl -> tags, beside the tuning score's: tune_<key> -> tune/<key>
TAGS = {
    "train_loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
    "tokens_per_second": "train/tokens_per_second",
}


@dataclass(frozen=True)
class Point:
    """A record of ``metrics.jsonl``.

    ``tuning``: key of its score on the tune split, None where it holds none.
    """

    step: int
    tokens: float | None
    seconds: float | None
    tuning: str | None

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Point:
        """Raises: KeyError, TypeError for what is no such record."""
        return cls(record["step"], record.get("tokens"), record.get("seconds"), tuning_key(record))

    @property
    def order(self) -> tuple[int, bool]:
        """Training before tuning at each step."""
        return self.step, self.tuning is not None


def read_metrics(path: Path) -> list[Json]:
    """Records of one trial in step order.

    A line that a kill cut short is skipped; a step written twice counts once, the later.
    """
    records: dict[tuple[int, bool], Json] = {}
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            records[Point.read(record).order] = record
        except (ValueError, KeyError, TypeError):
            continue
    return [records[key] for key in sorted(records)]


def tuning_key(record: Mapping[str, Any]) -> str | None:
    """Key of the score on the tune split in a record, ``tune_<key>``; None where it holds none."""
    return next((key for key in record if key.startswith("tune_")), None)


class TrialLog:
    """TensorBoard events of one trial, and the same records for the user's loggers.

    They are a pure function of its ``metrics.jsonl``: a resumed trial drops the events of the killed attempt
    and replays the
    records that its checkpoint kept, so no curve doubles back. Nothing is written before the first record (or
    ``close``):
    only then has the log been cut back to the checkpoint. Every scalar is logged against the step; the loss
    and
    the tuning score also as ``…_by_tokens``, where the step axis counts tokens and arms of different cost
    overlay fairly.
    """

    def __init__(self, folder: Path, hparams: Mapping[str, Any], loggers: TrialLoggers) -> None:
        self.loggers = loggers
        self._folder, self._hparams = folder, hparams
        self._writer: SummaryWriter | None = None
        self._step = 0
        self._last: tuple[float, float] | None = None  # tokens and seconds of the latest training record

    @property
    def failure(self) -> UserError | None:
        """What one of the loggers failed with."""
        return self.loggers.failure

    def _opened(self, current: tuple[int, bool] | None = None) -> SummaryWriter:
        """The writer, with hyperparameters and the log's records but ``current`` (step, is a tuning record)
        written.
        """
        if self._writer is not None:
            return self._writer
        from tensorboard.plugins.hparams import summary_v2 as hp

        self._writer = open_events(self._folder, "run")
        columns = {
            key: str(value) if HPARAMS[key][0] else value
            for key, value in self._hparams.items()
            if key in HPARAMS and value is not None
        }
        # study/runs/[task/]arm/trial: stable over resumes, unique over studies
        trial = "/".join(self._folder.resolve().parts[-5 if "task" in columns else -4 :])
        write_summary(self._writer, hp.hparams_pb(columns, trial_id=trial))
        for record in read_metrics(self._folder / METRICS):
            if Point.read(record).order != current:
                self.record(record)
        return self._writer

    def record(self, record: Mapping[str, Any]) -> None:
        """Log one record as it stands in ``metrics.jsonl``. Values that are not finite are left out: a gap,
        not a spike.

        A tag of one's own contains a slash ("experts/load"); other unknown keys (tokens, flops, seconds) are
        axes.
        """
        point = Point.read(record)
        step, tuning, tokens = point.step, point.tuning, point.tokens
        writer = self._opened(point.order)
        self._step = max(self._step, step)
        logged: dict[str, float] = {}
        for key, value in {**record, **self._speed(point, record)}.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            tag = f"tune/{key.removeprefix('tune_')}" if key == tuning else TAGS.get(key, key)
            if "/" in tag:
                writer.add_scalar(tag, value, step)
                logged[tag] = value
            if key in ("train_loss", tuning) and tokens is not None:
                writer.add_scalar(f"{tag}_by_tokens", value, int(tokens))
        if logged:
            self.loggers.write(logged, step)

    def _speed(self, point: Point, record: Mapping[str, Any]) -> dict[str, float]:
        """Tokens per second since the record before, where it is of the training split and does not hold
        them.
        """
        if "train_loss" not in record or point.tokens is None or point.seconds is None:
            return {}
        previous, self._last = self._last, (point.tokens, point.seconds)
        if "tokens_per_second" in record or not previous or point.seconds <= previous[1]:
            return {}
        return {"tokens_per_second": (point.tokens - previous[0]) / (point.seconds - previous[1])}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log tag -> value of one step; values that are not finite are left out."""
        writer = self._opened()
        self._step = max(self._step, step)
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        for tag, value in finite.items():
            writer.add_scalar(tag, value, step)
        if finite:
            self.loggers.write(finite, step)

    def close(self, scores: Mapping[str, float | None] | None = None) -> None:
        """End the log. ``scores``: final values by key; None where the trial diverged or was cut short."""
        self._opened()
        finals = {f"final/{key}": value for key, value in (scores or {}).items() if value is not None}
        self.scalars(self._step, finals)
        assert self._writer is not None
        self._writer.close()
        self.loggers.close("failed" if scores is None else "success")


def write_experiment(folder: Path, plan: Plan) -> None:
    """The experiment record of a study: columns of the HParams table, charts of its measures, and what it
    spans.

    Calling it again replaces it. The columns carry types but no domains: with the study's own names as
    domain, another
    study's trials would fall outside and vanish from a table over several studies.
    """
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams import summary_v2 as hp

    class Typed(hp.Domain):  # type: ignore[misc]
        """A column type without limits."""

        def __init__(self, is_text: bool) -> None:
            self.is_text = is_text

        @property
        def dtype(self) -> type:
            return str if self.is_text else float

        def sample_uniform(self, rng: Any = None) -> Any:
            raise NotImplementedError("a study lists its values; nothing here is sampled")

        def update_hparam_info(self, hparam_info: Any) -> None:
            hparam_info.type = api_pb2.DATA_TYPE_STRING if self.is_text else api_pb2.DATA_TYPE_FLOAT64

    hparams = [
        hp.HParam(name, Typed(is_text), display_name=column)
        for name, (is_text, column) in HPARAMS.items()
        if (name != "task" or plan.has_tasks) and (name not in MODEL_COLUMNS or plan.has_models)
    ]
    metrics = [hp.Metric(f"final/{key}", display_name=name) for key, name in metric_columns(plan).items()]
    writer = open_events(folder, "experiment")
    write_summary(writer, hp.hparams_config_pb(hparams=hparams, metrics=metrics))
    writer.add_text("study", _spanned(plan))
    primaries = list({task.primary.key: task.primary for task in plan.tasks}.values())
    writer.add_custom_scalars(chart_layout(primaries, list(_measures(plan).values())))
    writer.close()


def metric_columns(plan: Plan) -> dict[str, str]:
    """Final score of each measure, then speed and memory of trained models: key -> name."""
    speed = SPEED if plan.has_models else {}
    return {key: measure.name for key, measure in _measures(plan).items()} | speed


def chart_layout(
    primaries: Sequence[Measure], measures: Sequence[Measure]
) -> dict[str, dict[str, list[Any]]]:
    """Custom charts of TensorBoard.

    First measures have curves on the tune split; then the training loss, then the final value of every measure.
    """
    tuned = {measure.name: ["Multiline", [f"^tune/{measure.key}$"]] for measure in primaries}
    by_tokens = {measure.name: ["Multiline", [f"^tune/{measure.key}_by_tokens$"]] for measure in primaries}
    finals = {measure.name: ["Multiline", [f"^final/{measure.key}$"]] for measure in measures}
    training = {"training loss": ["Multiline", ["^train/loss$"]]}
    return {
        "tune split, by step": tuned,
        "tune split, by tokens": by_tokens,
        "training": training,
        "held-out split, single values": finals,
    }


def _measures(plan: Plan) -> dict[str, Measure]:
    return {measure.key: measure for task in plan.tasks for measure in task.measures}


def _spanned(plan: Plan) -> str:
    spans: dict[str, Sequence[Any]] = {
        "tasks": [task.name for task in plan.tasks if task.name],
        "arms": [arm.name for arm in plan.arms],
        "learning rates": [f"{rate:g}" for rate in plan.learning_rates],
        "seeds": plan.seeds,
    }
    lines = [f"| {name} | {', '.join(map(str, values))} |" for name, values in spans.items() if values]
    return "\n".join(["| held in this study | |", "|---|---|", *lines])


def write_summary(writer: SummaryWriter, record: Any) -> None:
    """Add one raw summary to an event file."""
    writer.file_writer.add_summary(record)  # type: ignore[attr-defined]  # set in the writer's constructor


def open_events(folder: Path, kind: str) -> SummaryWriter:
    """A writer whose file name ends in ``kind``; earlier files of that kind in the folder are ours and are
    dropped.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "writing TensorBoard events needs tensorboard; install it with: pip install tensorboard"
        ) from None
    suffix = f".arch-lab-{kind}"
    for stale in folder.glob(f"events.out.tfevents.*{suffix}"):
        stale.unlink()
    return SummaryWriter(str(folder), filename_suffix=suffix)
