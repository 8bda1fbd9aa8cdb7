"""The optimizer of every arm: AdamW, or Muon on its matrices, over groups of parameters, warm-up, then a cosine or WSD.

Blocks declare their groups (``blocks.groups``); a study overrides them, or adds groups of its own by parameter name, under
``training.groups`` (GroupRule), for every arm alike. The plan prints them, because a group that reaches one architecture only is
an advantage in tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Annotated, Literal

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from arch_lab.fields import Beta, ClipNorm, FinalFraction, WarmupFraction, WeightDecay
from arch_lab.training.muon import Muon
from blocks.config import Bounds, Config, Doc, Length
from blocks.groups import GROUPS, MATRICES, ParameterGroup, decays, parameter_groups

if TYPE_CHECKING:  # seconds to import
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

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


OptimizerOption = Annotated[
    Literal["adamw", "muon"],
    Doc("What trains matrices: AdamW, or Muon (orthogonalized momentum); everything else trains with AdamW."),
]


ScheduleOption = Annotated[
    Literal["cosine", "wsd"],
    Doc("Learning rate after the warm-up: a cosine, or constant and then linear over the last steps (WSD)."),
]
DecayFraction = Annotated[
    float, Bounds(minimum=0, maximum=1), Doc("Share of the steps over which the rate of wsd falls.")
]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """AdamW or Muon, warm-up, then a cosine or WSD. Configurations of training inherit these keys."""

    optimizer: OptimizerOption = "adamw"
    weight_decay: DecayOption = 0.1
    beta1: Beta1Option = 0.9
    beta2: Beta2Option = 0.95
    warmup_fraction: WarmupOption = 0.05
    final_fraction: FinalOption = 0.1
    schedule: ScheduleOption = "cosine"
    decay_fraction: DecayFraction = 0.2
    clip_norm: ClipOption = 1.0


# what a module that builds its own optimizer takes as arguments; its trainer clips
OPTIMIZER_KEYS = tuple(field.name for field in fields(OptimizerConfig) if field.name != "clip_norm")
# Adam as it comes, at one learning rate: nothing decays, nothing warms up
CONSTANT_ADAM = OptimizerConfig(weight_decay=0.0, beta2=0.999, warmup_fraction=0.0, final_fraction=1.0)


@dataclass(frozen=True, kw_only=True)
class GroupRule(Config):
    """Learning rate and weight decay of a group of parameters.

    ``{name: filters, rate: 0.1}`` overrides a group that blocks declare; with ``match: ["*.filter.*"]`` the group is those
    parameters. A parameter belongs to the first rule whose patterns match it, before any declaration.
    """

    name: Annotated[
        str,
        Length(1, 100),
        Doc("Name of the group: one that blocks declare, or with match any name."),
    ]
    match: Annotated[
        tuple[str, ...],
        Length(0, 100),
        Doc(
            "Shell patterns over parameter names, such as *.filter.positions; none: the declared group of this name."
        ),
    ] = ()
    rate: Annotated[
        float | None,
        Bounds(above=0, maximum=1e6),
        Doc("Factor that multiplies the learning rate; null: as declared, 1 with match."),
    ] = None
    weight_decay: Annotated[
        float | None,
        Bounds(minimum=0, maximum=1e3),
        Doc("Weight decay of the group; null: as without a rule."),
    ] = None

    def reaches(self, name: str, group: ParameterGroup) -> bool:
        """Whether the rule is about parameter ``name`` of a declared ``group``."""
        return (
            any(fnmatch(name, pattern) for pattern in self.match) if self.match else self.name == group.name
        )


@dataclass(frozen=True, kw_only=True, order=True)
class Treatment:
    """How a group of parameters trains. ``declared``: by its block, not by a rule of the study."""

    name: str
    rate: float
    weight_decay: float
    declared: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters of the optimizer that train alike."""

    treatment: Treatment
    names: tuple[str, ...]
    parameters: int


