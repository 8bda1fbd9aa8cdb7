"""Products with several implementations.

Block-diagonal maps, the gated unit made of them, and the Monarch product.

Each is a function of one module here; ``blocks.dispatch`` chooses the implementation.
"""
