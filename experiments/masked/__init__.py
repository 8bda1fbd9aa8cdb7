"""Which encoder fills in hidden tokens better at equal parameters and equal training FLOPs?"""
