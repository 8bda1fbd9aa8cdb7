"""From a budget to a shape of each arm: width, depth and the channel mixer's width.

Among shapes inside the tolerance on every axis the penalty prefers the recipe's hidden ratio and a sane
aspect.
``solve_together`` prefers one width for all arms, so that embedding and head are equal and the totals match
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from arch_lab.budget.budget import Budget, BudgetError
from arch_lab.budget.reasons import unreachable
from arch_lab.budget.search import Candidate, Search
from arch_lab.models.recipe import Recipe


def solve(recipe: Recipe, budget: Budget, *, vocabulary: int, max_tokens: int, batch: int = 1) -> Candidate:
    """The best shape inside the tolerance.

    ``max_tokens`` is the sequence length; ``batch`` spreads what is computed once per step (only FLOPs per token
    see it). Raises: BudgetError with the nearest reachable count when there is no such shape.
    """
    return min(
        inside(recipe, budget, vocabulary=vocabulary, max_tokens=max_tokens, batch=batch),
        key=lambda c: c.penalty,
    )


def solve_together(
    recipes: Sequence[Recipe], budget: Budget, *, vocabulary: int, max_tokens: int, batch: int = 1
) -> list[Candidate]:
    """One shape per arm, of one width where that costs little in shape quality.

    Raises: BudgetError naming the arm that cannot meet the budget.
    """
    searches = [Search(r, budget, vocabulary, max_tokens, batch) for r in recipes]
    good = [_found_or_refused(s, searches) for s in searches]
    best = [min(shapes, key=lambda c: c.penalty) for shapes in good]
    if _spread(best) > budget.tolerance:
        best = _matched(good, budget.tolerance) or best
    best_penalty = sum(c.penalty for c in best) + 1.0 if _spread(best) <= budget.tolerance else float("inf")
    for width in set.intersection(*({c.shape.width for c in shapes} for shapes in good)):
        # a few per arm are enough: matching totals is a tie-break among good shapes, not a goal against them
        lists = [
            sorted((c for c in shapes if c.shape.width == width), key=lambda c: c.penalty)[:4]
            for shapes in good
        ]
        for combination in product(*lists) if len(lists) <= 4 else [tuple(x[0] for x in lists)]:
            spread = _spread(combination)
            penalty = sum(c.penalty for c in combination) + 20 * spread
            if spread <= budget.tolerance and penalty < best_penalty:
                best, best_penalty = list(combination), penalty
    return best


def _matched(good: Sequence[Sequence[Candidate]], tolerance: float) -> list[Candidate]:
    """One shape per arm, all within the tolerance of each other, at the least total penalty; or empty."""
    axes = list(good[0][0].deviations)
    best: list[Candidate] = []
    # some arm is the lowest on each axis: every combination of lowest values is one window to choose in
    for corner in product(*(sorted({c.deviations[a] for shapes in good for c in shapes}) for a in axes)):
        window = [(low - 1e-12, (1 + low) * (1 + tolerance) - 1) for low in corner]
        fits = [
            [
                c
                for c in shapes
                if all(lo <= c.deviations[a] <= hi for a, (lo, hi) in zip(axes, window, strict=True))
            ]
            for shapes in good
        ]
        if all(fits):
            candidates = [min(shapes, key=lambda c: c.penalty) for shapes in fits]
            if not best or sum(c.penalty for c in candidates) < sum(c.penalty for c in best):
                best = candidates
    return best


def _spread(arms: Sequence[Candidate]) -> float:
    """How far the arms are from each other on their worst axis, as the gate reckons it."""
    axes = list(arms[0].deviations)
    return max(
        (1 + max(c.deviations[a] for c in arms)) / (1 + min(c.deviations[a] for c in arms)) - 1 for a in axes
    )


def inside(
    recipe: Recipe, budget: Budget, *, vocabulary: int, max_tokens: int, batch: int = 1
) -> list[Candidate]:
    """Counted shapes within the tolerance, the most sensible first.

    Raises: BudgetError naming the nearest reachable count, what it is made of and what would reconcile the
    two.
    """
    search = Search(recipe, budget, vocabulary, max_tokens, batch)
    return _found_or_refused(search, [search])


def _found_or_refused(search: Search, everyone: list[Search]) -> list[Candidate]:
    shapes = search.found()
    if not shapes:
        raise BudgetError(unreachable(search, everyone))
    return shapes
