"""Grids, films, walks through codes."""
