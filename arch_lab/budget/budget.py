"""What a comparison holds fixed: axes of size, axes of length, and which of them can be held together.

Default axes: parameters of body + head and training FLOPs (canonical: 3 x forward). A tied table is one
tensor counted as embedding; its matmul is counted in FLOPs whatever the parameters say. Source of the
default: body + head gave the cleanest scaling in nanochat's log of 2026-01-27; ``match_on: total`` holds
everything fixed instead.
Letters: N parameters, F training FLOPs a token, C training FLOPs of a run, n its tokens, s its seconds; C =
F·n.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from blocks.config import Bounds, Config, Doc, Length, Unique
from blocks.errors import ConfigError, UserError

TrainFlops = Annotated[float, Bounds(above=0, maximum=1e30)]
Size = Annotated[int, Bounds(minimum=100, maximum=10**13)]
MatchOn = Literal["body+head", "body", "total"]
SIZE = ("params", "flops_per_token")  # what the shape decides
LENGTH = ("train_flops", "tokens", "seconds")  # what the number of steps decides
FLOPS_PER_PARAMETER = 6.0  # training FLOPs per token over n_eff


@dataclass(frozen=True, kw_only=True)
class ShapeRule(Config):
    """How a size becomes a shape: the same rule for every arm, which no other arm influences."""

    aspect: Annotated[
        float,
        Bounds(minimum=1, maximum=4096),
        Doc(
            "Preferred width / depth of a model of 1M parameters; it grows with the eighth root of the size."
        ),
    ] = 32.0
    hidden_ratio: Annotated[
        float, Bounds(minimum=1, maximum=10), Doc("Preferred width of the channel mixer / width.")
    ] = 4.0
    head_width: Annotated[
        int | None,
        Bounds(minimum=2, maximum=1024),
        Doc("Width of a head, for architectures that have heads; null: by their own rule."),
    ] = None
    width_multiple: Annotated[
        int | None,
        Bounds(minimum=2, maximum=1024),
        Doc("Widths are multiples of this; null: of each architecture's own multiple, mostly 32."),
    ] = None


class BudgetError(UserError):
    """A budget that no shape meets, or a comparison whose arms are not matched."""


@dataclass(frozen=True, kw_only=True)
class Budget(Config):
    """Axes of size and one axis of length.

    Size: ``params`` of ``match_on``, ``flops_per_token``, or both; or several ``sizes`` (IsoFLOP).
    Length: ``train_flops``, ``tokens`` or ``seconds``.
    ``train_flops`` together with ``tokens`` gives the cost of a token, so the pair is an axis of size as well.

    ``tolerance`` is relative. ``allow_unmatched`` lets a study run all the same; its report then carries a
    red banner.
    Raises: ConfigError when the axes leave the size or the length open, or contradict each other.
    """

    params: Annotated[
        int | None, Bounds(minimum=1, maximum=10**13), Doc("Parameters of an arm, counted as match_on says.")
    ] = None
    train_flops: Annotated[
        TrainFlops | Annotated[list[TrainFlops], Length(1, 100), Unique()] | None,
        Doc("FLOPs of one training run, 3 times those of the forward passes; with sizes a list of budgets."),
    ] = None
    sizes: Annotated[
        Literal["auto"] | Annotated[list[Size], Length(1, 100), Unique()] | None,
        Doc(
            "Sizes (n_eff, training FLOPs per token / 6) to train each arm at; auto: three about the optimal one."
        ),
    ] = None
    tokens: Annotated[int | None, Bounds(minimum=1, maximum=10**16), Doc("Training tokens of one run.")] = (
        None
    )
    flops_per_token: Annotated[
        float | None, Bounds(above=0, maximum=1e20), Doc("Training FLOPs per token.")
    ] = None
    seconds: Annotated[
        float | None, Bounds(above=0, maximum=1e9), Doc("Seconds of one run spent in training steps.")
    ] = None
    match_on: Annotated[MatchOn, Doc("Which parameters are held equal.")] = "body+head"
    tolerance: Annotated[
        float, Bounds(above=0, maximum=0.1), Doc("Relative deviation from the budget that an arm may have.")
    ] = 0.01
    shapes: Annotated[ShapeRule, Doc("How a size becomes a shape, the same rule for every arm.")] = field(
        default_factory=ShapeRule
    )
    allow_unmatched: Annotated[
        bool, Doc("Run even if an arm misses the budget; the report then shows a red banner.")
    ] = False

    def __post_init__(self) -> None:
        if self.sizes is not None:
            self._check_sizes()
            return
        if isinstance(self.train_flops, list):
            raise ConfigError("budget: several train_flops need sizes; add sizes: auto, or give one number")
        length = [axis for axis in LENGTH if axis in self.axes]
        if not length:
            raise ConfigError(
                "budget: the training length is missing; add one of train_flops, tokens, seconds"
            )
        if "seconds" in length and len(length) > 1:
            raise ConfigError(
                f"budget: seconds cannot be combined with {length[0]}, "
                "because one number of steps cannot meet both; "
                f"remove one of them (--set budget.{length[0]}=null)"
            )
        if not self.size_targets:
            raise ConfigError("budget: the model size is missing; add params or flops_per_token")
        if self.flops_per_token and isinstance(self.train_flops, (int, float)) and self.tokens:
            deviation = self.flops_per_token * self.tokens / self.train_flops - 1
            if abs(deviation) > self.tolerance:
                raise ConfigError(
                    f"budget: flops_per_token x tokens = {self.flops_per_token * self.tokens:.4g} contradicts "
                    f"train_flops {self.train_flops:.4g} ({deviation:+.1%}); remove one of the three"
                )

    def _check_sizes(self) -> None:
        others = [axis for axis in (*SIZE, *LENGTH) if axis in self.axes and axis != "train_flops"]
        if others:
            raise ConfigError(
                f"budget: sizes cannot be combined with {others[0]}, because they decide it; "
                f"remove one of them (--set budget.{others[0]}=null)"
            )
        if self.train_flops is None:
            raise ConfigError(
                "budget: sizes need train_flops, the FLOPs of one training run, or a list of them"
            )

    @property
    def points(self) -> list[float]:
        """Training FLOPs of each budget, ascending."""
        flops = self.train_flops
        return sorted(flops) if isinstance(flops, list) else [] if flops is None else [flops]

    def at(self, flops: float, size: float) -> Self:
        """One budget at one size, which is met by the shape only roughly: it is a place on an axis, not a promise."""
        return replace(
            self, train_flops=flops, sizes=None, flops_per_token=FLOPS_PER_PARAMETER * size, params=None
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes given, size before length."""
        return tuple(axis for axis in (*SIZE, *LENGTH) if getattr(self, axis) is not None)

    def target(self, axis: str) -> float:
        return getattr(self, axis)  # type: ignore[no-any-return]

    @property
    def size_targets(self) -> dict[str, float]:
        """What a shape must meet. FLOPs per token also where they only follow from train_flops / tokens."""
        targets: dict[str, float] = {} if self.params is None else {"params": self.params}
        if self.flops_per_token is not None:
            targets["flops_per_token"] = self.flops_per_token
        elif isinstance(self.train_flops, (int, float)) and self.tokens:
            targets["flops_per_token"] = self.train_flops / self.tokens
        return targets

    @property
    def length_targets(self) -> dict[str, float]:
        return {axis: self.target(axis) for axis in LENGTH if axis in self.axes}

    def matched_parameters(self, counts: dict[str, int]) -> int:
        """The count this budget is about, from embedding, head, body, total."""
        if self.match_on == "body+head":
            return counts["body"] + counts["head"]
        return counts[self.match_on]

    def to_json(self) -> dict[str, Any]:
        """As plans and study.json hold it: the default pair's keys always, other axes when given."""
        plain: dict[str, Any] = {
            "params": self.params,
            "train_flops": self.train_flops,
            "tokens": self.tokens,
            "match_on": self.match_on,
        }
        if self.sizes is not None:
            plain["sizes"] = self.sizes
        return plain | {
            axis: self.target(axis) for axis in ("flops_per_token", "seconds") if axis in self.axes
        }
