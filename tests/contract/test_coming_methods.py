"""Small stand-ins of methods of other families: what the contract promises them, and how they are scored."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Independent,
    Kumaraswamy,
    MixtureSameFamily,
    Normal,
)
from torch.nn.functional import softplus

from zoo.contract.batch import Batch
from zoo.contract.capabilities import (
    Clusters,
    Conditions,
    Emits,
    Explains,
    Explanation,
    Infers,
    Normalises,
    Reconstructs,
    Samples,
    Side,
    Walks,
    Weighs,
    Weights,
)
from zoo.contract.learning import Descent, Game
from zoo.contract.method import Method
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.chains.shared.kernels import ReverseChain
from zoo.methods.chains.shared.products import Kernel, with_pixels
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.methods.variational.vae import VAE
from zoo.parts import estimators
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.enumeration import enumerated, settings
from zoo.parts.annealing.paths import Path as AnnealingPath
from zoo.parts.annealing.verdicts import log_partition
from zoo.parts.distributions.bits import draw_bits
from zoo.parts.distributions.gaussians import diagonal_gaussian, standard_gaussian
from zoo.parts.distributions.layers import Layers
from zoo.parts.estimators import active_units, importance_bound
from zoo.randomness import drawing_from
from zoo.scores.evaluation import Evaluator
from zoo.scores.results import Results
from zoo.scores.scene import drawn

SHAPE = (1, 8, 8)


def quiet(**options) -> Trainer:
    usual = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    usual |= {
        "enable_model_summary": False,
        "accelerator": "cpu",
        "inference_mode": False,
        "max_epochs": 1,
    }
    return Trainer(**usual | options)


def score(method: Method, folder: Path, data=None, **options) -> Results:
    evaluator = Evaluator(
        out=str(folder / "results.json"), **{"num_samples": 50, "num_images": 200} | options
    )
    quiet(callbacks=[evaluator]).test(method, datamodule=data or Digits(), verbose=False)
    assert evaluator.results is not None
    return evaluator.results


class Fake(Descent):
    """Learns nothing."""

    def __init__(self, image_shape=SHAPE) -> None:
        super().__init__(image_shape)
        torch.manual_seed(0)
        self.unused = nn.Parameter(torch.zeros(()))

    def loss(self, batch):
        return {"loss": self.unused.square()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


# Discrete latents: a Helmholtz machine of four bits.


class FourBits(Fake, Samples, Explains, Infers):
    """p(h) p(x|h) over bits, with a recognition network that is not the posterior."""

    side = Side.LOWER

    def __init__(self, image_shape=SHAPE) -> None:
        super().__init__(image_shape)
        self.weight = nn.Parameter(torch.randn(4, math.prod(image_shape)))
        self.top = nn.Parameter(torch.randn(4))

    def prior(self):
        return Independent(Bernoulli(logits=self.top), 1)

    def likelihood(self, h):
        return Independent(Bernoulli(logits=(h @ self.weight - 1).unflatten(-1, self.image_shape)), 3)

    def explain(self, x):
        posterior = Independent(Bernoulli(logits=0.5 * x.flatten(1) @ self.weight.T - 1), 1)
        return Explanation(self.prior(), posterior, lambda h: self.likelihood(h).log_prob(x))

    def weigh(self, x, num_samples):
        prior, q, log_likelihood = self.explain(x)
        h = q.sample((num_samples,))
        return Weights(log_likelihood(h), prior.log_prob(h) - q.log_prob(h))

    def log_prob(self, x, num_samples):
        return importance_bound(self.weigh, x, num_samples).log_prob

    def log_marginal(self, x):
        h = settings(torch.arange(16), torch.zeros(4))[:, None]
        return (self.prior().log_prob(h) + self.likelihood(h).log_prob(x)).double().logsumexp(0)

    def sample(self, n, *, generator=None):
        with drawing_from(generator):
            return self.likelihood(self.prior().sample((n,))).mean

    def posterior_means(self, x):
        return (self.explain(x).posterior.mean,)

    def encode(self, x):
        return self.posterior_means(x)[-1]

    def prior_variance(self, layer):
        return self.prior().variance


@torch.no_grad()
def test_discrete_latents_are_weighed_without_reparameterisation():
    method = FourBits((1, 2, 3))
    x = (torch.rand(5, 1, 2, 3) < 0.5).float()
    truth = method.log_marginal(x)
    torch.manual_seed(0)
    near = importance_bound(method.weigh, x, 300_000)
    torch.testing.assert_close(near.log_prob, truth, rtol=0, atol=0.02)
    for k in (1, 5):
        repeated = torch.stack([importance_bound(method.weigh, x, k).log_prob for _ in range(400)])
        error = repeated.std(0) / 20
        assert (repeated.mean(0) < truth + 3 * error).all()
    assert float((truth - near.elbo).min()) > 0.01, "the recognition is not the posterior"


def test_discrete_latents_are_scored_but_never_annealed(tmp_path):
    """Decoder AIS would follow gradients through bits and print a wrong number as a lower bound."""
    method = FourBits()
    results = score(method, tmp_path, metrics=["log_prob", "ais", "aggregate", "active_units"])
    assert results.skipped["ais"].startswith("latents must be continuous to be moved along gradients, got")
    assert "test/log_prob_ais" not in results.numbers
    bound, rate = (results.numbers[f"test/{name}"].value for name in ("log_prob_lower", "rate"))
    truth = float(method.log_marginal(Digits().split("test").x).detach().mean())
    assert truth - 1 < bound < truth + 1e-3
    information = results.numbers["test/mutual_information"].value
    assert 0 < information < 4 * math.log(2)
    assert results.numbers["test/marginal_kl"].value + information == pytest.approx(rate, abs=0.3)


def test_bits_count_as_active_by_a_share_of_their_own_variance(tmp_path):
    """A rare bit whose mean varies by .0009 is active: by the number for N(0, 1) it would not be."""
    results = score(method := FourBits(), tmp_path, metrics=["active_units"])
    number = results.numbers["test/active_units"]
    means = method.posterior_means(Digits().split("test").x)[0].detach()
    assert number.value == float((means.var(0) > 0.01 * method.prior().variance).sum())
    assert number.protocol.how.endswith("Var > 0.01 of the prior's")
    rare = torch.tensor([0.0, 0.06]).repeat(500)[:, None]
    assert active_units(rare).tolist() == [False]
    assert active_units(rare, prior_variance=0.03 * 0.97).tolist() == [True]
    assert active_units(rare, prior_variance=torch.tensor([0.1])).tolist() == [False]


def test_a_standard_normal_counts_as_ever(tmp_path):
    results = score(VAE(SHAPE, latent_dim=3, hidden_dims=(8,)), tmp_path, metrics=["active_units"])
    assert results.numbers["test/active_units"].protocol.how.endswith("images, Var > 0.01")


# Sticks: a VAE of two sticks.


class Sticks(LatentVariable):
    """p(v) = Beta(1, 2) per stick, q(v|x) Kumaraswamy: torch checks their values."""

    def __init__(self, image_shape=SHAPE, num_sticks=1) -> None:
        super().__init__(image_shape, lr=0.1, lr_final=0.1, lr_schedule="constant", adam_eps=1e-8)
        torch.manual_seed(0)
        self.num_sticks = num_sticks
        self.weight = nn.Parameter(2 * torch.randn(num_sticks, math.prod(image_shape)))

    @property
    def accepts(self):
        return ("binary",)

    def prior(self):
        return Independent(Beta(torch.ones(self.num_sticks), 2.0), 1)

    def posterior(self, x):
        h = x.flatten(1) @ self.weight.T / 8
        return Independent(Kumaraswamy(softplus(h) + 1, softplus(-h) + 1), 1)

    def likelihood(self, z):
        return Independent(Bernoulli(logits=(z @ self.weight - 1).unflatten(-1, self.image_shape)), 3)

    def loss(self, batch):
        return {"loss": -self.log_weights(batch.x, 1).mean(0)}


def test_sticks_are_scored_and_annealed(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.scores.sections.likelihood.AIS_IMAGES", 40)
    monkeypatch.setattr("zoo.scores.sections.likelihood.AIS_STEPS", 60)
    method = Sticks()
    results = score(method, tmp_path, metrics=["log_prob", "ais", "aggregate", "active_units"])
    assert not results.skipped
    v = ((torch.arange(2000) + 0.5) / 2000)[:, None, None]
    x = Digits().split("test").x[drawn(359, 40)]
    with torch.no_grad():
        log_p = method.prior().log_prob(v) + method.likelihood(v).log_prob(x)
    truth = float((log_p.logsumexp(0) - math.log(2000)).mean())
    assert results.numbers["test/log_prob_ais"].value == pytest.approx(truth, abs=0.1)
    assert results.numbers["test/active_units"].protocol.how.endswith("of the prior's")


def test_what_torch_refuses_is_a_line_of_one_metric_and_not_the_end_of_the_score(tmp_path):
    method = Sticks()
    method.prior = lambda: Independent(Beta(torch.ones(1), 2.0), 1)

    def explain(x):
        outside = Independent(Normal(torch.full((len(x), 1), 3.0), 0.1), 1)
        return Explanation(method.prior(), outside, lambda z: z.sum(-1))

    method.explain = explain
    results = score(method, tmp_path, metrics=["log_prob", "aggregate", "ais"])
    assert "test/log_prob_lower" in results.numbers
    reason = results.skipped["aggregate"]
    assert "to be within the support" in reason
    assert "\n" not in reason
    assert not reason.endswith(":")


def test_weights_that_torch_refuses_are_a_line_too(tmp_path):
    method = Sticks()
    method.weigh = lambda x, num_samples: method.prior().log_prob(torch.full((num_samples, len(x), 1), 2.0))
    results = score(method, tmp_path, metrics=["log_prob", "active_units"])
    assert "to be within the support" in results.skipped["log_prob"]
    assert "test/active_units" in results.numbers


# A prior that is no factorised Gaussian.


def mixture_prior():
    parts = Independent(Normal(torch.tensor([[-1.0, 0.5], [2.0, 0.0]]), 0.7), 1)
    return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7])), parts)


def test_a_vae_with_a_mixture_prior_averages_the_kl_over_its_draws(monkeypatch):
    vae = VAE((1, 2, 2), latent_dim=2, hidden_dims=(5,), num_samples=20_000)
    x = (torch.rand(2, 1, 2, 2) < 0.5).float()
    batch = Batch(x, torch.zeros(2).long(), torch.arange(2))
    monkeypatch.setattr(vae, "prior", mixture_prior)
    terms = vae.loss(batch)
    q = vae.posterior(x)
    z = torch.cartesian_prod(*2 * [torch.linspace(-6, 6, 241)])[:, None]
    log_q = q.log_prob(z)
    exact = (log_q.exp() * (log_q - mixture_prior().log_prob(z))).sum(0) * 0.05**2
    torch.testing.assert_close(terms["rate"], exact, rtol=0, atol=0.05)
    torch.testing.assert_close(terms["elbo"], -(terms["rate"] + terms["distortion"]))
    strict = VAE((1, 2, 2), latent_dim=2, hidden_dims=(5,), free_bits=0.1)
    monkeypatch.setattr(strict, "prior", mixture_prior)
    with pytest.raises(
        UsageError, match="must be independent over units to count each, got Independent and M"
    ):
        strict.loss(batch)


def test_the_closed_form_does_not_depend_on_the_draws():
    vae = VAE((1, 2, 2), latent_dim=2, hidden_dims=(5,))
    batch = Batch(torch.ones(3, 1, 2, 2), torch.zeros(3).long(), torch.arange(3))
    assert torch.equal(vae.loss(batch)["rate"], vae.loss(batch)["rate"])
    mean, std = vae.posterior(batch.x).base_dist.loc, vae.posterior(batch.x).base_dist.scale
    closed = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1)
    torch.testing.assert_close(vae.loss(batch)["rate"], closed)


# Players with a trunk in common.


class Trunk(Game):
    """InfoGAN's shape: D and Q read one trunk; an AAE's encoder is such a trunk with no head of its own."""

    def __init__(self) -> None:
        super().__init__(SHAPE)
        torch.manual_seed(0)
        self.trunk, self.d_head, self.q_head = nn.Linear(4, 3), nn.Linear(3, 1), nn.Linear(3, 2)
        self.generator = nn.Linear(2, 4)
        self.seen: list[dict[str, bool]] = []

    def players(self):
        return {
            "d": nn.ModuleList([self.trunk, self.d_head]),
            "q": nn.ModuleList([self.trunk, self.q_head]),
            "g": self.generator,
        }

    def training_step(self, batch, batch_idx):
        z = torch.randn(len(batch.x), 2)
        for player, head in (("d", self.d_head), ("q", self.q_head)):
            self.seen.append(self._moved(player, lambda head=head: head(self.trunk(self.generator(z)))))
        self.seen.append(self._moved("g", lambda: self.d_head(self.trunk(self.generator(z)))))

    def _moved(self, player, forward):
        before = {name: p.clone() for name, p in self.named_parameters()}
        for p in self.parameters():
            p.grad = None
        self.descend(player, lambda: {"loss": forward().square().sum(1)})
        parts = ("trunk", "d_head", "q_head", "generator")
        changed = {n for n, p in self.named_parameters() if not torch.equal(p, before[n])}
        touched = {n for n, p in self.named_parameters() if p.grad is not None}
        assert changed == touched
        assert all(p.requires_grad for p in self.parameters())
        return {part: any(n.startswith(part) for n in changed) for part in parts}

    def configure_optimizers(self):
        return [torch.optim.SGD(player.parameters(), 0.1) for player in self.players().values()]


def test_a_shared_trunk_moves_in_the_step_of_each_of_its_players():
    method = Trunk()
    quiet(limit_train_batches=1).fit(method, datamodule=Digits())
    still = dict.fromkeys(("trunk", "d_head", "q_head", "generator"), False)
    assert method.seen == [
        still | {"trunk": True, "d_head": True},
        still | {"trunk": True, "q_head": True},
        still | {"generator": True},
    ]


# Walks whose samples and pictures are written once.


class Counting(Fake, Walks):
    def walk(self, n, *, generator=None):
        state = torch.zeros(n, *self.image_shape)
        for _ in range(5):
            with drawing_from(generator):
                state = (state + 0.1 * torch.rand(n, 1, 1, 1)).clamp(0, 1)
            yield state


class Emitting(Fake, Emits):
    def emit(self, n, *, generator=None):
        for step in range(4):
            with drawing_from(generator):
                mean = step - 1 + 0.5 * torch.rand(n, *self.image_shape)
            yield Independent(Normal(mean, 1.0), 3)


def test_a_sample_is_the_last_state_of_a_walk():
    method, streams = Counting(), [torch.Generator().manual_seed(3) for _ in range(2)]
    states = list(method.walk(3, generator=streams[0]))
    assert torch.equal(method.sample(3, generator=streams[1]), states[-1])
    assert len(states) == 5


def test_a_walk_shows_the_means_of_what_is_emitted_inside_the_range_of_pixels():
    method, streams = Emitting(), [torch.Generator().manual_seed(3) for _ in range(3)]
    means = [p.mean for p in method.emit(2, generator=streams[0])]
    states = list(method.walk(2, generator=streams[1]))
    assert [torch.equal(state, mean.clamp(0, 1)) for state, mean in zip(states, means, strict=True)] == [
        True
    ] * 4
    assert not states[0].any(), "means below 0 are brought to 0"
    assert torch.equal(method.sample(2, generator=streams[2]), states[-1])


# Categories of the method's own.


class Categories(Fake, Conditions, Clusters):
    """Category c shows the digit that `order` names, and an image's category is that of the nearest mean."""

    def __init__(self, order: list[int], own: bool = True) -> None:
        super().__init__()
        train = Digits(binarize="none").split("train")
        shown = [train.x[train.y == digit] for digit in order]
        self.register_buffer("means", torch.stack([x.mean(0) for x in shown]))
        self.examples = [x[:20] for x in shown]
        self.num_categories = len(order) if own else None
        self.asked: list[int] = []

    def sample_given(self, y, *, generator=None):
        self.asked += y.tolist()
        return torch.stack([self.examples[c][i % 20] for i, c in enumerate(y.tolist())])

    def cluster(self, x):
        return -torch.cdist(x.flatten(1), self.means.flatten(1)).square().log_softmax(1)


