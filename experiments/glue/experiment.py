"""GLUE: bodies of a masked study under fresh heads, fine-tuned with equal effort, beside trivial baselines.

The learning rate is chosen on rows held out of each task's training file; scores are of the official dev set,
which no choice sees.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from arch_lab import files
from arch_lab.judge.records import Record
from arch_lab.metrics.classification import confusion_matrix
from arch_lab.stored import Facts, Json
from arch_lab.study.code_identity import conditions
from arch_lab.study.identity import digest
from arch_lab.study.open_study import Experiment, Progress
from arch_lab.study.plan import PlannedArm
from arch_lab.study.task_study import Curve, Fitted, TaskStudy
from arch_lab.study.trial import Job, Trial
from blocks.errors import ConfigError
from experiments.glue.baselines import Predictions, majority, require_sklearn, tf_idf
from experiments.glue.config import GlueStudyConfig
from experiments.glue.data import GlueSet, read_set, read_sets
from experiments.glue.reader import write_submission

if TYPE_CHECKING:  # torch and Lightning take seconds to load, and no refusal of data should wait for them
    from arch_lab.study.body import Body
    from arch_lab.study.pretrained import PretrainedArm
    from experiments.glue.model import Encoded

SCRATCH = "_scratch"
BASELINES = ("majority", "tf_idf")
PREDICTIONS = "predictions.json"  # of the test files, in the trial's folder


class GlueStudy(TaskStudy):
    """One study of GLUE.

    ``bodies``: the pretrained arms by name; ``mnli``: what bodies pass through first.
    """

    config: GlueStudyConfig
    sets: dict[str, GlueSet]
    bodies: dict[str, PretrainedArm]
    mnli: GlueSet | None

    def __init__(self, config: GlueStudyConfig) -> None:
        super().__init__(config)
        self._encoded: dict[tuple[str, str, int], Encoded] = {}  # a memo, not state

    def read(self, progress: Progress) -> None:
        config = self.config
        self.sets, self.absent = read_sets(config, progress)
        self.mnli = None
        if config.from_mnli is not None:
            # nothing of it is handed in
            self.mnli = read_set(config.from_mnli.source, replace(config, submission=False))
        if config.baselines:
            require_sklearn()
        from arch_lab.study.pretrained import pretrained_arms

        self.bodies = pretrained_arms(config.pretrained, config.arms)
        check_arms(config, self.bodies)
        self.tasks = tuple(data.task() for data in self.sets.values())
        self.arms = planned_arms(config, self.bodies)

    def fingerprint(self, task: str) -> str:
        weights = {name: [arm.fingerprint(seed) for seed in arm.runs] for name, arm in self.bodies.items()}
        mnli = self.mnli.fingerprint if self._starts_from_mnli(task) and self.mnli is not None else None
        return digest([self.sets[task].fingerprint, weights, mnli])

    def fit(self, trial: Trial, job: Job) -> Fitted:
        data, started = self.sets[trial.task], time.monotonic()
        predictions, facts, curve = self._predictions(trial, job)
        facts["seconds"] = round(time.monotonic() - started, 2)
        if predictions is None:
            return Fitted(scores=None, facts=facts, curve=curve)
        if data.submitted:
            submitted = {split: predictions[split] for split in data.submitted}
            files.write_json(job.folder / PREDICTIONS, submitted)
        if data.classes:
            facts["confusion"] = confusions(data, predictions)
        tuned = None if trial.arm == "majority" else data.tuned(predictions["tuning"])
        return Fitted(scores=data.scores(predictions), tuned=tuned, facts=facts, curve=curve)

    def finish(self, study_folder: Path, records: Sequence[Record], progress: Progress) -> tuple[str, ...]:
        """Submission files of every arm, from the seed with the best tuning score."""
        notes = []
        for arm in self.arms:
            paths: list[Path] = []
            for task in self.tasks:
                trials = [record for record in records if (record.task, record.arm) == (task.name, arm.name)]
                paths += self._submit(trials, study_folder)
            if paths:
                names = ", ".join(path.name for path in paths)
                notes.append(
                    f"submission/{arm.name}: {names} (GLUE's format, the seed with the best tuning score)"
                )
        return tuple(notes)

    def _submit(self, records: Sequence[Record], study_folder: Path) -> list[Path]:
        """Submission files of the records of an arm on a task; none where no test file was predicted."""
        predicted = []
        for record in sorted(records, key=lambda record: record.seed):
            path = self.trial_of(record).folder(study_folder) / PREDICTIONS
            predicted += [(record, path)] if path.is_file() else []
        if not predicted:
            return []
        best, path = max(predicted, key=lambda pair: -1.0 if pair[0].tuned is None else pair[0].tuned)
        folder = study_folder / "submission" / best.arm
        predictions: Predictions = files.read_json(path) or {}
        return [
            write_submission(best.task, values, folder, split=split) for split, values in predictions.items()
        ]

    # --- one fine-tuning ------------------------------------------------------------------------------------

    def _predictions(self, trial: Trial, job: Job) -> tuple[Predictions | None, Facts, Curve]:
        """Predictions of every split but train; None where the fine-tuning diverged."""
        data = self.sets[trial.task]
        if trial.arm == "majority":
            return majority(data), {}, ()
        if trial.arm == "tf_idf":
            return *tf_idf(data), ()
        return self._fine_tuned(trial, job)

    def _fine_tuned(self, trial: Trial, job: Job) -> tuple[Predictions | None, Facts, Curve]:
        import torch

        from experiments.glue.model import fine_tune

        assert trial.learning_rate is not None
        data = self.sets[trial.task]
        with torch.random.fork_rng():
            arm, scratch = self._body_of(trial.arm)
            if self._starts_from_mnli(trial.task):
                body = self._from_mnli(trial, job)
            else:
                body = arm.body(trial.seed, scratch=scratch)
            rows = self._rows(data, body)
            torch.manual_seed(
                trial.seed
            )  # after the body: the head is the same draw whatever stands below it
            outcome = fine_tune(
                body,
                data,
                rows,
                self.config.finetuning,
                learning_rate=trial.learning_rate,
                seed=trial.seed,
                report=job.step,
            )
        facts = {
            "steps": outcome.steps,
            **rows.facts,
            "pretraining_seed": None if scratch else arm.seed(trial.seed),
            "before": outcome.spread_before,
        }
        return outcome.predictions, facts, outcome.curve

    def _body_of(self, arm: str) -> tuple[PretrainedArm, bool]:
        """The pretrained arm behind an arm of this study, and whether its weights are fresh."""
        if arm in self.bodies:
            return self.bodies[arm], False
        return self.bodies[arm.removesuffix(SCRATCH)], True

    def _rows(self, data: GlueSet, body: Body) -> Encoded:
        from experiments.glue.model import encoded

        assert body.tokenizer is not None  # a masked study reads text
        key = (data.name, body.tokenizer.fingerprint, body.max_tokens)
        if key not in self._encoded:
            self._encoded[key] = encoded(
                data, body.tokenizer, self.config.finetuning, max_tokens=body.max_tokens
            )
        return self._encoded[key]

    # --- by way of MNLI -------------------------------------------------------------------------------------

    def _starts_from_mnli(self, task: str) -> bool:
        return self.config.from_mnli is not None and task in self.config.from_mnli.tasks

    def _from_mnli(self, trial: Trial, job: Job) -> Body:
        """The arm's body after MNLI, without its head; fine-tuned once per seed and stored.

        Two workers that need the same body may both train it: they write the same bytes, each in one step.
        """
        arm, scratch = self._body_of(trial.arm)
        body = arm.body(trial.seed, scratch=scratch)
        path = job.study_folder / "from_mnli" / f"{trial.arm}_seed-{trial.seed}.pt"
        identity = self._mnli_identity(trial, arm)
        stored = read_body(path)
        if stored.get("identity") == identity:
            body.load_state_dict(stored["body"])
            return body
        scores = self._train_on_mnli(body, trial, job)
        write_body(path, {"identity": identity, "body": body.state_dict(), "scores": scores})
        return body.eval()

    def _mnli_identity(self, trial: Trial, arm: PretrainedArm) -> str:
        """Hash of everything that determines the body of an arm and seed after MNLI."""
        assert self.config.from_mnli is not None and self.mnli is not None
        settings = [asdict(self.config.from_mnli), asdict(self.config.finetuning), trial.arm, trial.seed]
        code = [arm.code, self.shared_code, conditions()]
        return digest([settings, code, self.mnli.fingerprint, arm.fingerprint(trial.seed)])

    def _train_on_mnli(self, body: Body, trial: Trial, job: Job) -> dict[str, float]:
        """Fine-tune ``body`` in place; the scores on MNLI. Raises: ConfigError when it diverges."""
        import torch

        from experiments.glue.model import fine_tune

        mnli, options = self.mnli, self.config.from_mnli
        assert mnli is not None and options is not None

        def report(step: int, steps: int, loss: float) -> None:
            if step % max(1, steps // 4) == 0:
                job.detail(f"first {mnli.name}: step {step:,} of {steps:,}")

        torch.manual_seed(trial.seed)
        outcome = fine_tune(
            body,
            mnli,
            self._rows(mnli, body),
            self.config.finetuning,
            learning_rate=options.learning_rate,
            seed=trial.seed,
            report=report,
        )
        if outcome.predictions is None:
            raise ConfigError(
                f"from_mnli: {trial.arm} seed {trial.seed} diverged at learning rate "
                f"{options.learning_rate:g}; set from_mnli.learning_rate lower"
            )
        return mnli.scores(outcome.predictions)


def check_arms(config: GlueStudyConfig, bodies: dict[str, PretrainedArm]) -> None:
    """Raises: ConfigError for a pooler or a head that cannot be built, or an arm with the name of another."""
    from experiments.glue.model import head_config, pooler_config

    for arm in bodies.values():
        pooler_config(config.finetuning, arm.width)
        head_config(config.finetuning, arm.width, 2)
    others = {f"{name}{SCRATCH}" for name in bodies} if config.scratch else set()
    if config.baselines:
        others |= set(BASELINES)
    clash = sorted(set(bodies) & others)
    if clash:
        raise ConfigError(
            f"arms: {clash[0]!r} is the name of another method of this study; name that arm differently"
        )


def planned_arms(config: GlueStudyConfig, bodies: dict[str, PretrainedArm]) -> tuple[PlannedArm, ...]:
    """Every body, every body with fresh weights, the baselines."""
    arms = [PlannedArm(name=name, facts=arm.facts, code=arm.code) for name, arm in bodies.items()]
    if config.scratch:
        arms += [
            PlannedArm(name=f"{name}{SCRATCH}", facts={**arm.facts, "pretraining": "none"}, code=arm.code)
            for name, arm in bodies.items()
        ]
    if config.baselines:
        arms += [PlannedArm(name=name, tuned=False, seeded=False, baseline=True) for name in BASELINES]
    return tuple(arms)


def confusions(data: GlueSet, predictions: Predictions) -> Facts:
    """Confusion matrix of each reported split."""
    return {
        split: confusion_matrix(predictions[split], [row.label for row in rows], data.classes).tolist()
        for split, rows in data.reported.items()
    }


def read_body(path: Path) -> Json:
    """What ``write_body`` wrote, or nothing when it is absent or damaged: it is then made again."""
    import torch

    try:
        content: Json = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises half a dozen types for a file that is damaged
        return {}
    return content


def write_body(path: Path, content: Json) -> None:
    """Replace ``path`` in one step."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_bytes(path, buffer.getvalue())


class Glue(Experiment):
    """Fine-tuning on GLUE."""

    config = GlueStudyConfig

    def open(self, config: GlueStudyConfig) -> GlueStudy:
        return GlueStudy(config)


EXPERIMENT = Glue()
