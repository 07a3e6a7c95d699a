"""Facts of the variational lossy autoencoder: its decoder, its flow, its free bits, what its code is for."""

import itertools
import math

import pytest
import torch
from PIL import Image
from support import Handful, all_states, batch, begun, images, suited_digits, tiny, trainer

from zoo import from_pretrained
from zoo.cli.verbs.pictures import sample
from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.methods.variational.vlae import VLAE
from zoo.parts.distributions.gaussians import standard_gaussian
from zoo.publishing.checkpoints import checkpoints
from zoo.scores.evaluation import Evaluator

TINY = {
    "latent_dim": 3,
    "hidden_dims": (8,),
    "context_channels": 2,
    "channels": 4,
    "num_layers": 2,
    "num_pointwise": 1,
    "flow_steps": 2,
    "flow_dim": 8,
    "mean_only": False,
    "free_bits": 0.2,
    "soft_free_bits": True,
}

SHAPE = (1, 2, 3)


def small(scale: float = 0.7, **options) -> VLAE:
    """An instance whose weights, those of the flow too, are far from where they start."""
    torch.manual_seed(0)
    method = VLAE(SHAPE, **TINY | options)
    with torch.no_grad():
        for p in method.parameters():
            p.normal_(std=scale)
    return method


def pictures() -> torch.Tensor:
    return all_states(6).float().view(-1, *SHAPE)


@torch.no_grad()
def test_given_a_code_the_probabilities_of_all_images_sum_to_one():
    method = small()
    z = torch.randn(5, 1, 3)
    log_p = method.likelihood(z.expand(-1, 64, -1)).log_prob(pictures())
    assert log_p.shape == (5, 64)
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(5), atol=1e-5, rtol=0)


@torch.no_grad()
def test_pixels_are_drawn_with_the_probabilities_they_are_scored_with():
    """By frequency: each of 64 images, 40,000 draws."""
    method = small()
    p = method.likelihood(torch.randn(1, 3))
    x = p.sample(torch.Size((40_000,)))[:, 0]
    number = (x.flatten(1) * 2 ** torch.arange(6)).sum(1).long()
    found, wanted = number.bincount(minlength=64) / len(x), p.log_prob(pictures()).exp()
    assert ((found - wanted).abs() < 5 * (wanted / len(x)).sqrt() + 1e-4).all()


@pytest.mark.parametrize("flow", ["prior", "posterior"])
@torch.no_grad()
def test_many_draws_give_the_likelihood(flow):
    """The integral over two latents on a grid: a wrong sign of a log-determinant would show here."""
    method = small(0.3, latent_dim=2, flow=flow)
    method.posterior_head.linear.weight.mul_(0.1)
    method.posterior_head.linear.bias.copy_(torch.tensor([0.2, -0.3, 1.5, 1.5]))  # wider than the posterior
    x = pictures()[::13]
    z = torch.cartesian_prod(*2 * [torch.linspace(-10, 10, 201)])
    log_p = method.prior().log_prob(z)[:, None]
    log_x = method.likelihood(z[:, None].expand(-1, len(x), -1)).log_prob(x)
    exact = (log_p + log_x).logsumexp(0) + 2 * math.log(0.1)
    found = method.log_prob(x, 20_000)
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0)


@pytest.mark.parametrize("flow", ["prior", "posterior"])
def test_the_loss_is_the_bound_and_the_rate_is_counted_under_the_flow(flow):
    method = small(0.4, flow=flow, free_bits=0.0, soft_free_bits=False)
    data = batch(SHAPE, n=40)
    torch.manual_seed(1)
    terms = method.loss(data)
    torch.manual_seed(1)
    weights = method.weigh(data.x, 1)
    torch.testing.assert_close(terms["elbo"], weights.log_w[0])
    torch.testing.assert_close(terms["loss"].mean(), -weights.log_w.mean())
    assert float((terms["rate"] - _rate_without_flow(method, data.x, 1)).abs().max().detach()) > 0.1


