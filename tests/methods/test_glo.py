"""Facts of latent optimization: row numbers, the ball, sampling and encoding."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from support import Handful, begun, images, suited_digits, tiny, trainer
from torch import nn

import zoo
from zoo.contract.batch import Batch
from zoo.contract.saved import save_pretrained
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.autoencoders.glo import GLO, into_ball
from zoo.parts.distributions.mixture import GaussianMixture
from zoo.parts.estimators import psnr
from zoo.parts.optimizers import LazyAdam

TINY = {"latent_dim": 4, "channels": 8, "levels": 2, "encode_steps": 5}

SHAPE = (1, 8, 8)
PIXELS = 64


class Linear(nn.Module):
    """g(z) = Az + b."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, z):
        return nn.functional.linear(z, self.weight, self.bias).view(-1, *SHAPE)


def exact_glo(batch_size: int) -> GLO:
    """g(z) = z as it stays, and a step size with which one step of SGD reaches the image."""
    method = tiny(
        "GLO",
        latent_dim=PIXELS,
        start="random",
        laplacian_weight=0.0,
        optimizer="sgd",
        lr=1e-30,
        code_lr=PIXELS * batch_size / 2,
    )
    method.generator = Linear(torch.eye(PIXELS), torch.zeros(PIXELS))
    return method


def linear_glo(**options) -> GLO:
    method = tiny("GLO", laplacian_weight=0.0, **options)
    method.generator = Linear(torch.randn(PIXELS, 4) / 4, torch.full((PIXELS,), 0.5))
    return method


# The optimizer of the codes.


def test_a_row_that_is_not_looked_up_does_not_move():
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(10, 3))
    before = table.detach().clone()
    optimizer = LazyAdam([table], lr=0.1)
    for step in range(100):
        rows = torch.tensor([0, 1, 2] if step else [0, 1, 2, 7])
        nn.functional.embedding(rows, table, sparse=True).square().sum().backward()
        seven = table.detach()[7].clone() if step else None
        optimizer.step()
        if seven is not None:
            assert torch.equal(table.detach()[7], seven), "no momentum carries it on"
    still = [3, 4, 5, 6, 8, 9]
    assert torch.equal(table.detach()[still], before[still])
    assert (table.detach()[[0, 1, 2, 7]] != before[[0, 1, 2, 7]]).all()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_fit_moves_the_codes_of_the_images_it_saw(optimizer):
    method = tiny("GLO", optimizer=optimizer)
    data = suited_digits(method, batch_size=10)
    method.start_from(data)
    before, seen = method.codes.detach().clone(), []

    class Rows(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch.row)

    trainer(limit_train_batches=3, callbacks=[Rows()]).fit(method, datamodule=data)
    moved = (method.codes.detach() != before).any(1)
    assert torch.equal(moved.nonzero()[:, 0], torch.cat(seen).sort().values)


# Row numbers.


@pytest.mark.parametrize("subset", [None, 600])
def test_every_image_finds_its_own_code(subset):
    method = exact_glo(batch_size=35 if subset is None else 50)
    data = Digits(binarize="none", batch_size=35 if subset is None else 50, subset=subset)
    trainer(max_epochs=1).fit(method, datamodule=data)
    x = data.originals("train").flatten(1).float() / 255
    assert len(method.codes) == (subset or 1295)
    torch.testing.assert_close(method.codes.detach(), into_ball(x), rtol=0, atol=1e-5)


def test_every_image_finds_its_own_code_on_two_processes(two_processes):
    (line,) = two_processes("codes")
    errors = [float(word) for word in line.split()]
    assert len(errors) == 2
    assert max(errors) < 1e-5


# The ball.


def test_projection():
    z = torch.randn(50, 4)
    inside = into_ball(z)
    assert torch.equal(into_ball(inside), inside)
    assert (inside.norm(dim=1) <= 1 + 1e-6).all()
    small = z.norm(dim=1) <= 1
    assert small.any()
    assert torch.equal(inside[small], z[small])
    torch.testing.assert_close(inside[~small], z[~small] / z[~small].norm(dim=1, keepdim=True))


def test_codes_start_and_stay_in_the_ball():
    method = tiny("GLO", code_lr=5.0)
    data = suited_digits(method)
    method.start_from(data)
    assert (method.codes.norm(dim=1) <= 1 + 1e-6).all()
    trainer(limit_train_batches=3).fit(method, datamodule=data)
    norms = method.codes.detach().norm(dim=1)
    assert (norms <= 1 + 1e-6).all()
    assert (norms > 1 - 1e-6).sum() > 100, "steps as long as these end on the sphere"


def test_principal_components_are_whitened():
    method = tiny("GLO")
    data = suited_digits(method)
    method.start_from(data)
    inside = method.codes.detach()
    inside = inside[inside.norm(dim=1) < 1 - 1e-6]
    norms = method.codes.detach().norm(dim=1)
    assert 0.8 < float(norms.mean()) < 1
    scale = inside.std(0)
    assert float(scale.max() / scale.min()) < 1.5


def test_random_codes_have_the_norm_of_the_ball():
    method = tiny("GLO", latent_dim=50, start="random")
    method.start_from(suited_digits(method))
    norms = method.codes.detach().norm(dim=1)
    assert 0.9 < float(norms.mean()) <= 1


def test_peak_signal_to_noise_ratio():
    x = torch.rand(4, *SHAPE)
    torch.testing.assert_close(psnr(x, x + 0.1), torch.full((4,), 20.0), rtol=1e-4, atol=0)


# Sampling and encoding.


