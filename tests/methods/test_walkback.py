"""Facts of variational walkback: which direction is scored, temperatures, gradients, bounds by quadrature."""

import math

import pytest
import torch
from support import Repeated, batch, begun, images, suited_digits, tiny, trainer
from torch.distributions import Normal

from zoo.contract.batch import Batch
from zoo.data.toys import Plane
from zoo.errors import UsageError
from zoo.methods.chains.shared.operators import Cooling, GaussianOperator, Heating
from zoo.methods.chains.walkback import Walkback
from zoo.parts.estimators import importance_bound

TINY = {
    "hidden_dims": (8,),
    "step_norm": False,
    "variance": "pixel",
    "num_steps": 3,
    "growth": "epoch",
    "extra_steps": 1,
    "emission": "guess",
}
HIDDEN = {"hidden_dims": (8,), "num_norms": 1, "variance": "pixel", "floor": 1e-4}
ONCE = Cooling(1, 1.0, 0, "kernel")


def operator(alpha, heating, cooling=ONCE, heated=None, shape=(1, 2, 2)):
    torch.manual_seed(0)
    chain = GaussianOperator(shape, **HIDDEN, others=(alpha, False, heating, cooling))
    chain.heated.fill_(heating.most if heated is None else heated)
    return chain


class Linear(GaussianOperator):
    """N(a s, T (1 - a^2)): at temperature 1 in balance with N(0, 1)."""

    def guess(self, maps):
        return 0 * maps[:, 0]

    def own_variance(self, maps):
        return (1 - self.alpha.square()).expand_as(maps[:, 0])


def linear(a, heating, heated, shape=(1, 2, 2), cooling=ONCE):
    chain = Linear(shape, **HIDDEN, others=(a, False, heating, cooling)).requires_grad_(False)
    chain.mean.zero_()
    chain.variance.fill_(1)
    chain.heated.fill_(heated)
    return chain


# Which direction is scored.


def test_the_bound_of_a_reversible_chain_is_exact_for_every_walk_and_the_released_formula_is_not():
    torch.manual_seed(0)
    chain = linear(0.6, Heating(2.0, 5, 1), 0)
    x = torch.randn(50, 1, 2, 2)
    truth = Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)
    for _ in range(3):
        torch.testing.assert_close(chain.bracket(chain.away(x)), truth, atol=1e-5, rtol=0)
    wrong = chain.bracket(chain.away(x, released=True))
    assert float((wrong - truth).abs().mean()) > 1
    assert float((wrong - truth).mean()) > 1, "it claims more than the truth"


def test_the_released_formula_is_reached_by_the_setting():
    x = images()
    for formula in ("paper", "released"):
        method = begun("Walkback", formula=formula)
        torch.manual_seed(1)
        found = method.loss(Batch(x, torch.zeros(6, dtype=torch.int64), torch.arange(6)))["loss"]
        torch.manual_seed(1)
        walk = method.chain.away(x, released=formula == "released")
        torch.testing.assert_close(found, -walk.log_back.sum(0))


# Temperatures.


@pytest.mark.parametrize(("factor", "cold_steps", "heated"), [(2.0, 0, 4), (2.0, 3, 2), (1.5, 1, 5)])
def test_temperatures_rise_by_the_factor_after_the_cold_steps(factor, cold_steps, heated):
    temperatures = operator(0.5, Heating(factor, cold_steps, heated)).temperatures()
    assert len(temperatures) == cold_steps + heated
    assert temperatures[: cold_steps + 1] == [1.0] * (cold_steps + 1)
    for low, high in zip(temperatures[cold_steps:], temperatures[cold_steps + 1 :], strict=False):
        assert high / low == pytest.approx(factor)


