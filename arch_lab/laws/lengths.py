"""Which lengths and positions a causality probe looks at.

Legend: T tokens of a row, s a split: tokens from s on (or s alone) are changed, outputs before s must stay.
A real kernel fails at an edge: above a threshold, where a tile divides T, in the chunk after the first. So a
model is probed at the lengths it trains and is scored at, one token less, every power of two below, and at
the window and chunk sizes of its blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from random import Random
from typing import Any

from torch import nn

SHORT, ODD = 17, 33  # no power of two divides them; of the first every position is changed
TILES = (256, 128, 64, 32)
SIZES = 8  # most window and chunk sizes of one model that get lengths of their own
SIZE_NAME = re.compile(
    r"window|chunk|block|tile|group|span|stride|segment|bucket|radius|taps|kernel|page|start|after|beyond",
    re.IGNORECASE,
)


def probe_lengths(
    targets: Iterable[int],
    sizes: Iterable[int] = (),
    *,
    limit: int | None = None,
) -> list[int]:
    """Lengths to probe, ascending: ``targets``, one less, powers of two below, each size with its neighbours.

    ``limit``: the longest row the model takes. Nothing beyond the longest target is probed: nothing runs
    there.
    """
    lengths = {min(n, limit) if limit else n for n in targets}
    longest = max(lengths)
    lengths |= {n - 1 for n in lengths}
    lengths |= {1 << i for i in range(longest.bit_length())}
    for size in sizes:
        lengths |= neighbours(size)
    return sorted(n for n in lengths | {SHORT, ODD} if 1 <= n <= longest)


def neighbours(size: int) -> set[int]:
    """w - 1, w, w + 1 and 2w + 1: around the edge of a window, and past the second one."""
    return {size - 1, size, size + 1, 2 * size + 1}


def sizes_of(model: nn.Module, longest: int) -> list[int]:
    """Window, chunk, block and tile sizes in configs and attributes of all modules, the largest first."""
    numbers = {size for module in model.modules() for size in _sizes(module)}
    return sorted((n for n in numbers if 2 <= n <= longest), reverse=True)[:SIZES]


def _sizes(module: nn.Module) -> Iterator[int]:
    config = getattr(module, "config", None)
    options = {f.name: getattr(config, f.name, None) for f in fields(config)} if is_dataclass(config) else {}
    constants: dict[str, object] = {}
    for cls in type(module).__mro__:
        constants |= {} if _is_torch(cls) else vars(cls)
    for name, value in {**constants, **vars(module), **options}.items():
        if SIZE_NAME.search(name):
            yield from _integers(value)


def _is_torch(cls: type) -> bool:
    return cls is object or cls.__module__.partition(".")[0] == "torch"


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, (tuple, list)):
        yield from (v for v in value if isinstance(v, int) and not isinstance(v, bool))


def splits(length: int, count: int, draw: Random, sizes: Iterable[int] = ()) -> list[int]:
    """At most ``count`` positions in 1 … length-1, over the whole row: the last, edges of tiles, random ones.

    All of them where they fit. Random positions are drawn one from each of equal parts of the row.
    """
    if length - 1 <= count:
        return list(range(1, length))
    edges = _edges(length, sizes)[: count // 2]
    strata = count - len(edges)
    bounds = [1 + i * (length - 1) // strata for i in range(strata + 1)]
    samples = [draw.randrange(a, b) for a, b in pairwise(bounds)]
    return sorted({*edges, *samples})


def _edges(length: int, sizes: Iterable[int]) -> list[int]:
    """Positions where code takes another path: the last token, sizes, powers of two, tiles, neighbours."""
    powers = [1 << i for i in reversed(range(length.bit_length()))]
    exact = [length - 1, *(n * k for n in sizes for k in (1, 2)), *powers[:4]]
    exact += [n for tile in TILES for n in range(tile, length, tile)]
    neighbouring = [n + d for n in (*sizes, *powers) for d in (1, -1)]
    return [n for n in dict.fromkeys([*exact, *neighbouring, length - 2, length - 3]) if 1 <= n < length]
