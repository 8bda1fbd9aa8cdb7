"""Law 5: declared FLOPs, parameters and state bytes equal those of the block that runs.

Legend: B batch, T tokens.
Equal, not close. The graph is counted on the meta device by ``arch_lab.accounting.counter``, with our
formulas for attention, transforms and custom operators. Elementwise work is an estimate by definition and is
not compared.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from arch_lab.laws.decoding import CHUNK, chunkings, state_makers
from arch_lab.laws.result import Broken
from arch_lab.laws.staged import staged
from arch_lab.laws.subject import Subject
from arch_lab.models.model import on_meta
from blocks.contract import SequenceMixer, tensors_nbytes
from blocks.cost import Cost

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def accounting(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """0.0, since everything must be equal. Raises: Broken."""
    cost = _checked(subject, tokens)
    _parameters(subject)
    _flops(subject, cost, batch, tokens)
    if subject.mixes and subject.causal:
        for dtype in DTYPES:
            _state(subject.cast(dtype), batch, tokens, seed)
    return 0.0


def _checked(subject: Subject, tokens: int) -> Cost:
    cost = subject.module.cost(tokens)
    for f in fields(cost):
        value = getattr(cost, f.name)
        if type(value) is not int or value < 0:
            raise Broken(f"cost({tokens}).{f.name} is {value!r}: costs are exact integers, 0 or more")
    if subject.module.flops(tokens) != cost.forward(1):
        flops = subject.module.flops(tokens)
        raise Broken(f"flops({tokens}) is {flops}, but cost({tokens}) adds up to {cost.forward(1)}")
    return cost


def _flops(subject: Subject, cost: Cost, batch: int, tokens: int) -> None:
    from arch_lab.accounting.counter import count_forward

    twin = subject.with_module(_without_memory(subject))
    x = torch.empty((batch, tokens, subject.width), device="meta")
    if subject.reads_tokens:
        x = torch.zeros((batch, tokens), dtype=torch.long, device="meta")
    with torch.no_grad():
        counted = count_forward(lambda: twin(x))
    if counted.unknown:
        operators = ", ".join(counted.unknown)
        raise Broken(f"the counter has no formula for {operators}; register one (torch.utils.flop_counter)")
    stated = {"matmul": batch * cost.matmul + cost.shared_matmul, "fft": batch * cost.fft + cost.shared_fft}
    for kind, flops in stated.items():
        executed = getattr(counted, kind)
        if flops != executed:
            raise Broken(
                f"cost says {flops} {kind} FLOPs for a forward pass, the counted graph executes {executed}",
                size=abs(flops - executed),
                bound=0,
                unit="FLOPs apart",
            )


def _without_memory(subject: Subject) -> nn.Module:
    with on_meta():
        return staged(type(subject.module.config).from_options(subject.case.options).build())


def _parameters(subject: Subject) -> None:
    """The model that is counted before anything is trained has the parameters of the one that is trained."""
    built = {name: tuple(p.shape) for name, p in subject.module.named_parameters()}
    counted = {name: tuple(p.shape) for name, p in _without_memory(subject).named_parameters()}
    if built != counted:
        odd = sorted(set(built.items()) ^ set(counted.items()))[0]
        raise Broken(f"parameters differ between the meta device and memory, first {odd[0]!r} {odd[1]}")
    loose = [name for name, buffer in subject.module.named_buffers() if buffer.requires_grad]
    if loose:
        text = f"buffer {loose[0]!r} requires a gradient"
        raise Broken(f"{text}: what is trained must be a parameter, or it is not counted")
    lazy = nn.parameter.UninitializedParameter
    unshaped = [name for name, p in subject.module.named_parameters() if isinstance(p, lazy)]
    if unshaped:
        text = f"parameter {unshaped[0]!r} gets its shape in the first forward"
        raise Broken(f"{text}: it cannot be counted before")


@torch.no_grad()
def _state(subject: Subject, batch: int, tokens: int, seed: int) -> None:
    mixer = subject.module
    assert isinstance(mixer, SequenceMixer)
    x = subject.input(batch, tokens, seed)
    for make in state_makers(mixer):
        # a reserved state holds the bytes of all tokens from the first on
        reserved = tokens if make == mixer.reserve_state else 0
        for _, chunks in chunkings(tokens, subject.window or CHUNK, seed)[:3]:
            state = make(batch, tokens)
            start = 0
            _check_held_bytes(mixer, state, batch, reserved, x)
            for size in chunks:
                _, state = mixer.prefill(x[:, start : start + size], state)
                start += size
                _check_held_bytes(mixer, state, batch, reserved or start, x)


def _check_held_bytes(mixer: SequenceMixer, state: object, batch: int, tokens: int, x: Tensor) -> None:
    stated, actual = mixer.state_bytes(tokens), tensors_nbytes(state)
    if batch * stated != actual:
        raise Broken(
            f"state_bytes({tokens}) says {stated} bytes per sequence in "
            f"{str(x.dtype).removeprefix('torch.')}, "
            f"the state of {batch} sequences holds {actual}",
            size=abs(batch * stated - actual),
            bound=0,
            unit="bytes apart",
            t=tokens,
        )