@pytest.mark.parametrize(("hottest", "cold", "factor", "steps"), [(1.0, 0.01, 2.0, 7), (1.2, 0.003, 1.5, 15)])
def test_as_many_steps_as_heat_to_the_hottest_and_no_more_than_allowed(hottest, cold, factor, steps):
    chain = operator(0.5, Heating(factor, 0, 30))
    chain.hottest.fill_(hottest)
    chain.cold.fill_(cold)
    assert chain.steps_to_heat() == steps
    assert cold * factor**steps >= hottest > cold * factor ** (steps - 1)
    chain.cold.fill_(2 * hottest)
    assert chain.steps_to_heat() == 1
    chain.heating = Heating(factor, 0, 5)
    chain.cold.fill_(cold)
    assert chain.steps_to_heat() == 5


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_the_variance_of_a_step_is_the_temperature_times_its_own(temperature):
    chain = operator(0.5, Heating(2.0, 0, 3))
    s = images((1, 2, 2), 1).expand(40_000, 1, 2, 2)
    maps = chain.network(s, 0)
    drawn = chain.transition(s, maps, temperature).sample()
    wanted = temperature * chain.own_variance(maps)
    torch.testing.assert_close(drawn.var(0), wanted, rtol=0.03, atol=0)


def test_the_sampler_takes_the_temperatures_in_reverse_and_ends_at_the_first(monkeypatch):
    chain = operator(0.5, Heating(2.0, 1, 3), Cooling(2, 0.5, 3, "kernel"))
    seen = []
    transition = chain.transition

    def listened(s, maps, temperature):
        seen.append(temperature)
        return transition(s, maps, temperature)

    monkeypatch.setattr(chain, "transition", listened)
    states = list(chain.states(torch.empty(4, 1, 2, 2), None))
    twice = [t for t in reversed(chain.temperatures()) for _ in range(2)]
    assert seen == [*twice, 1.0, 1.0, 1.0]
    assert len(states) == len(seen) + 1 == chain.num_steps + 1


def test_a_share_of_the_variance_is_drawn():
    chain = operator(0.5, Heating(2.0, 0, 3), Cooling(1, 0.25, 0, "kernel"))
    x = images((1, 2, 2), 2)
    kernel, _ = chain.back(x, 3, None)
    maps = chain.network(x, 2)
    torch.testing.assert_close(kernel.variance, 0.25 * 4 * chain.own_variance(maps).expand_as(x))


def test_the_sample_is_the_mean_of_the_last_step_or_the_guess_in_it():
    x = images((1, 2, 2), 3)
    for emission in ("kernel", "guess"):
        chain = operator(0.7, Heating(2.0, 0, 2), Cooling(1, 1.0, 0, emission)).requires_grad_(False)
        guess = chain.guess(chain.network(x, 0))
        kernel, _ = chain.back(x, 1, None)
        torch.testing.assert_close(kernel.mean, guess if emission == "guess" else 0.7 * x + 0.3 * guess)
        torch.testing.assert_close(chain.back(x, 2, None)[0].mean, 0.7 * x + 0.3 * guess)


# Gradients.


def gradients(chain, loss):
    return torch.autograd.grad(loss, [p for p in chain.parameters() if p.requires_grad], allow_unused=True)


@pytest.mark.parametrize("step_weight", [0.0, 0.5])
@pytest.mark.parametrize("step_norm", [False, True])
def test_the_gradient_is_that_of_the_way_back_over_frozen_states(step_weight, step_norm):
    method = begun("Walkback", step_weight=step_weight, step_norm=step_norm, learn_alpha=True)
    method.chain.heated.fill_(3)
    given = batch()
    torch.manual_seed(3)
    found = gradients(method.chain, method.loss(given)["loss"].mean())
    torch.manual_seed(3)
    s, total = given.x, torch.zeros(())
    for k, temperature in enumerate(method.chain.temperatures()):
        with torch.no_grad():
            s_next = method.chain.transition(s, method.chain.network(s, k), temperature).sample()
        p = method.chain.transition(s_next, method.chain.network(s_next, k), temperature)
        total = total - temperature**step_weight * p.log_prob(s).mean()
        s = s_next
    for one, two in zip(found, gradients(method.chain, total), strict=True):
        torch.testing.assert_close(one, two)
    assert not method.chain.mean.requires_grad
    assert not method.chain.variance.requires_grad
    assert float(method.chain.raw_alpha.grad or 0) == 0
    assert 0 < float(method.chain.alpha.detach()) < 1
    assert float(found[0].abs()) > 0, "alpha learns"


