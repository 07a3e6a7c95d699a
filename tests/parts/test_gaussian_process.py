"""Facts of the sparse Gaussian process of uncertain inputs: kernel expectations, two bounds, predictions."""

import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch.distributions import MultivariateNormal, kl_divergence

from zoo.parts.distributions.gaussian_process import (
    KERNEL_JITTER,
    InputsHead,
    SparseGP,
    SquaredExponential,
    UncertainInputs,
    _cholesky,
)

DRAWS = 100_000
N, Q, M, P = 5, 2, 3, 4


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def process(in_dim: int = Q, out_dim: int = P, num_inducing: int = M) -> SparseGP:
    """With every parameter away from its start."""
    gp = SparseGP(in_dim, out_dim, num_inducing)
    for p in (gp.kernel.log_variance, gp.kernel.log_bias, gp.kernel.log_lengths, gp.raw_root):
        torch.nn.init.normal_(p, std=0.4)
    torch.nn.init.constant_(gp.log_noise, -1.0)
    return gp.requires_grad_(False)


def inputs(n: int = N, shared: bool = False) -> UncertainInputs:
    return UncertainInputs(normal(n, Q), 0.1 + torch.rand(1 if shared else n, Q, dtype=torch.float64))


def certain(x: torch.Tensor) -> UncertainInputs:
    return UncertainInputs(x, x.new_zeros(1, x.shape[1]))


def reference(gp: SparseGP, noise: bool = True):
    k = gp.kernel
    lengths = k.squared_lengths.sqrt().numpy()
    kernel = ConstantKernel(float(k.variance)) * RBF(lengths) + ConstantKernel(float(k.bias))
    return kernel + WhiteKernel(float(gp.noise())) if noise else kernel


def close(one, two, atol: float = 1e-9) -> None:
    torch.testing.assert_close(one, two, atol=atol, rtol=1e-7)


# ---------------------------------------------------------------- expectations of the kernel


def test_the_kernel_is_that_of_scikit_learn():
    gp, x, z = process(), normal(5, Q), normal(4, Q)
    np.testing.assert_allclose(gp.kernel(x, z), reference(gp, noise=False)(x.numpy(), z.numpy()))
    close(gp.kernel.psi0(), gp.kernel(x, x).diagonal().mean())


@pytest.mark.parametrize("shared", [True, False])
def test_expectations_are_averages_over_draws_of_the_inputs(shared):
    k, h, z, w = process().kernel, inputs(shared=shared), normal(M, Q), normal(M, M)
    draws = h.mean + h.variance.sqrt() * normal(DRAWS, N, Q)
    values = k(draws.flatten(0, 1), z).unflatten(0, (DRAWS, N))
    weight = w + w.T
    products = values.unsqueeze(-1) * values.unsqueeze(-2)
    pairs = (
        (values, k.psi1(h, z)),
        (products.sum(1), k.psi2(h, z)),
        ((products * weight).sum((2, 3)), k.psi2_product(h, z, weight)),
    )
    for drawn, closed in pairs:
        error = drawn.std(0) / math.sqrt(DRAWS)
        assert ((drawn.mean(0) - closed).abs() < 5 * error).all()
        assert (error < 0.01 * closed.abs().max()).all()


@pytest.mark.parametrize("shared", [True, False])
def test_expectations_are_the_products_over_dimensions_of_the_paper(shared):
    k, h, z = process().kernel, inputs(shared=shared), normal(M, Q)
    s, b, squared, variance = k.variance, k.bias, k.squared_lengths, h.variance.expand(N, Q)
    first, second = torch.zeros(N, M).double(), torch.zeros(N, M, M).double()
    for n in range(N):
        mu, v = h.mean[n], variance[n]
        for m in range(M):
            wide = (-(0.5 * (mu - z[m]) ** 2) / (v + squared)).exp() / (1 + v / squared).sqrt()
            first[n, m] = s * wide.prod()
            for j in range(M):
                middle, apart = (z[m] + z[j]) / 2, z[m] - z[j]
                exponent = -(apart**2) / (4 * squared) - (mu - middle) ** 2 / (2 * v + squared)
                second[n, m, j] = s**2 * (exponent.exp() / (1 + 2 * v / squared).sqrt()).prod()
    close(k.psi1(h, z), first + b)
    both = second + b * (first[:, :, None] + first[:, None]) + b**2
    close(k.psi2(h, z), both.sum(0))


def test_expectations_of_certain_inputs_are_values_of_the_kernel():
    k, x, z = process().kernel, normal(N, Q), normal(M, Q)
    value = k(x, z)
    for h in (certain(x), UncertainInputs(x, torch.full_like(x, 1e-12))):
        close(k.psi1(h, z), value)
        close(k.psi2(h, z), value.T @ value)


# ---------------------------------------------------------------- the bounds


def exact(gp: SparseGP, x: torch.Tensor, y: torch.Tensor) -> float:
    """The value of log p(y) of a Gaussian process that is not sparse, by scikit-learn."""
    regressor = GaussianProcessRegressor(reference(gp), alpha=1e-12, optimizer=None)
    return sum(
        regressor.fit(x.numpy(), column.numpy()).log_marginal_likelihood_value_ for column in y.unbind(1)
    )


