"""Every backend of attention is one function: requested in turn, each equals a written-out reference, values and gradients.

Legend: B batch, T tokens, H query heads, K key/value heads, C head width, w window, r radius, R rows of a fold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from blocks.attention import backend_of, backends, tiled
from blocks.attention.core import attend
from blocks.attention.local import fold_rows
from blocks.attention.masks import Radius, Span, attended_pairs
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError

W = 40  # longer than a fold's 32 rows, so that 3w + 2 holds two folds, a head and a tail
AROUND = (W - 1, W, W + 1, 2 * W + 1, 3 * W + 2)
SCALE = 0.6
SPANS: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"window": W},
    "radius": {"causal": False, "radius": 9},
    "lopsided": {"causal": False, "radius": (5, 12)},
    "bidirectional": {"causal": False},
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 rows a tile, so that short rows have several."""
    monkeypatch.setattr(tiled, "TILE_SCORES", 1)


@pytest.fixture
def by_rule() -> Iterator[None]:
    """No request from the environment: the test is about the rule."""
    with use_implementation(""):
        yield


def heads(
    t: int, *, batch: int = 2, kv_heads: int = 2, dtype: torch.dtype = torch.float64, keys: int | None = None
) -> list[Tensor]:
    torch.manual_seed(t)
    sizes = ((4, t), (kv_heads, keys or t), (kv_heads, keys or t))
    return [torch.randn(batch, h, n, 6, dtype=dtype, requires_grad=True) for h, n in sizes]