def test_the_full_gradient_is_that_of_the_bound_by_finite_differences():
    method = begun("Walkback", grad="full", shape=(1, 1, 2))
    x = torch.rand(2000, 1, 1, 2)

    def loss():
        torch.manual_seed(5)
        return method.terms(method.away(x))["loss"].mean()

    parameter = method.chain.raw_variance
    (found,) = torch.autograd.grad(loss(), parameter)
    step = 0.01
    with torch.no_grad():
        parameter += step
        above = loss()
        parameter -= 2 * step
        below = loss()
    assert float(found.sum()) == pytest.approx(float(above - below) / (2 * step), rel=0.01)


# The bound, by quadrature.


def test_the_bound_lies_below_the_truth_and_importance_sampling_comes_to_it():
    """A walk of two steps in one dimension: log p(x) by a grid over both states."""
    torch.manual_seed(0)
    method = begun("Walkback", shape=(1, 1, 1), num_steps=2, ema_decay=0.0)
    chain = method.averaged
    with torch.no_grad():
        chain.raw_variance.fill_(-2.0)
        chain.network.readout.weight.mul_(3)
    chain.heated.fill_(2)
    chain.variance.fill_(0.6)
    x = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1)
    grid = torch.linspace(-5, 6, 1201)
    states = grid.view(-1, 1, 1, 1)
    cell = float(grid[1] - grid[0])
    with torch.no_grad():
        first, second = (
            chain.transition(states, chain.network(states, k), t) for k, t in enumerate(chain.temperatures())
        )
        log_first = torch.stack([first.log_prob(image) for image in x])
        log_second = torch.stack([second.log_prob(state) for state in states])  # [s_1, s_2]
        log_p = log_second + chain.last().log_prob(states)
        truth = (log_first + log_p.logsumexp(1) + math.log(cell)).logsumexp(1) + math.log(cell)
    found = importance_bound(method.weigh, x, 20_000)
    torch.testing.assert_close(found.log_prob.float(), truth, atol=0.04, rtol=0)
    assert (found.elbo < truth - 0.01).all()
    one = method.weigh(x, 50_000).log_w.mean(0)
    torch.testing.assert_close(found.elbo.float(), one, atol=0.03, rtol=0)


def test_weights_are_the_bracket_in_two_parts():
    method, x = begun("Walkback"), images()
    torch.manual_seed(1)
    weights = method.weigh(x, 3)
    torch.manual_seed(1)
    walk = method.averaged.away(x.repeat(3, 1, 1, 1))
    torch.testing.assert_close(weights.log_w.flatten(), method.averaged.bracket(walk))
    torch.testing.assert_close(weights.log_likelihood.flatten(), walk.log_back[0])


def test_states_are_not_clipped_so_that_densities_are_those_of_the_chain():
    method = begun("Walkback")
    method.averaged.heated.fill_(3)
    method.averaged.variance.fill_(4.0)
    end = method.averaged.away(images(n=100)).end
    assert float(end.min()) < 0
    assert float(end.max()) > 1
    states = list(method.averaged.states(end, torch.Generator().manual_seed(0)))
    assert float(states[0].min()) < -1
    assert all(0 <= float(x.min()) <= float(x.max()) <= 1 for x in method.walk(4))


# Where walks end.