def test_with_all_inputs_induced_the_collapsed_bound_is_the_exact_evidence():
    gp, y = process(num_inducing=8), normal(8, P)
    x = gp.inducing.double()
    bound = float(gp.collapsed(certain(x), y, y.new_zeros(1)))
    assert bound == pytest.approx(exact(gp, x, y), abs=1e-4)
    assert bound < exact(gp, x, y)


def test_with_fewer_inducing_inputs_it_is_below_the_evidence():
    gp, x, y = process(), 2 * normal(8, Q), normal(8, P)
    assert float(gp.collapsed(certain(x), y, y.new_zeros(1))) < exact(gp, x, y) - 0.1


def test_the_collapsed_bound_is_that_of_the_paper_with_the_variance_of_its_targets():
    gp, h, t, r = process(), inputs(), normal(N, P), torch.rand(N).double()
    k, z, beta = gp.kernel, gp.inducing.double(), 1 / gp.noise()
    kuu = k(z, z) + KERNEL_JITTER * k.variance * torch.eye(M)
    psi1, psi2 = k.psi1(h, z), k.psi2(h, z)
    a = kuu + beta * psi2
    gained = psi1 @ a.inverse() @ psi1.T
    bound = (
        P / 2 * (N * beta.log() - N * math.log(2 * math.pi) + kuu.logdet() - a.logdet())
        - beta / 2 * (t.square().sum() + r.sum())
        + beta**2 / 2 * ((t.T @ gained @ t).trace() + (r * gained.diagonal()).sum())
        - beta * P / 2 * (N * k.psi0() - (kuu.inverse() @ psi2).trace())
    )
    close(gp.collapsed(h, t, r), bound)


@pytest.mark.parametrize("shared", [True, False])
def test_the_uncollapsed_bound_is_below_the_collapsed_one_and_equal_at_the_best_functions(shared):
    gp, h, t = process(), inputs(shared=shared), normal(N, P)
    known = t.new_zeros(1)

    def bound(r=known) -> torch.Tensor:
        return gp.explained(h, t, r).sum() - gp.kl()

    collapsed = gp.collapsed(h, t, known)
    assert bound() < collapsed - 1
    gp.settle(h, t)
    torch.testing.assert_close(bound(), collapsed, atol=1e-4, rtol=0)  # what is kept is float32
    best = bound()
    for p in (gp.whitened_mean, gp.raw_root):
        kept = p.clone()
        p.add_(0.05 * torch.randn_like(p))
        assert bound() < best
        p.copy_(kept)
    r = torch.rand(N).double()
    z, noise = gp.inducing.double(), gp.noise()
    kuu = gp.kernel(z, z) + KERNEL_JITTER * gp.kernel.variance * torch.eye(M)
    a = noise * kuu + gp.kernel.psi2(h, z)
    psi1 = gp.kernel.psi1(h, z)
    gap = 0.5 * (r * (psi1 @ a.inverse() @ psi1.T).diagonal()).sum() / noise
    torch.testing.assert_close(gp.collapsed(h, t, r) - bound(r), gap, atol=1e-4, rtol=0)


def test_what_is_explained_is_an_average_over_draws_of_inputs_functions_and_targets():
    gp, h, t, spread = process(), inputs(1), normal(1, P), torch.rand(1, P).double()
    gp.whitened_mean.normal_()
    z, root = gp.inducing.double(), gp.root
    lower = torch.linalg.cholesky(gp.kernel(z, z) + KERNEL_JITTER * gp.kernel.variance * torch.eye(M))
    x = h.mean + h.variance.sqrt() * normal(DRAWS, Q)
    v = gp.whitened_mean.double() + root @ normal(DRAWS, M, P)
    first = gp.kernel(x, z) @ lower.inverse().T
    left = (gp.kernel.psi0() - first.square().sum(1)).clamp(min=0).sqrt()[:, None]
    f = torch.einsum("sm,smp->sp", first, v) + left * normal(DRAWS, P)
    y = t + spread.sqrt() * normal(DRAWS, P)
    drawn = torch.distributions.Normal(f, gp.noise().sqrt()).log_prob(y).sum(1)
    error = float(drawn.std()) / math.sqrt(DRAWS)
    closed = float(gp.explained(h, t, spread.sum(1)))
    assert closed == pytest.approx(float(drawn.mean()), abs=4 * error)
    assert error < 0.01 * abs(closed)
    without = float(gp.explained(h, t, t.new_zeros(1)))
    assert without - closed == pytest.approx(float(spread.sum() / gp.noise() / 2))


def test_points_are_explained_one_by_one_and_columns_as_if_there_were_no_others():
    gp, h, t, r = process(), inputs(), normal(N, P), torch.rand(N).double()
    whole = gp.explained(h, t, r)
    parts = [gp.explained(UncertainInputs(h.mean[i], h.variance[i]), t[i], r[i]) for i in ([0, 1], [2, 3, 4])]
    close(torch.cat(parts), whole)
    columns = torch.tensor([True, False, True, True])
    fewer = process(out_dim=3)
    fewer.load_state_dict(gp.state_dict() | {"whitened_mean": gp.whitened_mean[:, columns]})
    close(gp.explained(h, t[:, columns], r, columns=columns), fewer.explained(h, t[:, columns], r))
    none = torch.zeros(P, dtype=torch.bool)
    assert not gp.explained(h, t[:, none], r.new_zeros(1), columns=none).any()


