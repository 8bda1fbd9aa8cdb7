"""arch-lab: sequence architectures compared at equal parameters and equal FLOPs.

The command line's twin for notebooks::

    import arch_lab
    arch_lab.plan("quickstart").arms
    arch_lab.compare("quickstart").to_frame()
    arch_lab.load("runs/quickstart/runs/gemma3/lr-0.002_seed-0").model
    # hidden states (B, T, D), to fine-tune
    arch_lab.load_body("runs/quickmask/runs/m2_bert/lr-0.002_seed-0")(tokens)
    arch_lab.generate("runs/quickstart/runs/gemma3/lr-0.002_seed-0", "The statement").text
    arch_lab.score("runs/quickstart/runs/gemma3/lr-0.002_seed-0", "held_out.txt").bits_per_byte
    arch_lab.convert("gemma-3-1b-pt", "gemma-3-1b")
"""

from __future__ import annotations

import os
from typing import Any

# Read once, when torch loads. Idle OpenMP threads that spin take the core the working one needs: two threads
# on a busy
# two-core machine were 30x slower without the first. Huge pages make long FFT convolutions about twice as
# fast.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# torch's profiler, by whose record memory is measured here, reports each of its starts on standard error
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

__all__ = ["__version__", "compare", "convert", "generate", "load", "load_body", "plan", "score"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from arch_lab.version import __version__

        return __version__
    if name in ("load", "load_body"):
        from arch_lab import study

        return getattr(study, "load_run" if name == "load" else name)
    if name == "plan":
        from arch_lab.study.engine import plan

        return plan
    if name == "compare":
        from arch_lab.cli.workflow import compare

        return compare
    if name == "generate":
        from arch_lab.generation import generate

        return generate
    if name == "score":
        from arch_lab.checkpoints.score import score

        return score
    if name == "convert":
        from arch_lab.checkpoints.convert import convert

        return convert
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, for completion in a notebook before anything is imported."""
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
