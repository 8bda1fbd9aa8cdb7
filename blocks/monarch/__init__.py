"""Monarch: the matrices and their projection, block-diagonal and two-factor linear maps, the mixers made of
them.
"""