def accuracy_given(method, folder):
    return score(method, folder, metrics=["conditional"]).numbers["test/conditional_accuracy"]


def test_categories_are_matched_with_labels_before_samples_are_judged(tmp_path):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    matched = accuracy_given(Categories(order), tmp_path)
    assert matched.value > 0.95
    assert "10 own categories matched one to one on 1295 training images" in matched.protocol.how
    named = accuracy_given(Categories(order, own=False), tmp_path)
    assert named.value < 0.3, "as if categories were labels"
    assert "categories" not in named.protocol.how
    assert accuracy_given(Categories(list(range(10)), own=False), tmp_path).value > 0.95


def test_classes_without_a_category_count_as_missed_and_spare_categories_are_not_asked_for(tmp_path):
    few = accuracy_given(Categories([7, 0, 1, 2, 3]), tmp_path)
    assert 0.45 < few.value <= 0.5
    many = Categories([*range(10), 3, 3])
    assert accuracy_given(many, tmp_path).value > 0.95
    assert len(set(many.asked)) == 10


def test_categories_that_are_not_recognised_cannot_be_matched(tmp_path):
    class Blind(Fake, Conditions):
        num_categories = 10

        def sample_given(self, y, *, generator=None):
            return torch.zeros(len(y), *self.image_shape)

    reason = score(Blind(), tmp_path, metrics=["conditional"]).skipped["conditional"]
    assert reason == "matching categories needs Clusters: Blind has not that capability"


