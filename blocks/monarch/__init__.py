"""Monarch matrices, the linear maps and the mixers made of them."""
