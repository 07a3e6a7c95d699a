"""Checkpoints ranked, in the terminal, as a page, on W&B."""
