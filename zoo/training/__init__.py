"""A run: its folder, checkpoints, log and callbacks."""
