"""Speed as a ratio against a named peer in the same process, behind a correctness check."""

from arch_lab.bench.checkout import StepRow, steps_against
from arch_lab.bench.protocol import Row, Skipped, measure
from arch_lab.bench.suites import SUITES, run_suite

__all__ = ["SUITES", "Row", "Skipped", "StepRow", "measure", "run_suite", "steps_against"]
