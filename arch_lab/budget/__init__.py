"""Budgets: what is held fixed, the shapes that meet it, and the gate that refuses what does not."""

from arch_lab.budget.budget import Budget, BudgetError, ShapeRule
from arch_lab.budget.gate import Miss, check, deviations, refuse
from arch_lab.budget.search import Candidate
from arch_lab.budget.solver import inside, solve, solve_each

__all__ = [
    "Budget",
    "BudgetError",
    "Candidate",
    "Miss",
    "ShapeRule",
    "check",
    "deviations",
    "inside",
    "refuse",
    "solve",
    "solve_each",
]
