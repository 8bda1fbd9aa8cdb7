"""Every registered block, in every configuration, under every law; and whole models under those that concern them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blocks  # noqa: F401  registers the built-in ones
from arch_lab.accounting.proof import prove
from arch_lab.laws import LAWS, Broken, ModelSubject, Subject, cases, check, model_subject, subject_of
from arch_lab.laws.coverage import COMMAND, expected, markdown
from arch_lab.laws.laws import inapplicable
from arch_lab.laws.strategies import TokenShape, seeds, token_shapes
from arch_lab.models import Decoder, Shape, recipe
from blocks.attention.core import mask_pairs
from blocks.attention.masks import Radius, attended_pairs, visible
from blocks.contract import tensors_nbytes
from blocks.registry import Entry, entries
from tests.law_table import LAW_RESULT, law_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "laws.md"
# this repository's own: other tests register blocks that are broken on purpose, machines may hold packages with more
BUILT_IN: list[Entry] = [entry for entry in entries() if entry.block.__module__.startswith("blocks.")]
EVERY = [(entry, case) for entry in BUILT_IN for case in cases(entry)]
LONGEST = 40
MODELS: dict[str, dict[str, Any]] = {
    "gemma1": {},
    "gemma2": {"window": 5},
    "gemma3": {"window": 5, "pattern": "LG"},
    "gemma4": {"window": 5},
    "gemma4 convolved": {"window": 5, "short_convolution": 3, "channel": "block_diagonal"},
    "m2_gpt": {"filter_order": 8},
    "m2_gpt bounded": {"filter_order": 8, "taps": 7, "channel": "dense"},
    "m2_gpt polynomial": {"filter_order": 8, "polynomial_order": 2, "polynomial_groups": 2},
    "hybrid": {"filter_order": 8, "pattern": "MA", "window": 5},
    "custom": {"mixer": "gated_long_conv", "mixer_options": {"filter_order": 8}},
}
SHAPE, VOCABULARY = Shape(width=32, depth=2, ffn_width=32), 23


@cache
def subject(index: int) -> Subject:
    return subject_of(*EVERY[index])


@pytest.mark.parametrize("index", range(len(EVERY)), ids=[f"{entry.name}-{case}" for entry, case in EVERY])
@pytest.mark.parametrize("law", LAWS)
def test_every_block_keeps_every_law_that_applies(
    index: int, law: str, record_property: Callable[[str, object], None]
) -> None:
    result = check(LAWS[law], subject(index))
    record_property(LAW_RESULT, [EVERY[index][0].name, law, result.status, result.reason or ""])
    assert result.status != "failed", result.text
    assert result.status == "passed" or result.reason


@cache
def model(name: str) -> ModelSubject:
    return model_subject(
        name,
        recipe(name.partition(" ")[0], MODELS[name]).model(SHAPE, vocabulary=VOCABULARY, max_tokens=LONGEST),
    )


@torch.no_grad()
def _model_accounting(name: str) -> None:
    """Every part of the model against its counted graph, its parameters and the bytes its state holds."""
    config = recipe(name.partition(" ")[0], MODELS[name]).config(
        SHAPE, vocabulary=VOCABULARY, max_tokens=LONGEST
    )
    built = Decoder(config)
    twin = config.build("meta")
    assert [(n, p.shape) for n, p in built.named_parameters()] == [
        (n, p.shape) for n, p in twin.named_parameters()
    ]
    assert sum(twin.parameter_counts()[part] for part in ("embedding", "head", "body")) == sum(
        p.numel() for p in built.parameters()
    )
    for tokens in (1, 6, LONGEST):
        assert prove(twin, tokens) >= 3
    state = built.init_state(2, LONGEST)
    for t in range(LONGEST):
        assert tensors_nbytes(state) == 2 * built.state_bytes(t)
        _, state = built.step(torch.randint(VOCABULARY, (2,)), state)


@torch.no_grad()
def _model_round_trip(name: str) -> None:
    """Name, options as JSON and state dict rebuild the same function."""
    first = model(name).module
    options = json.loads(json.dumps(MODELS[name]))
    again = (
        recipe(name.partition(" ")[0], options)
        .model(SHAPE, vocabulary=VOCABULARY, max_tokens=LONGEST)
        .double()
        .eval()
    )
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    tokens = torch.randint(VOCABULARY, (2, 9))
    assert torch.equal(again(tokens), first(tokens))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("law", LAWS)
def test_every_model_keeps_every_law(
    name: str, law: str, record_property: Callable[[str, object], None]
) -> None:
    record_property(LAW_RESULT, [f"model {name}", law, "passed", ""])
    if law in OWN:
        return OWN[law](name)
    for batch, tokens, seed in ((1, 1, 0), (2, 2, 1), (1, 6, 2), (2, 9, 5), (2, 11, 3), (1, LONGEST, 4)):
        LAWS[law].probe(model(name), batch, tokens, seed)
    return None


# laws whose checker asks a block for its registered config; a model's is its recipe
OWN = {"accounting": _model_accounting, "round trip": _model_round_trip}


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=25)
@given(shape=token_shapes(), seed=seeds(), index=st.integers(0, len(EVERY) - 1))
def test_laws_hold_at_any_shape_and_seed(name: str, shape: TokenShape, seed: int, index: int) -> None:
    law, block = LAWS[name], subject(index)
    if not inapplicable(law, block):
        law.probe(block, shape.batch, min(shape.tokens, block.longest), seed)


@given(
    tokens=st.integers(1, 70),
    window=st.none() | st.integers(1, 80),
    radius=st.none() | st.integers(0, 80) | st.tuples(st.integers(0, 80), st.integers(0, 80)),
    causal=st.booleans(),
)
def test_the_pairs_a_count_is_charged_with_are_the_true_entries_of_the_mask(
    tokens: int, window: int | None, radius: Radius | None, causal: bool
) -> None:
    """Three witnesses: the mask, what ``attend`` reports to a counter, the closed form in ``cost``."""
    span: dict[str, Any] = (
        {"window": window, "radius": None} if causal else {"window": None, "radius": radius}
    )
    mask = visible(tokens, tokens, causal=causal, **span)
    entries_seen = tokens * tokens if mask is None else int(mask.sum())
    assert mask_pairs(tokens, tokens, causal=causal, offset=0, **span) == entries_seen
    assert attended_pairs(tokens, causal=causal, **span) == entries_seen


def test_the_page_of_laws_is_current() -> None:
    """Every cell says what the tests above assert; the command that writes the page runs the laws as well."""
    page = markdown([expected(entry) for entry in BUILT_IN])
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


def test_the_table_at_the_end_of_a_run_shows_what_failed() -> None:
    results = [
        (("mine", "causality", "passed", ""), False),
        (("mine", "causality", "not_applicable", "bidirectional"), False),
        (("mine", "decoding", "not_applicable", "keeps no state"), False),
        (("yours", "causality", "passed", ""), True),
        (("yours", "decoding", "passed", ""), False),
    ]
    _, head, mine, yours, *notes = law_table(results).splitlines()
    assert head.split() == ["block", "causality", "decoding"]
    assert mine.split() == ["mine", "1", "[1]", "n/a", "[2]"]
    assert yours.split() == ["yours", "FAILED", "1/1", "1"]
    assert notes == ["[1] not asked: bidirectional", "[2] not asked: keeps no state"]
    assert law_table([]) == ""
