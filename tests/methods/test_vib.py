"""Facts of the variational information bottleneck: bits and nats, single codes and several, its average."""

import math

import pytest
import torch
from support import state, tiny, trainer
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from zoo.contract.batch import Batch
from zoo.contract.capabilities import Beliefs, Decodes, Reconstructs, Samples
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.variational.vib import VIB
from zoo.parts.distributions.divergences import kl_of
from zoo.parts.networks.dense import MLP
from zoo.pictures.walks import plane
from zoo.scores.evaluation import Evaluator
from zoo.scores.representation import aggregate_posterior
from zoo.scores.results import Results
from zoo.scores.sections.labels import through_codes

TINY = {"hidden_dims": (16,), "latent_dim": 3, "ema_decay": 0.9}

SHAPE = (1, 2, 3)


def vib(**options) -> VIB:
    torch.manual_seed(0)
    method = VIB(SHAPE, **{"num_classes": 4, "hidden_dims": (5,), "latent_dim": 2} | options)
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    method.average.network.load_state_dict(method.network.state_dict())
    return method


def labelled(n: int = 7) -> Batch:
    stream = torch.Generator().manual_seed(1)
    return Batch(torch.rand(n, *SHAPE, generator=stream), torch.arange(n) % 4, torch.arange(n))


def scored(method: VIB, tmp_path, *metrics: str, data=None) -> Results:
    evaluator = Evaluator(metrics=list(metrics), out=str(tmp_path / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=data or Digits(binarize="none"), verbose=False)
    assert evaluator.results is not None
    return evaluator.results


@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_objective_by_hand_is_in_nats_and_sums_the_rate_over_dimensions(num_samples):
    method, batch = vib(beta=0.3, num_samples=num_samples), labelled()
    torch.manual_seed(5)
    terms = method.loss(batch)
    first, last, head = method.network.body[0], method.network.classifier, method.network.head
    h = (2 * batch.x.flatten(1) - 1) @ first.weight.T + first.bias
    mean, rho = (h.relu() @ head.weight.T + head.bias).chunk(2, 1)
    s = torch.log1p((rho - 5).exp())
    torch.manual_seed(5)
    z = mean + s * torch.randn(num_samples, *mean.shape)
    logits = z @ last.weight.T + last.bias
    own = logits[:, range(7), batch.y] - logits.exp().sum(-1).log()
    rate = 0.5 * (s**2 + mean**2 - 1).sum(1) - s.log().sum(1)
    torch.testing.assert_close(terms["distortion"], -own.mean(0))
    torch.testing.assert_close(terms["rate"], rate)
    torch.testing.assert_close(terms["loss"], -own.mean(0) + 0.3 * rate)


def test_bits_move_no_minimum_where_both_terms_have_them_and_do_where_one_has():
    def direction(bits_of_distortion: float, bits_of_rate: float) -> torch.Tensor:
        method = vib(beta=0.3)
        torch.manual_seed(5)
        terms = method.loss(labelled())
        loss = bits_of_distortion * terms["distortion"] + bits_of_rate * method.beta * terms["rate"]
        gradients = torch.autograd.grad(loss.mean(), list(method.network.parameters()))
        return nn.functional.normalize(torch.cat([g.flatten() for g in gradients]), dim=0)

    bits, nats = 1 / math.log(2), direction(1, 1)
    torch.testing.assert_close(direction(bits, bits), nats)
    assert direction(bits, 1) @ nats < 0.999


def test_codes_start_with_a_deviation_of_about_0_0067():
    method = VIB((1, 8, 8), hidden_dims=(64, 64), latent_dim=32)
    with torch.no_grad():
        std = method.network(torch.rand(20, 1, 8, 8)).stddev
        assert 0.005 < std.log().mean().exp() < 0.009
        method.network.head.weight.zero_()
        std = method.network(torch.rand(20, 1, 8, 8)).stddev
    torch.testing.assert_close(std, torch.full_like(std, math.log1p(math.exp(-5))))
    assert float(std[0, 0]) == pytest.approx(0.0067, abs=5e-5)


def test_weights_start_glorot_uniform():
    first = VIB((1, 8, 8), hidden_dims=(400,), latent_dim=2).network.body[0]
    limit = math.sqrt(6 / (64 + 400))
    assert first.weight.abs().max() < limit
    assert float(first.weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert not first.bias.any()


def test_probabilities_of_codes_are_averaged_and_not_their_logits(monkeypatch):
    """Two codes, of one image: the mean of the logits would choose the other label."""

    class Two(Normal):
        def sample(self, sample_shape=()):
            assert tuple(sample_shape) == (2,)
            return torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])

    method = vib(num_classes=2, num_draws=2)
    logits = torch.tensor([[9.0, 0.0], [0.0, 5.0]])
    method.averaged.classifier.weight.data.copy_(logits.T)
    method.averaged.classifier.bias.data.zero_()
    monkeypatch.setattr(method.average, "forward", lambda x: Two(torch.zeros(1, 2), 1.0))
    found = method.classify(torch.rand(1, *SHAPE)).exp()
    torch.testing.assert_close(found, logits.softmax(1).mean(0, keepdim=True))
    flat = vib(num_classes=2, num_draws=2)
    flat.averaged.classifier.weight.data.copy_(torch.tensor([[0.0, 9.0], [3.0, 0.0]]))
    flat.averaged.classifier.bias.data.zero_()
    monkeypatch.setattr(flat.average, "forward", lambda x: Two(torch.zeros(1, 2), 1.0))
    assert flat.classify(torch.rand(1, *SHAPE)).argmax() == 0
    by_logits = torch.tensor([[0.0, 3.0], [9.0, 0.0], [0.0, 3.0]]).mean(0)
    assert by_logits.argmax() == 0


