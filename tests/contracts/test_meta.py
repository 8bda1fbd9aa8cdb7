"""The laws on trial: each deliberately broken block is caught by the law that should catch it, and no innocent one is."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from arch_lab.laws import BlockReport, certify_block
from blocks import registry

BROKEN = "tests.contracts.broken_blocks"
INNOCENT = "tests.contracts.innocent_blocks"
EDGES = "tests.contracts.edge_leaks"
HONEST = "tests.contracts.honest_mixers"
POLYNOMIAL = "tests.contracts.polynomial_blocks"

# class, the law that must catch it, what its message must say
CAUGHT = [
    ("CircularTransform", "causality", "moves the earlier output"),
    ("TwoPointsShort", "causality", "moves the earlier output 0"),
    ("FreeSpectrum", "causality", "moves the earlier output"),
    ("CentredConvolution", "causality", "moves the earlier output"),
    ("ChunkMean", "causality", "moves the earlier output"),
    ("SequenceNorm", "causality", "moves the earlier output"),
    ("MeanRouting", "causality", "moves the earlier output"),
    ("ExpertChoice", "causality", "moves the earlier output"),
    ("AllChunksSummed", "causality", "moves the earlier output"),
    ("SeesOneAhead", "causality", "changing token 1 moves the earlier output 0"),
    ("OneKeyTooMany", "causality", "window 5 reaches 6 keys"),
    ("UnmaskedInTraining", "causality", "in train mode"),
    ("UnmaskedInSingle", "causality", "in float32"),
    ("UnmaskedAtBatchOne", "causality", "at batch 1"),
    ("UnmaskedWithDocuments", "causality", "with segments given"),
    ("ExcusesItself", "causality", "not applicable"),
    ("Dead", "causality", "a dead block"),
    ("TimeByLength", "prefix consistency", "than the same tokens in a sequence of"),
    ("RingOverwritten", "decoding", "than the parallel forward"),
    ("StateCarriedOver", "isolation", "packed than alone"),
    ("PadsEnterTheState", "isolation", "on the left change output"),
    ("RowsMixed", "isolation", "alone than in a batch"),
    ("ExcusedYetAccepts", "isolation", "but accepts packed documents"),
    ("FlopsHalved", "accounting", "the counted graph executes"),
    ("StateForgotten", "accounting", "state_bytes(2) says"),
    ("GradientWrong", "numerics", "autograd disagrees"),
    ("HalfInside", "numerics", "float32 outputs lie too far from float64"),
    ("Untraceable", "numerics", "cannot trace"),
    ("ConfigChanges", "round trip", "'factor' comes back from JSON"),
    ("StateLeftOut", "round trip", "computes a different function"),
    ("ResetForgets", "round trip", "leaves 'gain' unchanged"),
]
# leaks that wait for a threshold, a tile, a second chunk, train mode or recorded gradients; and what looks like one
BEHIND_AN_EDGE = [
    ("NextTokenFrom64", "causality", "moves the earlier output 64"),
    ("CarryOneChunkLate", "causality", "T=66"),
    ("OnlyLongRows", "causality", "T=66"),
    ("OnlyWholeTiles", "causality", "T=128"),
    ("OnlyInTraining", "causality", "in train mode"),
    ("OnlyLongRowsInTraining", "causality", "in train mode"),
    ("OnlyWithGradients", "causality", "gradient of output 0"),
    ("OnlyWithoutGradients", "causality", "moves the earlier output 0"),
    ("BatchMean", "isolation", "alone than in a batch in train mode"),
    ("ChoiceInGroupsOf128", "causality", "T=128"),
    ("RescaledByLength", "prefix consistency", "in a sequence of 101"),
    ("RemembersCalls", "causality", "memory of an earlier call"),
]
UNUSUAL = (
    "LinearAttention",
    "GatedDeltaRule",
    "DiagonalStateSpace",
    "CausalMaxPool",
    "ParallelScan",
    "RunningMax",
)
# these break one law alone: the others must not cry wolf
ONE_FAULT = {
    *("OneKeyTooMany", "RingOverwritten", "PadsEnterTheState", "RowsMixed", "FlopsHalved"),
    *(
        "StateForgotten",
        "GradientWrong",
        "Untraceable",
        "ConfigChanges",
        "StateLeftOut",
        "ResetForgets",
        "StateCarriedOver",
    ),
}
NAMES = (
    "WindowAttention",
    "DoubledTransform",
    "ShortestTransform",
    "CumulativeNorm",
    "RunningMaximum",
    "LeftPaddedConvolution",
)
EXCUSED = {
    "OneDocumentOnly": {"isolation": "its state has no reset"},
    "BothWays": {"causality": "bidirectional", "decoding": "bidirectional"},
}


@pytest.fixture(scope="module", autouse=True)
def _registry_as_found() -> Iterator[None]:
    """Blocks of this test register themselves when they are imported; other tests run over everything registered."""
    before = dict(registry._entries)
    yield
    registry._entries.clear()
    registry._entries.update(before)
    for module in (BROKEN, INNOCENT, POLYNOMIAL, EDGES, HONEST, "tests.contracts.third_party"):
        sys.modules.pop(module, None)


def report(module: str, name: str, *laws: str) -> BlockReport:
    return certify_block(f"{module}:{name}", laws=laws or None)


@pytest.mark.parametrize("name, law, message", CAUGHT, ids=[name for name, _, _ in CAUGHT])
def test_each_broken_block_is_caught_by_its_law_with_a_readable_message(
    name: str, law: str, message: str
) -> None:
    result = report(BROKEN, name, law)[law]
    assert result.status == "failed", f"{name} got through"
    assert message in result.text
    assert "\n" not in result.text and result.example is not None
    assert "checked" not in result.text and "raised" not in result.text  # found out, not stumbled upon


@pytest.mark.parametrize("name, law, message", BEHIND_AN_EDGE, ids=[name for name, _, _ in BEHIND_AN_EDGE])
def test_a_leak_behind_an_edge_is_caught_at_its_edge(name: str, law: str, message: str) -> None:
    result = report(EDGES, name, law)[law]
    assert result.status == "failed", f"{name} got through"
    assert message in result.text


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_mixers_keep_every_law(name: str) -> None:
    found = report(HONEST, name)
    assert {r.law: r.text for r in found.laws if r.status != "passed"} == {}


@pytest.mark.parametrize("name", sorted(ONE_FAULT))
def test_a_block_with_one_fault_breaks_one_law(name: str) -> None:
    found = report(BROKEN, name)
    assert [r.law for r in found.laws if r.status == "failed"] == [
        law for n, law, _ in CAUGHT if n == name
    ], [r.text for r in found.laws]


@pytest.mark.parametrize("name", NAMES)
def test_innocent_blocks_keep_every_law(name: str) -> None:
    found = report(INNOCENT, name)
    assert {r.law: r.text for r in found.laws if r.status != "passed"} == {}


@pytest.mark.parametrize("name", EXCUSED)
def test_a_law_that_does_not_apply_is_reported_with_its_reason(name: str) -> None:
    found = report(INNOCENT, name)
    assert found.passed, [r.text for r in found.laws]
    for law, reason in EXCUSED[name].items():
        assert found[law].status == "not_applicable" and reason in found[law].reason


def test_the_two_points_short_transform_is_caught_at_its_smallest_length() -> None:
    """At T = 2 a transform of 2 points is circular: the last token reaches the first output, and nothing smaller leaks."""
    example = report(BROKEN, "TwoPointsShort", "causality")["causality"].example
    assert example is not None
    assert (example.batch, example.tokens, example.t, example.s) == (1, 2, 0, 1)


def test_a_polynomial_product_is_caught_once_its_degree_cap_is_removed() -> None:
    assert report(POLYNOMIAL, "CappedPolynomial", "causality").passed
    result = report(POLYNOMIAL, "UncappedPolynomial", "causality")["causality"]
    assert result.status == "failed" and "moves the earlier output" in result.text


def test_a_window_too_wide_is_shown_where_it_first_shows() -> None:
    example = report(BROKEN, "OneKeyTooMany", "causality")["causality"].example
    assert example is not None
    assert (example.tokens, example.t, example.s) == (6, 5, 0)
    assert example.size is not None and example.size > 1e-3
