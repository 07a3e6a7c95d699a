"""Training loops written by hand in plain torch, each an epoch of the same batches and mathematics.

A loop gathers and binarises batches from pixels in memory, and descends with fused optimizers. The networks
of the latent-variable models, the RBM and the autoencoder are written out; a GAN's are copies of its own, and
GLO's and diffusion's losses are the method's, called without a trainer.
"""

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.contract.learning import Descent
from zoo.data.modules import ImageData, Rows
from zoo.methods.adversarial.gan import GAN

Epoch = Callable[[], None]


def binary_batches(data: ImageData) -> Iterator[Tensor]:
    """Shuffled images [B, D], drawn from their grey levels at every visit, or once and for all."""
    x = data.originals("train").flatten(1)
    bits = data.split("train").x.flatten(1) if data.binarize == "fixed" else None
    for rows in torch.randperm(len(x)).split(data.batch_size):
        if bits is not None:
            yield bits[rows]
            continue
        grey = x[rows]
        yield (torch.rand(grey.shape) * 255 < grey).float()


class Autoencoder(nn.Module):
    """Encoder and decoder of a Gaussian latent variable.

    Args:
        widths: From the pixels to the latents.
        activation: Class of the non-linearity.
    """

    def __init__(self, widths: tuple[int, ...], activation: type[nn.Module]) -> None:
        super().__init__()
        *sizes, latent = widths

        def layers(sizes: list[int], out: int) -> nn.Sequential:
            hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), activation())]
            return nn.Sequential(*hidden, nn.Linear(sizes[-1], out))

        self.encoder = layers(sizes, 2 * latent)
        self.decoder = layers([latent, *sizes[:0:-1]], sizes[0])

    def elbo_loss(self, x: Tensor) -> Tensor:
        """Minus the evidence lower bound, its divergence in closed form."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return (error + divergence) / len(x)

    def importance_loss(self, x: Tensor, num_samples: int) -> Tensor:
        """Minus the importance-weighted bound."""
        mean, log_variance = (part.float() for part in self.encoder(x).chunk(2, -1))
        noise = torch.randn(num_samples, *mean.shape)
        z = mean + (0.5 * log_variance).exp() * noise
        logits = self.decoder(z).float()
        images = x.expand(num_samples, -1, -1)
        error = functional.binary_cross_entropy_with_logits(logits, images, reduction="none").sum(-1)
        log_ratio = 0.5 * (noise.square() - z.square() + log_variance).sum(-1)
        return math.log(num_samples) - torch.logsumexp(log_ratio - error, 0).mean()


def descending(
    data: ImageData, net: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable, mixed: bool = False
) -> Epoch:
    """Gradient descent on binary images; `mixed` computes losses under bfloat16 autocast."""

    def epoch() -> None:
        net.train()
        for x in binary_batches(data):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = loss_of(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def vae(data: ImageData, widths: tuple[int, ...], activation: type[nn.Module]) -> Epoch:
    """A variational autoencoder."""
    net = Autoencoder(widths, activation)
    return descending(data, net, torch.optim.Adam(net.parameters(), 1e-3, fused=True), net.elbo_loss)


def iwae(data: ImageData, num_samples: int, mixed: bool = False) -> Epoch:
    """An importance weighted autoencoder with one stochastic layer."""
    net = Autoencoder((784, 200, 200, 50), nn.Tanh)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, eps=1e-4, fused=True)
    return descending(data, net, optimizer, lambda x: net.importance_loss(x, num_samples), mixed)


def rbm(data: ImageData, num_hidden: int = 500) -> Epoch:
    """A restricted Boltzmann machine by contrastive divergence, its gradient written out."""
    weight, b, c = 0.01 * torch.randn(784, num_hidden), torch.zeros(num_hidden), torch.zeros(784)
    theta = (weight, b, c)
    optimizer = torch.optim.SGD(theta, 0.05, momentum=0.5, weight_decay=2e-4, fused=True)

    @torch.no_grad()
    def epoch() -> None:
        for v in binary_batches(data):
            up = torch.addmm(b, v, weight).sigmoid()
            h = (torch.rand_like(up) < up).float()
            down = torch.addmm(c, h, weight.T).sigmoid()
            model = (torch.rand_like(down) < down).float()
            again = torch.addmm(b, model, weight).sigmoid()
            n = len(v)
            weight.grad = (model.T @ again).sub_(v.T @ up).div_(n)
            b.grad, c.grad = (again - up).mean(0), (model - v).mean(0)
            optimizer.step()

    return epoch


def dae(data: ImageData, hidden_dim: int = 2000, walkback_steps: int = 5, level: float = 0.4) -> Epoch:
    """A denoising autoencoder with tied weights and walkback."""
    net = nn.Linear(784, hidden_dim)
    bias = nn.Parameter(torch.zeros(784))
    optimizer = torch.optim.SGD([*net.parameters(), bias], 10 / 784, fused=True)

    def loss_of(x: Tensor) -> Tensor:
        state, total = x, torch.zeros(())
        for _ in range(walkback_steps):
            u = torch.rand_like(state)
            corrupted = torch.where(u < level, (u < level / 2).float(), state)
            logits = functional.linear(net(corrupted).sigmoid(), net.weight.T, bias)
            total = total + functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            with torch.no_grad():
                state = (torch.rand_like(logits) < logits.sigmoid()).float()
        return total / len(x)

    return descending(data, net, optimizer, loss_of)


def gan(data: ImageData, method: GAN) -> Epoch:
    """The non-saturating game of copies of a GAN's networks, and the average of its generator."""
    generator, discriminator = copy.deepcopy(method.generator), copy.deepcopy(method.discriminator)
    average = [p.detach().clone() for p in generator.parameters()]
    one, two = (torch.optim.SGD(net.parameters(), 0.1, 0.5, fused=True) for net in (discriminator, generator))

    def noise(n: int) -> Tensor:
        return math.sqrt(3) * (2 * torch.rand(n, method.latent_dim) - 1)

    def epoch() -> None:
        for x in binary_batches(data):
            real = x.unflatten(1, method.image_shape)
            with torch.no_grad():
                fake = generator(noise(len(x)))
            loss = functional.softplus(-discriminator(real)) + functional.softplus(discriminator(fake))
            one.zero_grad()
            loss.mean().backward()
            one.step()
            discriminator.requires_grad_(False)
            loss = functional.softplus(-discriminator(generator(noise(len(x)))))
            two.zero_grad()
            loss.mean().backward()
            two.step()
            discriminator.requires_grad_(True)
            torch._foreach_lerp_(average, list(map(Tensor.detach, generator.parameters())), 0.001)  # pyright: ignore

    return epoch


