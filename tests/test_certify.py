"""``arch-lab certify`` and the configurations it finds for a block it has never seen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from arch_lab.cli import main
from arch_lab.laws import LAWS, LawBroken, cases, certify_block, laws_for
from blocks import Block, BlockConfig, ConfigError, Cost, registry
from blocks.registry import entries, lookup, register

ROOT = Path(__file__).resolve().parent.parent
LEAKY = "tests.contracts.broken_blocks:ChunkMean"


@pytest.fixture(autouse=True)
def _registry_as_found() -> Iterator[None]:
    before = dict(registry._entries)
    yield
    registry._entries.clear()
    registry._entries.update(before)
    for module in [name for name in sys.modules if name.startswith("tests.contracts.")]:
        del sys.modules[module]


def test_a_correct_block_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "tests.contracts.innocent_blocks:CumulativeNorm"]) == 0
    shown = capsys.readouterr().out
    assert (
        all(law in shown for law in LAWS)
        and "every law that applies holds" in shown
        and "FAILED" not in shown
    )


def test_a_broken_block_ends_with_code_1_and_shows_where_it_leaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", LEAKY]) == 1
    shown = capsys.readouterr().out
    row = shown[shown.index("causality") : shown.index("prefix consistency")]
    assert "FAILED" in row and "changing token 1 moves the earlier output 0" in " ".join(row.split())
    assert "T=2, t=0, s=1" in " ".join(row.split())


def test_json_holds_every_law_with_its_smallest_failing_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", LEAKY, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["block"], found["kind"], found["passed"]) == ("ChunkMean", "sequence_mixer", False)
    assert [law["law"] for law in found["laws"]] == list(LAWS)
    by_law = {law["law"]: law for law in found["laws"]}
    assert all(
        set(law) == {"law", "status", "reason", "share", "value", "bound", "unit", "example", "notes"}
        for law in found["laws"]
    )
    example = by_law["causality"]["example"]
    assert (example["t"], example["s"], example["tokens"], example["options"]) == (0, 1, 2, {"width": 8})
    assert example["size"] > 1e-2 and by_law["round trip"]["example"] is None


def test_a_registered_name_will_do_and_a_law_that_does_not_apply_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["certify", "rms_norm", "--json"]) == 0
    decoding = next(law for law in json.loads(capsys.readouterr().out)["laws"] if law["law"] == "decoding")
    assert decoding["status"] == "not_applicable" and "each position alone" in decoding["reason"]


def test_two_runs_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for _ in range(2):
        main(["certify", "monarch_linear", "--json"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_all_blocks_give_a_table_of_blocks_and_laws(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: entry for name, entry in registry._entries.items() if name in ("rms_norm", "linear")}
    monkeypatch.setattr(registry, "_entries", few)
    assert main(["certify", "--all"]) == 0
    shown = capsys.readouterr().out
    assert "rms_norm" in shown and "linear" in shown and "n/a: acts on each position alone" in shown
    assert main(["certify", "--all", "--markdown"]) == 0
    assert "| `linear` | linear | 2 | holds | holds | n/a [1] |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give one block or --all"),
        (["rms_norm", "--all"], "give one block or --all"),
        (["rms_nrm"], "did you mean 'rms_norm'"),
        (["no_such_module:Block"], "cannot import module"),
        (["blocks.norm:RMSNrom"], "did you mean 'RMSNorm'"),
        (["blocks.contract:Block"], "not registered"),
        (["rms_norm", "--markdown"], "--markdown goes with --all"),
        (["rms_norm", "--jsn"], "did you mean '--json'"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_certified_is_one_line_and_code_2(
    arguments: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err


# --- configurations -------------------------------------------------------------------------------------------------


class Scale(Block):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gain = torch.nn.Parameter(torch.empty(config.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        torch.nn.init.ones_(self.gain)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=tokens * self.gain.numel())


def test_flags_and_literals_of_an_unknown_block_are_varied() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        width: int
        mode: Literal["a", "b"]
        loud: bool = False

    entry = lookup_new(type("Varied", (Scale,), {}), Config)
    assert [case.options for case in cases(entry)] == [
        {"width": 8, "mode": "a"},
        {"width": 8, "mode": "b"},
        {"width": 8, "mode": "a", "loud": True},
    ]


def test_an_option_that_cannot_be_guessed_is_named_with_the_way_out() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        width: int
        temperature: float

    entry = lookup_new(type("Unguessable", (Scale,), {}), Config)
    with pytest.raises(ConfigError, match=r"required option 'temperature'.*law_cases\(\)"):
        certify_block(entry)


def test_a_block_may_bring_its_own_configurations() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        width: int
        temperature: float

    own = [{"width": 3, "temperature": 0.5}, {"width": 4, "temperature": 2.0}]
    entry = lookup_new(type("Bringing", (Scale,), {"law_cases": classmethod(lambda cls: own)}), Config)
    assert [case.options for case in cases(entry)] == own
    assert certify_block(entry, laws=["causality", "round trip"]).cases == (
        "width=3,temperature=0.5",
        "width=4,temperature=2.0",
    )


def test_a_misspelt_law_in_not_applicable_is_an_error_with_the_nearest() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Config(BlockConfig):
        width: int

    excuses: ClassVar[dict[str, str]] = {"numeric": "it is loud"}  # type: ignore[misc]
    entry = lookup_new(type("Misspelt", (Scale,), {"not_applicable": excuses}), Config)
    with pytest.raises(ConfigError, match="did you mean 'numerics'"):
        certify_block(entry)


def lookup_new(cls: type[Block], config: type[BlockConfig]) -> Any:
    register(cls.__name__, kind="norm", config=config, source="test")(cls)
    return lookup(cls.__name__)


# --- the pytest entry -----------------------------------------------------------------------------------------------


def test_laws_for_names_every_law_and_configuration() -> None:
    found = laws_for("block_diagonal_mlp")
    assert len(found) == len(LAWS) * len(cases(lookup("block_diagonal_mlp")))
    assert found[0].id == "block_diagonal_mlp-causality-plain"


def test_a_law_called_as_a_test_passes_skips_or_fails_with_the_example() -> None:
    by_id = {param.id: param.values[0] for param in [*laws_for("linear"), *laws_for(LEAKY)]}
    by_id["linear-causality-plain"]()
    with pytest.raises(pytest.skip.Exception, match="keeps no state"):
        by_id["linear-decoding-plain"]()
    with pytest.raises(LawBroken, match="changing token 1 moves the earlier output 0"):
        by_id["ChunkMean-causality-plain"]()


def test_the_laws_need_neither_pytest_nor_hypothesis() -> None:
    code = "import sys\nfor name in ('pytest', 'hypothesis'): sys.modules[name] = None\n"
    code += (
        "from arch_lab.laws import certify_block; assert certify_block('rms_norm', laws=['causality']).passed"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import blocks\n" + code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_every_built_in_block_has_a_configuration() -> None:
    assert all(cases(entry) for entry in entries() if entry.block.__module__.startswith("blocks."))
