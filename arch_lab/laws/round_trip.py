"""Law 7: state dict, config and registry name rebuild the same function."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from arch_lab.laws.anchored import bare, staged
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject
from blocks.contract import Block
from blocks.registry import build, lookup


@torch.no_grad()
def round_trip(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """0.0, since everything must be equal. Raises: Broken."""
    x = subject.input(batch, tokens, seed)
    y = subject(x)
    config = _config(subject)
    twins: dict[str, Any] = {
        "the config read back from JSON": lambda: config.build(),
        "the registered name": lambda: build(subject.name, **subject.case.options),
        "the import path": lambda: lookup(_path(type(subject.block))).config.from_options(subject.case.options).build(),
    }
    saved = _saved(subject.module)
    for source, make in twins.items():
        twin = _apart(make)
        if type(bare(twin)) is not type(subject.block):
            raise Broken(f"{source} builds a {type(bare(twin)).__name__}, not a {type(subject.block).__name__}")
        try:
            twin.double().eval().load_state_dict(saved)
        except RuntimeError as error:
            raise Broken(f"the state dict does not fit what {source} builds: {' '.join(str(error).split())[:200]}") from None
        _equal(subject.around(twin)(x), y, f"{source} and the state dict")
    _fresh(subject)
    return 0.0


def _config(subject: Subject) -> Any:
    config = subject.module.config
    try:
        text = json.dumps(asdict(config))
    except TypeError as error:
        raise Broken(f"the config is not made of plain values: {error}") from None
    again = type(config).from_options(json.loads(text))
    if again != config:
        changed = [name for name, value in asdict(config).items() if asdict(again)[name] != value]
        name = changed[0] if changed else "?"
        raise Broken(f"config option {name!r} comes back from JSON as {asdict(again).get(name)!r}, it was {asdict(config).get(name)!r}")
    return again


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _saved(module: Block) -> dict[str, Tensor]:
    """Through a file, as a checkpoint goes."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def _apart(make: Any) -> Block:
    """Built with another seed, so that what the state dict does not carry shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987_654_321)
        return staged(make())


def _equal(found: Tensor, expected: Tensor, source: str) -> None:
    if found.shape != expected.shape or not torch.equal(found, expected):
        size = (found - expected).abs().max().item() if found.shape == expected.shape else None
        raise Broken(f"a block rebuilt from {source} computes a different function", size=size, bound=0, unit="largest difference")


def _fresh(subject: Subject) -> None:
    """reset_parameters draws every parameter anew: what it forgets keeps whatever memory held."""
    twin = _apart(lambda: type(subject.module.config).from_options(subject.case.options).build())
    for parameter in twin.parameters():
        parameter.fill_(float("nan"))
    with torch.random.fork_rng(devices=[]):
        twin.reset_parameters()
    forgotten = [name for name, p in twin.named_parameters() if not torch.isfinite(p).all()]
    if forgotten:
        raise Broken(f"reset_parameters leaves {forgotten[0]!r} unchanged: every parameter must be drawn again")
