"""Convolution along the sequence.

Long convolutions by several algorithms, implicit filters, and the mixers made of them.
"""

from blocks.convolution.algorithms import choose, long_convolution

__all__ = ["choose", "long_convolution"]