def packed(t: int) -> Tensor:
    """Padding on both sides and between, a long and a short document, and an id that comes back."""
    segments = torch.zeros(2, t, dtype=torch.long)
    segments[0, 1 : t // 2], segments[0, t // 2 : t - 3] = 4, 7
    segments[1, : t // 3], segments[1, t // 3 + 2 :] = 9, 9
    return segments


def sees(
    i: int, j: int, *, causal: bool = True, window: int | None = None, radius: Radius | None = None
) -> bool:
    if causal:
        return j <= i and (window is None or i - j < window)
    before, after = (radius, radius) if isinstance(radius, int) else radius or (i, j)
    return i - before <= j <= i + after


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    span: dict[str, Any],
    softcap: float | None,
    segments: Tensor | None,
    offset: int = 0,
) -> Tensor:
    """Head by head over a mask made of Python booleans; documents cut by hand."""
    t, s, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    mask = torch.tensor([[sees(offset + i, j, **span) for j in range(s)] for i in range(t)])
    rows = []
    for b in range(len(q)):
        seen = mask.clone()
        if segments is not None:
            run = torch.cumsum(
                torch.cat((segments[b, :1] * 0, (segments[b, 1:] != segments[b, :-1]).long())), 0
            )
            seen &= run[:, None] == run[None, :]
        per_head = []
        for h in range(q.shape[1]):
            scores = SCALE * q[b, h] @ k[b, h // group].T
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            per_head.append(scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v[b, h // group])
        y = torch.stack(per_head)
        rows.append(y if segments is None else y * (segments[b] != 0)[:, None])
    return torch.stack(rows)


def able(span: dict[str, Any], softcap: float | None, segments: Tensor | None, t: int) -> list[str]:
    """The backends that take part: FlexAttention has no backward on a processor and is compared apart."""
    names = ["masked", "tiled"]
    if softcap is None and segments is None and not ({"window", "radius"} & set(span)):
        names.append("fused")
    radius = span.get("radius", t)
    if softcap is None and (
        span.get("window", t) < t or (max(radius) if isinstance(radius, tuple) else radius) < t - 1
    ):
        names.append("folded")
    return names


def compare(
    t: int, span: dict[str, Any], softcap: float | None, segments: Tensor | None, kv_heads: int = 2
) -> None:
    q, k, v = heads(t, kv_heads=kv_heads)
    expected = reference(q, k, v, span, softcap, segments)
    witness = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (q, k, v), witness)
    for backend in able(span, softcap, segments, t):
        y = attend(q, k, v, scale=SCALE, softcap=softcap, segments=segments, backend=backend, **span)
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        for ours, theirs in zip(torch.autograd.grad(y, (q, k, v), witness), gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("softcap", [None, 1.5, 500.0], ids=["no cap", "cap by sigmoid", "cap by tanh"])
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("t", AROUND)
def test_every_backend_equals_the_reference_around_the_window(
    t: int, span: dict[str, Any], documents: bool, softcap: float | None
) -> None:
    compare(t, span, softcap, packed(t) if documents else None)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_backends_agree_for_any_number_of_shared_heads(kv_heads: int) -> None:
    for softcap in (None, 1.5):
        compare(2 * W + 1, SPANS["window"], softcap, None, kv_heads)


@settings(deadline=None, max_examples=25)
@given(
    t=st.integers(1, 150),
    w=st.integers(1, 160),
    causal=st.booleans(),
    softcap=st.sampled_from([None, 2.0]),
    documents=st.booleans(),
)
def test_backends_agree_at_any_length_and_window(
    t: int, w: int, causal: bool, softcap: float | None, documents: bool
) -> None:
    span: dict[str, Any] = {"window": w} if causal else {"causal": False, "radius": w - 1}
    compare(t, span, softcap, packed(t) if documents and t > 8 else None)


@pytest.mark.parametrize("old", [1, W - 1, 70])
@pytest.mark.parametrize("span", [SPANS["causal"], SPANS["window"]], ids=["causal", "window"])
def test_queries_that_follow_cached_keys_agree(old: int, span: dict[str, Any]) -> None:
    """Prefill of a chunk: the first query stands ``old`` keys into the row."""
    new = 3 * W
    q, k, v = heads(new, keys=old + new)
    for softcap in (None, 1.5):
        expected = reference(q, k, v, span, softcap, None, offset=old)
        for backend in able(span, softcap, None, old + new):
            if backend != "fused":
                y = attend(q, k, v, scale=SCALE, softcap=softcap, offset=old, backend=backend, **span)
                torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("backend", "softcap", "bound"),  # folds have no cap
    [
        ("masked", None, 1e-5),
        ("folded", None, 1e-5),
        ("tiled", None, 1e-5),
        ("masked", 50.0, 2e-5),
        ("tiled", 50.0, 2e-5),
    ],
)
def test_float32_and_bfloat16_stay_near_float64(backend: str, softcap: float | None, bound: float) -> None:
    """Softmax sums are float32 whatever the input; 2^-7 is bfloat16's rounding of an output of order one."""
    wide = [x.detach() for x in heads(300)]
    expected = attend(*wide, scale=1.0, window=W, softcap=softcap, backend="masked")
    narrow = attend(*(x.float() for x in wide), scale=1.0, window=W, softcap=softcap, backend=backend)
    assert narrow.dtype == torch.float32 and (narrow - expected).abs().max() < bound
    half = [x.bfloat16() for x in wide]
    rounded = attend(*(x.double() for x in half), scale=1.0, window=W, softcap=softcap, backend="masked")
    y = attend(*half, scale=1.0, window=W, softcap=softcap, backend=backend)
    assert y.dtype == torch.bfloat16 and (y.double() - rounded).abs().max() < 4 * 2**-7


@pytest.mark.parametrize(
    ("backend", "softcap"), [("folded", None), ("tiled", None), ("tiled", 1.5), ("tiled", 500.0)]
)
def test_gradients_pass_the_numerical_check(backend: str, softcap: float | None) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, h, 39, 2, dtype=torch.float64, requires_grad=True) for h in (2, 1, 1)]
    assert torch.autograd.gradcheck(
        lambda q, k, v: attend(q, k, v, scale=1.0, window=4, softcap=softcap, backend=backend),
        inputs,
        fast_mode=True,
    )


def test_the_operator_of_tiles_keeps_the_rules_of_custom_operators() -> None:
    q, k, v = heads(40, dtype=torch.float32)
    checks = (
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
    )  # the compiled one is tested below
    torch.library.opcheck(
        torch.ops.blocks.tiled_attention.default, (q, k, v, packed(40), 0.5, 2.0, 7, 0, 0), test_utils=checks
    )


# --- bits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "softcap"), [("folded", None), ("tiled", None), ("tiled", 1.5)])
def test_the_future_and_what_left_the_window_change_no_bit(backend: str, softcap: float | None) -> None:
    q, k, v = (x.detach().float() for x in heads(3 * W + 2))
    for cut in (1, W, 2 * W + 1, 3 * W):
        other = [x.clone() for x in (q, k, v)]
        for x in other:
            x[:, :, cut:] = 50 * torch.randn_like(x[:, :, cut:])
        before = attend(q, k, v, scale=SCALE, window=W, softcap=softcap, backend=backend)
        after = attend(*other, scale=SCALE, window=W, softcap=softcap, backend=backend)
        assert torch.equal(before[:, :, :cut], after[:, :, :cut])
        assert not torch.equal(before[:, :, cut:], after[:, :, cut:])
        # key j is seen by queries j .. j+w-1
        k_far, v_far = k.clone(), v.clone()
        k_far[:, :, cut], v_far[:, :, cut] = 50.0, -50.0
        far = attend(q, k_far, v_far, scale=SCALE, window=W, softcap=softcap, backend=backend)
        assert torch.equal(before[:, :, cut + W :], far[:, :, cut + W :])
        assert not torch.equal(before[:, :, cut : cut + W], far[:, :, cut : cut + W])


# --- memory and work ------------------------------------------------------------------------------------------------


def kept_bytes(t: int, **options: Any) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once."""
    stores: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        stores[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    q, k, v = heads(t, batch=1, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        alive = attend(q, k, v, scale=SCALE, **options)
    assert alive.shape == q.shape
    return sum(stores.values())


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor any operator returned."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            # an expanded or overlapping view holds no more than its storage
            self.numbers = max(
                self.numbers, x.untyped_storage().nbytes() // x.element_size() if isinstance(x, Tensor) else 0
            )
        return out


LOCAL = [
    {"window": 64, "backend": "folded"},
    {"causal": False, "radius": 32, "backend": "folded"},
    {"window": 64, "backend": "tiled"},
    {"window": 64, "softcap": 50.0, "backend": "tiled"},
    {"softcap": 50.0, "backend": "tiled"},
]


@pytest.mark.parametrize("options", LOCAL, ids=str)
def test_what_is_kept_for_the_backward_pass_grows_linearly(options: dict[str, Any]) -> None:
    small, large = kept_bytes(512, **options), kept_bytes(2048, **options)
    assert large < 4.4 * small
    assert large < 2048**2  # one byte a pair is what a mask alone takes


@pytest.mark.parametrize("options", LOCAL, ids=str)
@torch.no_grad()
def test_no_tensor_ever_made_is_larger_than_linear(options: dict[str, Any]) -> None:
    sizes = []
    for t in (512, 2048):
        q, k, v = heads(t, batch=1, dtype=torch.float32)
        with Largest() as seen:
            if options["backend"] == "folded":
                attend(q, k, v, scale=SCALE, **options)
            else:
                limits = (
                    options.get("window", 0) - 1,
                    0,
                    0,
                )  # an operator hides its inside from a dispatch mode: call the function
                tiled.attend_by_tiles(q, k, v, None, SCALE, options.get("softcap", 0.0), *limits)
        sizes.append(seen.numbers)
    assert sizes[1] <= 4.4 * sizes[0]


@torch.no_grad()
def test_folds_of_several_rows_are_views_in_any_memory_order() -> None:
    """Projections give tokens before heads; overlapping folds that were copied would hold each key several times."""
    q, k, v = (torch.randn(4, 1024, h, 8).transpose(1, 2) for h in (4, 4, 4))
    with Largest() as seen:
        attend(q, k, v, scale=SCALE, window=128, backend="folded")
    assert seen.numbers == q.numel()


@settings(deadline=None)
@given(
    queries=st.integers(1, 300),
    span=st.builds(lambda b, a: Span(lookback=b, lookahead=a), st.integers(0, 90), st.integers(0, 90)),
)
def test_tiles_cover_each_allowed_pair_and_few_others(queries: int, span: Span) -> None:
    pairs = sum(
        (tile.last - tile.first) * (tile.stop - tile.start) for tile in tiled.tiles(queries, queries, 4, span)
    )
    needed = span.pairs(queries, queries)
    assert needed <= pairs <= needed + 2 * tiled.LEAST_ROWS * queries


@given(
    queries=st.integers(1, 60),
    window=st.none() | st.integers(1, 70),
    radius=st.none() | st.integers(0, 70),
    causal=st.booleans(),
)
def test_the_pairs_of_a_span_are_those_of_the_closed_form(
    queries: int, window: int | None, radius: int | None, causal: bool
) -> None:
    options: dict[str, Any] = (
        {"causal": True, "window": window} if causal else {"causal": False, "radius": radius}
    )
    assert Span.of(**options).pairs(queries, queries) == attended_pairs(queries, **options)


# --- the decision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({"tokens": 2048}, "fused"),
        ({"tokens": 2048, "window": 4096}, "fused"),
        ({"tokens": 2048, "causal": False}, "fused"),
        ({"tokens": 1, "keys": 300, "offset": 299, "window": 300}, "fused"),
        ({"tokens": 2048, "window": 256}, "folded"),
        ({"tokens": 512, "window": 256}, "folded"),
        ({"tokens": 2048, "causal": False, "radius": 64}, "folded"),
        ({"tokens": 2048, "window": 256, "packed": True}, "folded"),
        ({"tokens": 512, "window": 448}, "folded"),
        ({"tokens": 300, "window": 256}, "masked"),
        ({"tokens": 200, "window": 16}, "masked"),
        ({"tokens": 200, "softcap": 50.0}, "masked"),
        ({"tokens": 300, "packed": True}, "masked"),
        ({"tokens": 512, "packed": True}, "tiled"),
        ({"tokens": 512, "keys": 1024, "offset": 512}, "tiled"),
        ({"tokens": 100, "keys": 900, "offset": 800}, "masked"),
        ({"tokens": 1, "keys": 300, "offset": 299, "softcap": 50.0}, "masked"),
        ({"tokens": 512, "softcap": 50.0}, "tiled"),
        ({"tokens": 512, "softcap": 50.0, "window": 64}, "tiled"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("by_rule")
def test_the_sizes_decide_which_backend_runs_and_a_reason_is_given(
    options: dict[str, Any], backend: str
) -> None:
    choice = backend_of(**options)
    assert (choice.implementation, len(choice.reason) > 10) == (backend, True)


@pytest.mark.usefixtures("by_rule")
def test_on_cuda_flex_attention_serves_what_has_no_fused_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "flex_serves", lambda **_: True)
    assert backend_of(tokens=2048, window=256).implementation == "flex"
    assert backend_of(tokens=2048, softcap=50.0, packed=True).implementation == "flex"
    assert backend_of(tokens=2048).implementation == "fused"


@pytest.mark.usefixtures("by_rule")
def test_each_decision_is_logged_once_with_its_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.dispatch.choice._logged", set())
    q, k, v = heads(256)
    with caplog.at_level(logging.INFO, logger="blocks.dispatch"):
        for _ in range(3):
            attend(q, k, v, scale=1.0, window=9)
        attend(q, k, v, scale=1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "attention runs folded: the window leaves keys out",
        "attention runs fused: plain causal rows",
    ]


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("folds", {"window": 4}, "unknown backend 'folds'; did you mean 'folded'"),
        (
            "folded",
            {},
            "backend 'folded' cannot compute this mask or soft-cap; these can: fused, masked, tiled, flex",
        ),
        ("folded", {"window": 4, "softcap": 2.0}, "cannot compute"),
        ("fused", {"window": 4}, "cannot compute"),
    ],
)
def test_a_backend_that_cannot_is_refused(backend: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attend(*heads(50), scale=1.0, backend=backend, **options)


# --- compilers and FlexAttention ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "documents"),
    [
        ({"window": 9, "backend": "folded"}, False),
        ({"window": 9, "backend": "folded"}, True),
        ({"softcap": 2.0, "window": 9, "backend": "tiled"}, True),
        ({"softcap": 2.0}, False),
    ],
    ids=str,
)
def test_a_compiled_graph_has_no_break_and_the_same_gradients(
    options: dict[str, Any], documents: bool
) -> None:
    inputs = heads(90)
    segments = packed(90) if documents else None

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, scale=SCALE, segments=segments, **options)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(
        torch.autograd.grad(compiled(*inputs).square().sum(), inputs),
        torch.autograd.grad(call(*inputs).square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
@torch.no_grad()
def test_flex_attention_computes_the_same_forward(
    span: dict[str, Any], documents: bool, softcap: float | None
) -> None:
    """Interpreted on the processor, where it has no backward; its own masks and cap are what is tested."""
    t = 2 * W + 1
    q, k, v = (x.detach().float() for x in heads(t))
    segments = packed(t) if documents else None
    y = attend(q, k, v, scale=SCALE, softcap=softcap, segments=segments, backend="flex", **span)
    torch.testing.assert_close(y, reference(q, k, v, span, softcap, segments), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_on_cuda_the_chosen_backend_equals_the_mask(
    span: dict[str, Any], documents: bool, softcap: float | None
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, h, 600, 64, device="cuda", requires_grad=True) for h in (4, 2, 2))
    segments = packed(600).cuda() if documents else None
    results = []
    for backend in (None, "masked"):
        y = attend(q, k, v, scale=0.125, softcap=softcap, segments=segments, backend=backend, **span)
        results.append((y, *torch.autograd.grad(y.square().sum(), (q, k, v))))
    for ours, theirs in zip(*results, strict=True):
        # TF32 products of the generated kernel
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3 * float(theirs.abs().max()))


def test_folds_are_as_high_as_the_fused_kernel_likes() -> None:
    assert (fold_rows(64), fold_rows(256), fold_rows(4096)) == (32, 64, 64)
