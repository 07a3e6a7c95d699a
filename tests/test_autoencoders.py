"""Facts of the autoencoders: PCA's closed forms, its density, and EM; denoising, walkback, chains, phases."""

import copy
import itertools
import math

import pytest
import torch
from conftest import tiny
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn import decomposition
from test_contract import trainer
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from zoo import from_pretrained
from zoo.contract.batch import Batch
from zoo.contract.saved import save_pretrained
from zoo.data.modules import ImageData, Rows
from zoo.data.sets import MNIST, Digits
from zoo.errors import UsageError
from zoo.methods.autoencoders.dae import DAE
from zoo.methods.autoencoders.pca import FLOOR, PCA
from zoo.parts.corruption import GaussianNoise, Mask, SaltAndPepper, process
from zoo.parts.distributions.bits import bernoulli
from zoo.parts.estimators import bits_per_dim, csl
from zoo.parts.networks.dense import TwoWay
from zoo.parts.schedules import phase

SHAPE = (1, 2, 3)
SPECTRUM = torch.tensor([0.09, 0.05, 0.03, 0.002, 0.0015, 0.001], dtype=torch.float64).sqrt()


def correlated(n: int, seed: int = 0, shape=SHAPE) -> torch.Tensor:
    """Images with a known kind of covariance, float64 so that nothing is rounded on the way in."""
    stream = torch.Generator().manual_seed(seed)
    dim = math.prod(shape)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)).double()).Q
    scales = SPECTRUM.repeat_interleave(-(-dim // len(SPECTRUM)))[:dim]
    return (0.4 + torch.randn(n, dim, generator=stream).double() * scales @ axes.T).unflatten(1, shape)


@torch.no_grad()
def fitted(x, held_out=None, passes=1, **options) -> PCA:
    """A PCA that has seen images in uneven batches, without a trainer."""
    torch.manual_seed(1)
    method = PCA(image_shape=x.shape[1:], **options)
    for _ in range(passes):
        one_pass(method, x, held_out)
    return method


def one_pass(method, x, held_out=None) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        for statistic in method.statistics():
            statistic.zero_()
        for part in x.split(min(2000, max(1, len(x) * 2 // 5))):
            method.absorb(Batch(part, torch.zeros(len(part)), torch.arange(len(part))))
        if held_out is not None:
            absorbed = PCA(method.image_shape, latent_dim=1)
            absorbed.load_state_dict(absorbed.state_dict() | {"mean": method.mean})
            absorbed.absorb(Batch(held_out, torch.zeros(1), torch.zeros(1)))
            method.val_moments.copy_(absorbed.moments)
        return method.settle()


def covariance(method) -> torch.Tensor:
    """C = W W' + s^2 I of the published tensors."""
    weight, noise = method.weight.detach().double(), method.log_noise.detach().double().exp()
    return weight @ weight.T + noise * torch.eye(len(weight)).double()


def random_pca(shape=SHAPE, latent_dim=3) -> PCA:
    """Any W, not one whose columns are orthogonal."""
    torch.manual_seed(2)
    method = PCA(shape, latent_dim=latent_dim)
    with torch.no_grad():
        method.mean.uniform_()
        method.weight.normal_()
        method.log_noise.fill_(-3.0)
    return method


@pytest.mark.parametrize("make", [random_pca, lambda: fitted(correlated(400), latent_dim=2)])
def test_density_is_that_of_the_normal_with_the_full_covariance(make):
    method = make()
    x = correlated(50, seed=1)
    reference = MultivariateNormal(method.mean.double(), covariance(method)).log_prob(x.flatten(1))
    assert method.log_prob(x, 1).dtype == torch.float64
    assert (method.log_prob(x, 1) - reference).abs().max() < 1e-8


def test_density_keeps_its_digits_where_the_noise_is_small():
    method = random_pca()
    with torch.no_grad():
        method.log_noise.fill_(math.log(1e-6))
    x = correlated(50, seed=1)
    reference = MultivariateNormal(method.mean.double(), covariance(method)).log_prob(x.flatten(1))
    assert ((method.log_prob(x, 1) - reference) / reference).abs().max() < 1e-9


def test_solution_is_that_of_the_maximum_likelihood_covariance():
    x = correlated(300)
    method = fitted(x, latent_dim=2)
    d = x.flatten(1) - x.flatten(1).mean(0)
    values, vectors = torch.linalg.eigh(d.T @ d / len(d))
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[2:].mean()
    assert torch.allclose(method.mean.double(), x.flatten(1).mean(0), atol=1e-7)
    assert method.log_noise.exp().item() == pytest.approx(noise.item(), rel=1e-6)
    assert method.smallest_eigenvalue.item() == pytest.approx(values[-1].item(), rel=1e-6)
    weight = method.weight.detach().double()
    assert torch.allclose(weight.square().sum(0), values[:2] - noise, rtol=1e-5)
    assert torch.allclose(
        (weight / weight.norm(dim=0) * vectors[:, :2]).sum(0).abs(), torch.ones(2).double(), atol=1e-6
    )
    largest = weight.gather(0, weight.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_likelihood_is_that_of_scikit_learn_and_no_neighbour_is_likelier():
    x = correlated(300)
    method = fitted(x, latent_dim=2)
    best = method.log_prob(x, 1).mean().item()
    reference = decomposition.PCA(2, svd_solver="full").fit(x.flatten(1).numpy())  # divides by N - 1
    assert best == pytest.approx(reference.score(x.flatten(1).numpy()), abs=2e-3)
    for parameter in method.parameters():
        for step in (-0.02, 0.02):
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.add_(step * torch.randn_like(parameter))
            assert method.log_prob(x, 1).mean().item() < best
            with torch.no_grad():
                parameter.copy_(kept)


def test_batches_in_any_order_and_size_give_one_answer_far_from_the_origin():
    """White images with contrast 1e-4: the variances, 1e-9, keep seven digits."""
    x = 1 - 1e-4 * (correlated(300) - 0.4)
    method = fitted(x, latent_dim=2)
    d = x.flatten(1) - x.flatten(1).mean(0)
    values = torch.linalg.eigvalsh(d.T @ d / len(d)).flip(0)
    assert method.log_noise.double().exp().item() == pytest.approx(
        values.clamp(min=FLOOR)[2:].mean().item(), rel=1e-5
    )
    assert (method.weight.detach().double().square().sum(0) + method.log_noise.double().exp()).tolist()[
        0
    ] == pytest.approx(values[0].item(), rel=1e-5)
    again = fitted(x.flip(0), latent_dim=2)
    assert torch.allclose(method.weight, again.weight, atol=1e-8)


def test_a_second_fit_starts_afresh():
    x = correlated(200)
    method = fitted(correlated(200, seed=5), latent_dim=2)
    one_pass(method, x)
    fresh = fitted(x, latent_dim=2)
    for name, value in fresh.state_dict().items():
        assert torch.allclose(method.state_dict()[name], value, atol=1e-6), name


def test_codes_are_posterior_means():
    """Against conditioning the joint normal of (z, x) by hand."""
    method = random_pca()
    x = correlated(20)
    weight = method.weight.detach().double()
    gain = weight.T @ torch.linalg.inv(covariance(method))
    expected = (x.flatten(1) - method.mean.detach().double()) @ gain.T
    assert torch.allclose(method.encode(x).double(), expected, atol=1e-5)
    (means,) = method.posterior_means(x)
    assert torch.equal(means, method.encode(x))
    _, posterior = method._posterior(method._centred(x))
    assert torch.allclose(posterior, torch.eye(3).double() - gain @ weight, atol=1e-10)


@pytest.mark.parametrize("make", [random_pca, lambda: fitted(correlated(400), latent_dim=2)])
def test_reconstruction_is_the_orthogonal_projection(make):
    method = make()
    x = correlated(30, seed=3).float()
    weight = method.weight.detach().double()
    projection = weight @ torch.linalg.pinv(weight)
    expected = method.mean + (x.flatten(1) - method.mean).double() @ projection
    once = method.reconstruct(x)
    assert torch.allclose(once.flatten(1).double(), expected.detach(), atol=1e-5)
    assert torch.allclose(method.reconstruct(once), once, atol=1e-5)


def test_reconstruction_leaves_what_the_discarded_axes_hold():
    x = correlated(300)
    for units in (1, 2, 4):
        method = fitted(x, latent_dim=units)
        d = x.flatten(1) - x.flatten(1).mean(0)
        discarded = torch.linalg.eigvalsh(d.T @ d / len(d))[:-units].sum().item()
        error = (method.reconstruct(x) - x).square().flatten(1).sum(1).mean().item()
        assert error == pytest.approx(discarded, rel=1e-4)


def test_decoding_and_sampling_stay_in_the_pixel_range_and_follow_the_weights():
    method = random_pca()
    z = 3 * torch.randn(200, 3)
    linear = method.mean + z @ method.weight.T
    assert linear.min() < 0
    assert linear.max() > 1
    assert torch.allclose(method.decode(z).flatten(1), linear.clamp(0, 1), atol=1e-6)
    narrow = fitted(correlated(400) * 0.1 + 0.4, latent_dim=2)
    drawn = narrow.sample(100_000).flatten(1).double()
    weight = narrow.weight.detach().double()
    scale = weight.square().sum()
    assert (drawn.T.cov() - weight @ weight.T).norm() < 0.02 * scale


def test_pixel_samples_have_the_covariance_of_the_model():
    method = fitted(correlated(400), latent_dim=2)
    drawn = method.sample_pixels(200_000, generator=torch.Generator().manual_seed(4)).flatten(1).double()
    expected = covariance(method)
    assert (drawn.T.cov() - expected).norm() < 0.02 * expected.norm()
    noise = method.log_noise.exp().item()
    rest = torch.linalg.qr(torch.cat([method.weight.detach(), torch.randn(6, 4)], 1)).Q[:, 2:].double()
    assert (drawn @ rest).var(0).numpy() == pytest.approx([noise] * 4, rel=0.02)
    assert (drawn.mean(0) - method.mean).abs().max() < 5e-3
    again = method.sample_pixels(200_000, generator=torch.Generator().manual_seed(4))
    assert torch.equal(again.flatten(1).double(), drawn)


# The number of latents.


def test_validation_chooses_the_latents_whose_own_density_is_highest():
    x, held_out = correlated(60, shape=(1, 4, 3)), correlated(40, seed=7, shape=(1, 4, 3))
    densities = {}
    for units in range(1, 12):
        method = fitted(x, latent_dim=units)
        densities[units] = method.log_prob(held_out, 1).mean().item()
        logged = one_pass(fitted(x, latent_dim=units), x, held_out)
        assert logged["val/log_prob"].item() == pytest.approx(densities[units], abs=1e-4)
    best = max(densities, key=lambda units: densities[units])
    assert 1 < best < 11
    chosen = fitted(x, held_out, latent_dim=None)
    assert chosen.weight.any(0).tolist() == [True] * best + [False] * (11 - best)
    one = fitted(x, latent_dim=best)
    assert torch.allclose(chosen.log_prob(held_out, 1), one.log_prob(held_out, 1), atol=1e-5)
    assert torch.allclose(chosen.reconstruct(x), one.reconstruct(x), atol=1e-5)
    assert torch.allclose(chosen.encode(x)[:, :best], one.encode(x), atol=1e-5)
    assert not chosen.encode(x)[:, best:].any()


def test_chosen_latents_survive_a_round_trip(tmp_path):
    method = fitted(correlated(60), correlated(40, seed=7), latent_dim=None)
    method.hparams_initial["image_shape"] = SHAPE
    loaded = from_pretrained(save_pretrained(method, tmp_path / "model"))
    x = correlated(5)
    assert torch.equal(loaded.log_prob(x, 1), method.log_prob(x, 1))
    assert torch.equal(loaded.reconstruct(x), method.reconstruct(x))
    assert set(loaded.state_dict()) == {"mean", "weight", "log_noise", "smallest_eigenvalue"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1 and below the 6 pixels, got 0"),
        ({"latent_dim": 6}, "latent_dim must be at least 1 and below the 6 pixels, got 6"),
        ({"latent_dim": None, "solver": "em"}, "latent_dim: null needs solver: eigh, got solver: em"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        PCA(SHAPE, **options)


def test_choosing_asks_for_dithered_pixels_and_validation_images():
    method = PCA((1, 8, 8), latent_dim=None)
    with pytest.raises(UsageError, match="PCA needs deq pixels, the data are real"):
        method.refuse_unsuitable(Digits(binarize="none"))
    dithered = {"binarize": "none", "dequantize": True}
    with pytest.raises(UsageError, match=r"by validation: data\.num_validation must be at least 1, got 0"):
        method.refuse_unsuitable(Digits(num_validation=0, **dithered))
    with pytest.raises(UsageError, match="latent_dim: null needs validation batches, got none"):
        trainer(limit_val_batches=0).fit(method, datamodule=Digits(**dithered))
    with pytest.raises(UsageError, match="VAE chooses by validation: "):
        tiny("VAE").refuse_unsuitable(Digits(num_validation=0))


# Data without a density.


@pytest.mark.parametrize("options", [{}, {"solver": "em"}])
@pytest.mark.parametrize("damage", ["constant pixel", "few images"])
def test_a_density_that_would_have_no_bound_is_refused(options, damage):
    x = correlated(300 if damage == "constant pixel" else 5)
    if damage == "constant pixel":
        x[:, 0, 1, 1] = 1.0
    method = fitted(x, latent_dim=2, passes=3, **options)
    with pytest.raises(UsageError, match=r"smallest eigenvalue .* at least 1e-10 .*got .*data\.dequantize"):
        method.log_prob(x, 1)
    assert method.reconstruct(x).isfinite().all()
    assert method.encode(x).isfinite().all()
    assert method.sample(4).isfinite().all()
    assert method.sample_pixels(4).isfinite().all()


def test_linearly_dependent_pixels_are_refused_and_nearly_dependent_ones_are_not():
    x = correlated(300)
    x[:, 0, 0, 0] = x[:, 0, 1, 1] + x[:, 0, 1, 2]
    with pytest.raises(UsageError, match="smallest eigenvalue"):
        fitted(x, latent_dim=2).log_prob(x, 1)
    x[:, 0, 0, 0] += 1e-4 * torch.randn(300).double()
    assert fitted(x, latent_dim=2).log_prob(x, 1).isfinite().all()


def test_images_without_noise_have_no_nan():
    """More axes than the images need: zero columns, noise at its floor."""
    x = correlated(300)
    x[:, 0, 0] = 0.25
    method = fitted(x, latent_dim=5)
    assert all(value.isfinite().all() for value in method.state_dict().values())
    assert torch.allclose(method.reconstruct(x), x.float(), atol=1e-6)
    assert method.log_noise.exp().item() == pytest.approx(FLOOR, rel=1e-4)


# EM.


def test_em_never_loses_likelihood_and_reaches_the_closed_form():
    x = correlated(300)
    exact = fitted(x, latent_dim=3)
    method = fitted(x, latent_dim=3, solver="em", passes=0)
    likelihoods = [method.log_prob(x, 1).mean().item()]
    for _ in range(1000):
        assert not one_pass(method, x)
        likelihoods.append(method.log_prob(x, 1).mean().item())
    steps = torch.tensor(likelihoods).double().diff()
    assert steps[0] > 1
    assert steps.min() > -1e-5
    assert torch.allclose(method.mean, exact.mean, atol=1e-6)
    assert torch.allclose(covariance(method), covariance(exact), atol=1e-6)
    assert likelihoods[-1] == pytest.approx(exact.log_prob(x, 1).mean().item(), abs=1e-5)
    y = correlated(50, seed=3)
    assert torch.allclose(method.reconstruct(y), exact.reconstruct(y), atol=1e-4)
    rotation = torch.linalg.lstsq(exact.weight, method.weight).solution
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-3)


def test_one_em_step_is_the_two_linear_solves_of_the_paper():
    """W~ = S W (s^2 I + M^-1 W' S W)^-1 and s~^2 = tr(S - S W M^-1 W~') / D, S about the mean."""
    x = correlated(200)
    method = fitted(x, latent_dim=2, solver="em", passes=0)
    old, noise = method.weight.detach().double().clone(), method.log_noise.detach().double().exp()
    one_pass(method, x)
    d = x.flatten(1) - x.flatten(1).mean(0)
    scatter = d.T @ d / len(d)
    inverse = torch.linalg.inv(old.T @ old + noise * torch.eye(2).double())
    weight = scatter @ old @ torch.linalg.inv(noise * torch.eye(2).double() + inverse @ old.T @ scatter @ old)
    variance = (scatter - scatter @ old @ inverse @ weight.T).trace() / len(scatter)
    assert torch.allclose(method.weight.double(), weight, atol=1e-6)
    assert method.log_noise.exp().item() == pytest.approx(variance.item(), rel=1e-5)
    assert torch.allclose(method.mean.double(), x.flatten(1).mean(0), atol=1e-7)


def test_em_keeps_no_matrix_of_pixels_by_pixels():
    method = PCA((1, 16, 16), latent_dim=3, solver="em")
    assert max(tensor.numel() for tensor in [*method.buffers(), *method.parameters()]) == 256 * 4


# Through the trainer.


class Fixed(ImageData):
    """Digits, dithered once and for all: what every pass sees is the same."""

    def __init__(self, **options) -> None:
        super().__init__(binarize="none", dequantize=True, **options)

    @property
    def source(self):
        return Digits().source

    def setup(self, stage=None):
        super().setup(stage)
        kept = self._splits["train"]
        if kept.x.dtype == torch.uint8:
            noise = torch.rand(kept.x.shape, generator=torch.Generator().manual_seed(0))
            self._splits["train"] = kept._replace(x=(kept.x + noise) / 256)


class Likelihoods(Callback):
    """Mean density of the training images after every epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer, pl_module):
        x = trainer.datamodule.split("train").x
        with torch.no_grad():
            self.values.append(pl_module.log_prob(x, 1).mean().item())


def test_a_fit_takes_one_pass_keeps_a_checkpoint_and_logs_the_density_of_validation_images(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    method, data = PCA((1, 8, 8), latent_dim=8), Fixed()
    fitting = trainer(max_epochs=7, enable_checkpointing=True, callbacks=[keep])
    fitting.fit(method, datamodule=data)
    assert fitting.current_epoch == 1
    x, held_out = data.split("train").x, data.split("val").x
    direct = fitted(x, latent_dim=8)
    for name, value in direct.state_dict().items():
        assert torch.allclose(method.state_dict()[name], value, atol=1e-6), name
    logged = float(fitting.callback_metrics["val/log_prob"])
    assert logged == pytest.approx(method.log_prob(held_out, 1).mean().item(), abs=1e-3)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in method.state_dict().items())
    validated = trainer().validate(method, datamodule=data, verbose=False)
    assert validated[0]["val/log_prob"] == pytest.approx(logged, abs=1e-3)


def test_a_fit_chooses_the_number_of_latents():
    method, data = PCA((1, 8, 8), latent_dim=None), Fixed()
    trainer().fit(method, datamodule=data)
    best = int(method.weight.any(0).sum())
    x, held_out = data.split("train").x, data.split("val").x
    densities = [
        fitted(x, latent_dim=units).log_prob(held_out, 1).mean().item()
        for units in (best - 1, best, best + 1)
    ]
    assert max(densities) == densities[1]


def test_neither_test_nor_validation_images_move_the_solution(monkeypatch):
    states = []
    for noise in (0.0, 0.3):
        method, data = PCA((1, 8, 8), latent_dim=8), Fixed()
        data.setup()
        for split in ("val", "test"):
            kept = data._splits[split]
            data._splits[split] = kept._replace(x=(kept.x + noise * torch.rand(kept.x.shape)).clamp(0, 1))
        torch.manual_seed(0)
        trainer().fit(method, datamodule=data)
        states.append(method.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_a_fit_without_validation_images_uses_them_all():
    method, data = PCA((1, 8, 8), latent_dim=8), Digits(binarize="none", num_validation=0)
    fitting = trainer()
    fitting.fit(method, datamodule=data)
    assert int(method.moments[-1, -1]) == 1438
    assert torch.allclose(method.mean, data.split("train").x.mean(0).flatten(), atol=1e-6)
    assert "val/log_prob" not in fitting.callback_metrics
    with pytest.raises(UsageError, match="smallest eigenvalue"):
        method.log_prob(data.split("test").x, 1)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_em_through_the_trainer_climbs_and_resumes_exactly(tmp_path):
    def fit(epochs, folder, ckpt_path=None):
        keep = ModelCheckpoint(tmp_path / folder, filename="last", save_on_train_epoch_end=True)
        seen = Likelihoods()
        method = PCA((1, 8, 8), latent_dim=3, solver="em")
        fitting = trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[keep, seen])
        fitting.fit(method, datamodule=Fixed(batch_size=500), ckpt_path=ckpt_path)
        assert fitting.current_epoch == epochs
        assert "val/log_prob" in fitting.callback_metrics
        return method, seen.values, tmp_path / folder / "last.ckpt"

    torch.manual_seed(0)
    straight, likelihoods, _ = fit(12, "straight")
    assert torch.tensor(likelihoods).double().diff().min() > -1e-4
    assert likelihoods[-1] > likelihoods[0] + 0.5
    torch.manual_seed(0)
    _, _, half = fit(5, "resumed")
    resumed, _, _ = fit(12, "resumed", half)
    assert all(torch.equal(resumed.state_dict()[name], v) for name, v in straight.state_dict().items())


@pytest.mark.data
def test_the_published_squared_errors_of_mnist():
    """Fitted on 60,000 grey images; 13.87 at 30 is the number in the literature."""
    data = MNIST(binarize="none", num_validation=0)
    x, test = data.split("train").x, data.split("test").x
    whole = fitted(x, latent_dim=200)
    del x
    for units, expected in {2: 43.65, 6: 32.65, 10: 26.71, 30: 13.87, 50: 9.00, 100: 4.40, 200: 1.75}.items():
        method = PCA(latent_dim=units)
        with torch.no_grad():
            method.mean.copy_(whole.mean)
            method.weight.copy_(whole.weight[:, :units])
        error = (method.reconstruct(test) - test).square().flatten(1).sum(1).double().mean().item()
        assert error == pytest.approx(expected, abs=0.02 if units == 30 else 0.006), units
    with pytest.raises(UsageError, match="smallest eigenvalue"):
        whole.log_prob(test, 1)


@pytest.mark.data
def test_the_densities_of_dithered_mnist():
    """Fitted on 50,000 images; the climb is that of border pixels which hold nothing but dither."""
    data = MNIST(binarize="none", dequantize=True)
    data.setup()
    method = PCA(latent_dim=None)
    with torch.no_grad():
        for rows in torch.arange(50_000).split(2000):
            method.absorb(data.batch(Rows("train", rows)))
    expected = {10: 189, 30: 398, 50: 521, 100: 692, 200: 847, 400: 1085, 700: 1471}
    moments = PCA(latent_dim=1)
    with torch.no_grad():
        moments.absorb(data.split("test"))
        method.val_moments.copy_(moments.moments)
        for units, nats in expected.items():
            one = PCA(latent_dim=units)
            one.moments, one.val_moments = method.moments, method.val_moments
            assert one.settle()["val/log_prob"].item() == pytest.approx(nats, abs=1.0), units
            if units == 50:
                direct = one.log_prob(data.split("test").x, 1).mean().item()
                assert direct == pytest.approx(nats, abs=1.0)
    assert bits_per_dim(-1471.0, 784, bytes_scaled=True) == pytest.approx(5.29, abs=0.005)


# Denoising autoencoders.


def labelled(x) -> Batch:
    return Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))


def bits(n: int, shape=SHAPE, seed: int = 3) -> torch.Tensor:
    return torch.randint(2, (n, *shape), generator=torch.Generator().manual_seed(seed)).float()


def small_dae(shape=SHAPE, **options) -> DAE:
    """Without pretraining, with biases that are not zero."""
    torch.manual_seed(0)
    method = DAE(shape, **{"hidden_dims": (5,), "num_starts": 4, "walk_steps": 6, "emit_steps": 4} | options)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return method


def identity(method: DAE, logit: float = 30.0) -> DAE:
    """The network that gives back what it sees."""
    method.denoised = lambda x: bernoulli(logit * (2 * x - 1))
    return method


def test_salt_and_pepper_flips_half_of_the_pixels_it_hits():
    zeros, grey = torch.zeros(400_000), torch.full((400_000,), 0.3)
    noisy = SaltAndPepper(0.4)
    assert noisy(zeros).mean().item() == pytest.approx(0.2, abs=0.005)
    assert noisy(1 - zeros).mean().item() == pytest.approx(0.8, abs=0.005)
    values, counts = noisy(grey).unique(return_counts=True)
    assert torch.equal(values, torch.tensor([0.0, 0.3, 1.0]))
    assert torch.allclose(counts / 400_000, torch.tensor([0.2, 0.6, 0.2]), atol=0.005)


def test_masking_and_gaussian_corruption_and_their_chain():
    ones = torch.ones(400_000)
    masked = Mask(0.4)(ones)
    assert set(masked.tolist()) == {0.0, 1.0}
    assert masked.mean().item() == pytest.approx(0.6, abs=0.005)
    noise = GaussianNoise(0.5)(ones) - 1
    assert noise.mean().item() == pytest.approx(0, abs=0.005)
    assert noise.std().item() == pytest.approx(0.5, abs=0.005)
    both = nn.Sequential(Mask(0.4), GaussianNoise(0.5))(ones)
    assert both.var().item() == pytest.approx(0.24 + 0.25, abs=0.01)
    for kind in ("mask", "salt_pepper", "gaussian"):
        assert torch.equal(process(kind, 0.0)(ones), ones)
        with pytest.raises(UsageError, match=r"corruption must .*, got -0\.1"):
            process(kind, -0.1)
    for kind in ("mask", "salt_pepper"):
        with pytest.raises(UsageError, match=r"a probability, 0 to 1, got 1\.1"):
            process(kind, 1.1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_network_of_two_layers_by_hand(tied):
    method = small_dae(hidden_dims=(5, 3), tied=tied)
    x = bits(7)
    one, two = method.layers
    h = torch.sigmoid(x.flatten(1) @ one.weight.T + one.hidden_bias)
    code = torch.sigmoid(h @ two.weight.T + two.hidden_bias)
    down = [layer.weight if layer.weight_down is None else layer.weight_down.T for layer in (one, two)]
    logits = torch.sigmoid(code @ down[1] + two.visible_bias) @ down[0] + one.visible_bias
    assert torch.allclose(method.encode(x), code, atol=1e-6)
    assert torch.allclose(method.decode(code).flatten(1), logits.sigmoid(), atol=1e-6)
    assert torch.allclose(method.reconstruct(x).flatten(1), logits.sigmoid(), atol=1e-6)
    assert torch.allclose(method.denoised(x).base_dist.logits.flatten(1), logits, atol=1e-5)


@pytest.mark.parametrize(("activation", "code"), [("tanh", -1.0), ("relu", 0.0), ("logistic", 0.0)])
def test_activations_of_driven_units(activation, code):
    method = small_dae(activation=activation)
    with torch.no_grad():
        method.layers[0].hidden_bias.fill_(-50.0)
    assert torch.allclose(method.encode(bits(3)), torch.full((3, 5), code), atol=1e-6)


def test_the_loss_is_the_cross_entropy_of_the_clean_image_summed_over_pixels_and_steps():
    x = bits(7)
    method = small_dae(level=0.0, walkback_steps=1)
    p = method.reconstruct(x)
    by_hand = -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
    terms = method.loss(labelled(x))
    assert torch.allclose(terms["loss"], by_hand, atol=1e-5)
    assert torch.equal(terms["loss"], terms["distortion"])
    method = identity(small_dae(level=0.0, walkback_steps=4), logit=2.0)
    of_ones, x = -6 * torch.tensor(2.0).sigmoid().log(), torch.ones(2000, *SHAPE)
    terms = method.loss(labelled(x))
    assert torch.allclose(terms["distortion"], of_ones.expand(2000))
    # A bit survives a step with probability s = sigmoid(2); a wrong one costs 2 nats more in the next.
    s, wrong = torch.tensor(2.0).sigmoid().item(), [0.0]
    for _ in range(3):
        wrong.append(wrong[-1] * s + (1 - wrong[-1]) * (1 - s))
    expected = sum(of_ones.item() + 6 * 2 * share for share in wrong)
    assert terms["loss"].mean().item() == pytest.approx(expected, rel=0.01)


def test_the_loss_of_the_identity_is_not_zero():
    """It is that of the flipped pixels; were the target the corrupted image, it would vanish."""
    method = identity(small_dae(level=0.4, walkback_steps=1), logit=3.0)
    loss = method.loss(labelled(bits(20_000)))["loss"].mean().item()
    right, wrong = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    assert loss == pytest.approx(6 * (0.8 * right + 0.2 * wrong), rel=0.02)


def test_grey_pixels_have_a_gaussian_likelihood():
    x = torch.rand(7, *SHAPE)
    method = small_dae(likelihood="gaussian", sigma=0.2, corruption="gaussian", level=0.0, walkback_steps=1)
    assert method.accepts == ("real", "deq")
    squares = (x - method.reconstruct(x)).square().flatten(1).sum(1)
    expected = squares / (2 * 0.2**2) + 3 * math.log(2 * math.pi * 0.2**2)
    assert torch.allclose(method.loss(labelled(x))["loss"], expected, atol=1e-4)
    p = next(method.emit(1000))
    assert (p.sample() - p.mean).std().item() == pytest.approx(0.2, abs=0.01)
    assert small_dae().accepts == ("binary",)


def test_every_step_of_walkback_aims_at_the_clean_image_and_no_gradient_passes_a_draw(monkeypatch):
    """The gradient at the logits of step t is sigma(a_t) - x, so it depends on the clean image only."""
    method, x, seen, inputs = small_dae(walkback_steps=3), bits(50), [], []
    straight = TwoWay.down

    def down(layer, h):
        seen.append(straight(layer, h))
        seen[-1].retain_grad()
        return seen[-1]

    monkeypatch.setattr(TwoWay, "down", down)
    corrupt = method.corrupt.forward
    method.corrupt.forward = lambda state: (inputs.append(state), corrupt(state))[1]
    method.loss(labelled(x))["loss"].sum().backward()
    assert len(seen) == len(inputs) == 3
    for a in seen:
        assert torch.allclose(a.grad, a.sigmoid() - x.flatten(1), atol=1e-6)
    assert torch.equal(inputs[0], x)
    assert not any(state.requires_grad for state in inputs)
    for a, state in zip(seen, inputs[1:], strict=False):  # drawn, neither rounded nor left as a mean
        assert set(state.unique().tolist()) == {0.0, 1.0}
        assert not torch.equal(state.flatten(1), (a > 0).float())
        assert (state.flatten(1) - a.sigmoid()).mean().abs() < 0.15
        assert not torch.equal(state, x)


def test_walkback_draws_follow_the_logits():
    method, inputs = small_dae(walkback_steps=2), []
    forward = method.corrupt.forward
    method.corrupt.forward = lambda state: (inputs.append(state), forward(state))[1]
    method.denoised = lambda x: bernoulli(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]).view(SHAPE) + 0 * x)
    method.loss(labelled(bits(50_000)))
    assert torch.allclose(
        inputs[1].mean(0).flatten(), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]).sigmoid(), atol=0.01
    )


def test_draws_of_bits_have_their_probabilities():
    p = bernoulli(torch.tensor([-1.0, 0.0, 2.0]).expand(4, 3), 1)
    draws = p.sample((50_000,))
    assert draws.shape == (50_000, 4, 3)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(draws.mean((0, 1)), torch.tensor([-1.0, 0.0, 2.0]).sigmoid(), atol=0.005)
    assert torch.allclose(p.log_prob(draws), Independent(Bernoulli(p.mean), 1).log_prob(draws), atol=1e-5)


def test_tied_weights_stay_tied_through_copies_training_and_files(tmp_path):
    method = small_dae(hidden_dims=(5, 3))
    assert len(list(method.parameters())) == 6
    assert len(list(small_dae(hidden_dims=(5, 3), tied=False).parameters())) == 8
    save_pretrained(method, tmp_path / "model")
    for copied in (copy.deepcopy(method), from_pretrained(tmp_path / "model")):
        optimizer = torch.optim.SGD(copied.parameters(), 0.1)
        copied.loss(labelled(bits(9)))["loss"].mean().backward()
        optimizer.step()
        for layer, before in zip(copied.layers, method.layers, strict=True):
            width = layer.weight.shape[0]
            down = layer.down(torch.eye(width)) - layer.visible_bias
            assert torch.allclose(down, layer.weight, atol=1e-6)
            assert not torch.equal(layer.weight, before.weight)


def test_the_tied_weight_learns_from_both_ways():
    """Its gradient is the sum of those of two free matrices with the same values."""
    tied, free = small_dae(level=0.0, walkback_steps=1), small_dae(level=0.0, walkback_steps=1, tied=False)
    state = dict(tied.state_dict())
    free.load_state_dict(state | {"layers.0.weight_down": state["layers.0.weight"].T})
    for method in (tied, free):
        method.loss(labelled(bits(9)))["loss"].sum().backward()
    expected = free.layers[0].weight.grad + free.layers[0].weight_down.grad.T
    assert free.layers[0].weight_down.grad.abs().max() > 0.1
    assert torch.allclose(tied.layers[0].weight.grad, expected, atol=1e-5)


def test_weights_start_in_the_range_of_the_paper():
    layer = TwoWay(784, 2000)
    assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 2784), rel=1e-3)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 2784), rel=0.01)
    assert not layer.hidden_bias.any()
    assert not layer.visible_bias.any()


def test_the_defaults_are_those_of_the_released_code():
    method = DAE()
    assert (method.walkback_steps, method.corrupt.level, method.layers[0].weight.shape[0]) == (5, 0.4, 2000)
    assert isinstance(method.corrupt, SaltAndPepper)
    assert method.activation is torch.sigmoid
    assert method.lr * 784 == pytest.approx(10)  # on the mean over pixels there, on their sum here
    fitting = trainer(limit_train_batches=1)
    method = small_dae((1, 8, 8), lr=0.1)
    before = copy.deepcopy(method)
    fitting.fit(method, datamodule=Digits(binarize="threshold"))
    assert isinstance(fitting.optimizers[0], torch.optim.SGD)
    assert fitting.optimizers[0].param_groups[0]["momentum"] == 0
    assert not torch.equal(before.layers[0].weight, method.layers[0].weight)


def test_the_chain_is_stuck_without_corruption_and_moves_with_it():
    starts = bits(4)
    for level, moves in ((0.0, False), (0.4, True)):
        method = identity(small_dae(level=level))
        method.starts.copy_(starts)
        distance = (method.sample(50).unsqueeze(1) - starts).abs().flatten(2).sum(2).amin(1)
        assert bool(distance.max() > 0.5) == moves
        for p in method.emit(5):
            assert not p.mean.requires_grad


def test_reconstruction_is_not_corrupted_in_either_mode():
    method = small_dae(level=1.0)
    x = bits(7)
    expected = method.denoised(x).mean
    for mode in (True, False):
        assert torch.equal(method.train(mode).reconstruct(x), expected)


def test_emissions_go_on_where_the_walk_ends():
    method = small_dae()
    longer = copy.deepcopy(method)
    longer.walk_steps = 10
    walk = list(longer.walk(3, generator=torch.Generator().manual_seed(1)))
    emitted = [p.mean for p in method.emit(3, generator=torch.Generator().manual_seed(1))]
    assert len(list(method.walk(3))) == 6
    assert torch.equal(torch.stack(emitted), torch.stack(walk[6:]))


def test_chains_start_in_images_of_the_first_batch_and_the_file_keeps_them(tmp_path):
    data = Digits(binarize="threshold", batch_size=50)
    method = tiny("DAE", num_starts=120, pretrain_epochs=0)
    trainer(max_epochs=2, limit_train_batches=2).fit(method, datamodule=data)
    starts = method.starts
    assert torch.equal(starts[:50], starts[50:100])
    assert torch.equal(starts[:20], starts[100:])
    seen = data.split("train").x.flatten(1)
    assert (torch.cdist(starts[:50].flatten(1), seen).amin(1) == 0).all()
    assert len(starts[:50].flatten(1).unique(dim=0)) > 45
    before = starts.clone()
    method.on_train_batch_start(labelled(bits(9, (1, 8, 8))), 0)
    assert torch.equal(method.starts, before)
    save_pretrained(method, tmp_path / "model")
    loaded = identity(from_pretrained(tmp_path / "model"))
    loaded.corrupt.level = 0.0
    assert (torch.cdist(loaded.sample(20).flatten(1), before.flatten(1)).amin(1) < 1e-6).all()


def test_chains_start_in_random_bits_where_no_image_is_kept():
    method = identity(small_dae(num_starts=0, level=0.0))
    first = method.sample(4000)
    assert first.round().mean((0, 1)).flatten().tolist() == pytest.approx([0.5] * 6, abs=0.04)
    assert len(first.round().flatten(1).unique(dim=0)) == 64


def test_the_chain_of_a_table_samples_the_distribution_it_was_trained_on():
    """Six pixels, a free logit for each of 64 corrupted images: consistent up to p(x|x~) that factorises."""
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).view(64, *SHAPE)
    place = 2 ** torch.arange(5, -1, -1)

    def index(x):
        return (x.flatten(1).long() * place).sum(1)

    stream = torch.Generator().manual_seed(0)
    data = (0.3 * torch.randn(64, generator=stream)).softmax(0)
    level = 0.04
    method = small_dae(level=level, walkback_steps=1, num_starts=0, walk_steps=200, emit_steps=20)
    table = nn.Parameter(torch.zeros(64, 6))
    method.denoised = lambda x: bernoulli(table[index(x)].view(-1, *SHAPE))
    optimizer = torch.optim.Adam([table], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    x = states.repeat_interleave((20_000 * data).round().long(), 0)
    for _ in range(500):
        optimizer.zero_grad()
        method.loss(labelled(x))["loss"].mean().backward()
        optimizer.step()
        schedule.step()

    flips = (states.unsqueeze(1) != states).flatten(2).sum(2).double()
    corrupted = (level / 2) ** flips * (1 - level / 2) ** (6 - flips)
    with torch.no_grad():
        back = method.denoised(states).log_prob(states.unsqueeze(1)).double().exp().T
    stationary = torch.linalg.matrix_power(corrupted @ back, 10_000)[0]
    assert (stationary - data).abs().sum().item() / 2 < 0.03
    visits = torch.zeros(64)
    for p in method.emit(10_000):
        visits += index(p.sample()).bincount(minlength=64)
    seen = visits / visits.sum()
    assert (seen - stationary).abs().sum().item() / 2 < 0.02
    assert (seen - data).abs().sum().item() / 2 < 0.03
    assert (torch.full((64,), 1 / 64) - data).abs().sum().item() / 2 > 0.1

    found = csl(method.emit(2000), states)
    gap = (data * (data.log() - found.log_prob)).sum().item()
    assert -0.005 < gap < 0.02


def test_repairs_find_the_other_half_of_what_was_learnt():
    """Two complementary images: a half of one tells which it is, whatever stands in the other half."""
    a = torch.zeros(1, 1, 4, 4)
    a[..., ::2] = 1
    x = torch.cat([a, 1 - a]).repeat(50, 1, 1, 1)
    torch.manual_seed(0)
    method = DAE((1, 4, 4), hidden_dims=(20,), level=0.2, walkback_steps=2, walk_steps=20)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        method.loss(labelled(x))["loss"].mean().backward()
        optimizer.step()
    mask = torch.zeros_like(x)
    mask[..., :2] = 1
    repaired = method.repair(torch.where(mask == 1, x, 1 - x), mask)
    assert (repaired - x).abs().max() < 0.05
    away = method.repair(x, torch.zeros_like(x))
    assert len(away.round().flatten(1).unique(dim=0)) == 2


def test_phases_follow_one_another():
    assert [phase(epoch, (2, 1, 0, 3)) for epoch in range(8)] == [0, 0, 1, 3, 3, 3, 4, 4]
    assert phase(0, ()) == phase(0, (5,)) == 0
    assert phase(0, (0, 0)) == 2


def test_each_epoch_of_pretraining_moves_one_layer_and_then_all_move():
    moved: list[set[str]] = []

    class Compare(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

        def on_train_epoch_end(self, trainer, pl_module):
            parameters = pl_module.named_parameters()
            moved.append({name for name, p in parameters if not torch.equal(p, self.before[name])})

    method = tiny("DAE", hidden_dims=(16, 8, 4), pretrain_epochs=2, optimizer="adam", lr=1e-3)
    data = Digits(binarize="threshold")
    trainer(max_epochs=8, limit_train_batches=3, callbacks=[Compare()]).fit(method, datamodule=data)
    names = [name for name, _ in method.named_parameters()]
    of_layer = [{name for name in names if name.startswith(f"layers.{i}.")} for i in range(3)]
    assert moved == [part for part in of_layer for _ in range(2)] + [set(names)] * 2


def test_a_hidden_layer_learns_to_denoise_the_clean_activations_below_it(monkeypatch):
    method = small_dae(hidden_dims=(5, 3), pretrain_epochs=1, level=0.0)
    x = bits(7)
    for epoch in (0, 1):
        monkeypatch.setattr(LightningModule, "current_epoch", epoch)
        h = method.hidden(x, epoch)
        assert torch.equal(h, x.flatten(1)) == (epoch == 0)
        layer = method.layers[epoch]
        p = layer.down(torch.sigmoid(layer.up(h))).sigmoid()
        expected = -(h * p.log() + (1 - h) * (1 - p).log()).sum(1)
        assert torch.allclose(method.loss(labelled(x))["loss"], expected, atol=1e-5)
    monkeypatch.setattr(LightningModule, "current_epoch", 1)
    method.corrupt.level = 1.0  # now the layer sees coins only, and its target stays
    torch.manual_seed(5)
    one = method.loss(labelled(x))["loss"]
    torch.manual_seed(5)
    h = method.hidden(x, 1)
    logits = method.layers[1].down(torch.sigmoid(method.layers[1].up(SaltAndPepper(1.0)(h))))
    assert torch.allclose(one, -(h * logits - nn.functional.softplus(logits)).sum(1), atol=1e-5)


def test_pretraining_of_grey_images_keeps_their_likelihood(monkeypatch):
    monkeypatch.setattr(LightningModule, "current_epoch", 0)
    method = small_dae(likelihood="gaussian", sigma=0.2, pretrain_epochs=1, level=0.0, hidden_dims=(5, 3))
    x = torch.rand(7, *SHAPE)
    layer = method.layers[0]
    mean = layer.down(torch.sigmoid(layer.up(x.flatten(1)))).sigmoid()
    expected = -Normal(mean, 0.2).log_prob(x.flatten(1)).sum(1)
    assert torch.allclose(method.loss(labelled(x))["loss"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": ()}, r"hidden_dims must be positive, got \(\)"),
        ({"hidden_dims": (5, 0)}, r"hidden_dims must be positive, got \(5, 0\)"),
        ({"walkback_steps": 0}, "walkback_steps must be at least 1, got 0"),
        ({"walk_steps": 0}, "walk_steps must be at least 1, got 0"),
        ({"emit_steps": 0}, "emit_steps must be at least 1, got 0"),
        ({"pretrain_epochs": -1}, "pretrain_epochs must not be negative, got -1"),
        ({"num_starts": -1}, "num_starts must not be negative, got -1"),
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"lr_final": 0.0}, "lr_final must be positive, got 0.0"),
        ({"level": 1.5}, "a probability, 0 to 1, got 1.5"),
        (
            {"hidden_dims": (5, 3), "activation": "tanh", "pretrain_epochs": 1},
            "pretrain_epochs of several layers needs activation: logistic, got tanh",
        ),
    ],
)
def test_impossible_settings_of_the_dae_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DAE(SHAPE, **options)


def test_no_images_are_not_asked_for():
    with pytest.raises(UsageError, match="n must be at least 1, got 0"):
        small_dae().sample(0)


@pytest.mark.slow
def test_states_of_the_chain_explain_unseen_digits():
    """Better than independent pixels do, by states that are too few for a tight bound: 1,500."""
    data = Digits(batch_size=50)
    torch.manual_seed(0)
    method = DAE((1, 8, 8), hidden_dims=(64, 64), level=0.15, walkback_steps=2, walk_steps=60, emit_steps=15)
    method.optimizer_name, method.lr = "adam", 3e-3
    x = data.split("test").x
    before = csl(method.emit(100), x).log_prob.mean().item()
    trainer(max_epochs=25).fit(method, datamodule=data)
    after = csl(method.emit(100), x).log_prob.mean().item()
    independent = Independent(Bernoulli(data.mean_image().clamp(1e-3, 0.999)), 3)
    baseline = independent.log_prob(x).mean().item()
    assert before < baseline
    assert after > baseline + 1
