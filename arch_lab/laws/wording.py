"""A certificate as one line of plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLAIMS = {
    "objective": "hidden tokens do not appear in the input; rows, documents and padding do not affect each other",
    "images": "images of a batch do not affect each other",
    "": "no output depends on later tokens",
}


def certificate_line(facts: Mapping[str, Any]) -> str:
    """What a certificate that passed has shown: the claim, where it was tried, and how near the bound it came."""
    lengths, modes = facts["lengths"], facts.get("modes", ())
    where = [f"{len(lengths)} lengths up to {max(lengths)} tokens" if len(lengths) > 1 else f"{lengths[0]} tokens"]
    where += [" and ".join(modes) + " mode"] if modes else []
    positions = facts.get("positions", {}).get(str(max(lengths)))
    every = "all " if positions and len(positions) == max(lengths) - 1 else ""
    where += [f"{every}{len(positions)} positions in the longest row"] if positions else []
    least = facts.get("least_lengths", ())
    where += [f"mixers only from {min(least)} tokens on"] if least else []
    if facts.get("flops"):
        where.append(f"{facts['flops']:.1e} FLOPs")
    return f"{CLAIMS[facts.get('kind', '')]} ({', '.join(where)}; {_largest(facts['leak_ratio'], facts['threshold'])})"


def _largest(ratio: float, bound: float) -> str:
    if not ratio:
        return "not a bit changed"
    return f"largest change {ratio:.0e} of the scale, rounding; a leak starts at {bound:.0e}"
