"""The attention of BERT and ViT.

Every token sees every other, projections have biases, positions come from elsewhere.

Legend: B batch, T tokens, D width, H heads, C head width.
Source: arXiv 1706.03762 §3.2.2; arXiv 2010.11929 (ViT). With ``linear: monarch`` the four projections are
Monarch matrices, as in the image models of arXiv 2204.00595.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einops import rearrange
from torch import Tensor

from blocks.attention.core import attend
from blocks.attention.masks import attended_pairs
from blocks.contract import BlockConfig, SequenceMixer
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.monarch.block_diagonal import check_blocks
from blocks.monarch.monarch_linear import LinearKind, linear_map
from blocks.registry import register
from blocks.segments import check


@dataclass(frozen=True, kw_only=True)
class MultiHeadAttentionConfig(BlockConfig):
    width: int
    heads: int = 4
    linear: LinearKind = "dense"
    blocks: int = 4  # of a Monarch factor

    def __post_init__(self) -> None:
        check_blocks(self.blocks if self.linear == "monarch" else 1, width=self.width)
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(
                f"MultiHeadAttentionConfig: width {self.width} is not a multiple of heads {self.heads}"
            )

    @property
    def channels(self) -> int:
        """C, the width of one head."""
        return self.width // self.heads


@register(
    "multi_head_attention",
    kind="sequence_mixer",
    config=MultiHeadAttentionConfig,
    source="arXiv:1706.03762 §3.2.2",
    complexity="O(T²)",
)
class MultiHeadAttention(SequenceMixer):
    """Bidirectional softmax attention, one key/value head per query head, biases in all projections.

    Shape: (B, T, D) -> (B, T, D), see SequenceMixer. Without positions in x it is equivariant to permutations
    of the tokens.
    Cost: 4·D² + 4·D weights when dense, those of MonarchLinear otherwise; twice the weights and 4·T·D FLOPs a
    token; elementwise: 6 per pair and head (scale, softmax), 1 a bias.
    Raises: ConfigError for segments of another shape than the input's, or on decoding.
    """

    config: MultiHeadAttentionConfig
    causal = False

    def __init__(self, config: MultiHeadAttentionConfig) -> None:
        super().__init__(config)
        kind, d, blocks = config.linear, config.width, config.blocks
        self.query, self.key, self.value, self.out = (linear_map(kind, d, d, blocks=blocks) for _ in range(4))

    def reset_parameters(self) -> None:
        for block in (self.query, self.key, self.value, self.out):
            block.reset_parameters()

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is not None:
            check(segments, x)
            # a masked key has weight 0, but 0 times the infinity or NaN somebody left in the padding is NaN
            x = x.masked_fill((segments == 0)[..., None], 0)
        q, k, v = (
            rearrange(block(x), "b t (h c) -> b h t c", h=self.config.heads)
            for block in (self.query, self.key, self.value)
        )
        y = attend(q, k, v, scale=self.config.channels**-0.5, causal=False, segments=segments)
        y = self.out(rearrange(y, "b h t c -> b t (h c)"))
        # the bias reached padding
        return y if segments is None else y.masked_fill((segments == 0)[..., None], 0)

    def init_state(self, batch: int, max_tokens: int) -> Any:
        raise self.refuse_decoding()

    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise self.refuse_decoding()

    def state_bytes(self, tokens: int) -> int:
        raise self.refuse_decoding()

    def cost(self, tokens: int) -> Cost:
        pairs = self.config.heads * attended_pairs(tokens, causal=False)
        attention = Cost(matmul=4 * self.config.channels * pairs, elementwise=6 * pairs)
        return attention + total(block.cost(tokens) for block in (self.query, self.key, self.value, self.out))
