"""Small models of transformers, a family each, that the tests of convert write to disk.

Legend: W window, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

V, W = 97, 8
COMMON: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
TWO_BASES = {"sliding_attention": {"rope_type": "default", "rope_theta": 9_000.0}}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {"num_hidden_layers": 2, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "sliding_window": W,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 8.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {"num_hidden_layers": 7, "num_key_value_heads": 1, "sliding_window": W, "eos_token_id": [1, 5]},
    ),
    "gemma3-factor-8": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "sliding_window": W,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "rope_parameters": {
                **TWO_BASES,
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0},
            },
        },
    ),
}


def their_model(name: str) -> nn.Module:
    """Random weights of order one, gains far from 1; a small table, or a tied model repeats its last token for ever."""
    transformers = pytest.importorskip("transformers")
    config, cls, own = FAMILIES[name]
    torch.manual_seed(4)  # of the first seeds, one whose greedy texts vary in every family
    model: nn.Module = getattr(transformers, cls)(getattr(transformers, config)(**COMMON, **own))
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            size = (
                0.3 if parameter.dim() == 1 else 0.1 if "embed" in label else 1.5 * parameter.shape[1] ** -0.5
            )
            parameter.copy_(torch.randn_like(parameter) * size)
        model.model.norm.weight.add_(5)  # logits as large as in a trained model
    return model.eval()
