"""The four operations: every implementation that runs here against the definition, requested by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from operation_cases import CALLS, FORCED, FORCED_IDS, INTERPRETED, Call, gradients, run
from poison import poisoned
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from arch_lab.accounting import count_forward
from arch_lab.accounting.counter import count_training
from arch_lab.laws import LAWS, check, subject_of
from arch_lab.laws.cases import cases
from blocks.convolution import fft
from blocks.convolution.gated_causal import gated_causal_conv
from blocks.dispatch import operation, use_implementation
from blocks.errors import ConfigError
from blocks.ops.block_diagonal import FEW_ROWS, block_diagonal_matmul
from blocks.ops.glu import block_diagonal_glu
from blocks.ops.monarch import monarch_matmul
from blocks.registry import entries

every = pytest.mark.parametrize("call, name", FORCED, ids=FORCED_IDS)
PRODUCTS = [call for call in CALLS if call.operation != "causal_conv"]
THROUGH_OPERATORS = [call for call in CALLS if call.sizes.get("rows", FEW_ROWS) >= FEW_ROWS]
ONE_EACH = list({call.operation: call for call in THROUGH_OPERATORS}.values())


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if name == "triton" else torch.float64


def close(found: Tensor, expected: Tensor, name: str = "") -> None:
    """Relative to the scale of what is expected: 1e-11 of it in float64, 2e-5 in float32, whose sums have up to 129 terms here."""
    assert found.shape == expected.shape
    bound = 2e-5 if name == "triton" else 1e-11
    assert (
        (found.double() - expected.double()).abs().max() <= bound * (1 + expected.double().abs().max())
        if found.numel()
        else True
    )


@every
def test_every_implementation_and_its_gradients_equal_the_definition(call: Call, name: str) -> None:
    inputs = call.inputs(dtype_of(name))
    y, found = run(call, name, inputs)
    wide = [None if t is None else t.detach().double().requires_grad_() for t in inputs]
    expected = call.definition(*wide)
    close(y, expected, name)
    for a, b in zip(found, gradients(expected, wide), strict=True):
        close(a, b, name)


@every
def test_strides_and_offsets_of_the_inputs_change_nothing(call: Call, name: str) -> None:
    inputs = call.inputs(dtype_of(name))

    def scattered(t: Tensor) -> Tensor:
        """The same numbers one element off the start of their memory, every second element, sizes in reverse order."""
        memory = torch.zeros(2 * t.numel() + 1, dtype=t.dtype)
        view = memory[1::2].view(t.shape[::-1]).permute(*reversed(range(t.dim())))
        return view.copy_(t.detach()).requires_grad_()

    y, found = run(call, name, inputs)
    odd = [None if t is None else scattered(t) for t in inputs]
    assert any(t is not None and t.storage_offset() == 1 for t in odd)
    y_odd, found_odd = run(call, name, odd)
    for a, b in zip([y_odd, *found_odd], [y, *found], strict=True):
        close(a, b, name)


@every
def test_nothing_an_implementation_allocates_stays_unwritten(call: Call, name: str) -> None:
    inputs = call.inputs(dtype_of(name))
    y, found = run(call, name, inputs)
    with poisoned():
        y_poisoned, found_poisoned = run(call, name, inputs)
    for a, b in zip([y_poisoned, *found_poisoned], [y, *found], strict=True):
        assert torch.equal(a, b)


def test_poison_reaches_the_operators_and_shows_a_row_that_was_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from blocks.ops import block_diagonal

    whole = torch.bmm

    def all_but_the_last_row(a: Tensor, b: Tensor, *, out: Tensor) -> None:
        whole(a[:, :-1], b, out=out[:, :-1])

    monkeypatch.setattr(block_diagonal.torch, "bmm", all_but_the_last_row)
    with poisoned() as made:
        y = block_diagonal_matmul(torch.zeros(FEW_ROWS, 4), torch.zeros(2, 2, 2), implementation="cpu")
    assert 4 * FEW_ROWS in made
    assert y[-1].isnan().all() and not y[:-1].isnan().any()


def operator_arguments(call: Call, choice: str = "cpu") -> tuple[str, tuple[object, ...]]:
    x, *others = call.inputs()
    assert x is not None
    rows = x if call.operation == "causal_conv" else x.detach().reshape(-1, x.shape[-1]).requires_grad_()
    if call.operation == "causal_conv":
        others[-1] = others[-1][:, : x.shape[-1]].detach().requires_grad_()  # type: ignore[index]
    keep = () if call.operation == "block_diagonal_matmul" else (True,)
    return call.operation, (rows, *others, choice, *keep)


@pytest.mark.parametrize("call", ONE_EACH, ids=lambda call: call.label)
def test_operators_pass_the_checks_of_torch(call: Call) -> None:
    name, arguments = operator_arguments(call)
    operator = getattr(torch.ops.blocks, name).default
    torch.library.opcheck(operator, arguments)
    output = operator(*arguments)
    y, *kept = (t.detach() for t in (output if isinstance(output, tuple) else (output,)))
    tensors = [
        a.detach().requires_grad_() if isinstance(a, Tensor) else a
        for a in arguments
        if isinstance(a, Tensor) or a is None
    ]
    need = [t is not None for t in tensors]
    backward = getattr(torch.ops.blocks, f"{name}_backward").default
    # the second derivative goes through the reference, which a tracer of operators does not see
    torch.library.opcheck(
        backward,
        (torch.randn_like(y), *tensors, *kept, need, "cpu"),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("call", THROUGH_OPERATORS, ids=lambda call: call.label)
def test_gradients_nobody_needs_are_not_computed_and_the_others_unchanged(call: Call) -> None:
    inputs = call.inputs()
    full = dict(
        zip([i for i, t in enumerate(inputs) if t is not None], run(call, "cpu", inputs)[1], strict=True)
    )
    for i in full:
        alone = [t if t is None or j == i else t.detach() for j, t in enumerate(inputs)]
        y = call.run(*alone, implementation="cpu")
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        (only,) = torch.autograd.grad((y * weights).sum(), [alone[i]])  # type: ignore[list-item]
        close(only, full[i])


@pytest.mark.parametrize(
    "run_, shapes",
    [
        (block_diagonal_matmul, ((FEW_ROWS, 4), (2, 3, 2), (6,))),
        (block_diagonal_glu, ((FEW_ROWS, 4), (2, 4, 2), (2, 2, 2), (4,))),
        (monarch_matmul, ((FEW_ROWS, 4), (2, 2, 2), (2, 3, 2))),
    ],
    ids=["block_diagonal_matmul", "block_diagonal_glu", "monarch_matmul"],
)
def test_second_derivatives_of_the_operators_survive_a_numeric_check(
    run_: object, shapes: tuple[tuple[int, ...], ...]
) -> None:
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradgradcheck(run_, inputs, fast_mode=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [0, 3, FEW_ROWS])
@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64])
def test_complex_numbers_and_empty_batches_take_the_same_call(rows: int, dtype: torch.dtype) -> None:
    x, first, second = (
        torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((2, rows, 15), (3, 4, 5), (2, 3, 6))
    )
    y = monarch_matmul(x, first, second)
    assert y.shape == (2, rows, 6) and y.dtype == dtype
    assert [g.shape for g in torch.autograd.grad(y.abs().sum(), (x, first, second))] == [
        x.shape,
        first.shape,
        second.shape,
    ]
    expected = (
        "nothing to compute"
        if rows == 0
        else "complex128 is for the reference"
        if dtype.is_complex
        else "rows"
    )
    sizes = {"rows": 2 * rows, "k": 3, "q": 4, "p": 5, "l": 2, "s": 3, "r": 6}
    with use_implementation(""):  # whatever the environment names
        assert expected in operation("monarch_matmul").choose("cpu", dtype, sizes).reason


@pytest.mark.parametrize("batch, tokens", [(0, 9), (2, 0)])
def test_a_convolution_of_nothing_is_empty_with_zero_gradients(batch: int, tokens: int) -> None:
    inputs = [torch.randn(shape, requires_grad=True) for shape in ((6, batch, tokens), (6, 3), (6,), (2, 5))]
    y = gated_causal_conv(*inputs)
    assert y.shape == (2, batch, tokens)
    assert not any(g.any() for g in torch.autograd.grad(y.sum(), inputs))


X, W = torch.zeros(2, 6), torch.zeros(2, 4, 3)
Z, SHORT, BIAS, KERNEL = torch.zeros(6, 1, 4), torch.zeros(6, 3), torch.zeros(6), torch.zeros(2, 4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: block_diagonal_matmul(torch.zeros(2, 5), W), "need a last size of 6, got 5"),
        (lambda: block_diagonal_matmul(torch.zeros(()), W), "need a last size of 6, got a single number"),
        (lambda: block_diagonal_matmul(X, W[0]), r"weight is \(K, Q, P\), got a tensor of shape \(4, 3\)"),
        (lambda: block_diagonal_matmul(X, W.double()), "the input is torch.float32, weight torch.float64"),
        (lambda: block_diagonal_matmul(X, W.to("meta")), "the input is on cpu, weight on meta"),
        (lambda: block_diagonal_matmul(X, W, torch.zeros(7)), "need a bias of 8, got 7"),
        (lambda: block_diagonal_glu(X, W, torch.zeros(2, 3, 3)), r"needs down \(2, 3, 2\), got \(2, 3, 3\)"),
        (
            lambda: block_diagonal_glu(X, torch.zeros(2, 5, 3), torch.zeros(2, 3, 2)),
            r"needs down \(2, 3, 2.5\)",
        ),
        (
            lambda: block_diagonal_glu(torch.zeros(2, 7), W, torch.zeros(2, 3, 2)),
            "need a last size of 6, got 7",
        ),
        (
            lambda: block_diagonal_glu(X, W, torch.zeros(2, 3, 2), torch.zeros(5)),
            "the bias has 5 values for 6 outputs",
        ),
        (
            lambda: monarch_matmul(X, W, torch.zeros(2, 3, 5)),
            "first factor gives 8 values, the second takes 10",
        ),
        (lambda: monarch_matmul(torch.zeros(2, 7), W, torch.zeros(2, 3, 4)), "take a last size of 6, got 7"),
        (lambda: monarch_matmul(X, W, torch.zeros(2, 3, 4).half()), "second torch.float16"),
        (lambda: gated_causal_conv(Z[0], SHORT, BIAS, KERNEL), r"z is \(3D, B, T\)"),
        (
            lambda: gated_causal_conv(Z, SHORT, BIAS, KERNEL[:1]),
            "kernel of 1 channels needs z, short_weight and short_bias of 3, got 6, 6, 6",
        ),
        (lambda: gated_causal_conv(Z, SHORT, BIAS, KERNEL[:, :0]), "at least one tap, got 3 and 0"),
        (lambda: gated_causal_conv(Z, SHORT.double(), BIAS, KERNEL), "short_weight torch.float64"),
        (lambda: gated_causal_conv(Z, SHORT, BIAS, KERNEL.to("meta")), "kernel on meta"),
        (lambda: gated_causal_conv(Z.long(), SHORT.long(), BIAS.long(), KERNEL), "must be floating"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", PRODUCTS, ids=lambda call: call.label)
def test_every_implementation_of_a_product_is_counted_as_the_reference(call: Call) -> None:
    counts = []
    for name in ("reference", "cpu"):
        inputs = call.inputs()

        def step(name: str = name, inputs: list[Tensor | None] = inputs) -> Tensor:
            return call.run(*inputs, implementation=name)

        assert not count_forward(step).unknown
        counts.append((count_forward(step).matmul, count_training(step).matmul))
    assert counts[0] == counts[1] and counts[0][1] == 3 * counts[0][0] > 0


@pytest.mark.parametrize("batch, tokens", [(1, 1), (2, 33), (3, 70)])
def test_the_convolution_is_counted_as_its_transform_and_its_short_products(batch: int, tokens: int) -> None:
    inputs = [
        torch.empty(shape, device="meta") for shape in ((12, batch, tokens), (12, 3), (12,), (4, tokens))
    ]
    found = count_forward(lambda: gated_causal_conv(*inputs))
    signal = torch.empty(batch, 4, tokens, device="meta")
    alone = count_forward(lambda: fft.causal_convolution(signal, inputs[3]))
    assert (found.matmul, found.fft, found.unknown) == (2 * 3 * 12 * batch * tokens, alone.fft, ())
    with FlopCounterMode(display=False) as counter:
        gated_causal_conv(*inputs)
    assert counter.get_total_flops() == found.total


@pytest.mark.parametrize("tokens", [7, 70])
def test_narrow_inputs_are_convolved_in_single_precision(tokens: int) -> None:
    call = [c for c in CALLS if c.operation == "causal_conv"][1]
    shapes = ((9, 2, tokens), (9, 3), (9,), (3, tokens))
    inputs = [torch.randn(shape, dtype=torch.bfloat16) for shape in shapes]
    inputs[3] = inputs[3].float() / tokens**0.5
    expected = call.definition(*(t.double() for t in inputs))
    for name in ("reference", "cpu"):
        y = gated_causal_conv(*inputs, implementation=name)
        assert y.dtype == torch.bfloat16
        # about six roundings to 8 bits on the way; products of three signals reach a few times the scale
        assert (y.double() - expected).norm() < 6 * 2**-8 * expected.norm()


BLOCKS = ("m2_mixer", "block_diagonal_glu", "monarch_linear")


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_keep_their_laws_on_the_reference(block: str) -> None:
    """tests/contracts holds them to it on the cpu implementation; kernels have no float64, in which most laws speak."""
    entry = next(e for e in entries() if e.name == block)
    subject = subject_of(entry, cases(entry)[0])
    with use_implementation("reference"):
        results = [check(law, subject) for law in LAWS.values()]
    assert any(result.status == "passed" for result in results)
    assert not [result.text for result in results if result.status == "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("call", ONE_EACH, ids=lambda call: call.label)
def test_compiled_and_eager_agree_in_every_gradient(call: Call) -> None:
    inputs = call.inputs()
    y, found = run(call, "cpu", inputs)
    compiled = torch.compile(call.run, fullgraph=True)(*inputs)
    close(compiled, y)
    for a, b in zip(gradients(compiled, inputs), found, strict=True):
        close(a, b)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreted run")
def test_the_triton_kernels_hold_all_this_in_their_interpreter() -> None:
    pytest.importorskip("triton")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__)),
        "-k",
        "triton",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 0, done.stdout[-4000:]
