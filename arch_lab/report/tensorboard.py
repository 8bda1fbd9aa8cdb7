"""TensorBoard: `tensorboard --logdir runs` overlays the arms and fills the HParams table with real metrics.

Two rules make the HParams page right. One experiment record, written at the study's root, declares the columns; it is the
same for every study of an experiment, because TensorBoard reads only the first record it meets under a log folder that holds
several (so of two experiments under one folder the table shows one's metrics: give the folder of one study). Each
run adds its own hyperparameters, and its metrics are plain scalars written when it ends: no placeholder value is logged
at the start, so no table shows -1 and no curve a false point at (0, 0).
Source: records of `tensorboard.plugins.hparams.summary_v2`, which needs no TensorFlow (the documented `api` module does).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab.judge.measures import PERPLEXITY, Measure
from arch_lab.report.curves import read_metrics, tuning_key
from blocks.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# name -> (is text, display name)
HPARAMS = {
    "architecture": (True, "architecture"),
    "arm": (True, "arm"),
    "learning_rate": (False, "learning rate"),
    "seed": (False, "seed"),
    "width": (False, "width"),
    "depth": (False, "depth"),
    "parameters": (False, "parameters"),
    "train_flops": (False, "training FLOPs"),
}
# keys of a metrics.jsonl record -> tags, beside the tuning score's: tune_<key> -> tune/<key>
TAGS = {
    "train_loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
    "tokens_per_second": "train/tokens_per_second",
}
MEBIBYTE = 2**20


def columns(measured: Sequence[Measure]) -> dict[str, str]:
    """Metrics of the HParams table, tag -> name: what the experiment measures, then speed and memory."""
    speed = {"final/tokens_per_second": "tokens per second", "final/peak_memory_mib": "peak memory, MiB"}
    return {f"final/{m.key}": m.name for m in measured} | speed


METRICS = columns(PERPLEXITY)


class RunWriter:
    """Events of one run.

    They are a pure function of its ``metrics.jsonl``: a resumed run drops the events of the killed attempt and replays the
    records that its checkpoint kept, so no curve doubles back. Nothing is written before the first record (or ``close``):
    only then has the log been cut back to the checkpoint. Every scalar is logged against the step; the loss and
    the tuning score also as ``…_by_tokens``, where the step axis counts tokens and arms of different cost overlay fairly.
    """

    def __init__(
        self,
        run_dir: Path,
        hparams: Mapping[str, Any],
        measured: Sequence[Measure] = PERPLEXITY,
        forward: Callable[[dict[str, float], int], None] | None = None,
    ) -> None:
        """``hparams``: the columns of ``HPARAMS``; others are ignored, absent ones stay empty in the table.

        ``forward(scalars, step)`` is called with every record as well, tag -> value.
        """
        self._forward = forward
        self._columns = columns(measured)
        self._folder, self._hparams = Path(run_dir), dict(hparams)
        self._writer: SummaryWriter | None = None
        self._step = 0
        self._last: tuple[float, float] | None = None  # tokens and seconds of the latest training record

    def _opened(self, before: tuple[int, bool] | None = None) -> SummaryWriter:
        """The writer, with hyperparameters and the log's records but ``before`` (step, is a tuning record) written."""
        if self._writer is not None:
            return self._writer
        from tensorboard.plugins.hparams import summary_v2 as hp

        self._writer = open_events(self._folder, "run")
        known = {
            k: str(v) if HPARAMS[k][0] else v
            for k, v in self._hparams.items()
            if k in HPARAMS and v is not None
        }
        trial = "/".join(
            self._folder.resolve().parts[-4:]
        )  # study/runs/arm/run: stable over resumes, unique over studies
        write_summary(self._writer, hp.hparams_pb(known, trial_id=trial))
        for record in read_metrics(self._folder / "metrics.jsonl"):
            if (record["step"], tuning_key(record) is not None) != before:
                self.scalars(record["step"], record)
        return self._writer

    def scalars(self, step: int, record: Mapping[str, Any]) -> None:
        """One record as it stands in ``metrics.jsonl``. Values that are not finite are left out: a gap, not a spike.

        A tag of one's own contains a slash ("experts/load"); other unknown keys (tokens, flops, seconds) are axes.
        """
        tuning = tuning_key(record)
        writer = self._opened((step, tuning is not None))
        self._step = max(self._step, step)
        values = dict(record)
        tokens, seconds = record.get("tokens"), record.get("seconds")
        if "train_loss" in record and tokens is not None and seconds is not None:
            if "tokens_per_second" not in record and self._last and seconds > self._last[1]:
                values["tokens_per_second"] = (tokens - self._last[0]) / (seconds - self._last[1])
            self._last = (tokens, seconds)
        logged: dict[str, float] = {}
        for key, value in values.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            tag = f"tune/{key.removeprefix('tune_')}" if key == tuning else TAGS.get(key, key)
            if "/" in tag:
                writer.add_scalar(tag, value, step)
                logged[tag] = value
            if key in ("train_loss", tuning) and tokens is not None:
                writer.add_scalar(f"{tag}_by_tokens", value, int(tokens))
        if self._forward is not None and logged:
            self._forward(logged, step)

    def close(self, metrics: Mapping[str, Any] | None = None) -> None:
        """``metrics``: the run's result (keys of result.json, or of ``columns``); None where it diverged or was cut short."""
        writer = self._opened()
        given = {
            key if key.startswith("final/") else f"final/{key}": value
            for key, value in (metrics or {}).items()
        }
        peak = given.get("final/peak_memory_bytes")
        if peak is not None:
            given["final/peak_memory_mib"] = peak / MEBIBYTE
        final = {
            tag: given[tag]
            for tag in self._columns
            if given.get(tag) is not None and math.isfinite(given[tag])
        }
        for tag, value in final.items():
            writer.add_scalar(tag, value, self._step)
        if self._forward is not None and final:
            self._forward(final, self._step)
        writer.close()


