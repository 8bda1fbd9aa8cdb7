"""Search for the shapes of one recipe near a budget, on a lattice that hardware likes, exact by count.

Widths and hidden widths are multiples of the recipe's, coarser when large; heads follow the width. For one
width, parameters and FLOPs per token grow linearly with the hidden width and layer by layer with depth, so
the hidden width that meets the first axis of size is solved from two counted layers and then *counted*, not
trusted.
Lattice and penalty in numbers: docs/budget.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import log2

from arch_lab.accounting.ledger import TRAINING
from arch_lab.budget.budget import Budget, BudgetError
from arch_lab.budget.counting import Size, measure, measure_ends, measure_layer
from arch_lab.models.model import StackConfig
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import require_kind
from blocks.cost import Cost
from blocks.errors import ConfigError

RATIO_RANGE = (1.0, 10.0)  # hidden width / width: outside it no published model of these families lies
MAX_DEPTH = 256
COUNTED = 40  # predictions verified by counting; the best of them by penalty


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape and how far it is from the budget; ``penalty`` orders the shapes that meet it."""

    shape: Shape
    parameters: dict[str, int]
    deviation: float  # signed, relative, of the first axis of size
    penalty: float
    flops_per_token: float = 0.0  # training, at the sequence length and batch of the search
    deviations: dict[str, float] = field(default_factory=dict)  # of every axis of size

    @property
    def worst(self) -> float:
        return max(map(abs, self.deviations.values()))


