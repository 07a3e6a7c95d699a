"""Tipping, Bishop. Probabilistic Principal Component Analysis. J. R. Statist. Soc. B 61(3), 1999.

doi:10.1111/1467-9868.00196. Also: Hotelling. Analysis of a Complex of Statistical Variables into Principal
Components. J. Educational Psychology 24, 1933. Roweis. EM Algorithms for PCA and SPCA. NIPS 1997.

Departs from the paper: the arbitrary rotation of the loadings is the identity, and each axis points where its
entry of largest magnitude is positive; no variance counts as less than 1e-10; the number of latents can be
chosen by validation; a density is refused where the training images have none. EM sees only the diagonal of
the covariance: the smallest eigenvalue by which it refuses is an upper bound of the true one.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from zoo.contract import (
    MID_GREY,
    Batch,
    ClosedForm,
    Codes,
    Decodes,
    Images,
    Infers,
    PerImage,
    PixelKind,
    Reconstructs,
    Samples,
    Scores,
    Side,
    Terms,
)
from zoo.errors import at_least, require
from zoo.randomness import drawing_from

FLOOR = 1e-10
"""Smallest variance, in squared units of the pixel range: dithering alone gives each pixel 1.3e-6."""


class PCA(ClosedForm, Samples, Scores, Infers, Decodes, Reconstructs):
    """Principal component analysis and its density: x = W z + mean + noise, z ~ N(0, I).

    `reconstruct` projects orthogonally onto the principal axes, as PCA does; `encode` gives the posterior
    mean E[z|x], as the density asks.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dim: Number of latent units, below the number of pixels; null takes the number under which
            validation images are likeliest, and leaves the weights of the other units at zero.
        solver: `eigh` decomposes the covariance after one pass, in memory for two matrices of pixels x
            pixels; `em` improves the weights in every epoch, in memory for pixels x latents.

    Raises:
        UsageError: If `latent_dim` is out of range, or left to validation by `em`.
    """

    paper = "Tipping, Bishop. Probabilistic Principal Component Analysis. J. R. Statist. Soc. B 61(3), 1999."
    side = Side.EXACT
    smallest_eigenvalue: Tensor
    moments: Tensor
    val_moments: Tensor
    squares: Tensor
    cross: Tensor
    second: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int | None = 50,
        solver: Literal["eigh", "em"] = "eigh",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        dim = math.prod(self.image_shape)
        require(
            latent_dim is None or 1 <= latent_dim < dim,
            f"latent_dim must be at least 1 and below the {dim} pixels, got {latent_dim}",
        )
        solvable = latent_dim is not None or solver == "eigh"
        require(solvable, f"latent_dim: null needs solver: eigh, got solver: {solver}")
        self.dim, self.latent_dim, self.solver = dim, latent_dim, solver
        units = latent_dim or dim - 1
        self.mean = nn.Parameter(torch.full((dim,), MID_GREY))  # near: moments about it are exact to 1e-15
        self.weight = nn.Parameter(torch.randn(dim, units) / math.sqrt(dim))
        self.log_noise = nn.Parameter(torch.zeros(()))
        self.register_buffer("smallest_eigenvalue", torch.ones(()))
        if solver == "eigh":
            self.sums = {"moments": (dim + 1, dim + 1), "val_moments": (dim + 1, dim + 1)}
        else:
            self.sums = {"squares": (dim,), "cross": (dim, units + 1), "second": (units + 1, units + 1)}
        for name, shape in self.sums.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64), persistent=False)

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("real", "deq") if self.latent_dim else ("deq",)

    @property
    def passes(self) -> int | None:
        return 1 if self.solver == "eigh" else None

    @property
    def has_density(self) -> bool:
        """Whether the training images vary in every direction; else their likelihood has no bound."""
        return float(self.smallest_eigenvalue) >= FLOOR

    @property
    def needs_validation(self) -> bool:
        return self.latent_dim is None

    def density(self) -> LowRankMultivariateNormal:
        """p(x) over flat images, float64 (equation 4); inverts q x q matrices only."""
        noise = self.log_noise.double().exp().expand(self.dim)
        return LowRankMultivariateNormal(self.mean.double(), self.weight.double(), noise, validate_args=False)

    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        at_least(1, num_samples=num_samples)
        require(
            self.has_density,
            f"the smallest eigenvalue of the training covariance must be at least {FLOOR:g} for a density, "
            f"got {float(self.smallest_eigenvalue):.2g}: set data.dequantize, use more images than pixels",
        )
        return self.density().log_prob(x.double().flatten(1))

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        return (self._posterior(self._centred(x))[0].float(),)

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self._linear(z).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        axes = torch.linalg.qr(self.weight.double()[:, self.weight.any(0)]).Q
        return (self.mean + self._centred(x) @ axes @ axes.T).float().view_as(x)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            return self.decode(self._latents(n))

    @torch.no_grad()
    def sample_pixels(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        """Draw images [n, C, H, W] of p(x) itself, noise included; they leave [0, 1]."""
        with drawing_from(generator):
            mean = self._linear(self._latents(n))
            return mean + (0.5 * self.log_noise).exp() * torch.randn_like(mean)

    def _latents(self, n: int) -> Tensor:
        at_least(1, n=n)
        return torch.randn(n, self.weight.shape[1], device=self.device)

    def _centred(self, x: Tensor) -> Tensor:
        return x.double().flatten(1) - self.mean.double()

    def _linear(self, z: Tensor) -> Tensor:
        x = self.mean + z.double() @ self.weight.double().T
        return x.float().unflatten(-1, self.image_shape)

    def _posterior(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Means [B, q] and common covariance [q, q] of the latents of centred images [B, D]."""
        weight, noise = self.weight.double(), self.log_noise.double().exp()
        precision = weight.T @ weight + noise * torch.eye(weight.shape[1]).to(weight)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        return d @ weight @ inverse, noise * inverse  # equation 6

    def statistics(self) -> list[Tensor]:
        return [self.get_buffer(name) for name in self.sums]

    def absorb(self, batch: Batch) -> None:
        d = self._centred(batch.x)
        if self.solver == "eigh":
            _add_products(self.moments, d)
        else:  # appendix B, E-step
            z, covariance = self._posterior(d)
            self.squares += d.square().sum(0)
            self.cross.addmm_(d.T, _with_one(z))
            _add_products(self.second, z)
            self.second[:-1, :-1].add_(covariance, alpha=len(d))

    @torch.no_grad()
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Absorb held-out moments, which `eigh` needs; else log the density of the parameters as they are."""
        if self.solver == "eigh" and self.trainer.state.fn == TrainerFn.FITTING:
            _add_products(self.val_moments, self._centred(batch.x))
        elif self.has_density:
            self.log_terms("val", {"log_prob": self.log_prob(batch.x, 1)}, len(batch.x))

    def settle(self) -> Terms:
        return self._decompose() if self.solver == "eigh" else self._maximise()

    def _decompose(self) -> Terms:
        """The global maximum of the likelihood, and what it gives validation images."""
        shift = self.moments[-1, :-1] / self.moments[-1, -1]
        eigenvalues, axes = torch.linalg.eigh(_moment_about(shift, self.moments))  # ascending
        self.smallest_eigenvalue.copy_(eigenvalues[0])
        eigenvalues, axes = eigenvalues.flip(0).clamp(min=FLOOR), axes.flip(1)
        axes *= axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        noises = _tails(eigenvalues) / _tails(torch.ones_like(eigenvalues))  # equation 8
        variances = (axes * (_moment_about(shift, self.val_moments) @ axes)).sum(0)
        log_probs = _log_probs(eigenvalues, noises, variances)
        validated = bool(self.val_moments[-1, -1])
        require(validated or bool(self.latent_dim), "latent_dim: null needs validation batches, got none")
        units = self.latent_dim or int(log_probs.argmax()) + 1
        noise = noises[units - 1]
        self.mean += shift
        self.weight.zero_()
        self.weight[:, :units] = axes[:, :units] * (eigenvalues[:units] - noise).clamp(min=0).sqrt()  # (7)
        self.log_noise.copy_(noise.log())
        return {"val/log_prob": log_probs[units - 1]} if validated and self.has_density else {}

    def _maximise(self) -> Terms:
        """One step of EM about the mean of the images, to which the sums are moved first."""
        n = self.second[-1, -1]
        shift, z_mean = self.cross[:, -1] / n, self.second[-1, :-1] / n
        variances = self.squares / n - shift.square()
        cross = self.cross[:, :-1] / n - torch.outer(shift, z_mean)
        second = self.second[:-1, :-1] / n - torch.outer(z_mean, z_mean)
        weight = torch.linalg.solve(second, cross, left=False)  # appendix B, M-step
        noise = (variances.sum() - (weight * cross).sum()) / self.dim
        self.mean += shift
        self.weight.copy_(weight)
        self.log_noise.copy_(noise.clamp(min=FLOOR).log())
        self.smallest_eigenvalue.copy_(variances.min() * (n > self.dim))
        return {}


def _with_one(d: Tensor) -> Tensor:
    return nn.functional.pad(d, (0, 1), value=1.0)


def _add_products(sums: Tensor, d: Tensor) -> None:
    """Add the sums of d d', of d and of 1 over vectors [B, D] to a matrix [D + 1, D + 1] of these."""
    sums.addmm_(_with_one(d).T, _with_one(d))


def _moment_about(point: Tensor, sums: Tensor) -> Tensor:
    """Mean of (d - point)(d - point)', [D, D], of vectors whose sums these are."""
    mean = sums[-1, :-1] / sums[-1, -1]
    covariance = sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean, mean)
    return covariance + torch.outer(mean - point, mean - point)


def _tails(values: Tensor) -> Tensor:
    """Sums of values [D] after the first 1, 2, ..., D - 1."""
    return values.flip(0).cumsum(0).flip(0)[1:]


def _log_probs(eigenvalues: Tensor, noises: Tensor, variances: Tensor) -> Tensor:
    """Mean log p(x) under 1, ..., D - 1 latents, [D - 1], of images with `variances` [D] along the axes."""
    kept = (eigenvalues.log() + variances / eigenvalues).cumsum(0)[:-1]
    rest = _tails(torch.ones_like(variances)) * noises.log() + _tails(variances) / noises
    return -0.5 * (len(eigenvalues) * math.log(2 * math.pi) + kept + rest)  # equation 4