def write_experiment(
    study_dir: Path,
    arms: Sequence[str],
    learning_rates: Sequence[float],
    seeds: Sequence[int] | int,
    measured: Sequence[Measure] = PERPLEXITY,
) -> None:
    """The study's one experiment record. Calling it again replaces it.

    What the study spans is written as a text summary beside it.
    """
    listed = range(seeds) if isinstance(seeds, int) else seeds
    held = {"arms": arms, "learning rates": [f"{rate:g}" for rate in learning_rates], "seeds": listed}
    write_columns(study_dir, HPARAMS, columns(measured), held)


def write_columns(
    study_dir: Path,
    hparams: Mapping[str, tuple[bool, str]],
    metrics: Mapping[str, str],
    held: Mapping[str, Sequence[Any]],
) -> None:
    """The experiment record of a study: hyperparameters (name -> is text, display name), metrics (tag -> name), what it spans.

    The columns carry types but no domains: with the study's own names as domain, another study's runs would fall outside
    and vanish from a table over several studies.
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

    given = [hp.HParam(name, Typed(text), display_name=shown) for name, (text, shown) in hparams.items()]
    shown_metrics = [hp.Metric(tag, display_name=shown) for tag, shown in metrics.items()]
    writer = open_events(Path(study_dir), "experiment")
    write_summary(writer, hp.hparams_config_pb(hparams=given, metrics=shown_metrics))
    lines = [
        "| held in this study | |",
        "|---|---|",
        *(f"| {name} | {', '.join(map(str, values))} |" for name, values in held.items()),
    ]
    writer.add_text("study", "\n".join(lines))
    writer.close()


def write_figures(study_dir: Path, study: Mapping[str, Any]) -> None:
    """The report's figures as images and its verdict as text, at the study's root. Calling it again replaces them.

    Raises: UserError when matplotlib is not installed.
    """
    from arch_lab.report import figures

    drawn = figures.build(Path(study_dir), study)
    writer = open_events(Path(study_dir), "figures")
    for name, figure in drawn.items():
        figure.set_dpi(110)
        writer.add_figure(f"report/{name}", figure)
    writer.add_text("verdict", study["verdict"]["text"])
    writer.close()


def write_summary(writer: SummaryWriter, record: Any) -> None:
    writer.file_writer.add_summary(record)  # type: ignore[attr-defined]  # set in the writer's constructor


def open_events(folder: Path, kind: str) -> SummaryWriter:
    """A writer whose file name ends in ``kind``; earlier files of that kind in the folder are ours and are dropped."""
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
