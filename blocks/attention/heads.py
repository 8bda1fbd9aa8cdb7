"""Options that every attention shares: heads, widths and scale.

Legend: D width, H query heads, K key/value heads, C head width. C is independent of D/H: Gemma 1 7B has H·C =
4096 at D = 3072.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from blocks.contract import BlockConfig
from blocks.errors import ConfigError

# whichever a subclass has; null means without
POSITIVE = ("query_scale", "rope_base", "rope_factor", "softcap", "norm_eps")


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(BlockConfig):
    """Raises: ConfigError for sizes no attention has."""

    width: int
    heads: int = 4
    kv_heads: int = 1  # 1 = multi-query, ``heads`` = multi-head, between = grouped
    head_width: int | None = None  # None: width / heads
    # multiplies the scores; None: head_width^-0.5 (the 27B models use (width/heads)^-0.5)
    query_scale: float | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("width", "heads", "kv_heads", "head_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{owner}: {name} must be at least 1, got {value}")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"{owner}: heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.head_width is None and self.width % self.heads:
            raise ConfigError(
                f"{owner}: width {self.width} is not a multiple of heads {self.heads}; set head_width"
            )
        for name in POSITIVE:
            value = getattr(self, name, None)
            if value is not None and not (value > 0 and isfinite(value)):
                raise ConfigError(f"{owner}: {name} must be a positive number, got {value}")

    @property
    def channels(self) -> int:
        """C, the width of one head."""
        return self.width // self.heads if self.head_width is None else self.head_width

    def check_pairs(self) -> None:
        """Raises: ConfigError unless C is even."""
        if self.channels % 2:
            raise ConfigError(
                f"{type(self).__name__}: head_width must be even (RoPE turns pairs of channels), "
                f"got {self.channels}"
            )
