"""Facts of the forward kernels: states and posteriors in closed form."""

import math

import pytest
import torch
from chain_models import ExactGaussian, heartbeat_chain, steps

from zoo.methods.chains.shared.betas import NoiseSchedule


@pytest.mark.parametrize("schedule", ["harmonic", "linear", "learnt"])
def test_gaussian_states_step_by_step_are_those_of_the_closed_form(schedule):
    torch.manual_seed(0)
    chain, n, total = ExactGaussian(NoiseSchedule(schedule, 20, 3)).requires_grad_(False), 200_000, 20
    x = start = torch.full((n, 1, 1, 1), 0.7)
    for t in range(1, total + 1):
        beta, kept, _ = chain.rates(steps(t))
        x = chain.draw(chain.forward_kernel(x, 1 - beta))
        if t in (1, total // 2, total):
            want = chain.forward_kernel(start, kept)
            mean, variance = float(want.mean[0]), float(want.variance[0])
            assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
            assert float(x.var()) == pytest.approx(variance, abs=4 * variance * math.sqrt(2 / n))


def test_binomial_states_step_by_step_are_those_of_the_closed_form():
    torch.manual_seed(0)
    chain, n = heartbeat_chain(10), 200_000
    x = start = (torch.arange(n) % 2).float().view(-1, 1, 1, 1)
    for t in range(1, 11):
        beta, kept, _ = chain.rates(steps(t))
        x = chain.draw(chain.forward_kernel(x, 1 - beta))
        if t in (1, 5, 10):
            want = chain.forward_kernel(start, kept).mean
            for bit in (0, 1):
                p = float(want[bit])
                assert float(x[bit::2].mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) * 2 / n))


@pytest.mark.parametrize("t", [2, 10, 19])
def test_the_gaussian_posterior_is_the_normalised_product(t):
    chain = ExactGaussian(NoiseSchedule("harmonic", 20, 3))
    x, x_t = torch.tensor(0.8).view(1, 1, 1, 1), torch.tensor(-0.3).view(1, 1, 1, 1)
    beta, _, before = (float(v) for v in chain.rates(steps(t)))
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    log_q = -0.5 * (-0.3 - math.sqrt(1 - beta) * grid).square() / beta
    log_q = log_q - 0.5 * (grid - math.sqrt(before) * 0.8).square() / (1 - before)
    p = log_q.softmax(0)
    mean = float((p * grid).sum())
    found = chain.posterior(x, x_t, steps(t))
    assert float(found.mean) == pytest.approx(mean, abs=1e-6)
    assert float(found.variance) == pytest.approx(float((p * (grid - mean).square()).sum()), abs=1e-6)


def test_the_posterior_of_the_first_step_is_the_image():
    chain = ExactGaussian(NoiseSchedule("linear", 20, 3))
    x = torch.randn(3, 1, 2, 2)
    found = chain.posterior(x, torch.randn_like(x), steps(1, 3))
    torch.testing.assert_close(found.mean, x)
    assert not found.variance.any()


@pytest.mark.parametrize("t", [2, 10, 20])
def test_the_binomial_posterior_is_the_normalised_product(t):
    chain = heartbeat_chain(20)
    beta, _, before = chain.rates(steps(t))
    for x0 in (0.0, 1.0):
        for x_t in (0.0, 1.0):
            joint = []
            for middle in (0.0, 1.0):
                prior = float(chain.forward_kernel(torch.tensor(x0).view(1, 1, 1, 1), before).mean)
                step = float(chain.forward_kernel(torch.tensor(middle).view(1, 1, 1, 1), 1 - beta).mean)
                joint.append((prior if middle else 1 - prior) * (step if x_t else 1 - step))
            both = (torch.tensor(v).view(1, 1, 1, 1) for v in (x0, x_t))
            assert float(chain.posterior(*both, steps(t)).mean) == pytest.approx(
                joint[1] / sum(joint), abs=1e-6
            )
