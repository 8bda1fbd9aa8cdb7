"""What a study measures: the keys of its results and the words for them, the first one being what its verdict is about.

An experiment declares its measures once; results, statistics, tables, figures, TensorBoard and the report read them from the
study. A study.json without them is one of perplexity, which every study was before there were others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a run. ``key`` in result.json, ``name`` in sentences and tables, ``short`` where a column is narrow.

    ``logarithmic``: an exponential of a loss, so means and intervals are taken on its logarithm. The first measure of an
    experiment (``primary``) must be one of which less is better.
    """

    key: str
    name: str
    short: str = ""
    logarithmic: bool = False
    higher_is_better: bool = False

    @property
    def tuned(self) -> str:
        """The key of the same number on the tuning split."""
        return f"tune_{self.key}"

    @property
    def label(self) -> str:
        """The column's head where there is room."""
        return f"{self.name} (higher is better)" if self.higher_is_better else self.name

    @property
    def head(self) -> str:
        """The column's head where there is none."""
        return self.short or self.name


BITS_PER_BYTE = Measure(key="bits_per_byte", name="bits per byte")
PERPLEXITY = (
    BITS_PER_BYTE,
    Measure(key="perplexity", name="token perplexity", short="token ppl", logarithmic=True),
    Measure(key="word_perplexity", name="word perplexity", short="word ppl", logarithmic=True),
)
MASKED = (
    Measure(key="masked_bits", name="bits per masked token", short="bits per\nmasked token"),
    Measure(key="masked_perplexity", name="masked perplexity", short="masked ppl", logarithmic=True),
    Measure(key="masked_accuracy", name="masked accuracy", short="accuracy ↑", higher_is_better=True),
)
IMAGES = (
    Measure(key="cross_entropy", name="nats per image", short="nats"),
    Measure(key="top1_accuracy", name="top-1 accuracy", short="top-1 ↑", higher_is_better=True),
    Measure(key="top5_accuracy", name="top-5 accuracy", short="top-5 ↑", higher_is_better=True),
    Measure(
        key="images_per_second", name="training images per second", short="images/s ↑", higher_is_better=True
    ),
)


def measures(study: Mapping[str, Any]) -> tuple[Measure, ...]:
    """Those of a plan or study."""
    stored = study.get("measures")
    return tuple(Measure(**m) for m in stored) if stored else PERPLEXITY


def primary(study: Mapping[str, Any]) -> Measure:
    return measures(study)[0]


def to_json(declared: tuple[Measure, ...]) -> list[dict[str, Any]]:
    return [asdict(m) for m in declared]