def test_the_fitted_gaussian_has_the_full_covariance_of_the_codes():
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    codes = 0.2 + torch.randn(20_000, 3) * torch.tensor([0.3, 0.1, 0.02]) @ rotation.T
    prior = GaussianMixture(1, 3)
    prior.fit(codes)
    torch.testing.assert_close(prior.means[0], codes.mean(0), rtol=0, atol=1e-5)
    covariance = prior.factors[0] @ prior.factors[0].T
    torch.testing.assert_close(covariance, codes.T.cov(correction=0), rtol=1e-3, atol=2e-6)
    drawn = prior.draw(40_000)
    variance = covariance.diag()
    error = ((variance[:, None] * variance + covariance.square()) / 40_000).sqrt()
    assert ((drawn.T.cov() - covariance).abs() < 4 * error).all()
    assert float(covariance[0, 1].abs()) > 20 * float(error[0, 1]), "a diagonal covariance would not pass"


def test_a_mixture_finds_clusters_and_draws_them_in_proportion():
    torch.manual_seed(0)
    centres = torch.tensor([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.6]])
    which = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(500)
    prior = GaussianMixture(3, 2)
    prior.fit(centres[which] + 0.03 * torch.randn(3000, 2))
    torch.testing.assert_close(prior.weights.sort().values, torch.tensor([1, 2, 3]) / 6, rtol=0, atol=1e-4)
    nearest = torch.cdist(prior.draw(6000), centres).argmin(1).bincount(minlength=3) / 6000
    torch.testing.assert_close(nearest, torch.tensor([3, 2, 1]) / 6, rtol=0, atol=0.03)


def test_samples_are_decoded_draws_from_the_ball():
    method = begun("GLO").eval()
    method.prior.means.fill_(3.0)
    drawn = method.sample(5, generator=torch.Generator().manual_seed(1))
    mean = torch.full((1, 4), 0.5)
    close = method.decode(mean).expand(5, -1, -1, -1)
    assert (drawn - close).abs().max() < 0.2, "draws far outside the ball land on the sphere"


def test_the_code_of_a_linear_generator_is_the_least_squares_solution():
    torch.manual_seed(0)
    method = linear_glo(encode_steps=600)
    z = into_ball(0.4 * torch.randn(6, 4))
    x = method.decode(z) + 0.05 * torch.randn(6, *SHAPE)
    a, b = method.generator.weight.detach(), method.generator.bias.detach()
    want = torch.linalg.lstsq(a, (x.flatten(1) - b).T).solution.T
    assert (want.norm(dim=1) < 1).all()
    torch.testing.assert_close(method.encode(x), want, rtol=0, atol=1e-3)


def test_the_code_of_a_distant_image_is_the_best_on_the_sphere():
    torch.manual_seed(0)
    method = linear_glo(encode_steps=600)
    a, b = method.generator.weight.detach().double(), method.generator.bias.detach().double()
    x = method.decode(3 * torch.randn(6, 4))
    residual = x.flatten(1).double() - b
    for i, z in enumerate(method.encode(x).double()):
        low, high = 0.0, 1e4
        for _ in range(200):  # the multiplier with which the ridge solution has norm 1
            middle = (low + high) / 2
            want = torch.linalg.solve(a.T @ a + middle * torch.eye(4).double(), a.T @ residual[i])
            low, high = (middle, high) if want.norm() > 1 else (low, middle)
        torch.testing.assert_close(z, want, rtol=0, atol=1e-3)


def test_encoding_improves_on_its_guess_and_leaves_the_weights_alone():
    method = tiny("GLO", encode_steps=50, lr=0.01)
    data = suited_digits(method)
    trainer(max_epochs=10).fit(method, datamodule=data)
    x = data.split("test").x[:50]
    guess = into_ball(nn.functional.linear(x.flatten(1), method.guess_weight, method.guess_bias))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    found = method.distance(method.reconstruct(x), x)
    assert float(found.mean()) < 0.9 * float(method.distance(method.decode(guess), x).mean())
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(p.grad is None for p in method.generator.parameters())


# Files and mistakes.


def test_a_checkpoint_keeps_the_codes_and_a_published_model_does_without(tmp_path):
    method = begun("GLO")
    assert "codes" in method.state_dict()
    save_pretrained(method, tmp_path / "glo")
    again = zoo.from_pretrained(tmp_path / "glo")
    assert again.codes is None
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(
        again.sample(3, generator=generator),
        method.eval().sample(3, generator=torch.Generator().manual_seed(0)),
    )
    x = images()
    assert torch.equal(again.encode(x), method.encode(x))
    with pytest.raises(UsageError, match="fit it with a datamodule"):
        again.loss(Batch(x, torch.zeros(6), torch.arange(6)))


def test_fewer_images_than_dimensions_leave_the_other_dimensions_at_zero():
    method = tiny("GLO", latent_dim=9)
    method.start_from(Handful(SHAPE))
    assert method.codes.shape == (6, 9)
    assert not method.codes.detach()[:, 6:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"num_components": 0}, "num_components must be at least 1, got 0"),
        ({"code_lr": 0.0}, "code_lr must be positive, got 0"),
        ({"laplacian_weight": -1.0}, "laplacian_weight must not be negative, got -1"),
        ({"laplacian_weight": 0.0, "squared_weight": 0.0}, "laplacian_weight or squared_weight must be pos"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        tiny("GLO", **options)


def test_odd_sides_are_refused():
    with pytest.raises(UsageError, match="even sides"):
        tiny("GLO", (1, 7, 7))


def test_the_scale_of_random_codes():
    assert math.isclose(float(GaussianMixture(1, 16).draw(4000).norm(dim=1).mean()), 1, abs_tol=0.03)
