"""What is an embedding trained on triplets worth, against simpler maps of the same width?"""
