"""M2-BERT as released: bidirectional Monarch Mixer with a masked-token head.

Legend: D width, F ffn_width, K blocks.
Source: arXiv 2310.12109; HazyResearch/m2, bert/src/bert_layers.py. Kept: the released block (no skip and no
norm around the mixer, whose residual convolution is the only short path), block-diagonal gated channel mixer
without a shuffle, causal short convolution, learned positions, tied output table; ``input_norm`` adds the
leading LayerNorm that the first released 80M has ("hyena_training_additions"). Left out: dropout, the pooler.
Different: padding never enters a convolution, so an output does not depend on how much of it there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from arch_lab.models.encoder import EncoderConfig, EncoderLayerConfig
from arch_lab.models.model import Kind
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import register_architecture
from blocks.bert.embedding import BertEmbeddingConfig
from blocks.bert.head import BertHeadConfig
from blocks.convolution.mixer import Ablation, Lags, M2MixerConfig
from blocks.monarch.glu import BlockDiagonalGLUConfig
from blocks.norm import LayerNormConfig

EPS = 1e-12  # of every LayerNorm, as BERT's
INPUT_EPS = 1e-5  # except the mixers' input norm, as torch's


@register_architecture("m2_bert", source="arXiv:2310.12109 §5.1")
@dataclass(frozen=True, kw_only=True)
class M2BERT(Recipe):
    """The released encoder: layers of LayerNorm(h + GLU(h)) with h = m2_mixer(x).

    Every published size has 12 layers.
    """

    kind: ClassVar[Kind] = "encoder"
    width_multiple: ClassVar[int] = 32  # keeps 4 (and 8, 16) blocks whole
    ffn_multiple: ClassVar[int] = 16

    blocks: int = 4
    filter_order: int = 128
    filter_emb: int = 5
    sine_frequency: float = 10.0
    residual_long_conv: bool = True
    input_norm: bool = (
        False  # LayerNorm what each sequence mixer reads; without a skip around the mixer, h = mixer(norm(x))
    )
    train_positions: bool | None = None  # of the filters; None: in a released start only
    taps: Lags = None
    ablate: Ablation = ()
    start: Literal["balanced", "released"] = (
        "balanced"  # initial values, rates and decay of filters, see blocks.convolution.mixer
    )

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderConfig:
        layer = EncoderLayerConfig(
            mixer=M2MixerConfig(
                width=shape.width,
                max_tokens=max_tokens,
                causal=False,
                filter_order=self.filter_order,
                filter_emb=self.filter_emb,
                sine_frequency=self.sine_frequency,
                train_positions=self.train_positions,
                residual_long_conv=self.residual_long_conv,
                taps=self.taps,
                ablate=self.ablate,
                start=self.start,
            ),
            channel=BlockDiagonalGLUConfig(width=shape.width, ffn_width=shape.ffn_width, blocks=self.blocks),
            norm=LayerNormConfig(width=shape.width, eps=EPS),
            mixer_norm=LayerNormConfig(width=shape.width, eps=INPUT_EPS) if self.input_norm else None,
        )
        return EncoderConfig(
            width=shape.width,
            max_tokens=max_tokens,
            embedding=BertEmbeddingConfig(
                vocabulary=vocabulary, width=shape.width, max_tokens=max_tokens, eps=EPS
            ),
            layers=(layer,) * shape.depth,
            head=BertHeadConfig(width=shape.width, eps=EPS),
        )
