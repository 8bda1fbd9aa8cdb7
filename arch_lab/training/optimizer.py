"""The optimizer of every arm: AdamW with groups declared by name pattern, warm-up, cosine.

Declared once per study and printed in its plan, because a group that reaches one architecture only is a
tuning advantage. A study adds groups under ``training.groups`` (GroupRule). (The released M2 code tags filter
parameters with their own rates and then loses the tags in a deepcopy: here the groups are built from the
finished model and a test compares their sizes with the parameters.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from arch_lab.fields import Beta, ClipNorm, FinalFraction, WarmupFraction, WeightDecay
from blocks.config import Bounds, Config, Doc, Length
from blocks.errors import ConfigError

if TYPE_CHECKING:  # seconds to import
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

# vectors (norms, biases, gains) never decay; these are matrices that are tables of positions or of tokens
NO_DECAY = ("*embedding*", "*positions*")


# each option with its bounds and its sentence; a configuration that only changes a default names the type
# again
DecayOption = Annotated[
    WeightDecay, Doc("Weight decay of AdamW for matrices; vectors and tables do not decay.")
]
Beta1Option = Annotated[Beta, Doc("Decay of AdamW's mean of gradients.")]
Beta2Option = Annotated[Beta, Doc("Decay of AdamW's mean of squared gradients.")]
WarmupOption = Annotated[
    WarmupFraction, Doc("Share of the steps over which the learning rate rises from zero.")
]
FinalOption = Annotated[FinalFraction, Doc("Learning rate of the last step as a share of the highest.")]
ClipOption = Annotated[ClipNorm, Doc("Largest gradient norm; longer gradients are scaled down to it.")]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """AdamW with warm-up and cosine. Configurations of training inherit these keys."""

    weight_decay: DecayOption = 0.1
    beta1: Beta1Option = 0.9
    beta2: Beta2Option = 0.95
    warmup_fraction: WarmupOption = 0.05
    final_fraction: FinalOption = 0.1
    clip_norm: ClipOption = 1.0


# Adam as it comes, at one learning rate: nothing decays, nothing warms up
CONSTANT_ADAM = OptimizerConfig(weight_decay=0.0, beta2=0.999, warmup_fraction=0.0, final_fraction=1.0)


@dataclass(frozen=True, kw_only=True)
class GroupRule(Config):
    """Parameters with a rate or decay of their own, by name.

    ``{name: filters, match: ["*.filter.*"], rate: 0.1}``.

    A parameter belongs to the first rule that matches it. ``rate`` multiplies the learning rate, so that a
    grid stays a grid.
    """

    name: Annotated[str, Length(1, 100), Doc("Name of the group in plans; not decay or no_decay.")]
    match: Annotated[
        tuple[str, ...],
        Length(1, 100),
        Doc("Shell patterns over parameter names, such as layers.0.mixer.long.filter.positions."),
    ]
    rate: Annotated[float, Bounds(above=0, maximum=1e6), Doc("Factor that multiplies the learning rate.")] = (
        1.0
    )
    weight_decay: Annotated[
        float | None,
        Bounds(minimum=0, maximum=1e3),
        Doc("Weight decay of the group; null: as without a rule."),
    ] = None

    def __post_init__(self) -> None:
        if self.name in ("decay", "no_decay"):
            raise ConfigError(
                f"optimizer group {self.name!r}: the name is taken; choose one other than decay and no_decay"
            )


@dataclass(frozen=True, kw_only=True)
class Group:
    """One optimizer group: parameters, weight decay and a multiplier of the rate."""

    name: str
    weight_decay: float
    names: tuple[str, ...]
    parameters: int
    rate: float = 1.0


def groups(
    model: nn.Module,
    *,
    weight_decay: float,
    no_decay: Sequence[str] = NO_DECAY,
    rules: Sequence[GroupRule] = (),
) -> list[Group]:
    """Every trainable parameter in exactly one group (asserted).

    A rule without a decay of its own makes up to two groups.
    """
    members: dict[tuple[str, float, float], list[tuple[str, int]]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.squeeze().ndim < 2 or any(fnmatch(name, p) for p in no_decay)
        rule = next((r for r in rules if any(fnmatch(name, p) for p in r.match)), None)
        if rule is None:
            key = ("no_decay", 0.0, 1.0) if spared else ("decay", weight_decay, 1.0)
        elif rule.weight_decay is not None:
            key = (rule.name, rule.weight_decay, rule.rate)
        else:
            key = (
                (f"{rule.name}, no_decay", 0.0, rule.rate) if spared else (rule.name, weight_decay, rule.rate)
            )
        members.setdefault(key, []).append((name, parameter.numel()))
    # in a fixed order whatever the order of parameters: checkpoints hold optimizer state by position
    order = ["decay", "no_decay", *(label for r in rules for label in (r.name, f"{r.name}, no_decay"))]
    result = [
        Group(
            name=label,
            weight_decay=decay,
            rate=rate,
            names=tuple(n for n, _ in sized),
            parameters=sum(c for _, c in sized),
        )
        for (label, decay, rate), sized in sorted(members.items(), key=lambda item: order.index(item[0][0]))
    ]
    assert sum(g.parameters for g in result) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    return result


def adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    no_decay: Sequence[str] = NO_DECAY,
    rules: Sequence[GroupRule] = (),
    fused: bool = True,
) -> AdamW:
    """AdamW over ``groups``; eps 1e-8."""
    parameters = dict(model.named_parameters())
    declared = [
        {
            "params": [parameters[n] for n in g.names],
            "weight_decay": g.weight_decay,
            "name": g.name,
            "lr": learning_rate * g.rate,
        }
        for g in groups(model, weight_decay=weight_decay, no_decay=no_decay, rules=rules)
    ]
    return AdamW(declared, lr=learning_rate, betas=betas, eps=1e-8, fused=fused)


def optimizer_and_schedule(
    model: nn.Module,
    options: OptimizerConfig,
    *,
    learning_rate: float,
    steps: int,
    rules: Sequence[GroupRule] = (),
    fused: bool = True,
) -> OptimizerLRSchedulerConfig:
    """What ``configure_optimizers`` of a LightningModule returns.

    ``learning_rate``: the peak; ``steps``: of the schedule.
    """
    optimizer = adamw(
        model,
        learning_rate=learning_rate,
        betas=(options.beta1, options.beta2),
        weight_decay=options.weight_decay,
        rules=rules,
        fused=fused,
    )
    schedule = warmup_cosine(
        steps, warmup_fraction=options.warmup_fraction, final_fraction=options.final_fraction
    )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
    }


def warmup_cosine(
    total_steps: int, *, warmup_fraction: float, final_fraction: float
) -> Callable[[int], float]:
    """Multiplier of the peak rate at a 0-based step.

    Linear warm-up to 1, cosine down to ``final_fraction``.
    """
    warmup = max(1, round(warmup_fraction * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor
