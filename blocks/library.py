"""All built-in blocks and the public names of ``blocks``; importing this module registers every one of them."""

from blocks.attention.cross import GemmaCrossAttention, GemmaCrossAttentionConfig
from blocks.attention.gemma import (
    Gemma1Attention,
    Gemma1AttentionConfig,
    Gemma2Attention,
    Gemma2AttentionConfig,
    Gemma3Attention,
    Gemma3AttentionConfig,
)
from blocks.attention.gemma4 import Gemma4Attention, Gemma4AttentionConfig
from blocks.attention.merged import GemmaMergedAttention, GemmaMergedAttentionConfig
from blocks.attention.multi_head import MultiHeadAttention, MultiHeadAttentionConfig
from blocks.bert.embedding import BertEmbedding, BertEmbeddingConfig
from blocks.bert.head import BertHead, BertHeadConfig
from blocks.channel.glu import GeGLU, GeGLUConfig
from blocks.channel.mlp import MLP, MLPConfig
from blocks.contract import Block, BlockConfig, ChannelMixer, CrossMixer, Pooler, SequenceMixer
from blocks.convolution.gated import GatedLongConv, GatedLongConvConfig
from blocks.convolution.mixer import M2Mixer, M2MixerConfig
from blocks.cost import Cost
from blocks.embedding import TiedEmbedding, TiedEmbeddingConfig
from blocks.errors import ConfigError, UserError
from blocks.heads.attn_kv import KeyValuePooler, KeyValuePoolerConfig
from blocks.heads.attn_query import QueryPooler, QueryPoolerConfig
from blocks.heads.classification import ClassificationHead, ClassificationHeadConfig
from blocks.heads.cls import ClsPooler, ClsPoolerConfig
from blocks.heads.entity_library import EntityLibraryHead, EntityLibraryHeadConfig
from blocks.heads.first_k import FirstKPooler, FirstKPoolerConfig
from blocks.heads.label_logit import LabelLogitHead, LabelLogitHeadConfig
from blocks.heads.last_k import LastKPooler, LastKPoolerConfig
from blocks.heads.max import MaxPooler, MaxPoolerConfig
from blocks.heads.mean import MeanPooler, MeanPoolerConfig
from blocks.heads.range_regression import RangeRegressionHead, RangeRegressionHeadConfig
from blocks.heads.regression import RegressionHead, RegressionHeadConfig
from blocks.heads.token_classification import TokenClassificationHead, TokenClassificationHeadConfig
from blocks.linear import Linear, LinearConfig
from blocks.monarch.block_diagonal import BlockDiagonalLinear, BlockDiagonalLinearConfig
from blocks.monarch.glu import BlockDiagonalGLU, BlockDiagonalGLUConfig, BlockDiagonalMLP, BlockDiagonalMLPConfig
from blocks.monarch.monarch_linear import MonarchLinear, MonarchLinearConfig
from blocks.monarch.polynomial_mixer import MonarchPolynomial, MonarchPolynomialConfig
from blocks.norm import (
    GainRMSNorm,
    GainRMSNormConfig,
    LayerNorm,
    LayerNormConfig,
    RMSNorm,
    RMSNormConfig,
    UnitRMSNorm,
    UnitRMSNormConfig,
)
from blocks.registry import Entry, build, configure, entries, lookup, register
from blocks.scale import LayerScale, LayerScaleConfig
from blocks.triplet.head import TripletHead, TripletHeadConfig
from blocks.vision.head import ImageHead, ImageHeadConfig
from blocks.vision.patches import PatchEmbedding, PatchEmbeddingConfig

__all__ = [
    "BertEmbedding",
    "BertEmbeddingConfig",
    "BertHead",
    "BertHeadConfig",
    "Block",
    "BlockConfig",
    "BlockDiagonalGLU",
    "BlockDiagonalGLUConfig",
    "BlockDiagonalLinear",
    "BlockDiagonalLinearConfig",
    "BlockDiagonalMLP",
    "BlockDiagonalMLPConfig",
    "ChannelMixer",
    "ClassificationHead",
    "ClassificationHeadConfig",
    "ClsPooler",
    "ClsPoolerConfig",
    "ConfigError",
    "Cost",
    "CrossMixer",
    "EntityLibraryHead",
    "EntityLibraryHeadConfig",
    "Entry",
    "FirstKPooler",
    "FirstKPoolerConfig",
    "GainRMSNorm",
    "GainRMSNormConfig",
    "GatedLongConv",
    "GatedLongConvConfig",
    "GeGLU",
    "GeGLUConfig",
    "Gemma1Attention",
    "Gemma1AttentionConfig",
    "Gemma2Attention",
    "Gemma2AttentionConfig",
    "Gemma3Attention",
    "Gemma3AttentionConfig",
    "Gemma4Attention",
    "Gemma4AttentionConfig",
    "GemmaCrossAttention",
    "GemmaCrossAttentionConfig",
    "GemmaMergedAttention",
    "GemmaMergedAttentionConfig",
    "ImageHead",
    "ImageHeadConfig",
    "KeyValuePooler",
    "KeyValuePoolerConfig",
    "LabelLogitHead",
    "LabelLogitHeadConfig",
    "LastKPooler",
    "LastKPoolerConfig",
    "LayerNorm",
    "LayerNormConfig",
    "LayerScale",
    "LayerScaleConfig",
    "Linear",
    "LinearConfig",
    "M2Mixer",
    "M2MixerConfig",
    "MLP",
    "MLPConfig",
    "MaxPooler",
    "MaxPoolerConfig",
    "MeanPooler",
    "MeanPoolerConfig",
    "MonarchLinear",
    "MonarchLinearConfig",
    "MonarchPolynomial",
    "MonarchPolynomialConfig",
    "MultiHeadAttention",
    "MultiHeadAttentionConfig",
    "PatchEmbedding",
    "PatchEmbeddingConfig",
    "Pooler",
    "QueryPooler",
    "QueryPoolerConfig",
    "RangeRegressionHead",
    "RangeRegressionHeadConfig",
    "RegressionHead",
    "RegressionHeadConfig",
    "RMSNorm",
    "RMSNormConfig",
    "SequenceMixer",
    "TiedEmbedding",
    "TiedEmbeddingConfig",
    "TokenClassificationHead",
    "TokenClassificationHeadConfig",
    "TripletHead",
    "TripletHeadConfig",
    "UnitRMSNorm",
    "UnitRMSNormConfig",
    "UserError",
    "build",
    "configure",
    "entries",
    "lookup",
    "register",
]