def groups(model: nn.Module, *, weight_decay: float, rules: Sequence[GroupRule] = ()) -> list[Group]:
    """Every trainable parameter in exactly one group (asserted), as declared and as ``rules`` override it.

    A group of matrices and vectors gives two of its name where only matrices decay.
    """
    sizes = {name: p for name, p in model.named_parameters() if p.requires_grad}
    members: dict[Treatment, list[str]] = {}
    for name, group in parameter_groups(model).items():
        decay = weight_decay if decays(group, sizes[name]) else 0.0
        members.setdefault(_treatment(name, group, decay, rules), []).append(name)
    # in a fixed order whatever the order of parameters: checkpoints hold optimizer state by position
    order = [*(group.name for group in GROUPS), *(rule.name for rule in rules)]
    result = [
        Group(
            treatment=treatment,
            names=tuple(members[treatment]),
            parameters=sum(sizes[name].numel() for name in members[treatment]),
        )
        for treatment in sorted(members, key=lambda t: (_position(order, t.name), t))
    ]
    assert sum(group.parameters for group in result) == sum(p.numel() for p in sizes.values())
    return result


def _treatment(name: str, group: ParameterGroup, decay: float, rules: Sequence[GroupRule]) -> Treatment:
    """Rules with patterns come first, then those that override a declared group."""
    for rule in sorted(rules, key=lambda rule: not rule.match):
        if rule.reaches(name, group):
            declared_rate = 1.0 if rule.match else group.rate
            return Treatment(
                name=rule.name,
                rate=declared_rate if rule.rate is None else rule.rate,
                weight_decay=decay if rule.weight_decay is None else rule.weight_decay,
                declared=False,
            )
    return Treatment(name=group.name, rate=group.rate, weight_decay=decay, declared=True)


def _position(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


# The rate of token tables was chosen for training from scratch: a trained table moves like the matrices
FINE_TUNING = (GroupRule(name="embedding", rate=1.0),)


def build_optimizer(
    model: nn.Module,
    options: OptimizerConfig,
    *,
    learning_rate: float,
    rules: Sequence[GroupRule] = (),
    fused: bool = True,
) -> AdamW:
    """AdamW over ``groups``, eps 1e-8; with ``optimizer: muon`` the group ``matrices`` trains by Muon."""
    is_muon = options.optimizer == "muon"
    parameters = dict(model.named_parameters())
    declared = [
        {
            "params": [parameters[n] for n in g.names],
            "weight_decay": g.treatment.weight_decay,
            "name": g.treatment.name,
            "lr": learning_rate * g.treatment.rate,
            **({"orthogonal": g.treatment.name == MATRICES.name} if is_muon else {}),
        }
        for g in groups(model, weight_decay=options.weight_decay, rules=rules)
    ]
    kind = Muon if is_muon else AdamW
    return kind(declared, lr=learning_rate, betas=(options.beta1, options.beta2), eps=1e-8, fused=fused)


def optimizer_and_schedule(
    model: nn.Module,
    options: OptimizerConfig,
    *,
    learning_rate: float,
    steps: int,
    warmup_steps: int | None = None,
    rules: Sequence[GroupRule] = (),
    fused: bool = True,
) -> OptimizerLRSchedulerConfig:
    """What ``configure_optimizers`` of a LightningModule returns.

    ``learning_rate``: the peak; ``steps``: of the schedule; ``warmup_steps``: see rate_schedule.
    """
    optimizer = build_optimizer(model, options, learning_rate=learning_rate, rules=rules, fused=fused)
    schedule = rate_schedule(options, steps, warmup_steps=warmup_steps)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
    }


def rate_schedule(
    options: OptimizerConfig, total_steps: int, *, warmup_steps: int | None = None
) -> Callable[[int], float]:
    """Multiplier of the peak rate at a 0-based step: linear warm-up to 1, then down to ``final_fraction``.

    WSD (warm-up, stable, decay; arXiv 2404.06395) does not depend on ``total_steps`` before its decay, so that runs
    of different length share their beginning. ``warmup_steps``: instead of the options' share of all steps.
    """
    warmup = warmup_steps or max(1, round(options.warmup_fraction * total_steps))
    is_wsd, last = options.schedule == "wsd", options.final_fraction
    decay = total_steps - round(options.decay_fraction * total_steps) if is_wsd else warmup
    decay = max(decay, warmup)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, max(0, step - decay) / max(1, total_steps - decay))
        falling = 1 - progress if is_wsd else 0.5 * (1 + math.cos(math.pi * progress))
        return last + (1 - last) * falling

    return factor
