"""Throughput: nothing is trained; the study's own engine times every arm against the others (arch_lab.throughput)."""

from __future__ import annotations

from arch_lab.throughput import Throughput

EXPERIMENT = Throughput()
