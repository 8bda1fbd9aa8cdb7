"""Law 7: state dict, config and registry name rebuild the same function."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from arch_lab.laws.result import Broken
from arch_lab.laws.staged import bare, staged
from arch_lab.laws.subject import Subject
from blocks.contract import Block, BlockConfig
from blocks.registry import build, lookup


@torch.no_grad()
def round_trip(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """0.0, since everything must be equal. Raises: Broken."""
    x = subject.input(batch, tokens, seed)
    y = subject(x)
    config = _config(subject)
    twins: dict[str, Callable[[], Any]] = {
        "the config read back from JSON": lambda: config.build(),
        "the registered name": lambda: build(subject.name, **subject.case.options),
        "the import path": lambda: _config_of(subject).from_options(subject.case.options).build(),
    }
    saved = _saved(subject.module)
    for source, make in twins.items():
        twin = _built(make)
        if type(bare(twin)) is not type(subject.block):
            names = f"a {type(bare(twin)).__name__}, not a {type(subject.block).__name__}"
            raise Broken(f"{source} builds {names}")
        try:
            twin.double().eval().load_state_dict(saved)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise Broken(f"the state dict does not fit what {source} builds: {reason}") from None
        _equal(subject.with_module(twin)(x), y, f"{source} and the state dict")
    _fresh(subject)
    return 0.0


def _config(subject: Subject) -> Any:
    config = subject.module.config
    try:
        text = json.dumps(asdict(config))
    except TypeError as error:
        raise Broken(f"the config is not made of plain values: {error}") from None
    restored = type(config).from_options(json.loads(text))
    if restored != config:
        options, original = asdict(restored), asdict(config)
        name = next((name for name, value in original.items() if options[name] != value), "?")
        values = f"comes back from JSON as {options.get(name)!r}, it was {original.get(name)!r}"
        raise Broken(f"config option {name!r} {values}")
    return restored


def _config_of(subject: Subject) -> type[BlockConfig]:
    """The config class that the import path of the block leads to."""
    cls = type(subject.block)
    return lookup(f"{cls.__module__}:{cls.__qualname__}").config


def _saved(module: Block) -> dict[str, Tensor]:
    """Through a file, as a checkpoint goes."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def _built(make: Any) -> Block:
    """Built with another seed, so that what the state dict does not carry shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987_654_321)
        return staged(make())


def _equal(output: Tensor, expected: Tensor, source: str) -> None:
    if output.shape != expected.shape or not torch.equal(output, expected):
        size = (output - expected).abs().max().item() if output.shape == expected.shape else None
        text = f"a block rebuilt from {source} computes a different function"
        raise Broken(text, size=size, bound=0, unit="largest difference")


def _fresh(subject: Subject) -> None:
    """Check that reset_parameters draws every parameter anew."""
    twin = _built(lambda: type(subject.module.config).from_options(subject.case.options).build())
    for parameter in twin.parameters():
        parameter.fill_(float("nan"))
    with torch.random.fork_rng(devices=[]):
        twin.reset_parameters()
    forgotten = [name for name, p in twin.named_parameters() if not torch.isfinite(p).all()]
    if forgotten:
        text = f"reset_parameters leaves {forgotten[0]!r} unchanged"
        raise Broken(f"{text}: every parameter must be drawn again")
