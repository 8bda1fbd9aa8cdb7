"""Operations with several implementations: plain torch, a tuned processor path, Triton and CUDA kernels.

An operation is a function of one module here, named as the module is; ``forced`` and ARCH_LAB_OPS name its implementation.
"""

from blocks.ops.dispatch import NAMES, OPERATIONS, Choice, forced, operation, report

__all__ = ["NAMES", "OPERATIONS", "Choice", "forced", "operation", "report"]