def test_more_codes_say_what_the_integral_over_codes_says():
    method, x = vib(latent_dim=1, num_draws=20_000), labelled().x
    method.average.network.head.bias.data[1] = 6.0
    q = method.believe(x).posterior
    z = torch.linspace(-12, 12, 4001)[:, None, None]
    exact = (q.log_prob(z)[..., None].exp() * method.classify_codes(z).exp()).sum(0) * 24 / 4000
    torch.testing.assert_close(method.classify(x).exp(), exact, atol=0.01, rtol=0)


def believing(classify_codes) -> VIB:
    """Codes N(sum of pixels, 1/4) and N(0, 1/4), and what classifies them."""
    method = VIB((1, 8, 8), hidden_dims=(4,), latent_dim=2)

    def believe(x):
        mean = torch.stack((x.flatten(1).sum(1), torch.zeros(len(x))), 1)
        return Beliefs(method.averaged.prior(), Independent(Normal(mean, 0.5), 1))

    method.believe, method.classify_codes = believe, classify_codes
    return method


def test_information_is_scored_in_bits_between_its_bounds(tmp_path):
    """The rate in closed form; a classifier that knows nothing gains nothing; H(Y) is at most log2 10."""
    data = Digits(binarize="none")
    x, y = data.split("test").x, data.split("test").y
    method = believing(lambda z: torch.zeros(*z.shape[:-1], 10).log_softmax(-1))
    results = scored(method, tmp_path, "bottleneck", "ais", "log_prob", data=data)
    assert results.skipped["ais"] == "needs Explains: VIB has not that capability"
    assert results.skipped["log_prob"] == "needs Scores: VIB has not that capability"
    numbers = results.numbers
    rate = 0.5 * (x.flatten(1).sum(1) ** 2 + 2 * 0.25 - 2) - 2 * math.log(0.5)
    assert numbers["test/code_information"].value == pytest.approx(float(rate.mean()) / math.log(2), rel=1e-5)
    assert str(numbers["test/code_information"]).startswith("<=")
    shares = y.bincount() / len(y)
    entropy = -float((shares * shares.log2()).sum())
    label = numbers["test/label_information"]
    assert label.value == pytest.approx(entropy - math.log2(10), abs=1e-5)
    assert str(label).startswith(">=")
    assert entropy < math.log2(10)
    assert label.unit == numbers["test/code_information"].unit == "bits"


