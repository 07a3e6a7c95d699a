"""Checkpoints, cards, references, the Hub."""
