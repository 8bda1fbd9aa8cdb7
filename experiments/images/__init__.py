"""Which architecture classifies images better at equal parameters and equal training FLOPs?"""
