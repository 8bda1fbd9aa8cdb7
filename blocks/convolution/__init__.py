"""Convolution along the sequence: long convolutions by several algorithms, implicit filters, and the sequence mixers made of them."""

from blocks.convolution.dispatch import Choice, choose, long_convolution
from blocks.convolution.fft import bidirectional_convolution, causal_convolution, fft_length
from blocks.convolution.filter import ImplicitFilter
from blocks.convolution.gated import GatedLongConv, GatedLongConvConfig
from blocks.convolution.long import LongConvolution
from blocks.convolution.mixer import M2Mixer, M2MixerConfig
from blocks.convolution.short import ShortConvolution

__all__ = [
    "Choice",
    "GatedLongConv",
    "GatedLongConvConfig",
    "ImplicitFilter",
    "LongConvolution",
    "M2Mixer",
    "M2MixerConfig",
    "ShortConvolution",
    "bidirectional_convolution",
    "causal_convolution",
    "choose",
    "fft_length",
    "long_convolution",
]
