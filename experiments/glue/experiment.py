"""GLUE: bodies of a masked study under fresh heads, fine-tuned with equal effort, beside trivial baselines.

The learning rate is chosen on rows held out of each task's training file; scores are of the official dev set, which no choice sees.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab import files
from arch_lab.metrics.classification import confusion_matrix
from arch_lab.study.code_identity import conditions, texts, trial_code
from arch_lab.study.identity import digest
from arch_lab.tasks import Cell, Fitted, Method, Task, TaskEngine, TaskStudyConfig
from blocks.errors import ConfigError
from experiments.glue.baselines import majority, require_sklearn, tf_idf
from experiments.glue.config import GlueStudyConfig
from experiments.glue.data import GlueSet, read_set, read_sets
from experiments.glue.reader import write_submission

if TYPE_CHECKING:  # torch and Lightning take seconds to load, and no refusal of data should wait for them
    from arch_lab.study.body import Body
    from arch_lab.study.pretrained import PretrainedArm
    from experiments.glue.model import Encoded

SCRATCH = "_scratch"
PREDICTIONS = "predictions.json"  # of the test files, in the cell's folder
Tell = Callable[[str], None]


@dataclass(kw_only=True)
class GluePrepared:
    """One study, read and checked (arch_lab.tasks.Prepared)."""

    config: GlueStudyConfig
    sets: dict[str, GlueSet]
    absent: dict[str, str]
    arms: dict[str, PretrainedArm]
    mnli: GlueSet | None = None
    _encoded: dict[tuple[str, str, int], Encoded] = field(default_factory=dict)  # a memo, not state

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(data.task() for data in self.sets.values())

    @property
    def methods(self) -> tuple[Method, ...]:
        found = [Method(name=name, facts=arm.facts, code=arm.code) for name, arm in self.arms.items()]
        if self.config.scratch:
            found += [
                Method(name=f"{name}{SCRATCH}", facts={**arm.facts, "pretraining": "none"}, code=arm.code)
                for name, arm in self.arms.items()
            ]
        if self.config.baselines:
            found += [
                Method(name=name, tuned=False, seeded=False, baseline=True) for name in ("majority", "tf_idf")
            ]
        return tuple(found)

    def fingerprint(self, task: str) -> str:
        weights = {name: [arm.fingerprint(seed) for seed in arm.runs] for name, arm in self.arms.items()}
        mnli = self.mnli.fingerprint if self._starts_from_mnli(task) and self.mnli is not None else None
        return digest([self.sets[task].fingerprint, weights, mnli])

    def fit(self, cell: Cell, folder: Path, tell: Tell) -> Fitted:
        data, started = self.sets[cell.task], time.monotonic()
        curve: tuple[tuple[int, str, float], ...] = ()
        predictions: dict[str, list[float]] | None
        facts: dict[str, Any] = {}
        if cell.method == "majority":
            predictions = majority(data)
        elif cell.method == "tf_idf":
            predictions, facts = tf_idf(data)
        else:
            predictions, facts, curve = self._fine_tuned(cell, folder, tell)
        facts["seconds"] = round(time.monotonic() - started, 2)
        if predictions is None:
            return Fitted(scores=None, facts=facts, curve=curve)
        if data.submitted:
            files.write_json(folder / PREDICTIONS, {split: predictions[split] for split in data.submitted})
        if data.classes:
            facts["confusion"] = {
                split: confusion_matrix(
                    predictions[split], [row.label for row in rows], data.classes
                ).tolist()
                for split, rows in data.reported.items()
            }
        tuned = None if cell.method == "majority" else data.tuned(predictions["tuning"])
        return Fitted(scores=data.scores(predictions), tuned=tuned, facts=facts, curve=curve)

    def finish(self, chosen: dict[tuple[str, str], list[Path]], folder: Path, tell: Tell) -> list[str]:
        """Submission files of every method, from the seed with the best tuning score."""
        written: dict[str, list[str]] = {}
        for (task, method), folders in chosen.items():
            results = {
                path: files.read_json(path / "result.json") or {}
                for path in folders
                if (path / PREDICTIONS).is_file()
            }
            if results:
                best = max(
                    results,
                    key=lambda path: -1.0 if results[path].get("tuned") is None else results[path]["tuned"],
                )
                kept = files.read_json(best / PREDICTIONS) or {}
                made = [
                    write_submission(task, values, folder / "submission" / method, split=split)
                    for split, values in kept.items()
                ]
                written.setdefault(method, []).extend(path.name for path in made)
        return [
            f"submission/{method}: {', '.join(names)} (GLUE's format, the seed with the best tuning score)"
            for method, names in written.items()
        ]

    # --- one fine-tuning ---------------------------------------------------------------------------------------------

    def _fine_tuned(self, cell: Cell, folder: Path, tell: Tell) -> tuple[Any, dict[str, Any], Any]:
        import torch

        from experiments.glue.model import fine_tune

        assert cell.learning_rate is not None
        data, recipe = self.sets[cell.task], self.config.finetuning
        with torch.random.fork_rng():
            arm, scratch = self._arm(cell.method)
            body = (
                self._from_mnli(cell, folder, tell)
                if self._starts_from_mnli(cell.task)
                else arm.body(cell.seed, scratch=scratch)
            )
            rows = self._rows(data, arm, body)
            torch.manual_seed(cell.seed)  # after the body: the head is the same draw whatever stands below it
            outcome = fine_tune(
                body,
                data,
                rows,
                recipe,
                learning_rate=cell.learning_rate,
                seed=cell.seed,
                report=lambda step, steps: tell(f"step {step:,} of {steps:,}"),
            )
        facts = {
            "steps": outcome.steps,
            **rows.facts,
            "pretraining_seed": None if scratch else arm.seed(cell.seed),
            "before": outcome.spread_before,
        }
        return outcome.predictions, facts, outcome.curve

    def _arm(self, method: str) -> tuple[PretrainedArm, bool]:
        if method in self.arms:
            return self.arms[method], False
        return self.arms[method.removesuffix(SCRATCH)], True

    def _rows(self, data: GlueSet, arm: PretrainedArm, body: Body) -> Encoded:
        from experiments.glue.model import encoded

        assert body.tokenizer is not None  # a masked study reads text
        key = (data.name, body.tokenizer.fingerprint, body.max_tokens)
        if key not in self._encoded:
            self._encoded[key] = encoded(
                data, body.tokenizer, self.config.finetuning, max_tokens=body.max_tokens
            )
        return self._encoded[key]

    # --- by way of MNLI ----------------------------------------------------------------------------------------------

    def _starts_from_mnli(self, task: str) -> bool:
        return self.config.from_mnli is not None and task in self.config.from_mnli.tasks

    def _from_mnli(self, cell: Cell, folder: Path, tell: Tell) -> Body:
        """The method's body after MNLI, fine-tuned once a seed and kept in the study's folder; its head is dropped."""
        import torch

        from experiments.glue.model import fine_tune

        mnli = self.mnli
        assert self.config.from_mnli is not None and mnli is not None
        arm, scratch = self._arm(cell.method)
        body = arm.body(cell.seed, scratch=scratch)
        path = study_folder(folder) / "from_mnli" / f"{cell.method}_seed-{cell.seed}.pt"
        settings = [asdict(self.config.from_mnli), asdict(self.config.finetuning), cell.method, cell.seed]
        code = [arm.code, trial_code([self], names=texts(settings)), conditions()]
        identity = digest([settings, code, mnli.fingerprint, arm.fingerprint(cell.seed)])
        kept = _kept(path)
        if kept.get("identity") == identity:
            body.load_state_dict(kept["body"])
            return body
        torch.manual_seed(cell.seed)
        rate = self.config.from_mnli.learning_rate
        outcome = fine_tune(
            body,
            mnli,
            self._rows(mnli, arm, body),
            self.config.finetuning,
            learning_rate=rate,
            seed=cell.seed,
            report=lambda step, steps: tell(f"first {mnli.name}: step {step:,} of {steps:,}"),
        )
        if outcome.predictions is None:
            raise ConfigError(
                f"from_mnli: {cell.method} seed {cell.seed} diverged at learning rate {rate:g}; set from_mnli.learning_rate lower"
            )
        buffer = io.BytesIO()
        torch.save(
            {"identity": identity, "body": body.state_dict(), "scores": mnli.scores(outcome.predictions)},
            buffer,
        )
        files.write_bytes(path, buffer.getvalue())
        return body.eval()


def study_folder(cell: Path) -> Path:
    """<study>/runs/<task>/<method>/<cell> -> <study>."""
    return cell.parents[3]


def _kept(path: Path) -> dict[str, Any]:
    """What was saved, or nothing when it is absent or damaged: it is then made again."""
    import torch

    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises half a dozen types for a file that is damaged
        return {}
    return found


class Glue:
    """The experiment as the engine of studies over tasks sees it (arch_lab.tasks.TaskExperiment)."""

    config: type[TaskStudyConfig] = GlueStudyConfig

    def open(self, config: GlueStudyConfig, cache: Path, tell: Tell) -> GluePrepared:
        sets, absent = read_sets(config, tell)
        mnli = None
        if config.from_mnli is not None:
            mnli = read_set(
                config.from_mnli.source, replace(config, submission=False)
            )  # nothing of it is handed in
        if config.baselines:
            require_sklearn()
        from arch_lab.study.pretrained import pretrained_arms
        from experiments.glue.model import head_config, pooler_config

        arms = pretrained_arms(config.pretrained, config.arms)
        for arm in arms.values():  # built here only to be refused here
            pooler_config(config.finetuning, arm.width)
            head_config(config.finetuning, arm.width, 2)
        taken = {f"{name}{SCRATCH}" for name in arms} if config.scratch else set()
        clash = (set(arms) & (taken | {"majority", "tf_idf"})) if config.baselines else set(arms) & taken
        if clash:
            raise ConfigError(
                f"arms: {sorted(clash)[0]!r} is the name of another method of this study; name that arm differently"
            )
        return GluePrepared(config=config, sets=sets, absent=absent, arms=arms, mnli=mnli)


EXPERIMENT = TaskEngine(Glue())
