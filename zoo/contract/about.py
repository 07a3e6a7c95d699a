"""What a method's own text says of it: abilities, departures, summary."""

import inspect

from zoo.contract import capabilities
from zoo.contract.method import Method


def departures(kind: type[Method]) -> str:
    """What the method's file says of how it differs from the paper, on one line."""
    text = inspect.getdoc(inspect.getmodule(kind)) or ""
    _, _, rest = text.partition("Departs from the paper:")
    line = " ".join(rest.split("\n\n")[0].split())
    return line[:1].upper() + line[1:] if line else "None known."


def abilities(kind: type[Method]) -> list[str]:
    """Names of the method's capabilities."""
    named = [
        c
        for _, c in inspect.getmembers(capabilities, inspect.isclass)
        if c.__module__ == capabilities.__name__
    ]
    return sorted(c.__name__ for c in named if issubclass(kind, c))


def _summary(kind: type[Method]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
