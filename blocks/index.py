"""Index of the built-in blocks and public names: where each is defined. Reading it imports nothing.

A new block is one line of ``BLOCKS``; its configuration class is called ``<Class>Config`` and stands beside
it. The names are repeated in ``blocks/__init__.pyi`` for type checkers; tests/blocks/test_registry.py holds
both to the registry.
"""

from __future__ import annotations

KINDS: tuple[str, ...] = (
    "sequence_mixer",
    "cross_mixer",
    "channel_mixer",
    "linear",
    "norm",
    "embedding",
    "pooler",
    "head",
)

BLOCKS: dict[str, str] = {  # registered name: import path of its class
    # sequence mixer
    "gated_long_conv": "blocks.convolution.gated:GatedLongConv",
    "gemma1_attention": "blocks.attention.gemma:Gemma1Attention",
    "gemma2_attention": "blocks.attention.gemma:Gemma2Attention",
    "gemma3_attention": "blocks.attention.gemma:Gemma3Attention",
    "gemma4_attention": "blocks.attention.gemma4:Gemma4Attention",
    "m2_mixer": "blocks.convolution.mixer:M2Mixer",
    "monarch_polynomial": "blocks.monarch.polynomial_mixer:MonarchPolynomial",
    "multi_head_attention": "blocks.attention.multi_head:MultiHeadAttention",
    # cross mixer
    "gemma_cross_attention": "blocks.attention.cross:GemmaCrossAttention",
    "gemma_merged_attention": "blocks.attention.merged:GemmaMergedAttention",
    # channel mixer
    "block_diagonal_glu": "blocks.monarch.glu:BlockDiagonalGLU",
    "block_diagonal_mlp": "blocks.monarch.glu:BlockDiagonalMLP",
    "geglu": "blocks.channel.glu:GeGLU",
    "mlp": "blocks.channel.mlp:MLP",
    # linear
    "block_diagonal_linear": "blocks.monarch.block_diagonal:BlockDiagonalLinear",
    "layer_scale": "blocks.scale:LayerScale",
    "linear": "blocks.linear:Linear",
    "monarch_linear": "blocks.monarch.monarch_linear:MonarchLinear",
    # norm
    "layer_norm": "blocks.norm:LayerNorm",
    "rms_norm": "blocks.norm:RMSNorm",
    "rms_norm_gain": "blocks.norm:GainRMSNorm",
    "rms_norm_unit": "blocks.norm:UnitRMSNorm",
    # embedding
    "bert_embedding": "blocks.bert.embedding:BertEmbedding",
    "patch_embedding": "blocks.vision.patches:PatchEmbedding",
    "tied_embedding": "blocks.embedding:TiedEmbedding",
    # pooler
    "attn_kv": "blocks.heads.attention_poolers:KeyValuePooler",
    "attn_query": "blocks.heads.attention_poolers:QueryPooler",
    "cls": "blocks.heads.poolers:ClsPooler",
    "first_k": "blocks.heads.poolers:FirstKPooler",
    "last_k": "blocks.heads.poolers:LastKPooler",
    "max": "blocks.heads.poolers:MaxPooler",
    "mean": "blocks.heads.poolers:MeanPooler",
    # head
    "bert_head": "blocks.bert.head:BertHead",
    "classification": "blocks.heads.classification:ClassificationHead",
    "entity_library": "blocks.heads.entity_library:EntityLibraryHead",
    "image_head": "blocks.vision.head:ImageHead",
    "label_logit": "blocks.heads.label_logit:LabelLogitHead",
    "range_regression": "blocks.heads.range_regression:RangeRegressionHead",
    "regression": "blocks.heads.regression:RegressionHead",
    "token_classification": "blocks.heads.classification:TokenClassificationHead",
    "triplet": "blocks.triplet.head:TripletHead",
}

_FRAMEWORK: dict[str, tuple[str, ...]] = {  # module: its public names
    "blocks.contract": (
        "Block",
        "BlockConfig",
        "ChannelMixer",
        "CrossMixer",
        "Pooler",
        "SequenceMixer",
    ),
    "blocks.cost": ("Cost",),
    "blocks.errors": (
        "ConfigError",
        "UserError",
    ),
    "blocks.registry": (
        "Entry",
        "build",
        "configure",
        "entries",
        "lookup",
        "register",
    ),
}


def _public_names() -> dict[str, str]:
    names = {name: module for module, names in _FRAMEWORK.items() for name in names}
    for path in BLOCKS.values():
        module, _, name = path.partition(":")
        names |= {name: module, f"{name}Config": module}
    return names


PUBLIC = _public_names()  # what ``from blocks import ...`` offers: name: module
