"""Small and exact variational models that several files check."""

import math

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from zoo.contract.batch import Batch
from zoo.methods.variational.iwae import IWAE
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.methods.variational.vae import VAE

SHAPE = (1, 4, 4)
LAYERS = {
    1: {"latent_dims": (3,), "hidden_dims": (6,)},
    2: {"latent_dims": (3, 2), "hidden_dims": (6, 5)},
}
GAUSSIANS = ["gaussian_fixed", "gaussian_learned", "gaussian_per_pixel"]


def batch_of(x):
    return Batch(x, torch.full((len(x),), -1), torch.arange(len(x)))


def binary_images(n, shape=SHAPE):
    return torch.rand(n, *shape).round()


def scrambled(method, std=0.5):
    """The method with every parameter, biases too, drawn from N(0, std^2)."""
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=std)
    return method


def zeroed(method):
    for parameter in method.parameters():
        nn.init.zeros_(parameter)
    return method


def tiny_vae(std=0.5, **settings):
    settings = {"image_shape": SHAPE, "latent_dim": 3, "hidden_dims": (6, 6)} | settings
    return scrambled(VAE(**settings), std)


def tiny_iwae(layers, std=0.5, **settings):
    return scrambled(IWAE(**({"image_shape": SHAPE, "num_samples": 4} | LAYERS[layers] | settings)), std)


def seeded_terms(method, x, seed=1):
    torch.manual_seed(seed)
    return method.loss(batch_of(x))


def seeded_gradients(method, x, seed=1):
    loss = seeded_terms(method, x, seed)["loss"].mean()
    return dict(
        zip(
            dict(method.named_parameters()),
            torch.autograd.grad(loss, list(method.parameters())),
            strict=True,
        )
    )


def with_posterior_bias(vae, mean, log_variance):
    """The VAE with q(z|x) = N(mean, diag exp log_variance) for every image."""
    nn.init.zeros_(vae.posterior_head.linear.weight)
    with torch.no_grad():
        vae.posterior_head.linear.bias.copy_(torch.cat([mean, log_variance]))
    return vae


class LinearGaussian(LatentVariable):
    """Probabilistic PCA, x = Wz + m + s eps with orthogonal columns in W, in float64.

    The posterior is exact unless its mean is shifted by `shift` or its sigma multiplied by `stretch`.
    """

    paper = "Tipping, Bishop. Probabilistic Principal Component Analysis. JRSS B 1999."

    def __init__(self, shift=0.0, stretch=1.0):
        super().__init__((1, 2, 3), lr=1e-3, lr_final=1e-3, lr_schedule="constant", adam_eps=1e-8)
        generator = torch.Generator().manual_seed(5)
        basis = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64)).Q
        self.w = basis * torch.tensor([1.5, 0.7], dtype=torch.float64)
        self.m = torch.randn(6, generator=generator, dtype=torch.float64)
        self.s, self.shift, self.stretch = 0.6, shift, stretch

    def prior(self):
        return Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)

    def exact_posterior(self, x):
        precision = self.w.square().sum(0) + self.s**2
        sigma = (self.s / precision.sqrt()).expand(len(x), 2)
        return Independent(Normal((x.flatten(1) - self.m) @ self.w / precision, sigma), 1)

    def posterior(self, x):
        exact = self.exact_posterior(x)
        return Independent(Normal(exact.mean + self.shift, exact.stddev * self.stretch), 1)

    def likelihood(self, z):
        mean = (z @ self.w.T + self.m).unflatten(-1, self.image_shape)
        return Independent(Normal(mean, self.s), 3)

    def loss(self, batch):
        return {"loss": -self.log_weights(batch.x, 1).mean(0)}

    def data(self, n):
        z = self.prior().sample((n,))
        return self.likelihood(z).sample()

    def marginal(self, x):
        covariance = self.w @ self.w.T + self.s**2 * torch.eye(6).double()
        return MultivariateNormal(self.m, covariance).log_prob(x.flatten(1))


def with_networks_of(method, exact, monkeypatch):
    """The method's own loss over another model's prior, posterior and likelihood."""
    for name in ("prior", "posterior", "likelihood"):
        monkeypatch.setattr(method, name, getattr(exact, name))
    return method


def below(low, high):
    """The paired differences are positive at three standard errors."""
    difference = high - low
    return float(difference.mean()) > 3 * float(difference.std()) / math.sqrt(len(difference))


def linear_shapes(module):
    return [tuple(m.weight.shape)[::-1] for m in module.modules() if isinstance(m, nn.Linear)]
