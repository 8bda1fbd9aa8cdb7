"""Why a budget cannot be met, in one line: axis, distance, largest component, and what would help.

Every number in a refusal is computed: shapes are counted, and a dial is only named after a search with the
dial turned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from arch_lab.budget.budget import Budget
from arch_lab.budget.search import Candidate, Search, multiple
from arch_lab.models.recipe import Shape

SHORTEST, LONGEST = 16, 2**18  # sequence lengths a dial may propose
TRIED = 8  # values of FLOPs per token tried before none is proposed


def unreachable(search: Search, everyone: Sequence[Search]) -> str:
    """The refusal of ``search``'s budget; a proposed change must suit the searches of ``everyone``."""
    nearest = search.nearest()
    if not nearest:
        return (
            f"budget: architecture {search.recipe.name!r} has no shape at all near {search.scale:,.0f} parameters "
            f"({_refusal(search)}); change the budget or the arm's options"
        )
    if len(search.targets) > 1:
        relaxed = _with_axes(search, ("params",))
        if counted := relaxed.found():
            return _conflict(search, counted, everyone)
        return unreachable(relaxed, everyone)
    return _too_far(search, nearest)


def _refusal(search: Search) -> str:
    """Why no shape of the lattice can be built. Raises: ConfigError from the recipe itself."""
    width = multiple((search.scale * search.budget.shapes.aspect / 12) ** (1 / 3), search.width_multiple)
    ffn_width = multiple(search.budget.shapes.hidden_ratio * width, search.recipe.ffn_multiple)
    search.recipe.config(
        Shape(width=width, depth=1, ffn_width=ffn_width),
        vocabulary=search.vocabulary,
        max_tokens=search.tokens,
    )
    return f"width {width} would fit the recipe but no width of the lattice does"


# --- one axis -----------------------------------------------------------------------------------------------


def _too_far(search: Search, nearest: list[Candidate]) -> str:
    budget, best, axis = search.budget, nearest[0], next(iter(search.targets))
    if axis == "params":
        count: float = budget.matched_parameters(best.parameters)
        target, value = f"{budget.params:,} parameters ({budget.match_on})", f"{count:,}"
    else:
        count = best.flops_per_token
        target, value = f"{search.targets[axis]:,.0f} FLOPs per token", f"{count:,.0f}"
    text = (
        f"budget: no shape of {search.recipe.name!r} has {target} within {budget.tolerance:.1%}; "
        f"the nearest reachable is {value} ({best.deviation:+.1%}) at {_words(best.shape)}"
    )
    text += f", {_largest(search, best.shape, axis)}"
    if best.deviation < 0:
        over = [c for c in nearest if c.deviation > 0]
        dials = [f"the next above is {min(c.deviation for c in over):+.1%}"] if over else []
    else:
        dials = [d for d in (_shorter(search), _fewer(search)) if d]
    return f"{text}; what would help: {', or '.join([*dials, f'budget.{axis} {count:.0f}'])}, or other options of the arm"


