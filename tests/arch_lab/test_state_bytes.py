"""What a model says it keeps while decoding is what its tensors hold, before, at and beyond every window."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from arch_lab.accounting import ledger
from arch_lab.models import Shape, recipe
from blocks.contract import tensors_nbytes

DECODERS: list[tuple[str, dict[str, Any]]] = [
    ("gemma1", {}),
    ("gemma1", {"kv_heads": None, "heads": 2, "head_width": 24}),
    ("gemma2", {"window": 5}),
    ("gemma3", {"window": 7, "pattern": "LLG"}),
    ("gemma4", {"window": 7, "pattern": "LG"}),  # K=V on the global layers
    ("gemma4", {"window": 7, "pattern": "LG", "short_convolution": 4}),
    ("hybrid", {"pattern": "MA", "window": 5, "short_convolution": 3}),
    ("m2_gpt", {}),
    ("m2_gpt", {"residual_long_conv": True}),
    ("m2_gpt", {"taps": 5, "residual_long_conv": True}),
    ("m2_gpt", {"ablate": "long_convolution"}),
    ("m2_gpt", {"ablate": ["gates", "short_convolution"]}),
    ("m2_gpt", {"polynomial_order": 2, "polynomial_groups": 4}),
    ("m2_gpt", {"polynomial_order": 3, "residual_long_conv": True}),
    ("hybrid", {"pattern": "MA", "window": 5}),
    ("custom", {"mixer": "gated_long_conv"}),
    ("custom", {"mixer": "gemma3_attention", "mixer_options": {"window": 4}}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), DECODERS)
def test_a_decoder_holds_exactly_the_bytes_it_states_at_every_position(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    model = (
        recipe(name, options)
        .model(Shape(width=32, depth=3, ffn_width=32), vocabulary=17, max_tokens=24)
        .to(dtype)
    )
    state, batch, t = model.init_state(2), 2, 0
    assert tensors_nbytes(state) == batch * model.state_bytes(0)
    with torch.no_grad():
        for new in (1, 3, 1, 1, 6, 1, 9):  # crosses windows of 4, 5 and 7 by steps and by chunks
            _, state = model.prefill(torch.zeros(batch, new, dtype=torch.long), state)
            t += new
            assert tensors_nbytes(state) == batch * model.state_bytes(t)
    assert ledger(model.config, tokens=t, batch=1, model=model).state_bytes == model.state_bytes(t)