def test_the_functions_cost_their_divergence_from_the_prior():
    gp = process()
    q = MultivariateNormal(gp.whitened_mean.T.double(), scale_tril=gp.root)
    prior = MultivariateNormal(torch.zeros(M).double(), torch.eye(M).double())
    close(gp.kl(), kl_divergence(q, prior).sum())


def test_predictions_are_those_of_scikit_learn():
    gp, y, new = process(num_inducing=8), normal(8, P), normal(4, Q)
    x = gp.inducing.double()
    gp.settle(certain(x), y)
    regressor = GaussianProcessRegressor(reference(gp), alpha=1e-12, optimizer=None)
    mean, std = regressor.fit(x.numpy(), y.numpy()).predict(new.numpy(), return_std=True)
    p = gp.predict(new)
    assert (p.batch_shape, p.event_shape) == ((4,), (P,))
    np.testing.assert_allclose(p.mean, mean, atol=1e-4)
    np.testing.assert_allclose(p.stddev, std, atol=1e-4)


def test_points_that_stand_for_many_settle_the_functions_as_the_many_would():
    one, many, h, t = process(), process(), inputs(), normal(N, P)
    many.load_state_dict(one.state_dict())
    one.settle(h, t, 3.0)
    many.settle(UncertainInputs(h.mean.repeat(3, 1), h.variance.repeat(3, 1)), t.repeat(3, 1))
    torch.testing.assert_close(one.whitened_mean, many.whitened_mean)
    torch.testing.assert_close(one.root, many.root)


def test_it_starts_with_the_variance_of_its_targets_and_the_best_functions():
    gp, h, t = process(), inputs(), 3 * normal(N, P)
    gp.start(h, t, 1.0)
    variance = float(t.numpy().var(0).mean())
    assert float(gp.kernel.variance) == pytest.approx(variance)
    assert float(gp.kernel.bias) == pytest.approx(0.01 * variance)
    assert float(gp.noise()) == pytest.approx(0.5 * variance)
    best = gp.collapsed(h, t, t.new_zeros(1))
    torch.testing.assert_close(gp.explained(h, t, t.new_zeros(1)).sum() - gp.kl(), best, atol=1e-3, rtol=0)


# ---------------------------------------------------------------- numbers


def test_inducing_inputs_that_coincide_still_have_a_bound_and_a_gradient():
    gp, h, t = process(num_inducing=6), inputs(), normal(N, P)
    gp.inducing[3:] = gp.inducing[:3]
    gp.requires_grad_(True)
    bound = gp.explained(h, t, t.new_zeros(1)).sum() - gp.kl() + gp.collapsed(h, t, t.new_zeros(1))
    bound.backward()
    assert bound.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in gp.parameters())


def test_a_matrix_without_a_factor_has_one_of_nan():
    factor = _cholesky(torch.stack([torch.eye(2), -torch.eye(2)])[1])
    assert factor.isnan().all()
    assert torch.equal(_cholesky(4 * torch.eye(2)), 2 * torch.eye(2))


def test_mixed_precision_changes_no_digit():
    gp, h, t = process(), inputs(), normal(N, P)
    whole = gp.explained(h, t, t.new_zeros(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gp.explained(h, t, t.new_zeros(1)), whole)
    assert whole.dtype == torch.float64


def test_the_noise_learns_only_where_it_is_to():
    gp, h, t = process(), inputs(), normal(N, P)
    gp.requires_grad_(True)
    for bound in (gp.explained, gp.collapsed):
        for learnt in (True, False):
            gp.zero_grad()
            bound(h, t, t.new_zeros(1), learn_noise=learnt).sum().backward()
            assert (gp.log_noise.grad is not None) == learnt


def test_variances_of_the_inputs_are_one_vector_or_one_per_point():
    features = torch.randn(5, 7)
    shared, own = (InputsHead(7, 2, amortised=amortised)(features) for amortised in (False, True))
    assert (shared.mean.shape, shared.variance.shape) == ((5, 2), (1, 2))
    assert own.variance.shape == (5, 2)
    assert own.variance.std(0).min() > 0
    close(shared.variance, torch.full((1, 2), 0.1).double(), atol=1e-7)
    extreme = InputsHead(7, 2, amortised=False)
    torch.nn.init.constant_(extreme.log_variance, 1000.0)
    close(extreme(features).variance, torch.full((1, 2), 8.0).double().exp())


def test_lengths_start_at_the_root_of_the_number_of_inputs_and_inducing_inputs_in_the_cube():
    close(SquaredExponential(9).squared_lengths, torch.full((9,), 9.0).double(), atol=1e-5)
    assert SparseGP(3, 2, 500).inducing.abs().max() <= 1