# Prior and posterior of what has a likelihood of images too.


def test_what_explains_believes():
    method, x = Sticks(), torch.ones(2, *SHAPE)
    beliefs, account = method.believe(x), method.explain(x)
    z = torch.full((2, 1), 0.3)
    assert torch.equal(beliefs.prior.log_prob(z), account.prior.log_prob(z))
    assert torch.equal(beliefs.posterior.log_prob(z), account.posterior.log_prob(z))


# Pixels that depend on one another.


class Autoregressive(LatentVariable):
    """VLAE's shape: p(x|z) draws the first pixel, and every other pixel repeats it with chance .99."""

    accepts = ("binary",)

    def __init__(self) -> None:
        super().__init__((1, 1, 4), lr=0.1, lr_final=0.1, lr_schedule="constant", adam_eps=1e-8)
        self.unused = nn.Parameter(torch.zeros(()))

    def prior(self):
        return standard_gaussian(1, torch.device("cpu"))

    def posterior(self, x):
        return diagonal_gaussian(torch.zeros(len(x), 1), torch.zeros(len(x), 1))

    def likelihood(self, z):
        first = Independent(Bernoulli(logits=z), 1)
        return Layers(
            first, lambda a: Independent(Bernoulli(probs=0.01 + 0.98 * a.expand(*a.shape[:-1], 3)), 1), (1, 3)
        )

    def picture(self, z):
        return self.likelihood(z).sample().view(-1, *self.image_shape)

    def loss(self, batch):
        return {"loss": -self.log_weights(batch.x, 1).mean(0)}


