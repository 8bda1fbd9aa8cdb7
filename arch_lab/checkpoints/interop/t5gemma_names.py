"""Parameter names of T5Gemma and T5Gemma 2 in released checkpoints.

Sources: transformers models/t5gemma and models/t5gemma2. Every tensor fits as it is, none is transposed or
fused. Tied tensors (the head; in T5Gemma 2 the decoder's table) have no name of ours: a checkpoint that holds
them holds copies. Of T5Gemma 2 the vision tower, its projector and the end-of-image vector
(``eoi_embedding``) have none either: only text is read here, and the end-of-image token, which no text
contains, would get a row of the table where the released model has its own vector.
"""

from __future__ import annotations

from blocks.errors import ConfigError

_PROJECTIONS = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "o_proj",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
_SUBLAYERS = {"mixer": "self_attn", "cross": "cross_attn", "channel": "mlp"}
_NORMS = {
    "mixer_norm": "pre_self_attn_layernorm",
    "mixer_out_norm": "post_self_attn_layernorm",
    "cross_norm": "pre_cross_attn_layernorm",
    "cross_out_norm": "post_cross_attn_layernorm",
    "channel_norm": "pre_feedforward_layernorm",
    "channel_out_norm": "post_feedforward_layernorm",
}


def t5gemma_name(name: str) -> str:
    """Name of our parameter in a T5Gemma checkpoint.

    Raises: ConfigError for a name that no ``t5gemma`` model has.
    """
    tables = {
        "source_embedding.weight": "model.encoder.embed_tokens.weight",
        "embedding.weight": "model.decoder.embed_tokens.weight",
    }
    return _mapped_name(name, tables, encoder="model.encoder")


def t5gemma2_name(name: str) -> str:
    """Name of our parameter in a T5Gemma 2 checkpoint.

    Raises: ConfigError for a name that no ``t5gemma2`` model has.
    """
    encoder = "model.encoder.text_model"
    return _mapped_name(name, {"embedding.weight": f"{encoder}.embed_tokens.weight"}, encoder=encoder)


def _mapped_name(name: str, tables: dict[str, str], *, encoder: str) -> str:
    if name in tables:
        return tables[name]
    stack, *path = name.split(".")
    prefix = {"encoder": encoder, "decoder": "model.decoder"}.get(stack)
    match path:
        case ["norm", "weight"] if prefix:
            return f"{prefix}.norm.weight"
        case ["layers", i, norm, "weight"] if prefix and norm in _NORMS:
            return f"{prefix}.layers.{i}.{_NORMS[norm]}.weight"
        case ["layers", i, block, linear, "weight"] if (
            prefix and block in _SUBLAYERS and linear in _PROJECTIONS
        ):
            return f"{prefix}.layers.{i}.{_SUBLAYERS[block]}.{_PROJECTIONS[linear]}.weight"
    raise ConfigError(f"parameter {name!r} has no name in this checkpoint format")
