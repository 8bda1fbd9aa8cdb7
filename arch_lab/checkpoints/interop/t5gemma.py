"""T5Gemma in the format of ``transformers``: two configurations of Gemma 2.

T5Gemma 2: refused.
Source: transformers models/t5gemma (configuration_t5gemma.py, modeling_t5gemma.py). Fields of a stack are
those of Gemma 2, so their translation is that of ``arch_lab.checkpoints.interop.gemma``. What one option here
says of both stacks has to be equal in both; ``sliding_window`` is none of these: in the decoder it counts
keys with the token itself, in the encoder the keys on each side.
"""

from __future__ import annotations

from typing import Any

from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.checkpoints.interop.family import (
    TOKENS,
    Family,
    Fields,
    read_ids,
    refuse_family,
    register_family,
)
from arch_lab.checkpoints.interop.gemma import (
    check_blocks,
    flat_rope,
    read_cap,
    read_heads,
    read_layers,
    read_shape,
    read_window,
    refuse_foreign_parts,
    shortest,
    write_blocks,
    write_flat_rope,
    write_layers,
    write_scale,
)
from arch_lab.checkpoints.interop.t5gemma_names import t5gemma_name
from arch_lab.models.recipe import Shape
from arch_lab.models.registry import recipe
from arch_lab.models.t5gemma import EncoderSize, T5Gemma
from arch_lab.stored import Json
from blocks.attention.gemma import NORM_EPS, Gemma2AttentionConfig

STACKS = ("encoder", "decoder")
STACK_TYPE = "t5_gemma_module"
HEAD, TABLE = "lm_head.out_proj.weight", "model.decoder.embed_tokens.weight"


class T5GemmaFamily(Family):
    """Balanced and unbalanced T5Gemma.

    The head is tied to the decoder's table, as in every published size.
    """

    model_type, architecture = "t5gemma", "t5gemma"

    def their_name(self, name: str) -> str:
        return t5gemma_name(name)

    def redundant(self, name: str) -> str | None:
        return TABLE if name == HEAD else None

    # --- tokens ---------------------------------------------------------------------------------------------

    def read_tokens(self, fields: Fields) -> Json:
        """The ids of the outer configuration, else those of the decoder.

        This is what transformers does.
        """
        inner = fields.content.get("decoder")
        inner = inner if isinstance(inner, dict) else {}
        return {
            name: read_ids(fields, name, fields.take(name, inner.get(name, default)))
            for name, default in TOKENS.items()
        }

    def layers(self, blueprint: Blueprint) -> int:
        encoder = blueprint.options["encoder"]
        return blueprint.shape.depth + (blueprint.shape.depth if encoder is None else encoder["depth"])

    def write_tokens(self, config: Json, tokens: Any) -> None:
        for stack_fields in (config, *(config[stack] for stack in STACKS)):
            stack_fields.update(tokens)

    # --- fields ---------------------------------------------------------------------------------------------

    def read_config(self, fields: Fields) -> Blueprint:
        fields.only("is_encoder_decoder", [True], "both stacks are converted, or none")
        fields.only("tie_word_embeddings", [True], "the head and the decoder's table are one here")
        fields.only("attention_dropout", [0], "attention has no dropout")
        fields.only("dropout_rate", [0], "the stacks have no dropout")
        # of heads that classify; a copy of the decoder's
        for name in ("classifier_dropout_rate", "vocab_size"):
            fields.take(name)
        encoder, decoder = (fields.nested(stack) for stack in STACKS)
        encoder.only("is_decoder", [False], "the encoder looks both ways")
        decoder.only("is_decoder", [True], "the decoder looks back only")
        sizes = []
        for stack_fields in (encoder, decoder):
            stack_fields.only("model_type", [STACK_TYPE], f"a stack of T5Gemma is a {STACK_TYPE}")
            stack_fields.only("dropout_rate", [0], "the stacks have no dropout")
            for name in ("classifier_dropout_rate", *TOKENS):
                stack_fields.take(name)
            check_blocks(stack_fields)
            sizes.append((read_shape(stack_fields), read_heads(stack_fields)))
        (source, source_heads), (shape, heads) = sizes
        decoder.only(
            "cross_attention_hidden_size",
            [None, source.width],
            f"the decoder reads an encoder of width {source.width}",
        )
        encoder.take("final_logit_softcapping")  # no head follows the encoder
        shared = {
            "query_scale": _read_scale(encoder, decoder, source_heads["head_width"], heads["head_width"]),
            "attention_softcap": _equal(
                "attn_logit_softcapping",
                encoder,
                decoder,
                lambda p: read_cap(p, "attn_logit_softcapping", 50.0),
            ),
            "rope_base": _equal("rope_theta", encoder, decoder, flat_rope),
        }
        eps = _equal("rms_norm_eps", encoder, decoder, lambda p: p.number("rms_norm_eps", NORM_EPS))
        encoder_size = None if (source, source_heads) == (shape, heads) else {**vars(source), **source_heads}
        return Blueprint(
            architecture=self.architecture,
            options={
                "encoder": encoder_size,
                **heads,
                **shared,
                **_read_patterns(encoder, decoder, source.depth, shape.depth),
                "final_softcap": read_cap(decoder, "final_logit_softcapping", 30.0),
                **({} if eps == NORM_EPS else {"norm_eps": eps}),
            },
            shape=shape,
            vocabulary=_equal("vocab_size", encoder, decoder, lambda p: p.integer("vocab_size")),
            max_tokens=_equal(
                "max_position_embeddings", encoder, decoder, lambda p: p.integer("max_position_embeddings")
            ),
        )

    def write_config(self, blueprint: Blueprint) -> Json:
        model_recipe, shape = _recipe(blueprint), blueprint.shape
        refuse_foreign_parts(self.model_type, model_recipe)
        size = model_recipe.encoder or EncoderSize(**vars(shape))
        if model_recipe.encoder_radius < 1:
            raise CheckpointError(
                f"t5gemma: encoder_radius {model_recipe.encoder_radius} cannot be written: "
                "a window of the format is at least 1"
            )
        built = model_recipe.config(shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens)
        encoder = _write_stack(model_recipe, size.shape, built.encoder[0].mixer, blueprint)
        decoder = _write_stack(model_recipe, shape, built.decoder[0].mixer, blueprint)
        return {
            "architectures": ["T5GemmaForConditionalGeneration"],
            "model_type": self.model_type,
            "encoder": {**encoder, "is_decoder": False, "sliding_window": model_recipe.encoder_radius},
            "decoder": {
                **decoder,
                "is_decoder": True,
                "sliding_window": model_recipe.window,
                "cross_attention_hidden_size": size.width,
            },
            "is_encoder_decoder": True,
            "vocab_size": blueprint.vocabulary,
            "tie_word_embeddings": True,
            "attention_dropout": 0.0,
            "dropout_rate": 0.0,
            "classifier_dropout_rate": 0.0,
        }


