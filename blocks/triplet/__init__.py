"""Metric learning on triplets (anchor, positive, negative): losses, and who is put into a triplet."""
