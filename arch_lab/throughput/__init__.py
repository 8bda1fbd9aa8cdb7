"""Speed and memory of whole architectures against sequence length, at one parameter budget (``experiments/throughput``)."""

from __future__ import annotations

from arch_lab.throughput.study import Throughput

__all__ = ["Throughput"]
