"""The light verbs."""
