"""Gemma against ``transformers``.

Legend: B batch, T tokens, D width, F ffn_width, H query heads, K key/value heads, C head width, w window, V
vocabulary. Both sides run in this process, in float32, interleaved, and give equal outputs before anything is
timed. The model is the size at which ``transformers`` was profiled on processors: 4 layers, D 256, F 1024, H
4, K 2, C 64, w 256, V 8192, logits of every position. Gemma 2 meets the peer's eager attention, the only one
that knows a soft-cap there; Gemma 3 its SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.bench.protocol import Row, Skipped, gate, measure
from arch_lab.models import Decoder, Shape
from arch_lab.models.gemma import Gemma2, Gemma3, GemmaRecipe
from blocks.config import Options

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, WINDOW, VOCABULARY = 4, 256, 4, 2, 64, 256, 8192
MODELS = ((Gemma3, 2048, "sdpa"), (Gemma3, 512, "sdpa"), (Gemma2, 2048, "eager"))
REPEATS = 7  # a step takes seconds on one core

# our block -> the module of theirs that holds the same weight
NAMES = {
    "mixer.query": "self_attn.q_proj",
    "mixer.key": "self_attn.k_proj",
    "mixer.value": "self_attn.v_proj",
    "mixer.out": "self_attn.o_proj",
    "mixer.query_norm": "self_attn.q_norm",
    "mixer.key_norm": "self_attn.k_norm",
    "channel.gate": "mlp.gate_proj",
    "channel.up": "mlp.up_proj",
    "channel.down": "mlp.down_proj",
    "mixer_norm": "input_layernorm",
    "mixer_out_norm": "post_attention_layernorm",
    "channel_norm": "pre_feedforward_layernorm",
    "channel_out_norm": "post_feedforward_layernorm",
}


def gemma() -> Iterator[Row | Skipped]:
    """One row per model, or the one reason why not."""
    if find_spec("transformers") is None:
        yield Skipped(name="gemma models", reason="transformers is not installed: pip install transformers")
        return
    for recipe, tokens, attention in MODELS:
        yield _model_row(recipe, tokens, attention)


def _model_row(recipe: type[GemmaRecipe], tokens: int, attention: str) -> Row:
    """Forward and backward through every logit, from the same gradient."""
    subject = random_model(recipe, tokens)
    peer = twin(subject, recipe.__name__, attention)
    x = torch.randint(1, VOCABULARY, (1, tokens))
    with torch.no_grad():
        gate(recipe.__name__, subject(x), peer(x))
    dy = torch.randn(1, tokens, VOCABULARY) / tokens

    def step(model: nn.Module) -> None:
        model(x).backward(dy)
        model.zero_grad(set_to_none=True)

    name = f"{recipe.name} forward+backward"
    return measure(
        name,
        f"B 1, T {tokens}, {LAYERS} layers, D {WIDTH}",
        partial(step, subject),
        f"transformers {attention}",
        partial(step, peer),
        repeats=REPEATS,
    )


def random_model(recipe: type[GemmaRecipe], tokens: int, width: int = WIDTH) -> Decoder:
    torch.manual_seed(0)
    options: Options = {
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "head_width": HEAD_WIDTH,
        "window": WINDOW,
    }
    shape = Shape(width=width, depth=LAYERS, ffn_width=4 * width)
    subject = recipe(**options).config(shape, vocabulary=VOCABULARY, max_tokens=tokens).build()
    with torch.no_grad():
        for parameter in subject.parameters():
            if parameter.dim() == 1:
                parameter.normal_(std=0.3)  # gains that are still zero would hide a norm in the wrong place
    return subject


class Logits(nn.Module):
    """A causal model of ``transformers`` as a function of tokens, without a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens, use_cache=False).logits
        return logits


def twin(decoder: Decoder, family: str, attention: str) -> Logits:
    """The model of the same family in ``transformers``, with our weights; the first layer is local.

    ``attention``: its implementation.
    """
    import transformers

    layers = decoder.config.layers
    mixer: Any = layers[0].mixer
    channel: Any = layers[0].channel
    embedding: Any = decoder.config.embedding
    options: Options = {
        "vocab_size": embedding.vocabulary,
        "hidden_size": decoder.config.width,
        "intermediate_size": channel.ffn_width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.channels,
        "query_pre_attn_scalar": mixer.channels,
        "sliding_window": mixer.window,
        "max_position_embeddings": decoder.config.max_tokens,
        "layer_types": [
            ("sliding" if getattr(layer.mixer, "window", None) else "full") + "_attention" for layer in layers
        ],
        "attn_implementation": attention,
    }
    config = getattr(transformers, "Gemma2Config" if family == "Gemma2" else "Gemma3TextConfig")(**options)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    renamed = {their_name(name): value for name, value in decoder.state_dict().items()}
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return Logits(model)


def their_name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".", 2)
    if parts[0] != "layers":
        return {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight"}[parts[0]]
    return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