def _shorter(search: Search) -> str:
    """The longest halved sequence length at which the budget is met, in words."""
    halvings = _first(
        lambda k: _turned(search, tokens=search.tokens >> k), (search.tokens // SHORTEST).bit_length() - 1
    )
    return f"training.sequence_length {search.tokens} -> {search.tokens >> halvings}" if halvings else ""


def _fewer(search: Search) -> str:
    if search.recipe.image_size is not None:
        return ""  # rows are classes, which nobody may turn
    halvings = _first(
        lambda k: _turned(search, vocabulary=search.vocabulary >> k),
        max(0, search.vocabulary.bit_length() - 6),
    )
    return f"vocabulary {search.vocabulary} -> {search.vocabulary >> halvings}" if halvings else ""


def _first(make: Callable[[int], Search], last: int) -> int:
    """Smallest k in 1..last with shapes in ``make(k)``, by bisection; 0 if there is none.

    Fewer tokens or rows never hurt.
    """
    if last < 1 or not make(last).found():
        return 0
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if make(middle).found() else (middle, high)
    return high


def _largest(search: Search, shape: Shape, axis: str) -> str:
    """What most of the nearest shape's count is."""
    config = search.config(shape)
    assert config is not None
    model = config.build("meta")
    sums: dict[str, float] = {}
    if axis == "params":
        for name, parameter in model.named_parameters():
            if search.budget.match_on == "total" or not name.startswith("embedding"):
                kind = re.sub(r"\.\d+\.", ".*.", name, count=1)
                sums[kind] = sums.get(kind, 0) + parameter.numel()
    else:
        for component in model.components(search.tokens):
            kind = re.sub(r"\.\d+\.", ".*.", component.name, count=1)
            sums[kind] = sums.get(kind, 0) + component.cost.forward(search.batch)
    name, size = max(sums.items(), key=lambda item: item[1])
    exact = f"{size:,} parameters, " if axis == "params" else ""
    return f"of which {name} is {exact}{size / sum(sums.values()):.0%}"


# --- two axes that disagree ---------------------------------------------------------------------------------


def _conflict(search: Search, counted: list[Candidate], everyone: Sequence[Search]) -> str:
    """Parameters can be met, FLOPs per token can be met, both cannot."""
    target = search.targets["flops_per_token"]
    counted = _reach(search) or counted
    nearest = min(counted, key=lambda c: abs(c.flops_per_token / target - 1))
    off = nearest.flops_per_token / target - 1
    low, high = min(c.flops_per_token for c in counted), max(c.flops_per_token for c in counted)
    dials = [
        d
        for d in (
            _hidden(search, nearest.shape),
            _longer(search, nearest.shape, everyone),
            _rows(search, nearest.shape, everyone),
        )
        if d
    ]
    common = _common(everyone, target)
    dials.append(
        f"budget.flops_per_token {common:.6g}, which every arm reaches"
        if common
        else "no value of budget.flops_per_token was found that every arm reaches"
    )
    source = "" if search.budget.flops_per_token is not None else " (train_flops / tokens)"
    return (
        f"budget: {search.recipe.name!r} cannot meet params and flops_per_token together: "
        f"with {search.budget.params:,} parameters ({search.budget.match_on}) it spends "
        f"{low:.6g} to {high:.6g} FLOPs per token, the nearest {off:+.1%} off "
        f"flops_per_token {target:.6g}{source} at {_words(nearest.shape)}, tolerance {search.budget.tolerance:.1%}; "
        f"what would reconcile them: {'; '.join(dials)}"
    )


def _reach(search: Search) -> list[Candidate]:
    """Counted shapes that meet the parameters at the least and the most FLOPs per token."""
    relaxed = _with_axes(search, ("params",))
    tolerance = search.budget.tolerance
    shapes = [g for g in relaxed.guesses() if g[2] <= tolerance]
    return [
        c
        for c in (
            relaxed.exact(Shape(width=s[0], depth=s[1], ffn_width=s[2])) for _, s, _ in _thinned(shapes)
        )
        if c and c.worst <= tolerance
    ]


def _thinned(
    shapes: list[tuple[float, tuple[int, int, int], float]],
) -> list[tuple[float, tuple[int, int, int], float]]:
    """The shallowest and the deepest of every width: FLOPs at equal parameters run from one to the other."""
    ends: dict[int, list[tuple[float, tuple[int, int, int], float]]] = {}
    for guess in sorted(shapes, key=lambda g: g[1][1]):
        ends.setdefault(guess[1][0], []).append(guess)
    return [
        g
        for of_width in ends.values()
        for g in {id(of_width[0]): of_width[0], id(of_width[-1]): of_width[-1]}.values()
    ]


def _hidden(search: Search, shape: Shape) -> str:
    """The hidden width that meets FLOPs per token at this width and depth, with its parameters."""
    step = search.recipe.ffn_multiple
    wide = search.exact(replace(shape, ffn_width=shape.ffn_width + 64 * step))
    current = search.exact(shape)
    if wide is None or current is None:
        return ""
    slope = (wide.flops_per_token - current.flops_per_token) / (64 * step)
    ffn = multiple(
        shape.ffn_width + (search.targets["flops_per_token"] - current.flops_per_token) / slope, step
    )
    adjusted = search.exact(replace(shape, ffn_width=ffn))
    if adjusted is None or abs(adjusted.deviations["flops_per_token"]) > search.budget.tolerance:
        return ""
    return f"ffn_width {shape.ffn_width} -> {ffn} there (params then {adjusted.deviations['params']:+.1%})"


def _longer(search: Search, shape: Shape, everyone: Sequence[Search]) -> str:
    """The sequence length at which both axes are met, by every arm."""
    step = SHORTEST if search.tokens >= 8 * SHORTEST else 1

    def flops(tokens: int) -> float:
        candidate = _turned(search, tokens=tokens).exact(shape)
        return candidate.flops_per_token if candidate else 0.0

    tokens = _bisect(flops, search.targets["flops_per_token"], SHORTEST, LONGEST, step)
    if (
        tokens is None
        or tokens == search.tokens
        or not all(_turned(s, tokens=tokens).found() for s in everyone)
    ):
        return ""
    return f"training.sequence_length {search.tokens} -> {tokens}"


def _rows(search: Search, shape: Shape, everyone: Sequence[Search]) -> str:
    """The vocabulary at which every arm meets both axes (the head's matmul has no counted parameters)."""
    if search.recipe.image_size is not None:
        return ""

    def flops(rows: int) -> float:
        candidate = _turned(search, vocabulary=rows).exact(shape)
        return candidate.flops_per_token if candidate else 0.0

    rows = _bisect(flops, search.targets["flops_per_token"], 64, 2**20, 1)
    if (
        rows is None
        or rows == search.vocabulary
        or not all(_turned(s, vocabulary=rows).found() for s in everyone)
    ):
        return ""
    return f"vocabulary {search.vocabulary} -> {rows}"


def _common(everyone: Sequence[Search], target: float) -> float | None:
    """The FLOPs per token nearest ``target`` that every arm reaches at its parameters."""
    reach = [[c.flops_per_token for c in _reach(s)] for s in everyone]
    if not all(reach):
        return None
    low, high = max(map(min, reach)), min(map(max, reach))
    # the ends of the common range, and what some arm costs inside it: between two costs a lattice may have a
    # gap
    values = sorted(
        {low, high, *(v for of_arm in reach for v in of_arm if low <= v <= high)},
        key=lambda v: abs(v - target),
    )
    for value in values[:TRIED] if low <= high else ():
        budget = _plain(
            everyone[0].budget, params=everyone[0].budget.params, flops_per_token=float(f"{value:.6g}")
        )
        if all(Search(s.recipe, budget, s.vocabulary, s.tokens, s.batch).found() for s in everyone):
            return value
    return None


def _bisect(value: Callable[[int], float], target: float, low: int, high: int, step: int) -> int | None:
    """Multiple of ``step`` in [low, high] at which the increasing ``value`` is nearest ``target``, or None."""
    if not value(low) <= target <= value(high):
        return None
    while high - low > step:
        middle = (low + high) // (2 * step) * step
        if middle in (low, high):
            break
        low, high = (middle, high) if value(middle) <= target else (low, middle)
    return min((low, high), key=lambda x: abs(value(x) - target))


# --- searches with something changed ------------------------------------------------------------------------


def _turned(search: Search, *, tokens: int | None = None, vocabulary: int | None = None) -> Search:
    return Search(
        search.recipe, search.budget, vocabulary or search.vocabulary, tokens or search.tokens, search.batch
    )


def _with_axes(search: Search, axes: tuple[str, ...]) -> Search:
    budget = _plain(search.budget, **{axis: search.targets[axis] for axis in axes})
    return Search(search.recipe, budget, search.vocabulary, search.tokens, search.batch)


def _plain(budget: Budget, **size: float | None) -> Budget:
    """The same rules with these axes of size alone; the length is immaterial to a shape."""
    axes = {
        "params": None,
        "flops_per_token": None,
        "train_flops": None,
        "tokens": 1,
        "seconds": None,
        **size,
    }
    return replace(budget, **axes)  # type: ignore[arg-type]


def _words(shape: Shape) -> str:
    return f"width {shape.width}, depth {shape.depth}, ffn_width {shape.ffn_width}"