def _recipe(blueprint: Blueprint) -> T5Gemma:
    model_recipe = recipe(blueprint.architecture, blueprint.options)
    assert isinstance(model_recipe, T5Gemma)
    return model_recipe


def _equal(name: str, encoder: Fields, decoder: Fields, read: Any) -> Any:
    """What both stacks share. Raises: CheckpointError when they differ."""
    encoder_value, decoder_value = read(encoder), read(decoder)
    if encoder_value != decoder_value:
        raise encoder.refuse(
            name,
            encoder_value,
            f"the decoder has {decoder_value!r}, but both stacks share one value in arch-lab",
        )
    return decoder_value


def _read_scale(encoder: Fields, decoder: Fields, source_width: int, width: int) -> float | None:
    """None where each stack scales by its own head width.

    Raises: CheckpointError when no one rule covers both.
    """
    encoder_value, decoder_value = (
        encoder.number("query_pre_attn_scalar", 256),
        decoder.number("query_pre_attn_scalar", 256),
    )
    if (encoder_value, decoder_value) == (source_width, width):
        return None
    if encoder_value != decoder_value:
        raise encoder.refuse(
            "query_pre_attn_scalar",
            encoder_value,
            f"the decoder has {decoder_value!r}; in arch-lab both share one, "
            "or each uses that of its head_dim",
        )
    return float(decoder_value**-0.5)


def _read_patterns(encoder: Fields, decoder: Fields, source_depth: int, depth: int) -> Json:
    """``pattern`` of both stacks, ``window``, ``encoder_radius``.

    Raises: CheckpointError when the stacks follow two patterns.
    """
    encoder_value, decoder_value = (
        read_layers(encoder, source_depth, period=2),
        read_layers(decoder, depth, period=2),
    )
    longer, shorter = (
        (encoder_value, decoder_value) if source_depth > depth else (decoder_value, encoder_value)
    )
    if not longer.startswith(shorter):
        raise encoder.refuse(
            "layer_types",
            encoder_value,
            f"the decoder has {decoder_value!r} (L local, G global), but both stacks share one pattern",
        )
    radius = read_window(encoder, encoder_value)
    radius_options = {"encoder_radius": radius["window"]} if radius else {}
    return {"pattern": shortest(longer), **read_window(decoder, decoder_value), **radius_options}


def _write_stack(model_recipe: T5Gemma, shape: Shape, mixer: Any, blueprint: Blueprint) -> Json:
    """Fields that both stacks have.

    Raises: CheckpointError for a stack that transformers would not load.
    """
    assert isinstance(mixer, Gemma2AttentionConfig) and mixer.head_width is not None
    if shape.width % mixer.heads:
        raise CheckpointError(
            f"t5gemma: width {shape.width} cannot be written: "
            f"the format needs a multiple of its {mixer.heads} heads"
        )
    return {
        "model_type": STACK_TYPE,
        "rms_norm_eps": model_recipe.norm_eps,
        "vocab_size": blueprint.vocabulary,
        "max_position_embeddings": blueprint.max_tokens,
        **write_blocks(shape, mixer.heads, mixer.kv_heads, mixer.head_width),
        "dropout_rate": 0.0,
        "attn_logit_softcapping": model_recipe.attention_softcap,
        "final_logit_softcapping": model_recipe.final_softcap,
        "query_pre_attn_scalar": write_scale(model_recipe.query_scale, mixer.head_width),
        "layer_types": write_layers(model_recipe.pattern, shape.depth),
        **write_flat_rope(model_recipe.rope_base),
    }


register_family(T5GemmaFamily())
refuse_family(
    "t5gemma2",
    "its encoder holds a vision tower, without which transformers cannot build it; "
    "only models of text are converted",
)
