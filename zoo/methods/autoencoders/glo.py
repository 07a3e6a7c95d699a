"""Bojanowski, Joulin, Lopez-Paz, Szlam. Optimizing the Latent Space of Generative Networks. ICML 2018.

arXiv:1707.05776. The generator: Radford, Metz, Chintala. ICLR 2016. arXiv:1511.06434.

Departs from the paper: Adam by default, lazily on the codes, instead of SGD with step sizes 1 and 10
(`optimizer: sgd`); the norms of the loss are means over the pixels of each level, so that no level needs a
factor; the code of an unseen image is sought from a linear regression of the training codes on their images.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from sklearn import decomposition, linear_model
from torch import Tensor, nn
from torch.nn.functional import embedding

from zoo.contract import (
    BYTE,
    Batch,
    Codes,
    Decodes,
    Descent,
    Encodes,
    Images,
    PerImage,
    PixelKind,
    Reconstructs,
    Samples,
    Terms,
)
from zoo.errors import UsageError, at_least, not_negative, positive, require
from zoo.methods.autoencoders.shared.pyramid import LaplacianPyramid
from zoo.parts.distributions.mixture import GaussianMixture
from zoo.parts.estimators import psnr
from zoo.parts.networks.average import evaluated
from zoo.parts.networks.convolutional import ConvDecoder, halvings, start_dcgan
from zoo.parts.optimizers import lazy_adam
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from

RIDGE = 1.0
SLACK = 1e-6
"""A norm that exceeds 1 by so little is rounding, and counts as inside the ball."""
NEAR = 1e-3
"""A code whose norm falls short of 1 by less counts as on the sphere while it is searched for."""


class GLO(Descent, Samples, Encodes, Decodes, Reconstructs):
    """Generative latent optimization: one free code per training image, learnt together with the generator.

    A checkpoint keeps the codes; published weights keep the distribution fitted to them, which samples, and
    the regression in which the search for the code of an unseen image starts.

    Args:
        image_shape: (C, H, W) of one image, whose sides can be halved; set from the data on the command line.
        latent_dim: Dimensions of the unit ball of codes.
        channels: Maps of the generator before its last convolution, doubled inwards.
        fc_dim: Width of a fully connected layer between code and maps; 0: none.
        start: Codes begin as whitened principal components of their images, or at random.
        levels: Levels of the Laplacian pyramid, the low-pass one included.
        laplacian_weight: Weight of the pyramid's L1 distance in the loss.
        squared_weight: Weight of the squared error in the loss.
        num_components: Gaussians with full covariance that are fitted to the codes to sample from; the
            paper's is 1.
        encode_steps: Steps of Adam towards the code of an unseen image.
        encode_lr: Their first step size, which falls linearly.
        optimizer: Adam, or the paper's SGD, which wants `lr: 1` and `code_lr: 10`.
        lr: Step size of the generator at the start.
        code_lr: Step size of the codes at the start.
        lr_final_share: Share of both step sizes that is left at the end of the cosine schedule.
        lr_schedule: `constant`, or `cosine` over the trainer's epochs.

    Raises:
        UsageError: If a size or step size is out of range, or the images cannot be halved.
    """

    paper = "Bojanowski et al. Optimizing the Latent Space of Generative Networks. ICML 2018."
    progress = "psnr"
    codes: nn.Parameter
    guess_weight: Tensor
    guess_bias: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 32,
        channels: int = 64,
        fc_dim: int = 0,
        start: Literal["pca", "random"] = "pca",
        levels: int = 3,
        laplacian_weight: float = 1.0,
        squared_weight: float = 1.0,
        num_components: int = 1,
        encode_steps: int = 100,
        encode_lr: float = 0.1,
        optimizer: Literal["adam", "sgd"] = "adam",
        lr: float = 1e-3,
        code_lr: float = 1e-2,
        lr_final_share: float = 0.01,
        lr_schedule: Literal["constant", "cosine"] = "constant",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, latent_dim=latent_dim, channels=channels, levels=levels)
        at_least(1, num_components=num_components, encode_steps=encode_steps)
        positive(lr=lr, code_lr=code_lr, lr_final_share=lr_final_share, encode_lr=encode_lr)
        not_negative(laplacian_weight=laplacian_weight, squared_weight=squared_weight, fc_dim=fc_dim)
        require(laplacian_weight + squared_weight > 0, "laplacian_weight or squared_weight must be positive")
        require(
            halvings(self.image_shape)[0] >= 1, f"GLO needs even sides of at least 6, got {self.image_shape}"
        )
        self.latent_dim, self.start = latent_dim, start
        self.laplacian_weight, self.squared_weight = laplacian_weight, squared_weight
        self.encode_steps, self.encode_lr = encode_steps, encode_lr
        self.optimizer_name, self.lr, self.code_lr = optimizer, lr, code_lr
        self.lr_final_share = lr_final_share
        self.lr_schedule: Schedule = lr_schedule
        self.generator = ConvDecoder(latent_dim, self.image_shape, channels, fc_dim)
        start_dcgan(self.generator)
        self.pyramid = LaplacianPyramid(levels)
        self.prior = GaussianMixture(num_components, latent_dim)
        self.register_buffer("guess_weight", torch.zeros(latent_dim, math.prod(self.image_shape)))
        self.register_buffer("guess_bias", torch.zeros(latent_dim))
        self.register_parameter("codes", None)
        self._ddp_params_and_buffers_to_ignore = ["codes", ".codes"]  # the reducer's name has a dot

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("real",)

    @property
    def unpublished(self) -> tuple[str, ...]:
        return ("codes",)

    @property
    def needs_data_module(self) -> bool:
        return True

    def start_from(self, data: Any) -> None:
        """Give every training image a code; on several processes all have all of them."""
        images = data.originals("train").flatten(1)
        fewest = max(2, len(self.prior.weights))
        require(len(images) >= fewest, f"GLO needs {fewest} training images for its prior, got {len(images)}")
        if self.start == "pca":
            dims = min(self.latent_dim, *images.shape)
            pca = decomposition.PCA(dims, whiten=True, svd_solver="covariance_eigh")
            z = torch.zeros(len(images), self.latent_dim, dtype=torch.float64)
            z[:, :dims] = torch.from_numpy(pca.fit_transform(images.double().numpy()))
            z /= z.norm(dim=1).mean()
        else:
            z = torch.randn(len(images), self.latent_dim) / math.sqrt(self.latent_dim)
        self.codes = nn.Parameter(into_ball(z.float().to(self.device)))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the codes."""
        super().on_load_checkpoint(checkpoint)
        self.codes = nn.Parameter(torch.empty_like(checkpoint["state_dict"]["codes"], device=self.device))

    def on_fit_start(self) -> None:
        """Let every process begin with the first one's codes."""
        super().on_fit_start()
        self.codes.data = self.trainer.strategy.broadcast(self.codes.data)

    def distance(self, x: Images, y: Images) -> PerImage:
        """The reconstruction loss between images, [B]: Lap1 and the mean squared error, weighted."""
        difference = (x - y).float()
        laplacian = sum(level.abs().flatten(1).mean(1) for level in self.pyramid(difference))
        squared = difference.square().flatten(1).mean(1)
        return self.laplacian_weight * laplacian + self.squared_weight * squared  # section 2.2

    def loss(self, batch: Batch) -> Terms:
        if self.codes is None:
            raise UsageError("GLO learns one code per training image: fit it with a datamodule")
        y = self.generator(embedding(batch.row, self.codes, sparse=True))
        distance = self.distance(y, batch.x)  # equation 1
        return {"loss": distance, "distance": distance.detach(), "psnr": psnr(y.detach(), batch.x)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: images without a code are encoded by a search, when the method is scored."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Join the processes' gradients of codes: each has those of its own images, and no average is due."""
        grad = self.codes.grad
        if self.trainer.world_size > 1 and grad is not None:
            rows, values = self.all_gather((grad._indices()[0], grad._values()))
            self.codes.grad = torch.sparse_coo_tensor(
                rows.view(1, -1), values.flatten(0, 1), self.codes.shape
            )

    @torch.no_grad()
    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Project the codes onto the ball; at an epoch's end, fit what is published in their stead."""
        self.codes.copy_(into_ball(self.codes))
        if self.trainer.is_last_batch:
            self.prior.fit(self.codes)
            images = self.trainer.datamodule.originals("train").flatten(1).float() / BYTE  # pyright: ignore
            found = linear_model.Ridge(RIDGE).fit(images.numpy(), self.codes.cpu().numpy())
            self.guess_weight.copy_(torch.from_numpy(found.coef_))
            self.guess_bias.copy_(torch.from_numpy(found.intercept_))

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            return self.decode(into_ball(self.prior.draw(n)))

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        with evaluated(self.generator):
            return self.generator(z)

    def encode(self, x: Images) -> Codes:
        """The code whose image is nearest, by `encode_steps` steps of Adam inside the ball."""
        z = into_ball(x.flatten(1) @ self.guess_weight.T + self.guess_bias).requires_grad_()
        optimizer = torch.optim.Adam([z], self.encode_lr)
        with torch.enable_grad(), evaluated(self.generator):
            for step in range(self.encode_steps):
                optimizer.param_groups[0]["lr"] = self.encode_lr * (1 - step / self.encode_steps)
                distance = self.distance(self.generator(z), x).sum()
                (gradient,) = torch.autograd.grad(distance, z)
                z.grad = along_ball(gradient, z.detach())
                optimizer.step()
                z.data = into_ball(z.data)
        return z.detach()

    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))

    def configure_optimizers(self) -> dict[str, Any]:
        """One optimizer of generator and codes, each with its step size, set at the start of each epoch."""
        if self.codes is None:
            raise UsageError("GLO learns one code per training image: fit it with a datamodule")
        choice = {"adam": lazy_adam, "sgd": torch.optim.SGD}[self.optimizer_name]
        codes = {"params": [self.codes], "lr": self.code_lr}
        optimizer = choice([{"params": self.generator.parameters()}, codes], lr=self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final_share)


def into_ball(z: Codes) -> Codes:
    """Codes [N, D] projected onto the unit ball; those inside are untouched."""
    norm = z.norm(dim=1, keepdim=True)
    return torch.where(norm > 1 + SLACK, z / norm, z)


def along_ball(gradient: Codes, z: Codes) -> Codes:
    """Gradients [N, D] without what would only lead codes on the sphere out of the ball.

    Else coordinate-wise step sizes would turn that part into a pull along the sphere.
    """
    inward = (gradient * z).sum(1, keepdim=True)
    leaving = (z.norm(dim=1, keepdim=True) > 1 - NEAR) & (inward < 0)
    return torch.where(leaving, gradient - inward * z / z.square().sum(1, keepdim=True), gradient)
