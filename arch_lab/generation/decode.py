"""The decoding loop: one prefill, then one step per token, timed separately.

It asks a model for ``init_state``, ``prefill``, ``settle`` and ``step`` and nothing else, so every decoder is
served alike: caches of attention, pending sums of long convolutions, whatever a block of another package
keeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from arch_lab.generation.sampling import Sampling
from blocks.contract import tensors_nbytes


class Decodes(Protocol):
    """The methods that decoding calls on a model.

    Tokens in, next-token logits and a state out (arch_lab.models.Decoder).
    """

    def init_state(self, batch: int, max_tokens: int | None = None, *, reserve: bool = False) -> Any: ...

    def prefill(self, tokens: Tensor, state: Any, *, last_only: bool = False) -> tuple[Tensor, Any]: ...

    def settle(self, state: Any, tokens: int) -> Any: ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]: ...


@dataclass
class Meter:
    """Time and state of one decoding.

    Seconds are those in the model and the sampler, without the consumer of the tokens.
    """

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    steps: int = 0
    step_seconds: float = 0.0
    state_bytes: int = 0  # held when the last token was chosen
    ended: bool = False  # by an end-of-text token rather than by the limit

    @property
    def prefill_rate(self) -> float | None:
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else None

    @property
    def step_rate(self) -> float | None:
        """Tokens per second after the first token; None without a second.

        The prefill pays for the first.
        """
        return self.steps / self.step_seconds if self.steps and self.step_seconds else None


def decode(
    model: Decodes,
    prompt: list[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    end: frozenset[int],
    meter: Meter,
    device: torch.device | None = None,
) -> Iterator[int]:
    """Yield at most ``max_tokens`` ids that follow ``prompt``.

    Stops before an id of ``end``. Fills ``meter``.

    Fills ``meter``. Caches are reserved for exactly the tokens that can be fed: the last chosen one never is.
    Raises: ConfigError when the model is bidirectional.
    """
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    with torch.inference_mode():
        state = model.init_state(1, len(prompt) + max_tokens - 1, reserve=True)
        logits, state = model.prefill(torch.tensor([prompt], device=device), state, last_only=True)
        if max_tokens > 1:
            # how many tokens may follow is known now: a long convolution keeps that many numbers, and none
            # for the prompt
            state = model.settle(state, max_tokens - 1)
        token = sampling.choose(logits[0, -1], generator)
    meter.prefill_tokens, meter.prefill_seconds = len(prompt), time.perf_counter() - started
    for count in range(1, max_tokens + 1):
        meter.state_bytes = tensors_nbytes(state)
        if token in end:
            meter.ended = True
            return
        yield token
        if count == max_tokens:
            return
        started = time.perf_counter()
        with torch.inference_mode():
            logits, state = model.step(torch.tensor([token], device=device), state)
            token = sampling.choose(logits[0], generator)
        meter.steps += 1
        meter.step_seconds += time.perf_counter() - started
