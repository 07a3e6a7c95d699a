"""What a user is told: one line that says what, the rule, and the value."""

import re
from typing import NoReturn


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