def test_pixels_without_a_mean_of_their_kind_are_drawn():
    method = Autoregressive()
    assert isinstance(method, Reconstructs)
    x = method.sample(4000, generator=torch.Generator().manual_seed(0))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert float((x[..., 1:] == x[..., :1]).float().mean()) == pytest.approx(0.99, abs=0.01)
    again = method.sample(4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    assert method.reconstruct(x[:5]).shape == method.decode(torch.zeros(5, 1)).shape == (5, 1, 1, 4)


# Machines without hidden units, and energies without a temperature.


class VisiblePath(AnnealingPath[torch.Tensor]):
    """exp(x'Ax / 2 + bx) over bits, from A = 0 of the same b: one sweep of Gibbs per temperature."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        self.a, self.b = a, b
        self.log_z0 = float(softplus(b).sum())

    def start(self, num_chains):
        return draw_bits(self.b.expand(num_chains, -1))

    def log_density(self, state, beta):
        return (0.5 * beta * (state @ self.a * state).sum(1) + state @ self.b).double()

    def transition(self, state, beta):
        state = state.clone()
        for i in range(len(self.b)):
            state[:, i] = draw_bits(beta * state @ self.a[:, i] + self.b[i])
        return state

    def log_z(self):
        if len(self.b) > enumeration.ENUMERABLE:
            return None
        double = VisiblePath(self.a.double(), self.b.double())
        return float(enumerated(lambda x: double.log_density(x, 1.0), double.b, len(self.b)).logsumexp(0))


def couplings(units, scale=0.5):
    torch.manual_seed(0)
    a = scale * torch.randn(units, units)
    return (a + a.T).fill_diagonal_(0), torch.randn(units)


class Pairs(Fake, Normalises):
    """E(x) = -x'Ax / 2 - bx, which is no log-probability until a temperature is named."""

    def __init__(self, temperature: float, image_shape=SHAPE, scale=0.02) -> None:
        super().__init__(image_shape)
        a, b = couplings(math.prod(image_shape), scale)
        self.temperature = temperature
        self.path = VisiblePath(a / temperature, b / temperature)

    def energy(self, x):
        return -self.path.log_density(x.flatten(1), 1.0).float()

    def log_partition(self, num_chains, num_steps):
        return log_partition(self.path, num_chains, min(num_steps, 20))


def test_a_machine_without_hidden_units_is_enumerated_and_annealed(monkeypatch):
    path = VisiblePath(*couplings(10))
    states = settings(torch.arange(1024), path.b)
    truth = float(path.log_density(states, 1.0).logsumexp(0))
    exact = log_partition(path, 2, 1)
    assert exact.num_steps == 0
    assert exact.log_z == pytest.approx(truth, abs=1e-4)
    monkeypatch.setattr(enumeration, "ENUMERABLE", 9)
    torch.manual_seed(0)
    annealed = log_partition(path, 1000, 100)
    assert annealed.num_steps == 100
    assert annealed.log_z == pytest.approx(truth, abs=0.05)
    with pytest.raises(UsageError, match="at most 9 units to be enumerated, got 10"):
        enumerated(lambda x: x.sum(1), path.b, 1)


def test_settings_of_any_density_are_summed_in_chunks(monkeypatch):
    a, b = couplings(7)
    whole = enumerated(lambda x: (x @ a * x).sum(1) + x @ b, b, 7)
    monkeypatch.setattr(enumeration, "ENUMERATED_AT_ONCE", 50)
    torch.testing.assert_close(enumerated(lambda x: (x @ a * x).sum(1) + x @ b, b, 7), whole)
    assert whole.dtype == torch.float64
    assert len(whole) == 128


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_energies_are_in_nats_at_the_temperature_that_is_named(temperature, tmp_path):
    small = Pairs(temperature, (1, 3, 3), 0.5)
    x = settings(torch.arange(512), torch.zeros(9)).view(-1, 1, 3, 3)
    log_p = -small.energy(x).double() - small.log_partition(2, 1).log_z
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-4)
    a, b = couplings(9, 0.5)
    v = x.flatten(1)
    torch.testing.assert_close(small.energy(x) * temperature, -0.5 * (v @ a * v).sum(1) - v @ b)
    results = score(Pairs(temperature), tmp_path, metrics=["partition"])
    how = results.numbers["test/log_prob_optimistic"].protocol.how
    assert how.endswith("distributions" + ("" if temperature == 1 else ", temperature 3"))


