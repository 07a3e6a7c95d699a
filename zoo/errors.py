"""What a user is told: one line that says what, the rule, and the value."""


class UsageError(ValueError):
    """A user's mistake; the command line prints its one line and exits with status 2."""


class NonFiniteError(ArithmeticError):
    """A training term became NaN or infinite; the run stops before the weights are touched."""


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
