"""Train one model of a checkout, one JSON request per line of standard input.

A script that arch_lab.bench.checkout starts: ``python step_worker.py FOLDER THREADS``. It imports the package in
FOLDER, whatever its commit, so of arch-lab it uses only what every commit has: ``recipe`` and ``Shape``.

Legend: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

# where recipes are, newest first
PACKAGES = ("arch_lab.models", "arch_lab.architecture")
BATCHES = 4  # taken in turn
LEARNING_RATE, CLIP_NORM = 4e-3, 1.0


def serve(folder: Path, threads: int) -> None:
    """Answer requests until standard input ends."""
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever else prints must not be read as a reply
    sys.path[0] = str(folder)
    _keep_memory()
    recipes = _recipes(folder)
    import torch  # after arch_lab, which sets variables that torch reads when it is loaded

    torch.set_num_threads(threads)
    run: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        verb = request.pop("verb")
        if verb == "build":
            run, reply = Run(recipes, **request), None
        else:
            reply = getattr(run, verb)(**request)
        print(json.dumps(reply), file=replies, flush=True)


def _keep_memory() -> None:
    """What a process that trains asks of the allocator, where this checkout asks it."""
    if importlib.util.find_spec("arch_lab") and importlib.util.find_spec("arch_lab.memory"):
        importlib.import_module("arch_lab.memory").keep_memory()


def _recipes(folder: Path) -> Any:
    """The package of recipes in ``folder``."""
    package = importlib.import_module("arch_lab")
    if not Path(package.__file__ or "").resolve().is_relative_to(folder.resolve()):
        raise ImportError(f"arch_lab was imported from {package.__file__}, not from {folder}")
    if importlib.util.find_spec("arch_lab.memory"):
        importlib.import_module("arch_lab.memory").keep_memory()  # as a process of this commit trains
    return importlib.import_module(next(name for name in PACKAGES if importlib.util.find_spec(name)))


class Run:
    """A model, its optimizer, and batches drawn from seed 0.

    ``weights``: a file to start from, written from this model's initial values where it does not exist.
    ``filter_rate``: multiplier of the learning rate of long filters.
    """

    def __init__(
        self,
        recipes: Any,
        *,
        architecture: str,
        options: dict[str, Any],
        shape: dict[str, int],
        vocabulary: int,
        batch: int,
        tokens: int,
        dtype: str,
        filter_rate: float,
        weights: str,
    ) -> None:
        import torch

        torch.manual_seed(0)
        recipe = recipes.recipe(architecture, options)
        self.model = recipe.model(recipes.Shape(**shape), vocabulary=vocabulary, max_tokens=tokens)
        if not Path(weights).exists():
            torch.save(self.model.state_dict(), weights)
        self.model.load_state_dict(torch.load(weights))
        self.model.to(getattr(torch, dtype))
        self.batches = torch.randint(vocabulary, (BATCHES, batch, tokens + 1))
        self.optimizer = self._optimizer(filter_rate)
        self.steps = 0

    def _optimizer(self, filter_rate: float) -> Any:
        import torch

        named = list(self.model.named_parameters())
        filters = [p for name, p in named if ".filter." in name]
        others = [p for name, p in named if ".filter." not in name]
        groups: list[dict[str, Any]] = [{"params": others}]
        if filters:
            groups.append({"params": filters, "lr": filter_rate * LEARNING_RATE})
        return torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)

    def gradients(self, file: str) -> None:
        """Write the gradients of the first batch."""
        import torch

        self._backward(0)
        torch.save({name: p.grad for name, p in self.model.named_parameters()}, file)
        self.optimizer.zero_grad()

    def losses(self, steps: int) -> list[float]:
        """The loss of each of the next steps, before its update."""
        return [self._step() for _ in range(steps)]

    def seconds(self, steps: int) -> float:
        """Seconds of the next steps: processor time where one thread runs, else wall time."""
        import torch

        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        for _ in range(steps):
            self._step()
        return clock() - start

    def _step(self) -> float:
        import torch

        loss = self._backward(self.steps)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return float(loss)

    def _backward(self, step: int) -> Any:
        import torch.nn.functional as F

        rows = self.batches[step % BATCHES]
        logits = self.model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        return loss.detach()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
