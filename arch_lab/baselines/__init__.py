"""What a model must beat to have learned anything: n-gram models on the same tokens under the same scoring rule."""

from arch_lab.baselines.ngram import NGram, ngram_baselines

__all__ = ["NGram", "ngram_baselines"]
