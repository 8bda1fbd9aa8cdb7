"""From a parameter budget to a shape: width, depth and the channel mixer's width, exact by count.

The search is over a lattice hardware likes (widths and hidden widths in the recipe's multiples, coarser when large).
For one width, parameters grow linearly with depth and hidden width, so the hidden width that meets the budget is
solved from two counted layers and then *counted*, not trusted. Among shapes inside the tolerance the penalty prefers
the recipe's hidden ratio and a sane aspect; ``solve_together`` prefers one width for all arms, so that embedding and
head are the same in each and the totals match too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import log2

from arch_lab.architecture.decoder import Decoder, DecoderConfig, Layer, LayerConfig, SandwichLayer, on_meta
from arch_lab.architecture.recipe import Recipe, Shape
from arch_lab.budget.budget import Budget, BudgetError
from blocks.errors import ConfigError

RATIO_RANGE = (1.0, 10.0)  # hidden width / width: outside it no published model of these families lies
MAX_DEPTH = 256
COUNTED = 40  # predictions verified by building; the best of them by penalty


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape and how far it is from the budget; ``penalty`` orders the shapes that meet it."""

    shape: Shape
    parameters: dict[str, int]
    deviation: float  # signed, relative
    penalty: float


def solve(recipe: Recipe, budget: Budget, *, vocabulary: int, max_tokens: int) -> Candidate:
    """The best shape inside the tolerance. Raises: BudgetError with the nearest reachable count when there is none."""
    return min(inside(recipe, budget, vocabulary=vocabulary, max_tokens=max_tokens), key=lambda c: c.penalty)


def solve_together(recipes: Sequence[Recipe], budget: Budget, *, vocabulary: int, max_tokens: int) -> list[Candidate]:
    """One shape an arm; the same width for all wherever that costs little in shape quality.

    Raises: BudgetError naming the arm that cannot meet the budget.
    """
    good = [inside(r, budget, vocabulary=vocabulary, max_tokens=max_tokens) for r in recipes]
    best = [min(shapes, key=lambda c: c.penalty) for shapes in good]
    best_penalty = sum(c.penalty for c in best) + 1.0
    for width in set.intersection(*({c.shape.width for c in shapes} for shapes in good)):
        # a few per arm are enough: matching totals is a tie-break among good shapes, not a goal against them
        lists = [sorted((c for c in shapes if c.shape.width == width), key=lambda c: c.penalty)[:4] for shapes in good]
        for combination in product(*lists) if len(lists) <= 4 else [tuple(x[0] for x in lists)]:
            spread = max(c.deviation for c in combination) - min(c.deviation for c in combination)
            penalty = sum(c.penalty for c in combination) + 20 * spread
            if spread <= budget.tolerance and penalty < best_penalty:
                best, best_penalty = list(combination), penalty
    return best


def inside(recipe: Recipe, budget: Budget, *, vocabulary: int, max_tokens: int) -> list[Candidate]:
    """Counted shapes within the tolerance, the most sensible first.

    Raises: BudgetError naming the nearest reachable count when there is none.
    """
    build = _Builder(recipe, budget, vocabulary, max_tokens)
    near = [c for c in predictions(build) if abs(c.deviation) <= 3 * budget.tolerance]
    counted = [c for c in (build.exact(p.shape) for p in sorted(near, key=lambda c: c.penalty)[:COUNTED]) if c is not None]
    found = [c for c in counted if abs(c.deviation) <= budget.tolerance]
    if not found:
        raise BudgetError(_unreachable(build))
    return sorted(found, key=lambda c: c.penalty)


class _Builder:
    """One recipe under one budget: builds what the search asks for, on the meta device."""

    def __init__(self, recipe: Recipe, budget: Budget, vocabulary: int, max_tokens: int) -> None:
        self.recipe, self.budget, self.vocabulary, self.max_tokens = recipe, budget, vocabulary, max_tokens

    def counts(self, shape: Shape) -> dict[str, int] | None:
        try:
            return count(self.recipe.decoder(shape, vocabulary=self.vocabulary, max_tokens=self.max_tokens))
        except ConfigError:  # a width this recipe cannot build (heads, Monarch blocks): not on its lattice
            return None

    def candidate(self, shape: Shape, counts: dict[str, int]) -> Candidate:
        deviation = self.budget.matched_parameters(counts) / self.budget.params - 1
        return Candidate(shape=shape, parameters=counts, deviation=deviation, penalty=_penalty(self.recipe, self.budget, shape, deviation))

    def exact(self, shape: Shape) -> Candidate | None:
        counts = self.counts(shape)
        return self.candidate(shape, counts) if counts is not None else None


