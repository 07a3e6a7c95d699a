"""The checks of settings: what passes, and the one line of what does not."""

import pytest

from zoo.errors import UsageError, at_least, not_negative, positive, share


def test_settings_that_keep_their_rule_pass():
    at_least(1, num_hidden=1, hidden_dims=(3, 1))
    at_least(0, lengthen_every=0)
    positive(lr=1e-9, hidden_dims=(1, 2))
    not_negative(pad=0, weights=(0.0, 1.0), none=())
    share(momentum=0.0, betas=(0.5, 0.999), none=())


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (lambda: at_least(1, a=1, num_hidden=0), "num_hidden must be at least 1, got 0"),
        (lambda: at_least(1, hidden_dims=(3, -2, 0)), "hidden_dims must be at least 1, got -2"),
        (lambda: at_least(1, hidden_dims=()), "hidden_dims must be at least 1, got 0"),
        (lambda: at_least(0, fast_lr=-0.1), "fast_lr must be at least 0, got -0.1"),
        (lambda: at_least(1, lr_decay=float("nan")), "lr_decay must be at least 1, got nan"),
        (lambda: positive(a=1, lr=0.0), "lr must be positive, got 0.0"),
        (lambda: positive(lr=float("nan")), "lr must be positive, got nan"),
        (lambda: positive(hidden_dims=(5, 0)), "hidden_dims must be positive, got (5, 0)"),
        (lambda: positive(hidden_dims=()), "hidden_dims must be positive, got ()"),
        (lambda: not_negative(a=0, pad=-1), "pad must not be negative, got -1"),
        (lambda: not_negative(weights=(1.0, -1.0)), "weights must not be negative, got (1.0, -1.0)"),
        (lambda: share(ema_decay=1.0), "ema_decay must be at least 0 and below 1, got 1.0"),
        (lambda: share(momentum=-0.1), "momentum must be at least 0 and below 1, got -0.1"),
        (lambda: share(betas=(0.5, 1.5)), "betas must be at least 0 and below 1, got 1.5"),
        (lambda: share(momentum=float("nan")), "momentum must be at least 0 and below 1, got nan"),
    ],
)
def test_a_setting_out_of_range_is_one_line(check, line):
    with pytest.raises(UsageError) as error:
        check()
    assert str(error.value) == line
