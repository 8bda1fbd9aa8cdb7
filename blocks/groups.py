"""Groups of parameters that blocks declare for their optimizer.

A block names parameters that want another learning rate or weight decay than its matrices; an optimizer reads
the declarations from the built model, so that no copy of a layer loses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from blocks.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters trained alike.

    ``rate`` multiplies the learning rate. ``decays``: whether weight decay acts on them; None: on matrices
    only.
    """

    name: str
    rate: float = 1.0
    decays: bool | None = None


MATRICES = ParameterGroup(name="matrices", decays=True)
# taps of short convolutions: a matrix in shape only, so no optimizer may orthogonalize them
TAPS = ParameterGroup(name="taps", decays=True)
GAINS = ParameterGroup(name="gains", decays=False)  # norms, biases and everything else with one dimension
EMBEDDING = ParameterGroup(name="embedding", decays=False)  # tables of tokens, positions and patches
# A row of a table gets a gradient from the few places where its token stands. Gemma 3 gains 0.02 bits per byte at three
# times the rate of its matrices, Monarch Mixer loses nothing (docs/optimizer.md).
TIED_EMBEDDING = ParameterGroup(name="embedding", rate=3.0, decays=False)
HEAD = ParameterGroup(name="head")  # what follows the last layer, unless a table does that
# Long convolution kernels are written by a network: a step of it moves every tap at once. At the rate of the
# matrices the kernels of m2_gpt move too fast and training collapses at twice its best rate
# (docs/optimizer.md); Hyena's recipe (arXiv 2302.10866) trains them apart too.
FILTERS = ParameterGroup(name="filters", rate=0.02, decays=False)
GROUPS = (MATRICES, TAPS, GAINS, EMBEDDING, HEAD, FILTERS)


def parameter_groups(model: nn.Module) -> dict[str, ParameterGroup]:
    """Group of each trainable parameter, by name.

    A module declares with a method ``parameter_groups`` that returns a dict from the name of a child or
    parameter of its own ("" for all of them) to a group. The innermost declaration holds. Without one, tables
    (``nn.Embedding``) are ``embedding``, matrices ``matrices`` and the rest ``gains``.

    Raises: ConfigError where a module declares a group for a name that it does not have.
    """
    declared: dict[str, ParameterGroup] = {}
    for path, module in model.named_modules():
        for name, group in _declaration(module).items():
            members = _members(module, name)
            declared |= {f"{path}.{member}" if path else member: group for member in members}
    return {
        name: declared.get(name) or _by_shape(parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def decays(group: ParameterGroup, parameter: Tensor) -> bool:
    """Whether weight decay acts on this parameter of the group."""
    return parameter.squeeze().ndim >= 2 if group.decays is None else group.decays


def _declaration(module: nn.Module) -> dict[str, ParameterGroup]:
    if isinstance(module, nn.Embedding):
        return {"": EMBEDDING}
    declare = getattr(module, "parameter_groups", None)
    return {} if declare is None else declare()


def _members(module: nn.Module, name: str) -> list[str]:
    """Names, inside ``module``, of the parameters that ``name`` stands for."""
    every = [member for member, _ in module.named_parameters(remove_duplicate=False)]
    if name and not hasattr(module, name):
        raise ConfigError(
            f"{type(module).__name__}.parameter_groups names {name!r}, which it does not have; "
            f"its parameters: {', '.join(every)}"
        )
    return [member for member in every if not name or member == name or member.startswith(f"{name}.")]


def _by_shape(parameter: Tensor) -> ParameterGroup:
    return MATRICES if decays(HEAD, parameter) else GAINS
