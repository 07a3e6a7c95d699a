"""The registry: every method by the name of its class."""