def test_a_classifier_that_knows_everything_reaches_the_entropy_of_the_labels(tmp_path):
    data = Digits(binarize="none")
    y = data.split("test").y
    places = y.expand(12, -1)[..., None]
    method = believing(lambda z: torch.full((*z.shape[:-1], 10), -1e9).scatter(-1, places, 0.0))
    numbers = scored(method, tmp_path, "bottleneck", data=data).numbers
    entropy = -sum(s * math.log2(s) for s in (y.bincount() / len(y)).tolist())
    assert numbers["test/label_information"].value == pytest.approx(entropy, abs=1e-6)
    assert numbers["test/label_information"].value < math.log2(10)
    assert numbers["test/accuracy_one_code"].value == 1


def test_the_bound_by_single_codes_lies_below_that_of_their_mean():
    method, batch = vib(num_draws=2000), labelled()
    method.averaged.head.bias.data[2:] = 5.0
    _, cross_entropy, right = through_codes(method, batch.x, batch.y)
    together = -method.classify(batch.x)[range(7), batch.y]
    assert (cross_entropy > together - 0.05).all()
    assert cross_entropy.mean() > together.mean()
    assert ((right * 12) % 1).abs().max() < 1e-6


def test_a_full_covariance_by_hand_and_its_rate():
    method, x = vib(posterior="full", latent_dim=3), labelled().x
    q, p = method.network(x), method.network.prior()
    body = method.network.body(2 * x.flatten(1) - 1)
    mean, rho, mixing = (method.network.head(body)).split((3, 3, 3), 1)
    s = nn.functional.softplus(rho - 5)
    for i in range(len(x)):
        a, b, c = mixing[i]
        unit = torch.stack([torch.tensor([1.0, 0, 0]), torch.stack([a, torch.ones(()), torch.zeros(())])])
        unit = torch.cat((unit, torch.stack([b, c, torch.ones(())])[None]))
        covariance = s[i].diag() @ unit @ unit.T @ s[i].diag()
        torch.testing.assert_close(q.covariance_matrix[i], covariance)
        rate = 0.5 * (covariance.trace() + mean[i].square().sum() - 3 - covariance.logdet())
        torch.testing.assert_close(kl_of(q, p, q.rsample((1,)))[i], rate, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(method.loss(labelled())["rate"], kl_divergence(q, p))


def test_a_full_covariance_of_one_dimension_is_a_diagonal_one():
    full, diagonal = (vib(posterior=kind, latent_dim=1) for kind in ("full", "diagonal"))
    losses = []
    for method in (full, diagonal):
        torch.manual_seed(5)
        losses.append(method.loss(labelled())["loss"])
    torch.testing.assert_close(*losses)


def test_codes_of_two_dimensions_are_their_own_map():
    method, x = vib(posterior="full"), labelled().x
    points = plane(method, x)
    assert torch.equal(points, method.believe(x).posterior.mean)
    assert torch.equal(points, method.encode(x))


def test_a_point_is_deterministic_and_has_no_rate(tmp_path):
    method, batch = vib(posterior="point", beta=0.0), labelled()
    terms = [method.loss(batch) for _ in range(2)]
    assert torch.equal(terms[0]["loss"], terms[1]["loss"])
    assert terms[0].keys() == {"loss", "distortion"}
    assert torch.equal(method.classify(batch.x), method.classify(batch.x))
    torch.testing.assert_close(method.classify(batch.x), method.classify_codes(method.encode(batch.x)))
    torch.testing.assert_close(method.loss(batch)["loss"], -method.classify(batch.x)[range(7), batch.y])
    with pytest.raises(UsageError, match=r"posterior: point has no rate: beta must be 0, got 0\.001"):
        VIB(posterior="point")
    control = VIB((1, 8, 8), **TINY | {"posterior": "point", "beta": 0.0})
    results = scored(control, tmp_path, "accuracy", "bottleneck", "aggregate")
    assert set(results.numbers) == {"test/accuracy"}
    assert set(results.skipped.values()) == {"posterior: point has no density, and its code no finite rate"}
    assert str(results.numbers["test/accuracy"].protocol).endswith("by p(y|x)")


def test_dropout_belongs_to_training_alone():
    method, batch = vib(posterior="point", beta=0.0, dropout=0.5, hidden_dims=(40, 40)), labelled()
    assert not torch.equal(method.loss(batch)["loss"], method.loss(batch)["loss"])
    assert method.training
    assert torch.equal(method.classify(batch.x), method.classify(batch.x))
    assert method.training
    assert method.average.training
    assert torch.equal(method.eval().loss(batch)["loss"], method.loss(batch)["loss"])


def test_a_network_drops_units_of_every_hidden_layer():
    assert [type(part) for part in MLP(3, (4, 5), "relu", 0.5)] == 2 * [nn.Linear, nn.ReLU, nn.Dropout]
    assert [type(part) for part in MLP(3, (4, 5), "relu")] == 2 * [nn.Linear, nn.ReLU]
    ones = MLP(1, (10_000,), "relu", 0.25)
    nn.init.ones_(ones[0].weight)
    h = ones(torch.ones(1, 1))
    assert float((h == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_the_average_has_forgotten_its_start_after_few_batches_and_answers():
    method = tiny("VIB", ema_decay=0.999)
    start = state(method.network)
    data = Digits(binarize="none")
    trainer(limit_train_batches=1, limit_val_batches=0).fit(method, datamodule=data)
    for name, average in method.average.network.state_dict().items():
        expected = 0.1 * start[name] + 0.9 * method.network.state_dict()[name]
        torch.testing.assert_close(average, expected)
    x = data.split("test").x
    torch.manual_seed(5)
    found = method.classify(x)
    assert method.encode(x).equal(method.averaged.eval()(x).mean)
    assert not method.encode(x).equal(method.network(x).mean)
    for parameter in method.network.parameters():
        parameter.data.zero_()
    torch.manual_seed(5)
    assert torch.equal(found, method.classify(x))


def test_a_score_leaves_both_sets_of_weights_as_they_are(tmp_path):
    method = tiny("VIB")
    method.average.update(method.network)
    before = state(method)
    scored(method, tmp_path, "accuracy", "bottleneck", "active_units")
    after = state(method)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_the_average_is_published():
    method = tiny("VIB")
    kept = method.state_dict().keys() - set(method.unpublished)
    assert kept == {f"average.{name}" for name in method.average.state_dict()}
    assert {name.split(".")[0] for name in method.unpublished} == {"network"}


def test_it_never_claims_to_draw_images():
    assert not issubclass(VIB, (Samples, Decodes, Reconstructs))


def test_images_without_a_label_are_refused():
    with pytest.raises(UsageError, match="every image needs a label between 0 and 9, got -1"):
        tiny("VIB").start_from(Digits(binarize="none", labelled=100))
    with pytest.raises(UsageError, match="every image needs a label between 0 and 6, got 9"):
        tiny("VIB", num_classes=7).start_from(Digits(binarize="none"))


def test_the_information_of_a_code_without_a_likelihood_of_images():
    """The estimate from draws against the integral over a code of one dimension."""
    torch.manual_seed(0)
    method = VIB((1, 8, 8), hidden_dims=(8,), latent_dim=1)
    head = method.averaged.head
    head.weight.data[1], head.bias.data[1] = 0.0, 4.5
    x = Digits(binarize="none").split("test").x[:300]
    beliefs = method.believe(x)
    found = aggregate_posterior(beliefs.posterior, beliefs.prior, 20)
    z = torch.linspace(-12, 12, 6001)[:, None, None]
    with torch.no_grad():
        log_q = beliefs.posterior.log_prob(z).double()
    log_mixture = log_q.logsumexp(1, keepdim=True) - math.log(300)
    exact = float((log_q.exp() * (log_q - log_mixture)).sum(0).mean()) * 24 / 6000
    assert 0.05 < exact < math.log(300)
    assert found.information.value == pytest.approx(exact, abs=4 * found.information.error + 1e-3)
    rate = float(kl_of(beliefs.posterior, beliefs.prior, torch.zeros(1)).mean())
    assert exact < rate


def test_it_learns_the_digits():
    method = VIB((1, 8, 8), hidden_dims=(64,), latent_dim=8, lr=3e-3, ema_decay=0.9)
    data = Digits(binarize="none", batch_size=100)
    trainer(max_epochs=8, limit_val_batches=0).fit(method, datamodule=data)
    test = data.split("test")
    assert float((method.classify(test.x).argmax(1) == test.y).float().mean()) > 0.8
