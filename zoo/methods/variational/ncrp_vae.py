"""Goyal, Hu, Liang, Wang, Xing. Nonparametric VAEs for Hierarchical Representation Learning. ICCV 2017.

arXiv:1703.07027, "Nonparametric Variational Auto-encoders for Hierarchical Representation Learning".

Departs from the paper: updates and divergences are derived anew where the released code differs (squared
distances with the variances of codes and means, sticks by the siblings that follow, all constants); leaves
are summed over in the place of a sampled path; the network is that of the VAE, and Adam trains it; k-means
plants the tree after some epochs as a plain VAE; images in the place of features of video frames.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily

from zoo.contract import (
    IMAGES_AT_ONCE,
    Batch,
    Hierarchy,
    Images,
    LogProbs,
    Nests,
    Terms,
    Weights,
)
from zoo.errors import at_least, positive, share
from zoo.methods.variational.shared.latent_variable import GaussianCodes
from zoo.methods.variational.shared.tree import Coded, Tree
from zoo.parts.distributions.pixels import Likelihood
from zoo.parts.networks.backbones import Backbone
from zoo.parts.networks.dense import Activation
from zoo.parts.schedules import Schedule
from zoo.randomness import own_stream

PLANTED_FROM = 10_000
"""Most training images, evenly spaced, whose codes say where the tree begins."""
SETTLED = 1e-7
"""Rise of the bound in nats per image below which sweeps are over."""


class NCRPVAE(GaussianCodes, Nests):
    """Variational autoencoder whose prior is a learnt tree of Gaussians, a nested Chinese restaurant process.

    The tree's posterior follows all training codes at the end of every epoch; the network descends the bound
    given it. The reported bound contains the KL of the tree, shared out over the training images.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dim: Number of latent units.
        backbone: `mlp`, or `conv`: convolutions that halve the sides before the hidden layers.
        channels: Maps after the first convolution; they double with each.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        activation: Non-linearity of the hidden layers.
        likelihood: Bernoulli for binary pixels, or Gaussian with a fixed, one learned, or per-pixel sigma.
        sigma: Gaussian sigma (fixed) or where it starts (learned), in units of the pixel range [0, 1].
        branching: Children of the root, of each of these, and so on down to the leaves.
        node_std: Standard deviation of a node's mean about its parent's.
        leaf_std: Standard deviation of codes about their leaf's mean.
        concentration: Second parameter of the sticks' Beta(1, concentration) prior.
        by_bag: Every bag of training images has sticks of its own; else all images share theirs.
        pretrain_epochs: Epochs as a plain VAE before the tree is planted.
        num_sweeps: Most updates of the tree at an epoch's end; they end when the bound rises no more.
        spare_nodes: Nodes for which there is room beyond the first tree's.
        grow_above: Mean squared distance of a leaf's codes from its mean, per dimension in units of
            `leaf_std`^2, above which it is split, one at the end of an epoch; null never splits.
        prune_below: Share of the images below which a leaf is removed; 0 never removes any.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, step size or share is out of range.
    """

    paper = (
        "Goyal, Hu, Liang, Wang, Xing. Nonparametric Variational Auto-encoders for Hierarchical "
        "Representation Learning. ICCV 2017."
    )
    bags: Tensor
    """Bag of every training image, [N]."""

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 48,
        backbone: Backbone = "mlp",
        channels: int = 32,
        hidden_dims: tuple[int, ...] = (200, 200),
        activation: Activation = "tanh",
        likelihood: Likelihood = "bernoulli",
        sigma: float = 0.1,
        branching: tuple[int, ...] = (4, 4, 4),
        node_std: float = 1.0,
        leaf_std: float = 1.0,
        concentration: float = 10.0,
        by_bag: bool = False,
        pretrain_epochs: int = 10,
        num_sweeps: int = 10,
        spare_nodes: int = 0,
        grow_above: float | None = None,
        prune_below: float = 0.0,
        lr: float = 1e-3,
        lr_final: float = 1e-4,
        lr_schedule: Schedule = "cosine",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        at_least(1, branching=branching, num_sweeps=num_sweeps)
        at_least(1, pretrain_epochs=pretrain_epochs)
        at_least(0, spare_nodes=spare_nodes)
        positive(node_std=node_std, leaf_std=leaf_std)
        positive(concentration=concentration, grow_above=1.0 if grow_above is None else grow_above)
        share(prune_below=prune_below)
        self.by_bag, self.pretrain_epochs, self.num_sweeps = by_bag, pretrain_epochs, num_sweeps
        self.grow_above, self.prune_below = grow_above, prune_below
        self.build(latent_dim, backbone, channels, hidden_dims, activation, likelihood, sigma)
        scales = {"node_std": node_std, "leaf_std": leaf_std, "concentration": concentration}
        self.tree = Tree(branching, spare_nodes, latent_dim, **scales)
        self.register_buffer("bags", torch.zeros(0, dtype=torch.long), persistent=False)

    @property
    def needs_data_module(self) -> bool:
        return True

    def start_from(self, data: Any) -> None:
        """Start the decoder's output biases at the mean training image; look which image is in which bag."""
        super().start_from(data)
        if self.by_bag:
            self.bags = data.bag_of(torch.arange(len(data.images("train"))))
            self.tree.regroup(int(self.bags.max()) + 1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the sticks of its bags."""
        super().on_load_checkpoint(checkpoint)
        self.tree.regroup(len(checkpoint["state_dict"]["tree.mass"]))

    @property
    def unpublished(self) -> tuple[str, ...]:
        """What is known of the bags of training images."""
        return ("tree.mass", "tree.log_weight") if self.by_bag else ()

    def group_of(self, row: Tensor) -> Tensor:
        """Whose sticks training images [B] have."""
        return self.bags.to(row.device)[row] if self.by_bag else torch.zeros_like(row)

    def new_group(self) -> Tensor:
        """Masses [M] of the group of images that are new: that of all, or one of which nothing is known."""
        return torch.zeros_like(self.tree.mass[0]) if self.by_bag else self.tree.mass[0]

    def prior(self) -> MixtureSameFamily:
        return self.tree.prior(self.new_group())

    def scores(self, q: Independent, log_weight: Tensor) -> Tensor:
        """E log p(leaf, z) of posteriors of batch [B], under each leaf, [B, M]."""
        return self.tree.scores(q.mean.double(), q.variance.sum(-1).double(), log_weight)

    @property
    def price(self) -> Tensor:
        """What the tree adds to minus the bound, in nats per image, []."""
        return (self.tree.kl / self.tree.num_codes).float()

    def loss(self, batch: Batch) -> Terms:
        q = self.posterior(batch.x)
        distortion = -self.likelihood(q.rsample()).log_prob(batch.x)
        known = self.training or not self.by_bag
        score = self.scores(
            q,
            self.tree.log_weight[self.group_of(batch.row)]
            if known
            else self.tree.log_mean_weight(self.new_group()[None]),
        )
        log_phi = score.detach().log_softmax(1)
        rate = (log_phi.exp() * (log_phi - score)).sum(1).float() - q.entropy()
        return {
            "loss": distortion + rate,
            "elbo": -(distortion + rate + self.price),
            "rate": rate,
            "distortion": distortion,
        }

    def weigh(self, x: Images, num_samples: int) -> Weights:
        log_likelihood, log_ratio = super().weigh(x, num_samples)
        return Weights(log_likelihood, log_ratio - self.price)

    @torch.no_grad()
    def cluster(self, x: Images) -> LogProbs:
        score = self.scores(self.posterior(x), self.tree.log_mean_weight(self.new_group()[None]))
        return score[:, self.tree.leaf].log_softmax(1).float()

    @torch.no_grad()
    def hierarchy(self) -> Hierarchy:
        alive = (self.tree.parent >= 0) | (torch.arange(len(self.tree.parent), device=self.device) == 0)
        place = alive.cumsum(0) - 1
        parent = self.tree.parent[alive]
        images = self.picture(self.tree.mean[alive].float())
        return Hierarchy(torch.where(parent < 0, parent, place[parent]), images)

    @torch.no_grad()
    def codes(self, rows: Tensor, rank: int) -> Coded:
        """Posteriors of training images [N], drawn from a stream of the epoch's own."""
        data, parts = cast(Any, self.trainer).datamodule, []
        with own_stream(self.stream_seed or 0, self.current_epoch, rank):
            for part in rows.to(self.device).split(IMAGES_AT_ONCE):
                q = self.posterior(data.split("train", part).x)
                parts.append(Coded(q.mean.double(), q.variance.sum(1).double(), self.group_of(part)))
        return Coded(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """After the last of an epoch let the tree follow the network, once it is planted."""
        if self.trainer.is_last_batch and self.current_epoch + 1 >= self.pretrain_epochs:
            self.tend()

    def tend(self) -> None:
        """Plant the tree, or update it, over all training images, dealt to the processes."""
        strategy, world = self.trainer.strategy, self.trainer.world_size
        n = len(cast(Any, self.trainer).datamodule.images("train"))
        if not self.tree.planted:
            few = torch.linspace(0, n - 1, min(n, PLANTED_FROM)).long()
            self.tree.plant(strategy.broadcast(self.codes(few, 0).mean))
        codes = self.codes(torch.arange(self.global_rank, n, world), self.global_rank)

        def total(part: Tensor) -> Tensor:
            return cast(Tensor, strategy.reduce(part, reduce_op="sum"))

        def settle() -> None:
            before = -math.inf
            for _ in range(self.num_sweeps):
                now = self.tree.sweep(codes, total)
                if now - before < SETTLED * n:
                    break
                before = now

        settle()
        grown = self.grow_above is not None and self.tree.grow(codes, self.grow_above, total)
        if self.tree.prune(self.prune_below) or grown:
            settle()