def test_what_is_tracked_are_the_moments_of_the_ends():
    method = begun("Walkback", end_decay=0.95, num_steps=2, lr=1e-12, lr_schedule="constant")
    x = torch.rand(100, 1, 8, 8)
    given = Batch(x, torch.zeros(100, dtype=torch.int64), torch.arange(100))
    trainer().fit(method, Repeated(given, 150), Repeated(given))
    torch.manual_seed(2)
    with torch.no_grad():
        walk = method.chain.away(x.repeat(20, 1, 1, 1))
    assert float(method.chain.mean.mean()) == pytest.approx(float(walk.end.mean()), rel=0.02)
    assert float(method.chain.variance.mean()) == pytest.approx(float(walk.end.var(0).mean()), rel=0.02)
    assert float(method.chain.cold) == pytest.approx(float(walk.variance), rel=0.02)
    assert torch.equal(method.averaged.variance, method.chain.variance)


def test_before_any_walk_they_are_those_of_the_images():
    method = tiny("Walkback", growth="heat", heat=18.0)
    data = suited_digits(method)
    data.setup()
    method.start_from(data)
    x = data.images("train")[torch.arange(len(data.images("train")))].double() / 255
    for chain in (method.chain, method.averaged):
        torch.testing.assert_close(chain.mean.double(), x.mean(0))
        torch.testing.assert_close(chain.variance.double(), x.var(0, correction=0) + 0.01)
        assert float(chain.hottest) == pytest.approx(18 * float(x.var(0, correction=0).mean()), rel=1e-5)


def test_the_heat_grows_by_the_factor_along_the_walks_of_a_trained_method():
    """What a collapse would undo: the variance of the ends against that of the first step."""
    method = tiny("Walkback", hidden_dims=(32,), growth="heat", heat=18.0, factor=2.0, num_steps=20, lr=3e-3)
    trainer(max_epochs=4, limit_val_batches=0).fit(method, datamodule=suited_digits(method))
    chain = method.chain
    assert int(chain.heated) == chain.steps_to_heat() >= 5
    factor, hot = chain.temperatures()[-1], float(chain.own_variance(torch.empty(0)).detach().mean())
    assert 0.4 * float(chain.hottest) < factor * hot < 1.2 * float(chain.hottest)
    assert 0.3 * float(chain.hottest) < float(chain.variance.mean()) < 3 * float(chain.hottest)


def test_walks_grow_by_epochs():
    seen, data = [], suited_digits(tiny("Walkback"))
    for epochs, wanted in ((1, 2), (2, 3), (5, 4)):
        method = tiny("Walkback", num_steps=4)
        trainer(max_epochs=epochs, limit_train_batches=1, limit_val_batches=0).fit(method, datamodule=data)
        seen.append((int(method.chain.heated), wanted))
        assert int(method.averaged.heated) == wanted
    assert all(found == wanted for found, wanted in seen)


# Walking back, and repairs.


