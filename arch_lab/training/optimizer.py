"""The optimizer of every arm: AdamW with groups declared by name pattern, warm-up, cosine.

Declared once a study and printed in its plan, because a group that reaches one architecture only is a tuning
advantage. (The released M2 code tags filter parameters with their own rates and then loses the tags in a deepcopy:
here the groups are built from the finished model and a test compares their sizes with the parameters.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import nn
from torch.optim import AdamW

# vectors (norms, biases, gains) never decay; these are matrices that are tables of positions or of tokens
NO_DECAY = ("*embedding*", "*positions*")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One optimizer group: which parameters, and how they decay."""

    name: str
    weight_decay: float
    names: tuple[str, ...]
    parameters: int


def groups(model: nn.Module, *, weight_decay: float, no_decay: Sequence[str] = NO_DECAY) -> list[Group]:
    """Every trainable parameter in exactly one group (asserted)."""
    spared: list[tuple[str, int]] = []
    decayed: list[tuple[str, int]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = parameter.squeeze().ndim < 2
            (spared if vector or any(fnmatch(name, p) for p in no_decay) else decayed).append((name, parameter.numel()))
    made = [
        Group(name=label, weight_decay=decay, names=tuple(n for n, _ in members), parameters=sum(c for _, c in members))
        for label, decay, members in (("decay", weight_decay, decayed), ("no_decay", 0.0, spared))
        if members
    ]
    assert sum(g.parameters for g in made) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    return made


def adamw(
    model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float, no_decay: Sequence[str] = NO_DECAY
) -> AdamW:
    """Fused AdamW over ``groups``; eps 1e-8."""
    parameters = dict(model.named_parameters())
    declared: list[dict[str, Any]] = [
        {"params": [parameters[n] for n in g.names], "weight_decay": g.weight_decay, "name": g.name}
        for g in groups(model, weight_decay=weight_decay, no_decay=no_decay)
    ]
    return AdamW(declared, lr=learning_rate, betas=betas, eps=1e-8, fused=True)


def warmup_cosine(total_steps: int, *, warmup_fraction: float, final_fraction: float) -> Callable[[int], float]:
    """Multiplier of the peak rate at a 0-based step: linear warm-up to 1, cosine down to ``final_fraction``."""
    warmup = max(1, round(warmup_fraction * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * done))

    return factor
