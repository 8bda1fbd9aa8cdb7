"""Channel mixers: position-wise maps."""
