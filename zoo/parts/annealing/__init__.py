"""Normalising constants by annealing, and how far to trust them."""
