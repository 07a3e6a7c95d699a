"""Codes as free parameters: one file per method."""
