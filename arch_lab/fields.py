"""Types of configuration fields that several configurations share: names, paths, rates, seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from blocks.config import Bounds, Length, Pattern, Unique
from blocks.errors import shown

SEEDS = 2**32 - 1  # what numpy, Lightning and torch all take as a seed
NAME = r"(?!.*\.\.)[^\W][\w.-]*"


@dataclass(frozen=True)
class PrintApart:
    """Numbers that ``%g`` prints differently, because folders and tables are named by it."""

    words: str = "no two that print as the same number"

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (list, tuple)):
            return None
        text, times = Counter(f"{v:g}" for v in value).most_common(1)[0] if value else ("", 1)
        return (
            f"{times} of them print as {text}, and folders are named by what is printed"
            if times > 1
            else None
        )


# what becomes the name of a folder: study, arm, task. Nothing written under such a name leaves its folder
Name = Annotated[
    str,
    Length(1, 100),
    Pattern(
        NAME,
        "letters, digits, '.', '_' and '-', not beginning with '.' or '-', without '..' (it names a folder)",
    ),
]
ExperimentName = Annotated[
    str,
    Length(1, 1000),
    Pattern(
        rf"{NAME}(:\w+)?", "the name of an experiment, or an import path such as my_package.recall:EXPERIMENT"
    ),
]
OptionalName = Annotated[
    str,
    Length(0, 100),
    Pattern(
        f"({NAME})?",
        "letters, digits, '.', '_' and '-', not beginning with '.' or '-', without '..' (it names a folder)",
    ),
]
# the arm that builds it is named after it, or after the class
ArchitectureName = Annotated[
    str,
    Length(1, 100),
    Pattern(
        rf"{NAME}(:[A-Za-z_]\w*)?",
        "the name of an architecture or the import path of a recipe, package.module:Class",
    ),
]
Text = Annotated[
    str, Length(0, 10_000), Pattern(r"[^\x00-\x08\x0b-\x1f\x7f]*", "text without control characters")
]
PathText = Annotated[str, Length(1, 4096), Pattern(r"[^\x00-\x1f\x7f]*", "a path without control characters")]
LearningRate = Annotated[float, Bounds(above=0, maximum=1e3)]
LearningRates = Annotated[list[LearningRate], Length(1, 100), Unique(), PrintApart()]
Seed = Annotated[int, Bounds(minimum=0, maximum=SEEDS)]
Seeds = Annotated[list[Seed], Length(1, 1000), Unique()]
Widen = Annotated[int, Bounds(minimum=0, maximum=100)]
WeightDecay = Annotated[float, Bounds(minimum=0, maximum=1e3)]
Beta = Annotated[float, Bounds(minimum=0, below=1)]
ClipNorm = Annotated[float, Bounds(above=0, maximum=1e9)]
WarmupFraction = Annotated[float, Bounds(minimum=0, below=1)]
FinalFraction = Annotated[float, Bounds(minimum=0, maximum=1)]
HeldOutFraction = Annotated[float, Bounds(above=0, below=0.5)]
BatchSize = Annotated[int, Bounds(minimum=1, maximum=2**20)]
Tokens = Annotated[int, Bounds(minimum=1, maximum=2**20)]
Count = Annotated[int, Bounds(minimum=1)]
Seconds = Annotated[float, Bounds(above=0, maximum=1e9)]


def folder_name(text: str) -> str:
    """The nearest valid name, e.g. for a study file called ``my study (2).yaml``."""
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in text).lstrip(".-")[:100]
    while ".." in name:
        name = name.replace("..", ".")
    return name or "study"


def tuning_seeds_problem(tuning: Sequence[int] | None, seeds: Sequence[int]) -> str | None:
    """``tuning_seeds`` are some of ``seeds``, or None."""
    strange = next((seed for seed in tuning or () if seed not in seeds), None)
    return (
        None if strange is None else f"tuning_seeds must be some of seeds {shown(list(seeds))}, got {strange}"
    )
