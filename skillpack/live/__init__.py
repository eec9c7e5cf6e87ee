"""Models that run: opened from folders, given texts, and asked for predictions, answers and gradients.

torch and transformers are needed here and nowhere else in the core, so nothing of this is imported before it is used.
"""
