"""Gemma 1, 2 and 3 (text) as ``transformers`` stores them.

Legend: D width, H query heads, K key/value heads, C head width, w window.
Source: transformers models/gemma, gemma2, gemma3 (configuration_*.py, modeling_*.py). Both spellings of the
rotary fields are read, flat (rope_theta, rope_scaling, rope_local_base_freq) and nested (rope_parameters),
and both are written.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, arange, float64

from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.checkpoints.interop.family import (
    TOKENS,
    Family,
    Fields,
    positive,
    read_ids,
    register_family,
    same,
)
from arch_lab.models.gemma import GLOBAL, LOCAL, GemmaRecipe
from arch_lab.models.recipe import Shape
from arch_lab.models.registry import recipe
from arch_lab.stored import Json
from blocks.attention.gemma import NORM_EPS

ATTENTION = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "o_proj",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
}
CHANNEL = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
PRE_NORMS = {"mixer_norm": "input_layernorm", "channel_norm": "post_attention_layernorm"}
SANDWICH_NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_out_norm": "post_attention_layernorm",
    "channel_norm": "pre_feedforward_layernorm",
    "channel_out_norm": "post_feedforward_layernorm",
}
OUTER = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
# rotary frequencies, which older versions of transformers saved with each layer
FREQUENCIES = re.compile(r"model\.(?:layers\.\d+\.self_attn\.)?rotary_emb(?P<local>_local)?\.inv_freq")
# of Gemma3ForConditionalGeneration
VISION_FIELDS = (
    "vision_config",
    "mm_tokens_per_image",
    *(f"{token}_token_{kind}" for token in ("boi", "eoi", "image") for kind in ("index", "id")),
)
VISION = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
LANGUAGE = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model."),
    ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
TEXT_DEFAULTS = {  # of Gemma3TextConfig: the released files leave out what equals them
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
LAYER_TYPES = {LOCAL: "sliding_attention", GLOBAL: "full_attention"}
HEADS = {"head_width": "head_dim", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads"}
TANH_GELU = "gelu_pytorch_tanh"
MOST_LAYERS = 1000  # the deepest published Gemma has 62


def their_name(name: str, *, sandwich: bool) -> str:
    """The name ``transformers`` gives a parameter.

    ``post_attention_layernorm`` means another norm in Gemma 1 than later.
    """
    parts = name.split(".")
    if parts[0] != "layers":
        return OUTER[name]
    layer, block = f"model.layers.{parts[1]}", parts[2]
    if block == "mixer":
        return f"{layer}.self_attn.{ATTENTION[parts[3]]}.weight"
    if block == "channel":
        return f"{layer}.mlp.{CHANNEL[parts[3]]}.weight"
    if block == "scale":
        return f"{layer}.layer_scalar"
    return f"{layer}.{(SANDWICH_NORMS if sandwich else PRE_NORMS)[block]}.weight"


class GemmaFamily(Family):
    """What the three generations share."""

    sandwich: ClassVar[bool] = True
    class_name: ClassVar[str]  # of transformers
    activation: ClassVar[str] = "hidden_activation"

    def their_name(self, name: str) -> str:
        return their_name(name, sandwich=self.sandwich)

    def redundant(self, name: str) -> str | None:
        # older files repeat the tied table
        return OUTER["embedding.weight"] if name == "lm_head.weight" else None

    def frequencies(self, name: str, blueprint: Blueprint) -> Tensor | None:
        match = FREQUENCIES.fullmatch(name)
        if not match:
            return None
        options, width = blueprint.options, blueprint.options["head_width"]
        if "rope_base" in options:
            base, factor = options["rope_base"], 1.0
        elif match["local"]:
            base, factor = options["local_rope_base"], 1.0
        else:
            base, factor = options["global_rope_base"], options["rope_factor"]
        return base ** -(arange(0, width, 2, dtype=float64) / width) / factor

    def read_config(self, fields: Fields) -> Blueprint:
        check_blocks(fields, activation=self.activation)
        eps = fields.number("rms_norm_eps", NORM_EPS)
        shape, heads = read_shape(fields), read_heads(fields)
        vocabulary, max_tokens = fields.integer("vocab_size"), fields.integer("max_position_embeddings")
        options = {**heads, **({} if eps == NORM_EPS else {"norm_eps": eps})}
        options |= self.read_options(fields, shape.depth, heads["head_width"])
        return Blueprint(
            architecture=self.architecture,
            options=options,
            shape=shape,
            vocabulary=vocabulary,
            max_tokens=max_tokens,
        )

    def write_config(self, blueprint: Blueprint) -> Json:
        model_recipe, shape = recipe(blueprint.architecture, blueprint.options), blueprint.shape
        assert isinstance(model_recipe, GemmaRecipe)
        refuse_foreign_parts(self.model_type, model_recipe)
        for option in ("rope_fraction", "local_rope_fraction"):
            if getattr(model_recipe, option, 1) != 1:
                raise CheckpointError(
                    f"{self.model_type}: {option} {getattr(model_recipe, option)} cannot be written: "
                    "the format rotates all channels"
                )
        heads = model_recipe.head_shape(shape.width)
        return {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            "vocab_size": blueprint.vocabulary,
            "max_position_embeddings": blueprint.max_tokens,
            **write_blocks(shape, heads.heads, heads.kv_heads, heads.head_width, activation=self.activation),
            "rms_norm_eps": model_recipe.norm_eps,
            **self.write_options(model_recipe, shape.depth, heads.head_width),
        }

    @abstractmethod
    def read_options(self, fields: Fields, depth: int, head_width: int) -> Json:
        """Options of our recipe beyond the heads. Raises: CheckpointError."""

    @abstractmethod
    def write_options(self, model_recipe: Any, depth: int, head_width: int) -> Json:
        """The inverse. Raises: CheckpointError."""


class Gemma1Family(GemmaFamily):
    model_type, architecture, class_name = "gemma", "gemma1", "GemmaForCausalLM"
    sandwich = False
    activation = "hidden_act"

    def read_options(self, fields: Fields, depth: int, head_width: int) -> Json:
        return {"rope_base": flat_rope(fields)}

    def write_options(self, model_recipe: Any, depth: int, head_width: int) -> Json:
        if model_recipe.query_scale not in (None, head_width**-0.5):
            raise CheckpointError(
                f"gemma: query_scale {model_recipe.query_scale} cannot be written: "
                "the format scales by head_dim^-0.5"
            )
        return write_flat_rope(model_recipe.rope_base)


class Gemma2Family(GemmaFamily):
    model_type, architecture, class_name = "gemma2", "gemma2", "Gemma2ForCausalLM"

    def read_options(self, fields: Fields, depth: int, head_width: int) -> Json:
        return {
            "attention_softcap": read_cap(fields, "attn_logit_softcapping", 50.0),
            "final_softcap": read_cap(fields, "final_logit_softcapping", 30.0),
            **read_pattern(fields, depth, period=2),
            "query_scale": read_scale(fields, head_width),
            "rope_base": flat_rope(fields),
        }

    def write_options(self, model_recipe: Any, depth: int, head_width: int) -> Json:
        return {
            "attn_logit_softcapping": model_recipe.attention_softcap,
            "final_logit_softcapping": model_recipe.final_softcap,
            "query_pre_attn_scalar": write_scale(model_recipe.query_scale, head_width),
            **write_pattern(model_recipe, depth),
            **write_flat_rope(model_recipe.rope_base),
        }


class Gemma3Family(GemmaFamily):
    model_type, architecture, class_name = "gemma3_text", "gemma3", "Gemma3ForCausalLM"

    def read_options(self, fields: Fields, depth: int, head_width: int) -> Json:
        fields.only(
            "attn_logit_softcapping",
            [None],
            "Gemma 3 caps no scores (transformers reads this field and does not use it)",
        )
        fields.only("final_logit_softcapping", [None], "the logits of Gemma 3 are not capped")
        nested = Fields(fields.mapping("rope_parameters"), fields.origin, f"{fields.prefix}rope_parameters.")
        global_rope = {**nested.mapping("full_attention"), **fields.mapping("rope_scaling")}
        local = nested.mapping("sliding_attention")
        if nested.content:
            name, value = next(iter(nested.content.items()))
            raise fields.refuse(
                f"rope_parameters.{name}", value, "expected full_attention and sliding_attention"
            )
        global_rope.setdefault("rope_theta", fields.take("rope_theta", 1_000_000.0))
        local.setdefault("rope_theta", fields.take("rope_local_base_freq", 10_000.0))
        global_base, factor = rope(fields, global_rope, "rope_parameters.full_attention", linear=True)
        local_base, _ = rope(fields, local, "rope_parameters.sliding_attention", linear=False)
        return {
            **read_pattern(fields, depth, period=fields.integer("sliding_window_pattern", 6)),
            "query_scale": read_scale(fields, head_width),
            "local_rope_base": local_base,
            "global_rope_base": global_base,
            "rope_factor": factor,
        }

    def write_options(self, model_recipe: Any, depth: int, head_width: int) -> Json:
        scaled = (
            None
            if model_recipe.rope_factor == 1
            else {"rope_type": "linear", "factor": model_recipe.rope_factor}
        )
        return {
            "query_pre_attn_scalar": write_scale(model_recipe.query_scale, head_width),
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": model_recipe.local_rope_base},
                "full_attention": {
                    **(scaled or {"rope_type": "default"}),
                    "rope_theta": model_recipe.global_rope_base,
                },
            },
            "rope_theta": model_recipe.global_rope_base,
            "rope_local_base_freq": model_recipe.local_rope_base,
            "rope_scaling": scaled,
            **write_pattern(model_recipe, depth),
        }


class Gemma3WithVision(Gemma3Family):
    """The text part of Gemma3ForConditionalGeneration (4B, 12B, 27B).

    The vision tower is left out by name.
    """

    model_type = "gemma3"
    writes = False  # as Gemma3ForCausalLM, by the family of text

    def read_tokens(self, fields: Fields) -> Json:
        """Token ids of the text part, unless the outer configuration gives them."""
        inner = fields.content.get("text_config")
        inner = inner if isinstance(inner, dict) else {}
        return {
            name: read_ids(fields, name, fields.take(name, inner.get(name, default)))
            for name, default in TOKENS.items()
        }

    def read_config(self, fields: Fields) -> Blueprint:
        for name in VISION_FIELDS:
            fields.take(name)
        fields.only("tie_word_embeddings", [True], "input and output share one table here")
        text = fields.nested("text_config")
        text.only(
            "model_type",
            [Gemma3Family.model_type],
            f"the text part of Gemma 3 is a {Gemma3Family.model_type}",
        )
        for name in TOKENS:
            text.take(name)
        for name, value in TEXT_DEFAULTS.items():
            text.content.setdefault(name, value)
        return super().read_config(text)

    def text_name(self, stored: str) -> str | None:
        """Old files say language_model.model.layers, newer ones model.language_model.layers."""
        if VISION.match(stored):
            return None
        for prefix, text_prefix in LANGUAGE:
            if stored.startswith(prefix):
                return text_prefix + stored.removeprefix(prefix)
        return stored


# --- fields that several generations share ------------------------------------------------------------------


def check_blocks(fields: Fields, *, activation: str = "hidden_activation") -> None:
    """Takes the fields that have to hold what our blocks compute.

    Raises: CheckpointError naming the first that does not.
    """
    fields.only("tie_word_embeddings", [True], "input and output share one table here")
    fields.only("attention_bias", [False], "the projections have no bias")
    fields.only(
        "attention_dropout",
        [0],
        "attention has no dropout; it acts in training only, so set it to 0 to evaluate",
    )
    fields.only(
        "use_bidirectional_attention",
        [None, False],
        "decoders are causal, and no other stack is turned by this field",
    )
    # Gemma 1's first release says "gelu" and means the tanh form (huggingface/transformers#29402); later
    # codes ignore hidden_act
    fields.only("hidden_act", [TANH_GELU, "gelu", None], "the gate is a tanh-approximated GELU")
    fields.only(
        "hidden_activation",
        [TANH_GELU, None] if activation == "hidden_act" else [TANH_GELU],
        "the gate is a tanh GELU",
    )


def refuse_foreign_parts(model_type: str, model_recipe: Any) -> None:
    """Raises: CheckpointError for a part that no published Gemma has."""
    if model_recipe.short_convolution is not None:
        raise CheckpointError(
            f"{model_type}: short_convolution {model_recipe.short_convolution} cannot be written: "
            "the format has no convolution in attention"
        )
    if getattr(model_recipe, "channel", "dense") != "dense":
        raise CheckpointError(
            f"{model_type}: channel {model_recipe.channel!r} cannot be written: "
            "the format has dense channel mixers"
        )


def read_shape(fields: Fields) -> Shape:
    depth, width = fields.integer("num_hidden_layers", maximum=MOST_LAYERS), fields.integer("hidden_size")
    return Shape(width=width, depth=depth, ffn_width=fields.integer("intermediate_size"))


def read_heads(fields: Fields) -> dict[str, int]:
    return {name: fields.integer(field) for name, field in HEADS.items()}


def write_blocks(
    shape: Shape, heads: int, kv_heads: int, head_width: int, *, activation: str = "hidden_activation"
) -> Json:
    """The inverse of the three."""
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        activation: TANH_GELU,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
    }


def read_cap(fields: Fields, name: str, default: float) -> float | None:
    return None if (value := fields.take(name, default)) is None else positive(fields, name, value)


def flat_rope(fields: Fields) -> float:
    """The RoPE base of Gemma 1 and 2.

    As in transformers, ``rope_scaling`` replaces ``rope_parameters``.
    """
    scaling, parameters = fields.mapping("rope_scaling"), fields.mapping("rope_parameters")
    rope_fields = scaling or parameters
    base = fields.take("rope_theta", 10_000.0)
    rope_fields.setdefault("rope_theta", base)
    return rope(fields, rope_fields, "rope_parameters", linear=False)[0]


def write_flat_rope(base: float) -> Json:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base}, "rope_theta": base}


def rope(fields: Fields, rope_fields: Json, origin: str, *, linear: bool) -> tuple[float, float]:
    """(base, factor) of one set of rotary fields.

    Raises: CheckpointError for another kind of scaling.
    """
    kind = rope_fields.pop("rope_type", rope_fields.pop("type", "default")) or "default"
    rope_fields.pop("type", None)  # older files hold both spellings
    if kind not in (("default", "linear") if linear else ("default",)):
        raise fields.refuse(
            f"{origin}.rope_type",
            kind,
            "only global layers of Gemma 3 support a linear RoPE factor",
        )
    base = positive(fields, f"{origin}.rope_theta", rope_fields.pop("rope_theta"))
    factor = (
        positive(fields, f"{origin}.factor", rope_fields.pop("factor", None)) if kind == "linear" else 1.0
    )
    partial = rope_fields.pop("partial_rotary_factor", None)
    if partial not in (None, 1.0):
        raise fields.refuse(f"{origin}.partial_rotary_factor", partial, "all channels are rotated")
    for name, value in rope_fields.items():
        if value is not None:
            raise fields.refuse(f"{origin}.{name}", value, "it is not a known field of a rotary embedding")
    return base, factor


def read_scale(fields: Fields, head_width: int) -> float | None:
    scalar = fields.number("query_pre_attn_scalar", 256)
    return None if scalar == head_width else float(scalar**-0.5)


def write_scale(query_scale: float | None, head_width: int) -> int:
    scalar = head_width if query_scale is None else round(query_scale**-2)
    if query_scale is not None and scalar**-0.5 != query_scale:
        raise CheckpointError(
            f"query_scale {query_scale} is not the inverse square root of a whole number, "
            "so query_pre_attn_scalar cannot express it"
        )
    return scalar


def read_pattern(fields: Fields, depth: int, *, period: int) -> Json:
    """``window`` and ``pattern``, shortened to its smallest period."""
    layers = read_layers(fields, depth, period=period)
    return {"pattern": shortest(layers), **read_window(fields, layers)}


def read_layers(fields: Fields, depth: int, *, period: int) -> str:
    """L (local) or G (global) for each layer.

    Without layer_types every ``period``-th layer is global. Raises: CheckpointError.
    """
    types = fields.take("layer_types")
    if types is None:
        types = [LAYER_TYPES[GLOBAL if (i + 1) % period == 0 else LOCAL] for i in range(depth)]
    letters = {layer_type: letter for letter, layer_type in LAYER_TYPES.items()}
    if not isinstance(types, list) or len(types) != depth:
        raise fields.refuse("layer_types", types, f"expected a list of {depth}, one for each layer")
    for i, kind in enumerate(types):
        if not isinstance(kind, str) or kind not in letters:
            raise fields.refuse(f"layer_types[{i}]", kind, f"expected {' or '.join(letters)}")
    return "".join(letters[kind] for kind in types)


def shortest(layers: str) -> str:
    """The smallest pattern that, repeated, gives these layers."""
    return next(
        layers[:p] for p in range(1, len(layers) + 1) if (layers[:p] * len(layers))[: len(layers)] == layers
    )


def read_window(fields: Fields, layers: str) -> dict[str, int]:
    """``window``, or nothing where no layer is local and none is named."""
    twin = fields.take("sliding_window_size")  # in the released Gemma 2 9B
    if LOCAL not in layers and fields.content.get("sliding_window") is None:
        fields.take("sliding_window")
        return {}
    window = fields.integer("sliding_window")
    if twin is not None and not same(twin, window):
        raise fields.refuse(
            "sliding_window_size", twin, f"sliding_window is {window}, and both name one window"
        )
    return {"window": window}


def write_pattern(model_recipe: Any, depth: int) -> Json:
    return {
        "layer_types": write_layers(model_recipe.layer_pattern, depth),
        "sliding_window": model_recipe.window,
    }


def write_layers(pattern: str, depth: int) -> list[str]:
    return [LAYER_TYPES[pattern[i % len(pattern)]] for i in range(depth)]


for family in (Gemma1Family(), Gemma2Family(), Gemma3Family(), Gemma3WithVision()):
    register_family(family)
