"""From a budget to a shape of each arm: width, depth and the channel mixer's width.

Among shapes inside the tolerance on every axis the penalty prefers the budget's rule of shapes. The shape of an
arm depends on its recipe and the budget alone, so that it is the same in every company.
"""

from __future__ import annotations

from collections.abc import Sequence

from arch_lab.budget.budget import Budget, BudgetError
from arch_lab.budget.reasons import unreachable
from arch_lab.budget.search import Candidate, Search
from arch_lab.models.recipe import Recipe


def solve(recipe: Recipe, budget: Budget, *, vocabulary: int, max_tokens: int, batch: int = 1) -> Candidate:
    """The best shape inside the tolerance.

    ``max_tokens`` is the sequence length; ``batch`` spreads what is computed once per step (only FLOPs per token
    see it). Raises: BudgetError with the nearest reachable count when there is no such shape.
    """
    return solve_each([recipe], budget, vocabulary=vocabulary, max_tokens=max_tokens, batch=batch)[0]


def solve_each(
    recipes: Sequence[Recipe], budget: Budget, *, vocabulary: int, max_tokens: int, batch: int = 1
) -> list[Candidate]:
    """The best shape of each arm, whatever the others are.

    Shapes within half the tolerance come first: any two of them are within the tolerance of each other too.
    Raises: BudgetError naming the arm that cannot meet the budget, with changes that would suit all arms.
    """
    searches = [Search(r, budget, vocabulary, max_tokens, batch) for r in recipes]
    result = []
    for search in searches:
        shapes = search.found(share=0.5) or _found_or_refused(search, searches)
        result.append(min(shapes, key=lambda c: c.penalty))
    return result


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
