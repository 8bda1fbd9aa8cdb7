"""Every registered block, in every configuration, under every law; and whole models under those that concern them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blocks  # noqa: F401  registers the built-in ones
from arch_lab.architecture import Shape, recipe
from arch_lab.testing import LAWS, Broken, ModelSubject, Subject, cases, check, model_subject, subject_of
from arch_lab.testing.coverage import COMMAND, expected, markdown
from arch_lab.testing.laws import inapplicable
from arch_lab.testing.strategies import TokenShape, seeds, token_shapes
from blocks.attention.core import mask_pairs
from blocks.attention.masks import attended_pairs, visible
from blocks.registry import Entry, entries

PAGE = Path(__file__).resolve().parents[2] / "docs" / "laws.md"
# this repository's own: other tests register blocks that are broken on purpose, machines may hold packages with more
BUILT_IN: list[Entry] = [entry for entry in entries() if entry.block.__module__.startswith("blocks.")]
EVERY = [(entry, case) for entry in BUILT_IN for case in cases(entry)]
LONGEST = 40
MODELS: dict[str, dict[str, Any]] = {
    "gemma1": {},
    "gemma2": {"window": 5},
    "gemma3": {"window": 5, "pattern": "LG"},
    "m2_gpt": {"filter_order": 8},
    "custom": {"mixer": "gated_long_conv", "mixer_options": {"filter_order": 8}},
}
OF_MODELS = ("causality", "prefix consistency", "decoding", "isolation")


@cache
def subject(index: int) -> Subject:
    return subject_of(*EVERY[index])


@pytest.mark.parametrize("index", range(len(EVERY)), ids=[f"{entry.name}-{case}" for entry, case in EVERY])
@pytest.mark.parametrize("law", LAWS)
def test_every_block_keeps_every_law_that_applies(index: int, law: str) -> None:
    result = check(LAWS[law], subject(index))
    assert result.status != "failed", result.text
    assert result.status == "passed" or result.reason


@cache
def model(name: str) -> ModelSubject:
    shape = Shape(width=32, depth=2, ffn_width=32)
    return model_subject(name, recipe(name, MODELS[name]).model(shape, vocabulary=23, max_tokens=LONGEST))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("law", OF_MODELS)
def test_every_model_keeps_the_laws_of_sequence_mixers(name: str, law: str) -> None:
    subject = model(name)
    for batch, tokens, seed in ((1, 1, 0), (2, 2, 1), (1, 6, 2), (2, 11, 3), (1, LONGEST, 4)):
        LAWS[law].probe(subject, batch, tokens, seed)


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=25)
@given(shape=token_shapes(), seed=seeds(), index=st.integers(0, len(EVERY) - 1))
def test_laws_hold_at_any_shape_and_seed(name: str, shape: TokenShape, seed: int, index: int) -> None:
    law, block = LAWS[name], subject(index)
    if not inapplicable(law, block):
        law.probe(block, shape.batch, min(shape.tokens, block.longest), seed)


@given(tokens=st.integers(1, 70), window=st.none() | st.integers(1, 80), radius=st.none() | st.integers(0, 80), causal=st.booleans())
def test_the_pairs_a_count_is_charged_with_are_the_true_entries_of_the_mask(
    tokens: int, window: int | None, radius: int | None, causal: bool
) -> None:
    """Three witnesses: the mask, what ``attend`` reports to a counter, the closed form in ``cost``."""
    span: dict[str, Any] = {"window": window, "radius": None} if causal else {"window": None, "radius": radius}
    mask = visible(tokens, tokens, causal=causal, **span)
    entries_seen = tokens * tokens if mask is None else int(mask.sum())
    assert mask_pairs(tokens, tokens, causal=causal, offset=0, **span) == entries_seen
    assert attended_pairs(tokens, causal=causal, **span) == entries_seen


def test_the_page_of_laws_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell says what the tests above assert; the command that writes the page runs the laws as well."""
    page = markdown([expected(entry) for entry in BUILT_IN])
    with capsys.disabled():
        print("\n" + "\n".join(line for line in page.splitlines() if re.match(r"\| (block|`)|\[\d", line)))
    assert PAGE.read_text(encoding="utf-8") == page, f"out of date: {COMMAND} > docs/laws.md"


def test_no_law_applies_to_nothing() -> None:
    found = [expected(entry) for entry in BUILT_IN]
    for name in LAWS:
        assert any(report[name].status == "passed" for report in found)


def test_a_law_that_breaks_reports_the_smallest_length_it_found() -> None:
    """The runner goes up in length and, after a failure between two lengths it knows, through all shorter ones."""
    from dataclasses import replace

    def probe(_subject: Subject, _batch: int, tokens: int, _seed: int) -> float:
        if tokens >= 12:
            raise Broken("too long", size=1.0, bound=0.0)
        return 0.0

    result = check(replace(LAWS["round trip"], probe=probe, lengths=(3, 40)), subject(0))
    assert result.status == "failed" and result.example is not None
    assert (result.example.batch, result.example.tokens) == (1, 12)
