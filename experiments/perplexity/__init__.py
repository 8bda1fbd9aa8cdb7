"""Which architecture models text better at equal parameters and equal training FLOPs?"""
