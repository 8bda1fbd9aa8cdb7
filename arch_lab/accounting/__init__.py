"""What a model costs: parameters, FLOPs and decoding state, exact, and the conventions of other papers beside them."""

from arch_lab.accounting.ledger import Component, Ledger, conventions, ledger

__all__ = ["Component", "Ledger", "conventions", "ledger"]
