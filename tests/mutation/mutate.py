"""Do the tests notice? One constant, comparison or length is changed in a copy of the code; some test must then fail.

A suite that stays green under a mutation does not test that line, whatever its coverage says. Run it with
``python tests/mutation/mutate.py [NAME …]``; it ends with a table and with code 1 when a mutation survived.
The working tree is never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("arch_lab", "blocks", "cuda", "experiments", "tests", "pyproject.toml")
FAILURES = 3  # tests that fail before the rest are spared: one would do, a few tell more
SECONDS = (
    600  # for the tests of one mutation; a test that hangs has noticed, too, but that is not what is meant
)


class MutationError(Exception):
    """The check itself cannot be trusted: a pattern that does not fit the code, or tests that fail without a mutation."""


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``file``; ``tests`` are run. ``old`` must occur exactly once."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


CACHE = "tests/blocks/test_cache.py"
ATTENTION, LONG = "tests/blocks/test_attention.py", "tests/blocks/test_long_convolution.py"
BACKENDS = "tests/blocks/test_attention_backends.py"
MUTATIONS = (
    Mutation(
        "score FLOPs 4 -> 3",
        "blocks/attention/gemma.py",
        "Cost(matmul=4 * config.channels",
        "Cost(matmul=3 * config.channels",
        (ATTENTION,),
    ),
    Mutation(
        "tied head for free",
        "blocks/embedding.py",
        "Cost(matmul=2 * tokens * config",
        "Cost(matmul=0 * tokens * config",
        ("tests/blocks/test_embedding.py",),
    ),
    Mutation(
        "FFT 2.5 N log N -> 5", "blocks/cost.py", "2.5 * length", "5 * length", ("tests/blocks/test_cost.py",)
    ),
    Mutation(
        "training 3 x -> 2 x forward",
        "arch_lab/accounting/ledger.py",
        "TRAINING = 3",
        "TRAINING = 2",
        ("tests/arch_lab/test_accounting.py",),
    ),
    Mutation(
        "one pair a token too few",
        "blocks/attention/masks.py",
        "w * (w + 1) // 2",
        "w * (w - 1) // 2",
        (ATTENTION,),
    ),
    Mutation(
        "window sees one key more",
        "blocks/attention/masks.py",
        "(k >= q - span.lookback)",
        "(k > q - span.lookback - 2)",
        (ATTENTION,),
    ),
    Mutation(
        "causal mask sees one ahead",
        "blocks/attention/masks.py",
        "(k <= q + span.lookahead)",
        "(k <= q + span.lookahead + 1)",
        (ATTENTION,),
    ),
    Mutation(
        "a fold sees one key more",
        "blocks/attention/local.py",
        "Span(lookback=reach - 1, lookahead=0, offset=reach - 1)",
        "Span(lookback=reach, lookahead=0, offset=reach - 1)",
        (BACKENDS,),
    ),
    Mutation(
        "a tile sees one key less",
        "blocks/attention/tiled.py",
        "late = tile.start - (span.offset + tile.first - span.lookback)",
        "late = tile.start - (span.offset + tile.first - span.lookback) - 1",
        (BACKENDS,),
    ),
    Mutation(
        "soft-cap after the mask",
        "blocks/attention/core.py",
        "rearrange(scores_BKGTS.softmax(dim=-1)",
        "rearrange((softcap * torch.tanh(scores_BKGTS / softcap)).softmax(dim=-1)",
        (ATTENTION,),
    ),
    Mutation(
        "rotation turned about",
        "blocks/attention/rope.py",
        "first * cos - second * sin",
        "first * cos + second * sin",
        ("tests/blocks/test_rope.py",),
    ),
    Mutation(
        "cache one key short",
        "blocks/attention/cache.py",
        "state.position - state.window + 1) :]",
        "state.position - state.window + 2) :]",
        (CACHE,),
    ),
    Mutation(
        "ring read one slot late",
        "blocks/attention/cache.py",
        "entries[:, :, oldest + 1 :]",
        "entries[:, :, oldest + 2 :]",
        (CACHE,),
    ),
    Mutation(
        "ring not turned after a chunk",
        "blocks/attention/cache.py",
        "roll(end % window",
        "roll(0 * end % window",
        (CACHE,),
    ),
    Mutation(
        "spent state not marked",
        "blocks/attention/cache.py",
        "state.spent = True",
        "state.spent = False",
        (CACHE,),
    ),
    Mutation(
        "transform padded to 2T - 2",
        "blocks/convolution/fft.py",
        "max(2, shortest + shortest % 2)",
        "max(2, shortest + shortest % 2 - 2)",
        (LONG,),
    ),
    Mutation(
        "kernel behind by one",
        "blocks/convolution/fft.py",
        "k_reverse[:, : tokens - 1]",
        "k_reverse[:, : tokens - 2]",
        (LONG,),
    ),
    Mutation(
        "documents join when ids fall",
        "blocks/segments.py",
        "segments[:, 1:] != segments[:, :-1]",
        "segments[:, 1:] > segments[:, :-1]",
        (ATTENTION, "tests/blocks/test_m2_mixer.py"),
    ),
    Mutation(
        "state bytes of one more tap",
        "blocks/convolution/mixer.py",
        "min(tokens, self.short.taps - 1)",
        "min(tokens, self.short.taps)",
        ("tests/blocks/test_m2_mixer.py",),
    ),
    Mutation(
        "tiles of half the size",
        "blocks/convolution/online.py",
        "size = new & -new",
        "size = BLOCK",
        ("tests/blocks/test_online_convolution.py",),
    ),
    Mutation(
        "a transform taken in low precision",
        "blocks/convolution/algorithms.py",
        "if narrow and causal:",
        "if narrow and causal and taps < 64:",
        ("tests/blocks/test_convolution_algorithms.py",),
    ),
    Mutation(
        "arms 2 % apart pass the gate",
        "arch_lab/budget/gate.py",
        "if abs(difference) > budget.tolerance",
        "if abs(difference) > 2 * budget.tolerance",
        ("tests/arch_lab/test_budget.py",),
    ),
    Mutation(
        "stored flags believed",
        "arch_lab/study/recheck.py",
        "if misses and not plan.override",
        "if misses and not plan.matched",
        ("tests/arch_lab/test_budget_gate.py",),
    ),
)


def check(
    mutations: Sequence[Mutation] = MUTATIONS, report: Callable[[str], None] = print
) -> dict[str, list[str]]:
    """Name of each mutation -> the tests that failed under it; an empty list is a survivor. Raises: MutationError."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = _copy(Path(folder))
        every = sorted({test for mutation in mutations for test in mutation.tests})
        failed = _failures(copy, every)
        if failed:
            raise MutationError(
                f"tests fail without any mutation, so their failing would prove nothing: {', '.join(failed)}"
            )
        report(f"{len(every)} test files pass on the code as it is")
        caught = {}
        for mutation in mutations:
            with _applied(mutation, copy):
                caught[mutation.name] = _failures(copy, mutation.tests)
            report(f"{mutation.name}: {caught[mutation.name][0] if caught[mutation.name] else 'SURVIVED'}")
    return caught