def bare(data: ImageData, method: Descent, optimizer: torch.optim.Optimizer, after: Callable) -> Epoch:
    """A method's own loss in a loop without a trainer; `after` is called at each batch's end."""

    def epoch() -> None:
        method.train()
        for rows in torch.randperm(len(data.originals("train"))).split(data.batch_size):
            loss = method.loss(data.batch(Rows("train", rows)))["loss"].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after()

    return epoch


def pca(data: ImageData) -> Epoch:
    """Second moments in one pass, and their eigenvectors."""

    def epoch() -> None:
        sums = torch.zeros(785, 785, dtype=torch.float64)
        x = data.originals("train").flatten(1)
        for rows in torch.randperm(len(x)).split(data.batch_size):
            batch = (x[rows] + torch.rand(len(rows), 784)) / 256
            batch = functional.pad(batch.double(), (0, 1), value=1.0)
            sums.addmm_(batch.T, batch)
        mean = sums[-1, :-1] / sums[-1, -1]
        torch.linalg.eigh(sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean, mean))

    return epoch


def pythae_vae(data: ImageData, widths: tuple[int, ...], activation: type[nn.Module], folder: str) -> Epoch:
    """An epoch of pythae's trainer on the same network, on images that are binary once and for all."""
    from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]
    from pythae.models import VAE, VAEConfig  # pyright: ignore[reportMissingImports]
    from pythae.models.base.base_utils import ModelOutput  # pyright: ignore[reportMissingImports]
    from pythae.models.nn import BaseDecoder, BaseEncoder  # pyright: ignore[reportMissingImports]
    from pythae.trainers import BaseTrainer, BaseTrainerConfig  # pyright: ignore[reportMissingImports]

    net = Autoencoder(widths, activation)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.encoder

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.net(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid().unflatten(1, (1, 28, 28)))

    x = data.originals("train")
    images = (torch.rand(x.shape) * 255 < x).float()
    shape = VAEConfig(input_dim=(1, 28, 28), latent_dim=widths[-1], reconstruction_loss="bce")
    settings = BaseTrainerConfig(
        output_dir=folder, per_device_train_batch_size=data.batch_size, learning_rate=1e-3, num_epochs=1
    )
    trainer = BaseTrainer(
        VAE(shape, Encoder(), Decoder()), BaseDataset(images, torch.zeros(len(x))), None, settings
    )
    trainer.prepare_training()
    return lambda: trainer.train_step(1)
