"""Gemma families against transformers on drawn configurations: sizes, patterns, windows, caps, bases, factors, epsilons.

Float64 shows that the functions are one (1e-6); in float32 rounding may differ as far as transformers' own does. Of the
families that ``convert`` reads, three configurations of ten have a field spoilt: refused, or computed as transformers does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drawn_families import CONVERTED, RECIPES, Outcome, compare_converted, compare_recipe

pytest.importorskip("transformers")
FAMILIES = (*CONVERTED, *RECIPES)
FEW, MANY = 4, 300


def check(name: str, seed: int, folder: Path) -> Outcome | None:
    """Assert what holds for one drawn configuration; the message names the seed."""
    outcome = compare_converted(name, seed, folder) if name in CONVERTED else compare_recipe(name, seed)
    if outcome is None:
        return None
    note = f"{name}, seed {seed}: {outcome}"
    if outcome.refusal is not None:
        assert outcome.spoilt is not None and "\n" not in outcome.refusal, note
        return outcome
    assert outcome.gap64 < 1e-6, note
    assert outcome.gap32 < outcome.limit32, note
    return outcome


def check_all(name: str, seeds: range, folder: Path) -> str:
    """What a summary of all seeds says."""
    outcomes = [check(name, seed, folder) for seed in seeds]
    equal = [outcome for outcome in outcomes if outcome is not None and outcome.refusal is None]
    fate = Counter(
        "not built by transformers" if o is None else "refused" if o.refusal else "equal" for o in outcomes
    )
    assert fate["equal"] >= len(seeds) // 2
    worst = max(equal, key=lambda outcome: outcome.gap32)
    spoilt = sorted({str(outcome.spoilt) for outcome in equal if outcome.spoilt})
    return (
        f"{name}: {dict(fate)}; float64 gap at most {max(o.gap64 for o in equal):.1e}, "
        f"float32 {worst.gap32:.1e} (transformers' own {worst.own:.1e}); spoilt and equal: {', '.join(spoilt) or 'none'}"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_ten_drawn_configurations_compute_what_transformers_does(name: str, tmp_path: Path) -> None:
    check_all(name, range(FEW), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_300_drawn_configurations_compute_what_transformers_does(
    name: str, tmp_path: Path, announce: Callable[[str], None]
) -> None:
    announce(check_all(name, range(FEW, FEW + MANY), tmp_path))