def test_walking_back_starts_where_walks_end():
    """With a linear operator that forgets slowly, the image is still in the end of the walk."""
    method = begun("Walkback", num_steps=2)
    far, near = torch.full((400, 1, 8, 8), 40.0), torch.zeros(400, 1, 8, 8)
    with torch.no_grad():
        method.averaged.raw_alpha.fill_(5.0)
    method.averaged.cooling = Cooling(1, 1.0, 0, "kernel")
    first = [next(iter(method.averaged.states(x, None, method.averaged.returning(x)))) for x in (far, near)]
    assert float(first[0].mean()) == pytest.approx(40 * torch.tensor(5.0).sigmoid().item() ** 2, rel=0.02)
    assert abs(float(first[1].mean())) < 0.1
    x = images()
    one, two = (method.walk_back(x, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert 0 <= one.min() <= one.max() <= 1


def test_what_is_known_is_clamped_at_every_step(monkeypatch):
    method = begun("Walkback")
    x, mask = images(), images()
    seen, back = [], type(method.averaged).back

    def listened(self, state, step, change):
        seen.append(torch.equal(state[mask == 1], x[mask == 1]))
        return back(self, state, step, change)

    monkeypatch.setattr(type(method.averaged), "back", listened)
    method.repair(x, mask)
    assert all(seen)
    assert len(seen) == method.averaged.num_steps


# Options.


def test_steps_share_norms_or_have_their_own():
    shared = tiny("Walkback", step_norm=False)
    own = tiny("Walkback", step_norm=True, cold_steps=1)
    assert [len(norms) for norms in shared.chain.network.norms] == [1]
    assert [len(norms) for norms in own.chain.network.norms] == [4]
    x = images()
    with torch.no_grad():
        own.chain.network.norms[0][2].bias += 1
    assert torch.equal(own.chain.network(x, 0), own.chain.network(x, 1))
    assert not torch.equal(own.chain.network(x, 0), own.chain.network(x, 2))
    assert torch.equal(own.chain.network(x, 3), own.chain.network(x, 9)), (
        "beyond the trained length: the last"
    )


def test_a_variance_per_pixel_does_not_see_the_state_and_no_variance_is_below_the_floor():
    x = images()
    for variance in ("pixel", "state"):
        method = tiny("Walkback", variance=variance, floor=0.3)
        with torch.no_grad():
            found = method.chain.own_variance(method.chain.network(x, 0))
        assert float(found.min()) >= 0.3
        assert (found.dim() == 3) == (variance == "pixel")
        assert variance == "pixel" or not torch.equal(found[0], found[1])


def test_the_operator_of_bits_learns_and_scores_bits():
    method = begun("Walkback", kernel="bernoulli")
    assert method.accepts == ("binary",)
    x = images()
    walk = method.chain.away(x)
    assert walk.end.unique().tolist() == [0.0, 1.0]
    q = method.chain.transition(x, method.chain.network(x, 0), 2.0)
    logits = 5 / 2 * torch.lerp(method.chain.network(x, 0)[:, 0].tanh(), 2 * x - 1, method.chain.alpha)
    torch.testing.assert_close(q.mean, logits.sigmoid())
    assert (method.log_prob(x, 5) < 0).all()
    assert method.repair(x, images()).shape == x.shape
    trainer(limit_train_batches=3).fit(method, datamodule=suited_digits(method))
    assert all(0 <= float(s.min()) <= float(s.max()) <= 1 for s in method.walk(4))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"alpha": 1.0}, "alpha must be above 0 and below 1, got 1.0"),
        ({"factor": 1.0}, "factor must be above 1, got 1.0"),
        ({"floor": 0.0}, "floor must be positive, got 0.0"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"extra_steps": -1}, "extra_steps must not be negative, got -1"),
        ({"end_decay": 1.0}, "end_decay must be at least 0 and below 1, got 1.0"),
        ({"kernel": "bernoulli", "growth": "heat"}, "growth: heat needs kernel: gaussian, got bernoulli"),
        ({"kernel": "bernoulli", "grad": "full"}, "grad: full needs kernel: gaussian, got bernoulli"),
        (
            {"grad": "full", "step_weight": 0.5},
            "grad: full needs step_weight: 0 and formula: paper, got 0.5 and paper",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, line):
    with pytest.raises(UsageError) as refused:
        tiny("Walkback", **options)
    assert str(refused.value) == line


# Points in the plane.


@pytest.mark.parametrize("density", ["circle", "grid"])
def test_walks_in_the_plane_learn_the_points(density):
    """The bound of test points comes above that of a Gaussian with their moments' variance per axis."""
    torch.manual_seed(0)
    data = Plane(density=density, binarize="none", dequantize=True, batch_size=500)
    method = Walkback(
        (1, 1, 2),
        hidden_dims=(32, 32),
        step_norm=False,
        variance="pixel",
        floor=1e-4,
        factor=2.0,
        grad="full",
        lr=1e-2,
        lr_schedule="cosine",
        ema_decay=0.95,
    )
    trainer(max_epochs=4).fit(method, datamodule=data)
    x = data.split("test", 500).x
    single = Normal(x.mean(0), x.std(0)).log_prob(x).flatten(1).sum(1).mean()
    assert float(importance_bound(method.weigh, x, 20).log_prob.mean()) > float(single)