class Search:
    """One recipe under one budget at one vocabulary, sequence length and batch."""

    def __init__(self, recipe: Recipe, budget: Budget, vocabulary: int, tokens: int, batch: int) -> None:
        if recipe.kind == "encoder_decoder":  # its rows are split in two: no one cost of a token to solve for
            require_kind(recipe, "decoder", "budget: ")
        self.recipe, self.budget, self.vocabulary, self.tokens, self.batch = (
            recipe,
            budget,
            vocabulary,
            tokens,
            batch,
        )
        self.width_multiple = budget.shapes.width_multiple or recipe.width_multiple
        self._counted: dict[tuple[int, int, int], Candidate | None] = {}
        self.targets = budget.size_targets
        # parameters the penalty and the first guess at a width go by: 6 FLOPs a parameter where only FLOPs
        # are given
        self.scale = self.targets.get("params") or self.targets["flops_per_token"] / (2 * TRAINING)

    # --- counting -------------------------------------------------------------------------------------------

    def config(self, shape: Shape) -> StackConfig | None:
        """None where the recipe cannot build the shape. Raises: BudgetError for a model of several stacks."""
        try:
            config = self.recipe.config(shape, vocabulary=self.vocabulary, max_tokens=self.tokens)
        except ConfigError:  # a width this recipe cannot build (heads, Monarch blocks): not on its lattice
            return None
        if not isinstance(config, StackConfig):
            raise BudgetError(
                f"budget: architecture {self.recipe.name!r} is not a single stack of layers, "
                "so its shape cannot be solved; give the arm width, depth and ffn_width"
            )
        return config

    def exact(self, shape: Shape) -> Candidate | None:
        """The shape counted, or None where the recipe cannot build it."""
        config = self.config(shape)
        return None if config is None else self.candidate(shape, measure(config, self.tokens))

    def candidate(self, shape: Shape, size: Size) -> Candidate:
        flops = float(size.flops_per_token(self.tokens, self.batch))
        values = {"params": self.budget.matched_parameters(size.parameters), "flops_per_token": flops}
        deviations = {axis: values[axis] / target - 1 for axis, target in self.targets.items()}
        first = next(iter(deviations.values()))
        penalty = self.penalty((shape.width, shape.depth, shape.ffn_width), first)
        return Candidate(
            shape=shape,
            parameters=size.parameters,
            deviation=first,
            penalty=penalty,
            flops_per_token=flops,
            deviations=deviations,
        )

    def penalty(self, shape: tuple[int, int, int], deviation: float) -> float:
        width, depth, ffn_width = shape
        # published widths grow faster than depths: 128/4 at 1M, 1152/26 at 1B, 5376/62 at 27B
        aspect = self.budget.shapes.aspect * (self.scale / 1e6) ** (1 / 8)
        return (
            log2(width / depth / aspect) ** 2
            + 2 * log2(ffn_width / width / self.budget.shapes.hidden_ratio) ** 2
            + (deviation / self.budget.tolerance) ** 2 * 0.2
        )

    # --- searching ------------------------------------------------------------------------------------------

    def found(self, share: float = 1.0) -> list[Candidate]:
        """Counted shapes within the tolerance on every axis of size, best penalty first.

        ``share``: of the budget's tolerance.
        """
        tolerance = share * self.budget.tolerance
        guesses = [g for g in self.all_guesses if g[2] <= 3 * tolerance]
        guesses.sort(key=lambda g: g[0])
        matching: list[Candidate] = []
        # the first round decides nearly always; the second is for lattices so coarse that most near shapes
        # miss
        for batch in (guesses[:COUNTED], sorted(guesses[COUNTED:], key=lambda g: g[2])[:COUNTED]):
            counted = [c for c in (self._exact_once(g) for g in batch) if c is not None]
            matching = sorted((c for c in counted if c.worst <= tolerance), key=lambda c: c.penalty)
            if matching:
                break
        return matching

    @cached_property
    def all_guesses(self) -> list[tuple[float, tuple[int, int, int], float]]:
        return self.guesses()

    def _exact_once(self, guess: tuple[float, tuple[int, int, int], float]) -> Candidate | None:
        if guess[1] not in self._counted:
            self._counted[guess[1]] = self.exact(_shape(guess))
        return self._counted[guess[1]]

    def nearest(self) -> list[Candidate]:
        """The counted shapes nearest the budget, whatever they miss it by."""
        guesses = sorted(self.guesses(), key=lambda g: g[2])[:COUNTED]
        counted = [c for c in (self.exact(_shape(g)) for g in guesses) if c is not None]
        return sorted(counted, key=lambda c: c.worst)

    def guesses(self) -> list[tuple[float, tuple[int, int, int], float]]:
        """Predicted (penalty, shape, worst deviation) of each width and depth.

        The hidden width is the one that meets the first axis.
        """
        # 4 D² + 3 r D² weights a layer is the order of magnitude of both families; the lattice spans a wide
        # factor around it
        guess = (self.scale * self.budget.shapes.aspect / 12) ** (1 / 3)
        # a large table counts in the total and in the head's FLOPs: only narrow models may be left room for
        table = self.budget.match_on == "total" or "flops_per_token" in self.targets
        low = 0 if table else guess / 5
        widths = lattice(low, guess * 5, self.width_multiple, parts=64 if len(self.targets) > 1 else 16)
        return [g for width in widths for g in self._at_width(width)]

    def _values(self, parameters: dict[str, int], cost: Cost) -> list[float]:
        values = {
            "params": self.budget.matched_parameters(parameters),
            "flops_per_token": TRAINING * cost.forward(self.batch) / (self.batch * self.tokens),
        }
        return [values[axis] for axis in self.targets]

    def _layer(self, layer: tuple[int, Cost]) -> list[float]:
        return self._values({"embedding": 0, "head": 0, "body": layer[0], "total": layer[0]}, layer[1])

    def _at_width(self, width: int) -> list[tuple[float, tuple[int, int, int], float]]:
        step = self.recipe.ffn_multiple * max(1, round(width / 512))
        low, high = multiple(RATIO_RANGE[0] * width, step), multiple(RATIO_RANGE[1] * width, step)
        narrow, wide = (
            self.config(Shape(width=width, depth=1, ffn_width=low)),
            self.config(Shape(width=width, depth=1, ffn_width=high)),
        )
        if narrow is None or wide is None:
            return []
        axes, targets = range(len(self.targets)), list(self.targets.values())
        ends, positions = self._values(*measure_ends(narrow, self.tokens)), narrow.inside(self.tokens)
        layer, wider = (self._layer(measure_layer(config.layers[0], positions)) for config in (narrow, wide))
        slope = [(wider[a] - layer[a]) / max(1, high - low) for a in axes]
        deepest = min(MAX_DEPTH, max(2, 2 * width))
        if not self.recipe.mixed:  # else later layers may be smaller than the first
            deepest = min(deepest, max(1, int((targets[0] - ends[0]) / max(layer[0], 1)) + 2))
        deepest = max(deepest, self.recipe.least_depth)
        layers = [layer] * deepest
        # a recipe may end on a layer of its own kind (Gemma 4: a global one), which in a model of one layer
        # is the first too
        two = self.config(Shape(width=width, depth=2, ffn_width=low))
        own_end = two is not None and two.layers[0] != narrow.layers[0]
        # layers of one pattern differ in FLOPs, in parameters only where the recipe says so
        if own_end or self.recipe.mixed or len(targets) > 1 or "params" not in self.targets:
            deep = self.config(Shape(width=width, depth=deepest, ffn_width=low))
            layers = (
                [self._layer(measure_layer(values, positions)) for values in deep.layers] if deep else layers
            )
        guesses, inner = [], ends
        for depth, values in enumerate(layers, start=1):
            sums = [s + v for s, v in zip(inner, layer if own_end else values, strict=True)]
            inner = [s + v for s, v in zip(inner, values, strict=True)]
            hidden = (targets[0] - sums[0]) / depth / slope[0] + low if slope[0] else float(low)
            middle = multiple(hidden, step)
            for ffn in {
                min(high, max(low, f))
                for f in ((middle - step, middle, middle + step) if len(targets) > 1 else (middle,))
            }:
                deviations = [(sums[a] + depth * slope[a] * (ffn - low)) / targets[a] - 1 for a in axes]
                shape = (width, depth, ffn)
                if depth >= self.recipe.least_depth:
                    guesses.append((self.penalty(shape, deviations[0]), shape, max(map(abs, deviations))))
            if hidden < low and depth >= self.recipe.least_depth:
                break  # deeper only overshoots more
        return guesses


def _shape(guess: tuple[float, tuple[int, int, int], float]) -> Shape:
    width, depth, ffn_width = guess[1]
    return Shape(width=width, depth=depth, ffn_width=ffn_width)


def lattice(low: float, high: float, step: int, *, parts: int = 16) -> list[int]:
    """Multiples of ``step``, about a ``parts``-th of the width apart."""
    widths, width = [], max(step, multiple(low, step))
    while width <= high:
        widths.append(width)
        width += step * max(1, 2 ** int(log2(max(1, width / (parts * step)))))
    return widths or [step]


def multiple(value: float, step: int) -> int:
    """The multiple of ``step`` nearest to ``value``, at least one."""
    return max(step, round(value / step) * step)