def _rate_without_flow(method, x, seed):
    torch.manual_seed(seed)
    q = method.posterior_head(method.encoder(x.flatten(1)))
    z = q.rsample((1,))
    return (q.log_prob(z) - standard_gaussian(3, z.device).log_prob(z))[0]


def test_free_bits_hold_the_kl_of_all_latents_together_and_stay_out_of_the_bound():
    data = batch(n=30)
    for floor, held in ((0.0, False), (100.0, True)):
        method = tiny("VLAE", soft_free_bits=False, free_bits=floor)
        torch.manual_seed(2)
        terms = method.loss(data)
        expected = floor * 3 if held else terms["rate"].mean()
        torch.testing.assert_close((terms["loss"] - terms["distortion"]).mean(), torch.as_tensor(expected))
        torch.testing.assert_close(terms["elbo"], -(terms["rate"] + terms["distortion"]))
        terms["rate"].mean().backward(retain_graph=True)
        pull = method.posterior_head.linear.weight.grad.clone()
        method.zero_grad()
        (terms["loss"] - terms["distortion"]).mean().backward()
        gradient = method.posterior_head.linear.weight.grad
        assert gradient is not None
        torch.testing.assert_close(gradient, torch.zeros_like(pull) if held else pull)


def test_the_weight_of_the_kl_leads_it_to_the_free_bits():
    method = tiny("VLAE", free_bits=1.0)  # 3 nats
    seen = []
    for rate in (2.9, 2.9, 3.1, 3.2, 3.2, 3.2, 3.2):
        method.weigh_kl(torch.tensor(rate))
        seen.append(float(method.kl_weight))
    assert seen == pytest.approx([0.9, 0.81, 0.81, 0.891, 0.9801, 1.0, 1.0])
    for _ in range(200):
        method.weigh_kl(torch.tensor(0.0))
    assert float(method.kl_weight) == pytest.approx(1e-3)
    data = batch(n=5)
    torch.manual_seed(0)
    terms = method.loss(data)
    torch.testing.assert_close(terms["loss"], terms["distortion"] + 1e-3 * terms["rate"])


def test_the_weight_moves_with_training_and_not_with_validation():
    method = begun("VLAE", free_bits=10.0)
    trainer(limit_train_batches=5).fit(method, datamodule=suited_digits(method))
    assert float(method.kl_weight) == pytest.approx(0.9**5)
    hard = begun("VLAE", soft_free_bits=False)
    trainer(limit_train_batches=2).fit(hard, datamodule=suited_digits(hard))
    assert float(hard.kl_weight) == 1.0


@torch.no_grad()
def test_the_decoder_alone_sees_no_code():
    for conditional in (True, False):
        method = small(conditional=conditional, free_bits=0.0, soft_free_bits=False)
        one, two = (method.likelihood(z).log_prob(pictures()) for z in torch.randn(2, 64, 3))
        assert torch.equal(one, two) != conditional


def test_what_is_not_seen_costs_nothing_once_learnt():
    """The decoder alone learns pixels that repeat the one before; its code is empty and its bound exact."""
    torch.manual_seed(0)
    method = VLAE((1, 1, 4), **TINY | {"conditional": False, "free_bits": 0.0, "soft_free_bits": False})
    first = torch.arange(200) % 2
    x = first.float()[:, None, None, None].expand(-1, 1, 1, 4)
    data = batch((1, 1, 4), n=200)._replace(x=x)
    optimizer = torch.optim.Adam(method.parameters(), 0.03)
    for _ in range(120):
        optimizer.zero_grad()
        terms = method.loss(data)
        terms["loss"].mean().backward()
        optimizer.step()
    assert float(terms["distortion"].mean().detach()) == pytest.approx(math.log(2), abs=0.02)
    assert float(terms["rate"].mean().detach()) == pytest.approx(0, abs=0.05)


def test_a_walk_shows_rows_as_they_are_drawn():
    method = tiny("VLAE")
    states = list(method.walk(4, generator=torch.Generator().manual_seed(0)))
    assert len(states) == 8
    for row, (before, after) in enumerate(itertools.pairwise([torch.full((4, 1, 8, 8), 0.5), *states])):
        assert torch.equal(after[:, :, :row], before[:, :, :row])
        assert ((after[:, :, : row + 1] == 0) | (after[:, :, : row + 1] == 1)).all()
        assert (after[:, :, row + 1 :] == 0.5).all()