# Memory.


class Wide(FourBits):
    draw_size = 10_000


def chunks_of(method, x, num_samples):
    sizes = []

    def weigh(part, k):
        sizes.append((len(part), k))
        return Weights(torch.zeros(k, len(part)), torch.zeros(k, len(part)))

    importance_bound(weigh, x, num_samples, method.draw_size)
    return sizes


def test_draws_that_are_wider_than_images_come_in_smaller_chunks(tmp_path, monkeypatch):
    x = torch.zeros(60, *SHAPE)
    budget = estimators.PIXELS_IN_CACHE
    assert chunks_of(FourBits(), x, 1000) == [(50, budget // 3200), (50, 500), (10, 1000)]
    assert chunks_of(Wide(), x, 7) == [(50, 3), (50, 3), (50, 1), (10, 7)]
    seen = []
    method, honest = Wide(), FourBits.weigh
    method.weigh = lambda x, k: seen.append((len(x), k)) or honest(method, x, k)
    score(method, tmp_path, metrics=["log_prob"], num_samples=4)
    assert {k for _, k in seen} >= {3, 1}
    with pytest.raises(UsageError, match="draw_size must be at least 1, got 0"):
        importance_bound(method.weigh, x, 1, 0)


def test_weighing_asks_for_no_more_than_its_header_says():
    assert Weighs.__abstractmethods__ == {"weigh", "log_prob"}
    assert Explains.__abstractmethods__ == {"weigh", "log_prob", "explain"}
    assert Emits.__abstractmethods__ == {"emit"}
    assert Walks.__abstractmethods__ == {"walk"}


# A chain whose way into noise has no closed form.


class Walkback(ReverseChain):
    """Variational walkback's shape: tracked moments for the start, an operator that cools on its way."""

    def __init__(self, num_steps) -> None:
        super().__init__()
        self.steps = num_steps
        self.register_buffer("mean", torch.full((1, 2, 2), 0.5))

    @property
    def num_steps(self):
        return self.steps

    def noise(self, like):
        return self.mean + torch.randn_like(like)

    def back(self, x, step, change):
        kernel = Kernel(0.5 * x + 0.25, torch.full_like(x, 0.01 * 2**step))
        kernel = kernel if change is None else change(kernel, step)
        return kernel, kernel.mean + kernel.variance.sqrt() * torch.randn_like(x)


def test_a_chain_needs_no_closed_form_to_be_walked_back_and_to_repair():
    chain, like = Walkback(6), torch.empty(3000, 1, 2, 2)
    states = list(chain.states(like, torch.Generator().manual_seed(0)))
    again = list(chain.states(like, torch.Generator().manual_seed(0)))
    assert len(states) == 7
    assert all(torch.equal(one, two) for one, two in zip(states, again, strict=True))
    variance = 1.0
    for step in range(6, 0, -1):
        variance = 0.25 * variance + (0.01 * 2**step if step > 1 else 0)
    assert float(states[-1].var()) == pytest.approx(variance, rel=0.05)
    assert float(states[-1].mean()) == pytest.approx(0.5, abs=0.01)
    known = torch.tensor([[True, False], [False, True]]).expand(3000, 1, 2, 2)
    repaired = list(chain.states(like, None, with_pixels(known, torch.ones_like(like))))
    assert all((state[known] == 1).all() for state in repaired)
    assert float(repaired[-1][~known].var()) == pytest.approx(variance, rel=0.1)
