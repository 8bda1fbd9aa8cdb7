"""Channel mixers: maps that act on each position alone."""
