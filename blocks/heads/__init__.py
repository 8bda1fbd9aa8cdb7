"""From token vectors to an answer: poolers (one vector a sequence) and heads (logits, numbers,
probabilities).
"""
