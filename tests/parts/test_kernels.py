"""Facts of the kernels' discrepancies: closed forms between Gaussians, no bias, power."""

import math

import pytest
import torch

from zoo.errors import UsageError
from zoo.parts.kernels import IMQ_SCALES, gram, mmd, peak, stein_discrepancy

KERNELS = ["rbf", "imq"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def within(values, wanted, errors=4.0):
    """The mean of independent values lies within so many standard errors of what is wanted."""
    values = torch.stack(values).double()
    return abs(float(values.mean()) - wanted) < errors * float(values.std()) / math.sqrt(len(values))


def mean_of_rbf(dim, shift, variance):
    """E exp(-|d|^2 / D^2) of d ~ N(shift in every dimension, variance I)."""
    c = dim**2
    return (1 + 2 * variance / c) ** (-dim / 2) * math.exp(-dim * shift**2 / (c + 2 * variance))


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_what_they_are_called(kernel):
    x, y = torch.randn(4, 3).double(), torch.randn(5, 3).double()
    for i in range(4):
        for j in range(5):
            d = float((x[i] - y[j]).square().sum())
            k = math.exp(-d / 9) if kernel == "rbf" else sum(6 * s / (6 * s + d) for s in IMQ_SCALES)
            assert float(gram(x, y, kernel)[i, j]) == pytest.approx(k, rel=1e-9)
    assert gram(x, x, kernel).diagonal().tolist() == pytest.approx([peak(kernel)] * 4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_mmd_is_unbiased_where_the_statistic_with_the_diagonal_is_not(kernel):
    pairs = [(torch.randn(200, 10), torch.randn(200, 10)) for _ in range(500)]
    assert within([mmd(x, y, kernel) for x, y in pairs], 0.0, 3.0)
    k = [[gram(a, b, kernel).mean() for a, b in ((x, x), (y, y), (x, y))] for x, y in pairs[:100]]
    biased = torch.stack([xx + yy - 2 * xy for xx, yy, xy in k])
    assert float(biased.min()) > 0


def test_mmd_of_gaussians_is_the_closed_form():
    dim, shift, std = 3, 0.7, 1.5
    exact = mean_of_rbf(dim, 0, 2 * std**2) + mean_of_rbf(dim, 0, 2) - 2 * mean_of_rbf(dim, shift, std**2 + 1)
    draws = [mmd(shift + std * torch.randn(50, dim), torch.randn(70, dim), "rbf") for _ in range(1000)]
    assert within(draws, exact)
    assert exact > 0.01


def test_stein_discrepancy_of_shifted_gaussians_is_the_closed_form():
    """The scores differ by the shift everywhere, so it is |shift|^2 E k(x, x')."""
    dim, shift = 3, 0.7
    exact = dim * shift**2 * mean_of_rbf(dim, 0, 2)
    xs = [shift + torch.randn(50, dim) for _ in range(1000)]
    assert within([stein_discrepancy(x, -x, "rbf") for x in xs], exact)


@pytest.mark.parametrize("kernel", KERNELS)
def test_stein_discrepancy_of_the_density_itself_is_zero_on_average(kernel):
    xs = [torch.randn(100, 4) for _ in range(500)]
    assert within([stein_discrepancy(x, -x, kernel) for x in xs], 0.0, 3.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_stein_discrepancy_is_what_autograd_makes_of_the_kernel(kernel):
    """s.s' k + s.grad' k + s'.grad k + tr grad grad' k, pair by pair."""
    x, score = torch.randn(4, 3).double(), torch.randn(4, 3).double()

    def k(a, b):
        return gram(a.unsqueeze(0), b.unsqueeze(0), kernel)[0, 0]

    total = 0.0
    for i in range(4):
        for j in (j for j in range(4) if j != i):
            point = (x[i], x[j])
            left, right = torch.autograd.functional.jacobian(k, point)
            mixed = torch.autograd.functional.hessian(k, point)[0][1]
            total += float(score[i] @ score[j] * k(*point) + score[i] @ right + score[j] @ left)
            total += float(mixed.trace())
    assert float(stein_discrepancy(x, score, kernel)) == pytest.approx(total / 12, rel=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_shift_of_half_a_standard_deviation_is_seen_in_ten_dimensions(kernel):
    null = torch.stack([mmd(torch.randn(500, 10), torch.randn(500, 10), kernel) for _ in range(40)])
    moved = [mmd(torch.randn(500, 10) + 0.5, torch.randn(500, 10), kernel) for _ in range(10)]
    assert float(torch.stack(moved).min()) > float(null.max()) + 5 * float(null.std())


@pytest.mark.parametrize("kernel", KERNELS)
def test_discrepancies_have_the_gradient_of_finite_differences(kernel):
    x, y = torch.randn(4, 3).double().requires_grad_(), torch.randn(5, 3).double()
    assert torch.autograd.gradcheck(lambda x: mmd(x, y, kernel), [x])
    assert torch.autograd.gradcheck(lambda x: stein_discrepancy(x, -x, kernel), [x])


def test_one_vector_has_no_pair():
    with pytest.raises(UsageError, match="MMD needs at least 2 vectors on each side, got 1"):
        mmd(torch.zeros(3, 2), torch.zeros(1, 2), "rbf")
    with pytest.raises(UsageError, match="the Stein discrepancy needs at least 2 vectors, got 1"):
        stein_discrepancy(torch.zeros(1, 2), torch.zeros(1, 2), "imq")
