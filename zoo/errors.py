"""What a user is told: one line that says what, the rule, and the value."""

import re
from collections.abc import Sequence
from typing import NoReturn

Setting = int | float | Sequence[int | float]
"""A number, or several that keep the same rule."""


class UsageError(ValueError):
    """A user's mistake; the command line prints its one line and exits with status 2."""


class NonFiniteError(ArithmeticError):
    """A training term became NaN or infinite; the run stops before a checkpoint is written."""


def require(condition: bool, message: str) -> None:
    """Raise `UsageError(message)` unless `condition` holds.

    Args:
        condition: The rule.
        message: What, rule, value, as in `lr must be positive, got -1.0`.

    Raises:
        UsageError: If the condition does not hold.
    """
    if not condition:
        raise UsageError(message)


def one_line(error: Exception) -> str:
    """What an error says, in one line: the first of torch's, which print whole tensors below it."""
    return str(error).partition("\n")[0].rstrip(": ")


def at_least(least: int | float, **settings: Setting) -> None:
    """Refuse settings, each a number or several, below the least they may be.

    Args:
        least: The least.
        settings: By name, as in `at_least(1, num_hidden=num_hidden)`. Of several numbers the smallest is
            looked at; the smallest of none is 0.

    Raises:
        UsageError: As in `num_hidden must be at least 1, got 0`.
    """
    for name, value in settings.items():
        smallest = min(_numbers(value), default=0)
        require(smallest >= least, f"{name} must be at least {least}, got {smallest}")


def positive(**settings: Setting) -> None:
    """Refuse settings, each a number or several, that are not above 0.

    Raises:
        UsageError: As in `lr must be positive, got -1.0`.
    """
    for name, value in settings.items():
        require(min(_numbers(value), default=0) > 0, f"{name} must be positive, got {value}")


def not_negative(**settings: Setting) -> None:
    """Refuse settings, each a number or several, below 0.

    Raises:
        UsageError: As in `pad must not be negative, got -2`.
    """
    for name, value in settings.items():
        require(min(_numbers(value), default=0) >= 0, f"{name} must not be negative, got {value}")


def share(**settings: Setting) -> None:
    """Refuse settings, each a number or several, that are not a share of less than the whole.

    Raises:
        UsageError: As in `momentum must be at least 0 and below 1, got 1.0`.
    """
    for name, value in settings.items():
        for number in _numbers(value):
            require(0 <= number < 1, f"{name} must be at least 0 and below 1, got {number}")


def _numbers(value: Setting) -> Sequence[int | float]:
    return value if isinstance(value, Sequence) else (value,)


class OneLine:
    """Mixed into an argument parser: what jsonargparse says in many lines becomes the `UsageError` of one."""

    NOISE = (
        "Does not validate against any of",
        "Subtypes:",
        "Errors:",
        "Expected a <class 'NoneType'>",
        "Expected a path but",
        "Given value type:",
        "Given value: Namespace",
        "Given value: NestedArg",
    )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Keep the lines that say what, rule and value.

        Raises:
            UsageError: Always.
        """
        lines = [line.strip(" -") for line in message.splitlines()]
        text = " ".join(line for line in lines if line and not line.startswith(self.NOISE))
        text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("a typing.Literal", "one of ")
        raise UsageError(text.replace("Parser key ", "")) from ex