def predictions(build: _Builder) -> list[Candidate]:
    """For every (width, depth) worth a look, the hidden width that should meet the budget, uncounted; nearest first."""
    recipe, budget = build.recipe, build.budget
    # 4 D² + 3 r D² weights a layer is the order of magnitude of both families; the lattice spans a wide factor around it
    guess = (budget.params * recipe.aspect / 12) ** (1 / 3)
    found: list[Candidate] = []
    for width in _lattice(guess / 5, guess * 5, recipe.width_multiple):
        found += _at_width(build, width)
    return sorted(found, key=lambda c: abs(c.deviation))


def _at_width(build: _Builder, width: int) -> list[Candidate]:
    recipe, budget = build.recipe, build.budget
    step = recipe.ffn_multiple * max(1, round(width / 512))
    low, high = _multiple(RATIO_RANGE[0] * width, step), _multiple(RATIO_RANGE[1] * width, step)
    narrow = build.counts(Shape(width=width, depth=1, ffn_width=low))
    wide = build.counts(Shape(width=width, depth=1, ffn_width=high))
    deeper = build.counts(Shape(width=width, depth=2, ffn_width=low))
    if narrow is None or wide is None or deeper is None:
        return []
    layer = deeper["body"] - narrow["body"]
    slope = (wide["body"] - narrow["body"]) / max(1, high - low)
    fixed = {k: narrow[k] - (layer if k in ("body", "total") else 0) for k in narrow}
    target = budget.params - budget.matched_parameters(fixed)
    found: list[Candidate] = []
    for depth in range(1, min(MAX_DEPTH, max(2, 2 * width)) + 1):
        wanted = (target / depth - layer) / slope + low if slope else float(low)
        ffn = min(high, max(low, _multiple(wanted, step)))
        grown = round(depth * (layer + slope * (ffn - low)))
        counts = {k: v + (grown if k in ("body", "total") else 0) for k, v in fixed.items()}
        found.append(build.candidate(Shape(width=width, depth=depth, ffn_width=ffn), counts))
        if wanted < low:
            break  # deeper only overshoots more
    return found


def _penalty(recipe: Recipe, budget: Budget, shape: Shape, deviation: float) -> float:
    # published widths grow faster than depths: 128/4 at 1M, 1152/26 at 1B, 5376/62 at 27B
    aspect = recipe.aspect * (budget.params / 1e6) ** (1 / 8)
    return (
        log2(shape.width / shape.depth / aspect) ** 2
        + 2 * log2(shape.ffn_width / shape.width / recipe.ffn_ratio) ** 2
        + (deviation / budget.tolerance) ** 2 * 0.2
    )


def _lattice(low: float, high: float, multiple: int) -> list[int]:
    """Multiples, in steps of about a sixteenth of the width: fine when small, kernel-friendly when large."""
    widths, width = [], max(multiple, _multiple(low, multiple))
    while width <= high:
        widths.append(width)
        width += multiple * max(1, 2 ** int(log2(max(1, width / (16 * multiple)))))
    return widths or [multiple]


def _multiple(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def count(config: DecoderConfig) -> dict[str, int]:
    """embedding, head, body, total of the model ``config`` describes, from one counted layer of each kind."""
    body = sum(_layer_parameters(layer) for layer in config.layers)
    ends = _layer_free(config)
    return {**ends, "body": ends["body"] + body, "total": ends["total"] + body}


def _layer_free(config: DecoderConfig) -> dict[str, int]:
    with on_meta():
        return Decoder(replace(config, layers=())).parameter_counts()


def _layer_parameters(layer: LayerConfig) -> int:
    try:
        return _cached_layer_parameters(layer)
    except TypeError:  # a third-party config holding a list or a dict: correct, only not remembered
        return _count_layer(layer)


def _count_layer(layer: LayerConfig) -> int:
    with on_meta():
        return sum(p.numel() for p in (SandwichLayer if layer.sandwich else Layer)(layer).parameters())


_cached_layer_parameters = lru_cache(maxsize=4096)(_count_layer)


def _unreachable(build: _Builder) -> str:
    recipe, budget = build.recipe, build.budget
    counted = [c for c in (build.exact(p.shape) for p in predictions(build)[:COUNTED]) if c is not None]
    if not counted:
        return f"budget: architecture {recipe.name!r} has no shape at all near {budget.params:,} parameters; change budget.params or the arm's options"
    near = min(counted, key=lambda c: abs(c.deviation))
    got, s = budget.matched_parameters(near.parameters), near.shape
    return (
        f"budget: no shape of {recipe.name!r} has {budget.params:,} parameters ({budget.match_on}) within {budget.tolerance:.1%}; "
        f"the nearest reachable is {got:,} ({near.deviation:+.1%}) at width {s.width}, depth {s.depth}, ffn_width {s.ffn_width}: "
        f"set budget.params to {got} or change the arm's options"
    )
