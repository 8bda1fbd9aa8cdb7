"""Training steps of this code against those of another checkout, each in a process of its own.

Both start from the same weights and read the same batches. Their losses and gradients are compared first, in
float64 and in float32; then rounds of steps are timed in turn, so that the machine's drift reaches both. One
process waits while the other runs. Each keeps freed buffers if processes that train do so in its checkout.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from arch_lab.bench.protocol import GateError, Row
from arch_lab.judge.crossover import middle
from arch_lab.models import Shape
from blocks.config import Options
from blocks.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FLOAT64_STEPS, FLOAT64_TOLERANCE = 5, 1e-10
# rounding of float32 grows step by step, fastest through filters; SLOW is their rate in practice
FLOAT32_STEPS, FLOAT32_TOLERANCE, SLOW = 20, 1e-5, 0.02


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """A model whose step is timed; ``options`` are known to both checkouts."""

    architecture: str
    options: Options
    shape: Shape
    vocabulary: int = 1024
    batch: int = 4
    tokens: int = 256


# as the budget of the quick start solves them: 1M parameters
QUICKSTART = (
    StepModel(
        architecture="gemma3",
        options={"window": 64, "pattern": "LLLG"},
        shape=Shape(width=128, depth=4, ffn_width=544),
    ),
    StepModel(
        architecture="m2_gpt", options={"start": "released"}, shape=Shape(width=128, depth=7, ffn_width=544)
    ),
)


@dataclass(frozen=True, kw_only=True)
class StepRow(Row):
    """A ratio of steps, and the largest relative difference of the numbers they compute."""

    float64_losses: float
    float64_gradients: float
    float32_losses: float

    @property
    def equality(self) -> str:
        return (
            f"losses equal within {self.float64_losses:.1e} in float64 over {FLOAT64_STEPS} steps and "
            f"{self.float32_losses:.1e} in float32 over {FLOAT32_STEPS}, gradients of one step within "
            f"{self.float64_gradients:.1e} in float64"
        )


def steps_against(
    folder: Path,
    *,
    threads: int = 1,
    rounds: int = 15,
    steps: int = 4,
    models: Sequence[StepModel] = QUICKSTART,
) -> Iterator[StepRow]:
    """One row per model: a training step of the checkout in ``folder`` against ours.

    Raises: ConfigError for a folder that holds no arch-lab or cannot run a model, GateError when the two
    differ.
    """
    if not (folder / "arch_lab" / "__init__.py").is_file():
        raise ConfigError(
            f"--against {folder}: no arch_lab in this folder; "
            "git worktree add --detach FOLDER COMMIT checks a commit out"
        )
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(Worker(ROOT, threads, scratch / "ours.log"))
        theirs = stack.enter_context(Worker(folder, threads, scratch / "theirs.log"))
        for model in models:
            yield _compare(model, ours, theirs, scratch, rounds=rounds, steps=steps)


def _compare(
    model: StepModel, ours: Worker, theirs: Worker, scratch: Path, *, rounds: int, steps: int
) -> StepRow:
    name = f"{model.architecture} step"
    pair = _Pair(model, ours, theirs, scratch)
    pair.build("float64")
    gradients = pair.gradient_difference(name, scratch)
    float64 = pair.loss_difference(name, FLOAT64_STEPS, FLOAT64_TOLERANCE)
    pair.build("float32", filter_rate=SLOW)
    float32 = pair.loss_difference(name, FLOAT32_STEPS, FLOAT32_TOLERANCE)
    seconds = pair.timed(rounds, steps)
    ratio, low, high = middle([b / a for a, b in seconds])
    return StepRow(
        name=name,
        shape=f"B {model.batch}, T {model.tokens}, D {model.shape.width}, {model.shape.depth} layers",
        ours_ms=1e3 * statistics.median(a for a, _ in seconds) / steps,
        peer=theirs.folder.name,
        peer_ms=1e3 * statistics.median(b for _, b in seconds) / steps,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        float64_losses=float64,
        float64_gradients=gradients,
        float32_losses=float32,
    )


class _Pair:
    """The same model in both processes."""

    def __init__(self, model: StepModel, ours: Worker, theirs: Worker, scratch: Path) -> None:
        self.model, self.ours, self.theirs = model, ours, theirs
        self.weights = scratch / f"{model.architecture}.pt"  # drawn by the other checkout, which comes first

    def build(self, dtype: str, filter_rate: float = 1.0) -> None:
        for worker in (self.theirs, self.ours):
            worker.ask(
                "build", **asdict(self.model), dtype=dtype, filter_rate=filter_rate, weights=str(self.weights)
            )

    def gradient_difference(self, name: str, scratch: Path) -> float:
        """The largest, relative to the largest entry of each tensor. Raises: GateError."""
        files = scratch / "ours.grad", scratch / "theirs.grad"
        for worker, file in zip((self.ours, self.theirs), files, strict=True):
            worker.ask("gradients", file=str(file))
        a, b = (torch.load(file) for file in files)
        difference = max(((a[key] - b[key]).abs().max() / b[key].abs().max()).item() for key in b)
        return _within(FLOAT64_TOLERANCE, difference, f"{name}: float64 gradients")

    def loss_difference(self, name: str, steps: int, tolerance: float) -> float:
        """The largest relative one over ``steps`` steps. Raises: GateError."""
        ours, theirs = (worker.ask("losses", steps=steps) for worker in (self.ours, self.theirs))
        difference = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
        return _within(tolerance, difference, f"{name}: losses over {steps} steps")

    def timed(self, rounds: int, steps: int) -> list[tuple[float, float]]:
        """Seconds of ours and theirs in each round; who starts alternates."""
        result = []
        for i in range(rounds):
            order = (self.ours, self.theirs) if i % 2 == 0 else (self.theirs, self.ours)
            seconds = {worker: worker.ask("seconds", steps=steps) for worker in order}
            result.append((seconds[self.ours], seconds[self.theirs]))
        return result


def _within(tolerance: float, difference: float, subject: str) -> float:
    if not difference <= tolerance:
        raise GateError(
            f"{subject} differ by {difference:.1e} (allowed {tolerance:.0e}); no speed is reported"
        )
    return difference


@dataclass(eq=False)
class Worker:
    """A process that trains models of the checkout in ``folder`` (arch_lab.bench.step_worker)."""

    folder: Path
    threads: int
    log: Path
    _process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Worker:
        script = Path(__file__).with_name("step_worker.py")
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(self.folder.resolve()), str(self.threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._process.wait()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def ask(self, verb: str, **request: Any) -> Any:
        """The reply to one request. Raises: ConfigError when the process ends instead."""
        assert self._process.stdout is not None
        try:
            print(json.dumps({"verb": verb, **request}), file=self._stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self._process.wait()
            reason = (self.log.read_text().strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"the checkout in {self.folder} cannot run this comparison: {reason}") from None
