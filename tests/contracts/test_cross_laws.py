"""The laws of cross mixers on trial: what goes wrong only where a second sequence is read is caught, and by the right law.

Each broken mixer differs from a built-in one in a single line; the built-in ones themselves stand in
``test_laws``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from arch_lab.laws import LAWS, Subject, check
from arch_lab.laws.cases import SMALL, Case
from arch_lab.laws.probe import redraw
from arch_lab.laws.staged import Anchored, staged
from blocks import BlockConfig, CrossMixer, register
from blocks.attention.cross import CrossState, GemmaCrossAttention, GemmaCrossAttentionConfig
from blocks.attention.merged import GemmaMergedAttention, GemmaMergedAttentionConfig, MergedState, Turn
from blocks.cost import Cost
from blocks.errors import ConfigError


class ReadsPadding(GemmaCrossAttention):
    """Forgets which memory is padding."""

    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor:
        return super().forward(x, memory, segments)


class ReadsEveryPair(GemmaCrossAttention):
    """Knows padding, and not which source belongs to which target."""

    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor:
        ids = None if memory_segments is None else (memory_segments != 0).long()
        return super().forward(x, memory, None if segments is None else (segments != 0).long(), ids)


class ReadsPaddingWhileDecoding(GemmaCrossAttention):
    def init_state(
        self, memory: Tensor, max_tokens: int, memory_segments: Tensor | None = None
    ) -> CrossState:
        return super().init_state(memory, max_tokens)


class NeverReads(GemmaCrossAttention):
    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor:
        return super().forward(x, torch.ones_like(memory), segments, memory_segments)


class ReadsTheNeighbour(GemmaCrossAttention):
    """Reads the memory of the next row of the batch."""

    def forward(
        self, x: Tensor, memory: Tensor, segments: Tensor | None = None, memory_segments: Tensor | None = None
    ) -> Tensor:
        return super().forward(x, memory.roll(1, dims=0), segments, memory_segments)


class ChargesForTargetOnly(GemmaCrossAttention):
    """Counts keys and values of T tokens where the memory has S."""

    def cost(self, tokens: int, memory_tokens: int | None = None) -> Cost:
        return super().cost(tokens, tokens)


class CountsPositionsThroughPadding(GemmaMergedAttention):
    """Positions run on through the row: harmless for self-attention, where only differences count, wrong beside still keys."""

    def _turns(self, x: Tensor, start: int, segments: Tensor | None = None) -> Turn:
        return super()._turns(x, start)


class ForgetsThePosition(GemmaMergedAttention):
    """Decodes every token at position 0: again invisible in the differences between own keys."""

    def prefill(self, x: Tensor, state: MergedState) -> tuple[Tensor, MergedState]:
        state = MergedState(**{**vars(state), "position": 0})
        return super().prefill(x, state)


BROKEN: list[tuple[type[CrossMixer], str, str]] = [
    (ReadsPadding, "isolation", "2 pads before the memory and 0 after it change an output"),
    (ReadsEveryPair, "isolation", "a packed pair gives a different output than alone"),
    (ReadsPaddingWhileDecoding, "isolation", "change an output in decoding"),
    (NeverReads, "isolation", "changing the memory does not change the outputs"),
    (
        ReadsTheNeighbour,
        "isolation",
        "a row of x and its memory give a different output alone than in a batch",
    ),
    (ChargesForTargetOnly, "accounting", "the counted graph executes"),
    (CountsPositionsThroughPadding, "isolation", "pads on the left change output"),
    (ForgetsThePosition, "decoding", "than the parallel forward"),
]


def subject(block: type[CrossMixer]) -> Subject:
    merged = issubclass(block, GemmaMergedAttention)
    known: type[BlockConfig] = GemmaMergedAttentionConfig if merged else GemmaCrossAttentionConfig
    options: dict[str, Any] = {k: v for k, v in SMALL.items() if k in known.__dataclass_fields__}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = staged(block(known.from_options(options))).double().eval()
        redraw(module)
    return Subject(
        name=block.__name__,
        kind="cross_mixer",
        case=Case(name="plain", options=options, first=True),
        module=module,
    )


@pytest.mark.parametrize(("block", "law", "message"), BROKEN, ids=[block.__name__ for block, _, _ in BROKEN])
def test_a_broken_cross_mixer_is_caught_by_the_law_it_breaks(
    block: type[CrossMixer], law: str, message: str
) -> None:
    result = check(LAWS[law], subject(block))
    assert result.status == "failed" and message in result.text


@pytest.mark.parametrize(
    "block", [ReadsPadding, ReadsEveryPair, ReadsPaddingWhileDecoding, CountsPositionsThroughPadding]
)
def test_what_breaks_isolation_alone_keeps_causality(block: type[CrossMixer]) -> None:
    assert check(LAWS["causality"], subject(block)).status == "passed"


def test_a_staged_block_is_the_block_before_one_memory_for_all_rows() -> None:
    module = subject(GemmaCrossAttention).module
    assert isinstance(module, Anchored)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    assert torch.equal(module(x), module.mixer(x, module.memory.expand(3, -1, -1)))


def test_a_cross_mixer_must_inherit_from_the_contract() -> None:
    with pytest.raises(ConfigError, match=r"a cross_mixer must inherit from blocks\.CrossMixer"):
        from blocks.norm import RMSNorm, RMSNormConfig

        class Wrong(RMSNorm):
            """Not a mixer."""

        register("wrong_cross", kind="cross_mixer", config=RMSNormConfig, source="none")(Wrong)


@pytest.mark.parametrize(
    ("memory", "ids", "message"),
    [
        (torch.zeros(2, 0, 6), None, "memory must be"),
        (torch.zeros(1, 3, 6), None, "memory must be"),
        (torch.zeros(2, 3, 6), torch.ones(2, 4, dtype=torch.long), "segments must be integers of shape"),
    ],
)
def test_a_memory_of_another_shape_is_refused_in_one_line(
    memory: Tensor, ids: Tensor | None, message: str
) -> None:
    block = GemmaCrossAttentionConfig(width=8, memory_width=6, heads=2).build()
    with pytest.raises(ConfigError, match=message) as caught:
        block(torch.zeros(2, 5, 8), memory, None, ids)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (
            GemmaCrossAttentionConfig,
            {"width": 8, "heads": 3, "kv_heads": 2},
            "must be a multiple of kv_heads",
        ),
        (GemmaCrossAttentionConfig, {"width": 9, "heads": 2}, "set head_width"),
        (GemmaCrossAttentionConfig, {"width": 8, "memory_width": 0}, "memory_width must be at least 1"),
        (GemmaCrossAttentionConfig, {"width": 8, "softcap": 0.0}, "softcap must be a positive number"),
        (GemmaMergedAttentionConfig, {"width": 8, "head_width": 3}, "head_width must be even"),
        (GemmaMergedAttentionConfig, {"width": 8, "window": 0}, "window must be at least 1"),
        (GemmaMergedAttentionConfig, {"width": 8, "rope_base": -1.0}, "rope_base must be a positive number"),
    ],
)
def test_impossible_options_are_refused(
    config: type[BlockConfig], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config.from_options(options)


@torch.no_grad()
def test_merged_attention_without_a_memory_to_read_is_the_attention_of_gemma_3() -> None:
    """A memory of padding alone leaves the softmax to the own keys; weights fit by name."""
    from blocks.attention.gemma import Gemma3AttentionConfig

    merged = (
        GemmaMergedAttentionConfig(width=8, heads=4, head_width=4, window=3, rope_factor=8.0).build().double()
    )
    plain = Gemma3AttentionConfig(width=8, heads=4, head_width=4, window=3, rope_factor=8.0).build().double()
    plain.load_state_dict(merged.state_dict())
    x, memory = torch.randn(2, 9, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    found = merged(x, memory, None, torch.zeros(2, 5, dtype=torch.long))
    torch.testing.assert_close(found, plain(x), rtol=0, atol=1e-12)
