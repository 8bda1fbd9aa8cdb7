"""One environment variable and one context reach every operation: products, convolutions and attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import blocks
from blocks.attention import backend_of
from blocks.attention.core import attend
from blocks.convolution import choose, long_convolution
from blocks.dispatch import VARIABLE, Choice, use_implementation
from blocks.errors import ConfigError

LONG = 600  # tokens for which the rule takes tiles, folds and transforms
FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {
        "gemma2_attention": {"width": 8, "heads": 2, "softcap": 5.0},
        "gemma3_attention": {"width": 8, "heads": 2, "window": 9},
    },
    "convolutions": {
        "m2_mixer": {"width": 4, "max_tokens": LONG},
        "m2_mixer ": {"width": 4, "max_tokens": LONG, "causal": False},
        "gated_long_conv": {"width": 4, "max_tokens": LONG},
        "monarch_polynomial": {"width": 4, "max_tokens": LONG},
    },
    "products": {
        "block_diagonal_linear": {"in_features": 8, "out_features": 8},
        "block_diagonal_glu": {"width": 8, "ffn_width": 12},
        "block_diagonal_mlp": {"width": 8, "ffn_width": 12},
        "monarch_linear": {"in_features": 8, "out_features": 8},
    },
}


class Operators(TorchDispatchMode):
    """Records the operators of this library that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "blocks":
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def operators(name: str, options: dict[str, Any]) -> set[str]:
    """Those of a forward and a backward pass."""
    block = blocks.build(name.strip(), **options)
    x = torch.randn(1, LONG, options.get("width", 8), requires_grad=True)
    with Operators() as ran:
        block(x).sum().backward()
    return ran.names


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_path_runs_no_operator_of_the_library(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    by_rule = {name: operators(name, options) for name, options in FAMILIES[family].items()}
    assert any(by_rule.values())
    monkeypatch.setenv(VARIABLE, "reference")
    assert {name: operators(name, options) for name, options in FAMILIES[family].items()} == {
        name: set() for name in by_rule
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_path_computes_the_same_function(family: str) -> None:
    for name, options in FAMILIES[family].items():
        block = blocks.build(name.strip(), **options).double()
        x = torch.randn(1, 70, options.get("width", 8), dtype=torch.float64)
        with use_implementation(""):
            y = block(x)
        with use_implementation("reference"):
            torch.testing.assert_close(block(x), y)


def test_the_reference_of_attention_and_convolution_is_named_with_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    named = {"reason": "named by ARCH_LAB_OPS", "requested": True}
    assert backend_of(tokens=LONG, window=9) == Choice(implementation="masked", **named)
    assert choose(batch=1, tokens=LONG, taps=LONG, causal=True) == Choice(implementation="toeplitz", **named)
    assert choose(batch=1, tokens=LONG, taps=LONG, causal=True, device="meta").implementation == "fft"


def test_one_operation_is_requested_without_the_others() -> None:
    with use_implementation("reference, attention=tiled, long_convolution=direct"):
        assert backend_of(tokens=9).implementation == "tiled"
        assert choose(batch=1, tokens=LONG, taps=LONG, causal=True).implementation == "direct"
    with use_implementation("monarch"):  # a name that only convolutions have
        assert not backend_of(tokens=9).requested and choose(batch=1, tokens=9, taps=9, causal=True).requested


@pytest.mark.parametrize(
    "names, message",
    [
        ("attention=cuda", "unknown implementation 'cuda'; valid: flex, folded"),
        ("attention=tyled", "unknown implementation 'tyled'; did you mean 'tiled'"),
        ("atention=tiled", "unknown operation 'atention'; did you mean 'attention'"),
    ],
)
def test_an_unknown_request_is_refused_with_the_nearest(names: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message), use_implementation(names):
        pass


def test_a_request_that_cannot_run_is_an_error() -> None:
    q, u = torch.randn(1, 1, 9, 4), torch.randn(1, 2, 9)
    with (
        use_implementation("attention=fused"),
        pytest.raises(ConfigError, match=r"named by use_implementation\(\), cannot"),
    ):
        attend(q, q, q, scale=1.0, window=3)
    with (
        use_implementation("long_convolution=fft"),
        pytest.raises(ConfigError, match="rounding leaks the future"),
    ):
        long_convolution(u, u[0], precision=torch.bfloat16)


def test_the_argument_of_a_call_overrules_the_request() -> None:
    q = torch.randn(1, 1, 40, 4)
    with use_implementation("attention=fused"):
        attend(q, q, q, scale=1.0, window=3, backend="masked")


@pytest.mark.parametrize("name", FAMILIES["convolutions"])
def test_shapes_alone_are_counted_alike_whatever_is_requested(name: str) -> None:
    block = blocks.build(name.strip(), **FAMILIES["convolutions"][name]).to("meta")
    counts = []
    for request in ("", "reference"):
        with use_implementation(request), FlopCounterMode(display=False) as counter:
            block(torch.zeros(1, 40, 4, device="meta"))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