@torch.no_grad()
def test_samples_come_from_the_flow_of_the_prior():
    """Codes drawn from the prior have the moments that its density says, on a grid."""
    method = small(0.3, latent_dim=2)
    z = torch.cartesian_prod(*2 * [torch.linspace(-12, 12, 481)])
    p = method.prior().log_prob(z).exp() * 0.05**2
    assert float(p.sum()) == pytest.approx(1, abs=1e-3)
    mean = p @ z
    variance = p @ (z - mean).square()
    torch.testing.assert_close(method.prior_variance(0), variance, rtol=0.15, atol=0)
    drawn = method.prior().sample(torch.Size((4000,)))
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.15)


def test_pixels_start_at_the_mean_of_the_data_and_only_once():
    method, data = tiny("VLAE", (3, 8, 8)), Handful((3, 8, 8))
    method.start_from(data)
    torch.testing.assert_close(method.decoder.last.bias.sigmoid(), data.x.mean((0, 2, 3)))
    with torch.no_grad():
        method.decoder.last.bias.fill_(2.0)
    method.start_from(data)
    assert (method.decoder.last.bias == 2).all()


def test_a_reconstruction_is_drawn_and_does_not_move_the_random_stream():
    method, x = tiny("VLAE"), images(n=5)
    before = torch.get_rng_state()
    y = method.reconstruct(x)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(before, torch.get_rng_state())
    assert method.decode(torch.zeros(2, 5, 3)).shape == (2, 5, 1, 8, 8)


def test_memory_counts_the_widest_maps():
    assert tiny("VLAE").draw_size == 4 * 64
    assert tiny("VLAE", context_channels=9).draw_size == 9 * 64


@pytest.mark.parametrize("flow", ["prior", "posterior"])
def test_the_score_has_the_rate_the_code_s_worth_and_its_information(flow, tmp_path):
    method = tiny("VLAE", flow=flow)
    metrics = ["log_prob", "aggregate", "active_units", "code_use"]
    evaluator = Evaluator(num_samples=7, num_images=50, metrics=metrics, out=str(tmp_path / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=suited_digits(method), verbose=False)
    assert evaluator.results is not None
    assert not evaluator.results.skipped
    names = {"log_prob_lower", "rate", "mutual_information", "active_units", "code_use"}
    assert {f"test/{name}" for name in names} <= evaluator.results.numbers.keys()


def test_no_published_code_has_collapsed():
    """A decoder that does without its code is the silent failure: its KL falls to nothing."""
    for one in checkpoints().values():
        if one.results.method != "VLAE":
            continue
        numbers = {name: one.results.numbers[f"test/{name}"] for name in ("rate", "code_use")}
        if from_pretrained(one.folder).conditional:
            assert numbers["rate"].value > 1, one.folder
            assert numbers["code_use"].value - 3 * numbers["code_use"].error > 0, one.folder
        else:
            assert numbers["rate"].value < 0.1, one.folder
            assert numbers["code_use"].value == 0, one.folder


def test_a_film_of_a_draw(tmp_path):
    folder, film = save_pretrained(tiny("VLAE"), tmp_path / "model"), tmp_path / "film.gif"
    sample(str(folder), n=4, film=True, out=str(film))
    with Image.open(film) as frames:
        assert frames.n_frames == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"hidden_dims": (3, 0)}, r"hidden_dims must be positive, got \(3, 0\)"),
        ({"flow_steps": -1}, "flow_steps must not be negative, got -1"),
        ({"free_bits": -0.1}, "free_bits must not be negative, got -0.1"),
        ({"conditional": False}, "free_bits need conditional: true, got 0.2"),
        ({"free_bits": 0.0}, "soft_free_bits needs free_bits, got free_bits: 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        VLAE(SHAPE, **TINY | options)
