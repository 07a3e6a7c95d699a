"""Autoregressive flows against determinants, inverses and integrals."""

import pytest
import torch
from torch.distributions import Independent, Normal

from zoo.errors import UsageError
from zoo.parts.distributions.divergences import has_closed_form, kl_of, kl_of_units
from zoo.parts.distributions.flows import AffineSteps, AutoregressiveFlow, InverseAutoregressiveFlow
from zoo.parts.distributions.gaussians import diagonal_gaussian, standard_gaussian

CPU = torch.device("cpu")


def steps(dim=4, num_steps=3, mean_only=False, scale=0.25) -> AffineSteps:
    torch.manual_seed(0)
    made = AffineSteps(dim, num_steps, 16, mean_only)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=scale)
    return made.double()


@pytest.mark.parametrize("mean_only", [False, True])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
def test_the_log_determinant_is_that_of_the_jacobian(num_steps, mean_only):
    made = steps(num_steps=num_steps, mean_only=mean_only)
    z = torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: made(z)[0], z)
    _, log_det = torch.linalg.slogdet(jacobian)
    torch.testing.assert_close(made(z)[1].detach(), log_det)
    assert (float(log_det) == pytest.approx(0)) == (mean_only or not num_steps)


def test_a_step_is_triangular_and_the_next_one_reverses_the_order():
    z = torch.randn(5, dtype=torch.float64)
    one = torch.autograd.functional.jacobian(lambda z: steps(5, 1)(z)[0], z).flip(0)
    assert (one.triu(1) == 0).all()
    assert (one.tril(-1) != 0).any()
    two = torch.autograd.functional.jacobian(lambda z: steps(5, 2)(z)[0], z)
    assert (two.triu(1) != 0).any()
    assert (two.tril(-1) != 0).any()


@pytest.mark.parametrize("num_steps", [0, 1, 4])
def test_forward_and_inverse_undo_each_other(num_steps):
    made = steps(6, num_steps)
    z = torch.randn(50, 6, dtype=torch.float64)
    eps, _ = made(z)
    torch.testing.assert_close(made.inverse(eps), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(made(made.inverse(z))[0], z, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_last_weights_the_steps_are_the_identity_and_they_start_next_to_it():
    made = AffineSteps(6, 4, 64, False)
    z = torch.randn(10, 6)
    eps, log_det = made(z)
    assert 0 < float((eps - z).abs().max()) < 0.05
    assert float(log_det.abs().max()) < 0.05
    for step in made.steps:
        step.layers[-1].weight.zero_()
    eps, log_det = made(z)
    assert torch.equal(eps, z)
    assert not log_det.any()


def grid() -> tuple[torch.Tensor, float]:
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), 0.05**2


@torch.no_grad()
def test_densities_integrate_to_one_and_draws_follow_them():
    base = Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)
    for kind in (AutoregressiveFlow, InverseAutoregressiveFlow):
        p = kind(base, steps(2, 2))
        z, cell = grid()
        density = p.log_prob(z).exp() * cell
        assert float(density.sum()) == pytest.approx(1, abs=1e-3)
        drawn = p.sample(torch.Size((20_000,)))
        mean = density @ z
        error = (density @ (z - mean).square() / len(drawn)).sqrt()
        assert ((drawn.mean(0) - mean).abs() < 5 * error).all()


@torch.no_grad()
def test_the_two_flows_mirror_each_other():
    """p's density of z through the steps is the base's of the noise: q's draws are p's noise."""
    made = steps()
    base = Independent(Normal(torch.zeros(4).double(), torch.ones(4).double()), 1)
    p, q = AutoregressiveFlow(base, made), InverseAutoregressiveFlow(base, made)
    u = torch.randn(7, 4, dtype=torch.float64)
    eps, log_det = made(u)
    torch.testing.assert_close(p.log_prob(u), base.log_prob(eps) + log_det)
    torch.testing.assert_close(q.log_prob(eps), base.log_prob(u) - log_det)


def test_a_draw_s_own_density_needs_no_inverse(monkeypatch):
    base = diagonal_gaussian(torch.randn(5, 4), torch.randn(5, 4))
    q = InverseAutoregressiveFlow(base, steps().float())
    z = q.rsample((3,))
    assert z.requires_grad
    slow = q.log_prob(z.clone())
    monkeypatch.setattr(AffineSteps, "inverse", None)
    torch.testing.assert_close(q.log_prob(z), slow, atol=1e-4, rtol=1e-4)
    assert q.mean.shape == (5, 4)


def test_densities_of_given_values_have_the_gradient_of_differences():
    made = steps(3, 2)
    base = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    z = torch.randn(3, dtype=torch.float64, requires_grad=True)
    for kind in (AutoregressiveFlow, InverseAutoregressiveFlow):
        assert torch.autograd.gradcheck(lambda z, kind=kind: kind(base, made).log_prob(z), z)


def test_their_divergence_has_no_closed_form_and_units_cannot_be_counted():
    q, p = (
        diagonal_gaussian(torch.zeros(5, 4), torch.zeros(5, 4)),
        AutoregressiveFlow(standard_gaussian(4, CPU), steps().float()),
    )
    assert not has_closed_form(q, p)
    z = q.rsample((100,))
    torch.testing.assert_close(kl_of(q, p, z), (q.log_prob(z) - p.log_prob(z)).mean(0))
    with pytest.raises(UsageError, match="must be independent over units"):
        kl_of_units(q, p, z)
