"""What a model costs: parameters, FLOPs and decoding state, exact, and the conventions of other papers beside them."""

from arch_lab.accounting.counter import Counted, count_forward, count_training
from arch_lab.accounting.ledger import Component, Ledger, by_kind, conventions, ledger
from arch_lab.accounting.proof import AccountingError, prove

__all__ = [
    "AccountingError",
    "Component",
    "Counted",
    "Ledger",
    "by_kind",
    "conventions",
    "count_forward",
    "count_training",
    "ledger",
    "prove",
]
