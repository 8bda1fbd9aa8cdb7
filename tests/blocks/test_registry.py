"""What registration refuses, and that looking up one block does not load the others."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import blocks
from blocks import BlockConfig, ConfigError, Cost, SequenceMixer, register, registry
from blocks.index import BLOCKS, PUBLIC
from tests.cli.terminals import ROOT


class Mixer(SequenceMixer):
    """A mixer that is complete but for its direction."""

    def cost(self, tokens: int) -> Cost:
        return Cost()

    def reset_parameters(self) -> None: ...

    def forward(self, x: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        return x

    def init_state(self, batch: int, max_tokens: int) -> Any: ...

    def prefill(self, x: torch.Tensor, state: Any) -> Any: ...

    def state_bytes(self, tokens: int) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Options(BlockConfig):
    width: int = 4
    causal: bool = True


def mixer(direction: Any) -> Any:
    return type("Directed", (Mixer,), {"causal": direction, "__module__": __name__})


def options() -> type[BlockConfig]:
    return type("DirectedConfig", (Options,), {"__module__": __name__})


def registered(direction: Any, **flag: bool) -> bool:
    register("directed", kind="sequence_mixer", config=options(), source="a test", **flag)(mixer(direction))
    return registry.lookup("directed").causal


ALWAYS = property(lambda self: True)
NEVER = property(lambda self: False)
BY_OPTION = property(lambda self: self.config.causal)
NAMES = {ALWAYS: "always", NEVER: "never", BY_OPTION: "by option"}


def case(value: Any) -> str:
    """Equal in every process, as the name of a test must be."""
    return NAMES.get(value) or str(value)


@pytest.mark.parametrize(
    "direction, flag",
    [(False, True), (True, False), (NEVER, True), (ALWAYS, False), (BY_OPTION, False)],
    ids=case,
)
def test_a_causal_flag_that_contradicts_the_class_is_refused(direction: Any, flag: bool) -> None:
    message = rf"block 'directed' \({__name__}:Directed\): causal={flag} contradicts the class"
    with pytest.raises(ConfigError, match=message):
        registered(direction, causal=flag)
    assert "directed" not in registry._entries


@pytest.mark.parametrize(
    "direction, causal",
    [(False, False), (True, True), (NEVER, False), (ALWAYS, True), (BY_OPTION, True)],
    ids=case,
)
def test_the_class_says_whether_a_mixer_is_causal(direction: Any, causal: bool) -> None:
    assert registered(direction) == registered(direction, causal=causal) == causal


def test_a_direction_known_only_once_built_takes_the_flag_as_it_is() -> None:
    assert registered(property(lambda self: self.weight.sum() > 0), causal=False) is False


def test_a_config_class_that_belongs_to_another_block_is_refused() -> None:
    shared = options()
    register("first_owner", kind="sequence_mixer", config=shared, source="a test")(mixer(True))
    second = type("Second", (Mixer,), {"causal": True, "__module__": __name__})
    message = rf"block 'second' \({__name__}:Second\): DirectedConfig already configures {__name__}:Directed"
    with pytest.raises(ConfigError, match=message):
        register("second", kind="sequence_mixer", config=shared, source="a test")(second)
    assert shared.block.__name__ == "Directed" and "second" not in registry._entries


def test_a_built_in_name_is_taken_before_its_module_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", {})
    with pytest.raises(ConfigError, match=r"the name is taken by blocks\.norm:RMSNorm; choose another"):
        register("rms_norm", kind="sequence_mixer", config=options(), source="a test")(mixer(True))


def test_the_index_names_every_built_in_block_and_no_other() -> None:
    built_in = [entry for entry in registry.entries() if entry.block.__module__.startswith("blocks.")]
    assert {e.name: f"{e.block.__module__}:{e.block.__qualname__}" for e in built_in} == BLOCKS
    assert all(PUBLIC[e.config.__name__] == e.config.__module__ for e in built_in)


def test_public_names_for_type_checkers_are_those_of_the_index() -> None:
    lines = (ROOT / "blocks" / "__init__.pyi").read_text(encoding="utf-8").splitlines()
    typed = {line.split()[-1]: line.split()[1] for line in lines if line.startswith("from blocks")}
    assert typed == PUBLIC
    assert set(PUBLIC) < set(dir(blocks)) and all(getattr(blocks, name).__name__ for name in PUBLIC)


LOADS = """
import sys, blocks
def loaded(): return {m for m in sys.modules if m.startswith("blocks")}
blocks.build("rms_norm", width=4); blocks.RMSNorm
shared = ("blocks.dispatch", "blocks.kernels")  # norms choose between implementations
few = {"blocks", *("blocks." + m for m in "config contract cost errors groups index norm registry user_code".split())}
others = {m for m in loaded() if not m.startswith(shared)}
assert others == few, others - few
blocks.configure("gemma3_attention", width=8)
others = [m for m in loaded() if m.startswith(("blocks.convolution.mixer", "blocks.monarch", "blocks.heads"))]
assert not others, others
"""


def test_a_lookup_loads_the_modules_of_its_block_alone() -> None:
    subprocess.run([sys.executable, "-c", LOADS], cwd=ROOT, check=True)


def test_configs_of_built_in_blocks_are_named_after_their_class() -> None:
    assert all(
        registry.lookup(name).config.__name__ == f"{path.partition(':')[2]}Config"
        for name, path in BLOCKS.items()
    )
