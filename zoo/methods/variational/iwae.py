"""Burda, Grosse, Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016. arXiv:1509.00519.

Tucker, Lawson, Gu, Maddison. Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives.
ICLR 2019. arXiv:1810.04152 (`objective: dreg`).

Departs from the paper: Adam has the beta1 = 0.9 of the text, not the 0.99 of the released code, and its
second moments start at zero, not one. The paper's schedule is `lr_schedule: tripling_stages` with 3280
epochs; shorter recipes use a cosine.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.func import functional_call

from zoo.contract import Batch, Codes, Images, Terms, Weights
from zoo.errors import at_least, positive, require
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.parts.distributions.gaussians import GaussianHead, standard_gaussian
from zoo.parts.distributions.layers import Layers
from zoo.parts.distributions.pixels import Likelihood, pixel_head
from zoo.parts.estimators import iwae_bound
from zoo.parts.networks.backbones import Backbone, decoder_of, encoder_of
from zoo.parts.networks.dense import MLP
from zoo.parts.schedules import Schedule

DRAWS_FOR_MEANS = 50
"""Draws of h1 over which the mean of h2 is averaged (Burda et al. 2016, section 5.2)."""

Layer = Callable[[Tensor], Independent]


class IWAE(LatentVariable):
    """Importance weighted autoencoder with one or two stochastic layers and tanh networks.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_samples: k, latent draws per image and training step.
        objective: `iwae`: the bound L_k; `dreg`: the same bound, its encoder gradient doubly reparameterised;
            `vae`: the mean of k log-weights, the paper's control arm.
        latent_dims: Units of each stochastic layer, the one next to the pixels first: one or two numbers.
        backbone: `mlp`, or `conv`: convolutions that halve the sides before the first hidden layers.
        channels: Maps after the first convolution; they double with each.
        hidden_dims: Width of the two hidden layers below each stochastic layer; one number per layer.
        likelihood: Bernoulli for binary pixels, or Gaussian with a fixed, one learned, or per-pixel sigma.
        sigma: Gaussian sigma (fixed) or where it starts (learned), in units of the pixel range [0, 1].
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls; the paper's is `tripling_stages`.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, count or step size is out of range.
    """

    paper = "Burda, Grosse, Salakhutdinov. Importance Weighted Autoencoders. ICLR 2016."
    monitor = ("val/bound", "max")
    progress = "bound"

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_samples: int = 50,
        objective: Literal["iwae", "dreg", "vae"] = "iwae",
        latent_dims: tuple[int, ...] = (50,),
        backbone: Backbone = "mlp",
        channels: int = 32,
        hidden_dims: tuple[int, ...] = (200,),
        likelihood: Likelihood = "bernoulli",
        sigma: float = 0.1,
        lr: float = 1e-3,
        lr_final: float = 1e-4,
        lr_schedule: Schedule = "tripling_stages",
        adam_eps: float = 1e-4,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        at_least(1, num_samples=num_samples)
        require(len(latent_dims) in (1, 2), f"latent_dims must name one or two layers, got {latent_dims}")
        positive(latent_dims=latent_dims, sigma=sigma)
        require(
            len(hidden_dims) == len(latent_dims) and min(hidden_dims) >= 1,
            f"hidden_dims must give one positive width per layer of latent_dims, got {hidden_dims}",
        )
        self.num_samples, self.objective, self.latent_dims = num_samples, objective, tuple(latent_dims)
        widths = (hidden_dims[0],) * 2
        of_pixels = encoder_of(backbone, self.image_shape, channels, widths)
        # encoders[l] is q(h_l | h_{l-1}) with h_0 = x; decoder feeds p(x|h_1), upper_decoder is p(h_1|h_2).
        self.encoders = nn.ModuleList([_gaussian_layer(of_pixels, hidden_dims[0], latent_dims[0])])
        for below, hidden_dim, above in zip(latent_dims, hidden_dims[1:], latent_dims[1:], strict=False):
            self.encoders.append(_gaussian_layer(MLP(below, (hidden_dim,) * 2), hidden_dim, above))
        self.decoder = decoder_of(backbone, latent_dims[0], self.image_shape, channels, widths)
        self.pixels = pixel_head(likelihood, self.decoder.out_dim, self.image_shape, sigma)
        self.upper_decoder: nn.Module | None = None
        if len(latent_dims) > 1:
            network = MLP(latent_dims[1], (hidden_dims[1],) * 2)
            self.upper_decoder = _gaussian_layer(network, hidden_dims[1], latent_dims[0])

    def prior(self) -> Distribution:
        top = standard_gaussian(self.latent_dims[-1], self.device)
        if self.upper_decoder is None:
            return top
        return Layers(
            top, self.upper_decoder, (self.latent_dims[1], self.latent_dims[0]), child_first=True
        )  # p(h2) p(h1|h2)

    def posterior(self, x: Images) -> Distribution:
        return self._posterior(x, list(self.encoders))

    def _posterior(self, x: Images, layers: Sequence[Layer]) -> Distribution:
        first = layers[0](x)
        return (
            first
            if len(layers) == 1
            else Layers(first, layers[1], (self.latent_dims[0], self.latent_dims[1]))
        )  # q(h1|x) q(h2|h1)

    def likelihood(self, z: Codes) -> Independent:
        return self.pixels(self.decoder(z[..., : self.latent_dims[0]]))

    def prior_variance(self, layer: int) -> float:
        return 1.0  # the threshold of section 5.2 is the same for every layer

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        first = self.encoders[0](x)
        if len(self.encoders) == 1:
            return (first.mean,)
        return first.mean, self.encoders[1](first.sample((DRAWS_FOR_MEANS,))).mean.mean(0)

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.picture(z if self.upper_decoder is None else self.upper_decoder(z).mean)

    def loss(self, batch: Batch) -> Terms:
        weights, surrogate = (
            self._dreg(batch.x) if self.objective == "dreg" else (self.weigh(batch.x, self.num_samples), None)
        )
        log_w = weights.log_w
        bound, elbo = iwae_bound(log_w), log_w.mean(0)  # equations 8 and 4
        if surrogate is None:
            surrogate = -(elbo if self.objective == "vae" else bound)
        return {
            "loss": surrogate,
            "bound": bound,
            "elbo": elbo,
            "rate": -weights.log_ratio.mean(0),
            "distortion": -weights.log_likelihood.mean(0),
        }

    def _dreg(self, x: Images) -> tuple[Weights, Tensor]:
        """Weights, and a surrogate with the doubly reparameterised gradient (Tucker et al. 2019, equation 8).

        For the encoder sum_k w~_k^2 (d log w_k / d z_k)(d z_k / d phi), for the decoder
        sum_k w~_k d log w_k / d theta.

        The hook sits on the joint z = (h1, h2), outside the path from h1 to h2, so it scales each path once.
        """
        z = self.posterior(x).rsample((self.num_samples,))
        stopped = self._posterior(x, [partial(_without_gradient, layer) for layer in self.encoders])
        weights = Weights(self.likelihood(z).log_prob(x), self.prior().log_prob(z) - stopped.log_prob(z))
        normalised = weights.log_w.detach().softmax(0)
        if z.requires_grad:
            z.register_hook(lambda gradient: gradient * normalised.unsqueeze(-1))
        return weights, -(normalised * weights.log_w).sum(0)


def _gaussian_layer(network: nn.Module, hidden_dim: int, dim: int) -> nn.Sequential:
    return nn.Sequential(network, GaussianHead(hidden_dim, dim))


def _without_gradient(layer: nn.Module, h: Tensor) -> Independent:
    """The layer with its weights detached; its input keeps its gradient."""
    return functional_call(layer, {name: p.detach() for name, p in layer.named_parameters()}, (h,))
