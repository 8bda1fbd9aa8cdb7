"""From which sequence length on is an architecture faster, at equal parameters?"""
