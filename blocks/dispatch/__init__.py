"""One mechanism to choose the implementation of an operation, used by attention, convolutions and products.

A rule stands with its operation; what all of them share is here: the choice and its reason, the override by
``use_implementation`` or the environment variable ARCH_LAB_OPS, the log of each distinct decision, and
kernels.
"""

from blocks.dispatch.choice import Choice, log_once
from blocks.dispatch.eager import by_hand, is_plain_eager, through_formula
from blocks.dispatch.operations import Operation, operation, report
from blocks.dispatch.requests import IMPLEMENTATIONS, VARIABLE, override, use_implementation

__all__ = [
    "IMPLEMENTATIONS",
    "VARIABLE",
    "Choice",
    "Operation",
    "by_hand",
    "is_plain_eager",
    "log_once",
    "operation",
    "override",
    "report",
    "through_formula",
    "use_implementation",
]
