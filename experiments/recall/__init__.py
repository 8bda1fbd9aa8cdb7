"""Which architecture looks up best what it has read before?"""
