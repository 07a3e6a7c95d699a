"""The side of what is made of numbers with sides: against the signs that truth less number may have."""

from itertools import product

import pytest

from zoo.contract.capabilities import Side

SIGNS = {
    Side.EXACT: {0},
    Side.LOWER: {0, 1},
    Side.UPPER: {-1, 0},
    Side.LOW: {0, 1},
    Side.HIGH: {-1, 0},
    Side.ESTIMATE: {-1, 0, 1},
}
SURE = {Side.EXACT, Side.LOWER, Side.UPPER}


def named(signs: set[int], sure: bool) -> Side:
    """The side with these signs of truth less number, for certain or on average."""
    if signs == {-1, 0, 1}:
        return Side.ESTIMATE
    return next(side for side in Side if SIGNS[side] == signs and (side in SURE) == sure)


def sums(one: Side, other: Side) -> set[int]:
    """Signs of the sum of two differences of any size."""
    values = (a * size + b for a, b in product(SIGNS[one], SIGNS[other]) for size in (0.5, 1.0, 2.0))
    return {(value > 0) - (value < 0) for value in values}


@pytest.mark.parametrize("side", Side)
def test_a_falling_function_turns_a_side_round(side):
    assert SIGNS[side.opposite] == {-sign for sign in SIGNS[side]}
    assert (side.opposite in SURE) == (side in SURE)
    assert side.opposite.opposite is side


@pytest.mark.parametrize(("one", "other"), list(product(Side, Side)))
def test_sums_and_differences_know_no_more_than_their_parts(one, other):
    sure = {one, other} <= SURE
    assert one.plus(other) is other.plus(one) is named(sums(one, other), sure)
    assert one.minus(other) is named(sums(one, other.opposite), sure)


def test_a_rate_is_bounded_by_what_is_left_of_two_bounds():
    """Rate = -ELBO - distortion: of a loss from above and a distortion from below, one from above."""
    assert Side.LOWER.opposite is Side.UPPER
    assert Side.UPPER.minus(Side.LOWER) is Side.UPPER
    assert Side.LOWER.minus(Side.LOWER) is Side.ESTIMATE
