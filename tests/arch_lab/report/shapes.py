"""Stored studies of every awkward shape, as options of tests.study_fixture.write_study."""

from __future__ import annotations

from typing import Any

LOST = tuple(("m2_gpt", e, s) for e in (-9, -8) for s in range(2))
SHAPES: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "one arm": {"arms": ("gemma3",), "seeds": 1, "exponents": (-8,), "diverged": ()},
    "no baselines": {"baselines": False, "seeds": 2, "exponents": (-9, -8)},
    "one arm diverged everywhere": {"seeds": 2, "exponents": (-9, -8), "diverged": LOST},
    "nothing finished": {"arms": ("m2_gpt",), "seeds": 2, "exponents": (-9, -8), "diverged": LOST},
    "metrics missing": {"seeds": 2, "exponents": (-9, -8), "without_metrics": ("gemma3",)},
    "four arms, budget missed": {
        "arms": ("gemma3", "m2_gpt", "gemma1", "hybrid_<b>"),
        "deviation": 0.03,
        "exponents": (-9, -8),
    },
}