def _copy(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", ".*", "mutation")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        elif source.is_file():
            shutil.copy(source, folder / name)
    where = _python(
        folder, "-c", "import blocks, arch_lab; print(blocks.__file__, arch_lab.__file__)"
    ).stdout.split()
    if not where or any(not Path(file).resolve().is_relative_to(folder.resolve()) for file in where):
        raise MutationError(
            f"the tests would import the code from elsewhere ({' '.join(where) or 'nowhere'}), not from the mutated copy"
        )
    return folder


class _applied:
    """The mutated file for as long as the block runs. Raises: MutationError unless the pattern occurs exactly once."""

    def __init__(self, mutation: Mutation, copy: Path) -> None:
        self.path = copy / mutation.file
        self.text = self.path.read_text(encoding="utf-8")
        times = self.text.count(mutation.old)
        if times != 1:
            raise MutationError(
                f"{mutation.name}: {mutation.old!r} occurs {times} times in {mutation.file}, expected once; adapt the mutation"
            )
        self.mutated = self.text.replace(mutation.old, mutation.new)

    def __enter__(self) -> None:
        self.path.write_text(self.mutated, encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self.path.write_text(self.text, encoding="utf-8")


def _failures(copy: Path, tests: Sequence[str]) -> list[str]:
    """Ids of the tests that failed, errors in collecting included. Raises: MutationError when nothing ran at all."""
    done = _python(
        copy,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"--maxfail={FAILURES}",
        *tests,
    )
    if done.returncode not in (0, 1, 2):  # 2: the code could not even be collected, or maxfail ended it
        raise MutationError(f"pytest did not run ({done.returncode}): {(done.stdout + done.stderr)[-400:]}")
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, flags=re.MULTILINE)
    if done.returncode and not failed:
        raise MutationError(f"pytest failed without naming a test: {done.stdout[-400:]}")
    return list(dict.fromkeys(name.split("::", 1)[-1] for name in failed))


def _python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # no bytecode: a cached module of the same second and size would hide a mutation. CI: the same examples each time
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CI": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def table(caught: dict[str, list[str]]) -> str:
    width = max(map(len, caught))
    rows = [f"{'mutation':<{width}}  caught by"]
    for name, tests in caught.items():
        rows += [
            f"{name if i == 0 else '':<{width}}  {test}"
            for i, test in enumerate(tests or ["nothing: it SURVIVED"])
        ]
    return "\n".join(rows)


def main(names: Sequence[str]) -> int:
    unknown = set(names) - {m.name for m in MUTATIONS}
    if unknown:
        print(
            f"error: unknown mutation {sorted(unknown)[0]!r}; there are: {', '.join(m.name for m in MUTATIONS)}",
            file=sys.stderr,
        )
        return 2
    caught = check(
        [m for m in MUTATIONS if not names or m.name in names],
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(table(caught))
    return 0 if all(caught.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
