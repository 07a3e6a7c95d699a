"""The metrics, a file per group."""
