"""Kernels: their sources, building, loading and calling them, and the check of each against plain torch."""
