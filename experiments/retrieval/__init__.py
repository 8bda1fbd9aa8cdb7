"""Which encoder finds the documents that answer a query, at equal parameters, pretraining and tuning
effort?
"""
