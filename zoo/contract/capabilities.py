"""What a method can do: nominal mixins of one abstract method each. A class header lists them.

Listeners (`evaluation.py`, `callbacks.py`) ask `isinstance(method, Capability)` and nothing else of a method.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo.contract.shapes import Codes, Images, Labels, LogProbs, PerImage, PerSample


class Side(Enum):
    """On which side of a reported number the true value lies."""

    EXACT = "="
    LOWER = ">="
    """The number is a lower bound."""
    UPPER = "<="
    """The number is an upper bound."""
    LOW = ">~"
    """The number is too low on average, as log Z by annealing is."""
    HIGH = "<~"
    """The number is too high on average: of a log-likelihood, optimistic."""
    ESTIMATE = "~"

    @property
    def opposite(self) -> "Side":
        """The side of a falling function of the number, such as minus; a rising one keeps the side."""
        return Side(self.value.translate(str.maketrans("<>", "><")))

    def plus(self, other: "Side") -> "Side":
        """The side of the sum of two numbers: the weaker of two that agree, else an estimate."""
        if Side.EXACT in (self, other):
            return other if self is Side.EXACT else self
        if self.value[0] != other.value[0]:
            return Side.ESTIMATE
        return self if self.value.endswith("~") else other

    def minus(self, other: "Side") -> "Side":
        """The side of the difference of two numbers."""
        return self.plus(other.opposite)


class Weights(NamedTuple):
    """Importance weights in two parts, in nats: `log w = log_likelihood + log_ratio`."""

    log_likelihood: PerSample
    """log p(x|z), [K, B]."""
    log_ratio: PerSample
    """log p(z) - log q(z|x), [K, B]."""

    @property
    def log_w(self) -> PerSample:
        """The value of log p(x, z) - log q(z|x), [K, B]."""
        return self.log_likelihood + self.log_ratio


class Beliefs(NamedTuple):
    """What is believed of the latents of B images, before and after looking at them."""

    prior: Distribution
    """p(z), event [D]."""
    posterior: Distribution
    """q(z|x), batch [B], event [D]."""


class Explanation(NamedTuple):
    """A latent-variable model's account of B images.

    The distributions say by torch's `support` where their latents live: discrete ones are not annealed,
    sticks and simplices are annealed in coordinates without bounds.
    """

    prior: Distribution
    """p(z), event [D]."""
    posterior: Distribution
    """q(z|x), batch [B], event [D]."""
    log_likelihood: Callable[[Tensor], Tensor]
    """Latents [K, B, D] to log p(x|z) in nats, [K, B]; differentiable in z."""


class Hierarchy(NamedTuple):
    """A tree of groups, each a node."""

    parent: Tensor
    """Position of each node's parent, [nodes] int64; -1 of the root, which comes first. Nodes without
    children are leaves: the clusters, in their order."""
    images: Images
    """What each node stands for, [nodes, C, H, W]."""


class Partition(NamedTuple):
    """A normalising constant and how far it can be trusted."""

    log_z: float
    """log Z in nats."""
    error: float
    """Standard error of `log_z`; 0 where it is exact."""
    low: float
    """log of the estimate of Z less three standard errors; -inf where that is not positive."""
    high: float
    """log of the estimate of Z plus three standard errors."""
    ess: float
    """Effective sample size of the chains, between 1 and their number; infinite where the value is exact."""
    num_steps: int
    """Intermediate distributions; 0 where the value is exact."""
    spread: float
    """Standard deviation of the log-weights of the chains in nats; 0 where the value is exact."""


class Samples(ABC):
    """Draws images."""

    draws_pixels: bool = False
    """Whether `sample` draws pixels too, for want of a mean: rows that depend on it say so."""

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        """Images [n, C, H, W] in [0, 1]: the mean after the last random choice of the latent or the chain.

        Where pixels depend on one another given that choice (an autoregressive decoder), their mean is no
        image of the model's: the pixels are drawn too.
        """


class Walks(Samples):
    """Draws images as the last state of a Markov chain."""

    @abstractmethod
    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        """Yield the states [n, C, H, W] of n chains, first to last."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        """The last state of a walk, [n, C, H, W]."""
        return deque(self.walk(n, generator=generator), maxlen=1).pop()


class Returns(Walks):
    """Walks away from images too, and back from where that ends: a start that is known to be right.

    Held against samples, it tells a chain that goes astray from one that starts in the wrong place.
    """

    @abstractmethod
    def walk_back(self, x: Images, *, generator: torch.Generator | None = None) -> Images:
        """Images [B, C, H, W] that chains end in which start where walks away from images end."""


class Emits(Walks):
    """Walks through distributions whose means are its images: what a conservative likelihood listens to."""

    @abstractmethod
    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Distribution]:
        """Yield p(x|state) of n chains, first to last: batch [n], event [C, H, W]."""

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        """Yield the means of what is emitted, clamped to [0, 1]."""
        return (p.mean.clamp(0, 1) for p in self.emit(n, generator=generator))


class Conditions(ABC):
    """Draws images of a wanted class, or of a wanted category of its own.

    Categories that were found without labels have no names: before their samples are held against labels,
    each class is given the category that goes with it best on training images, one to one. For that the
    method has to recognise its categories in images (`Clusters`, in the same order).
    """

    num_categories: int | None = None
    """None where y are the labels of the data; else how many categories of its own the method has."""

    @abstractmethod
    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        """One image per label or category: [B, C, H, W] in [0, 1]."""


class Varies(Conditions):
    """Draws images of a wanted class in levels, each with noise of its own; level 0 is next to the pixels."""

    num_levels: int

    @abstractmethod
    def vary(self, y: Labels, level: int, n: int, *, generator: torch.Generator | None = None) -> Images:
        """Images of each label that differ in the noise of one level alone, [n, B, C, H, W]."""


class Steers(Conditions):
    """Has continuous codes beside its categories: what one of them does is seen by turning it alone."""

    num_codes: int
    """How many there are; each is uniform over [-1, 1] in training."""

    @abstractmethod
    def steer(
        self, y: Labels, code: int, values: Tensor, *, generator: torch.Generator | None = None
    ) -> Images:
        """Images of each category [B] that differ in one code's value [n] alone, [n, B, C, H, W]."""


class Scores(ABC):
    """Gives images a log-likelihood, on a stated side of the truth."""

    side: ClassVar[Side]

    @abstractmethod
    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        """The value of log p(x) in nats per image, [B]."""

    def scored_by(self, num_samples: int) -> str:
        """What protocols say of the draws behind `log_prob`; nothing where they leave nothing out."""
        return ""


class Baselines(ABC):
    """Knows the log-likelihood of a model without structure, such as its own noise, to be held against."""

    @abstractmethod
    def baseline_log_prob(self, x: Images) -> PerImage:
        """The baseline's log p(x) in nats per image, exact, [B]: what is gained over it keeps its side."""


class Weighs(Scores):
    """Scores through importance weights, which also give the ELBO, rate, distortion and sample size."""

    draw_size: int | None = None
    """Numbers that one draw for one image takes while it is weighed, by which chunks are kept in memory; None
    counts the image's pixels, too few where latents or features are wider than images."""

    @abstractmethod
    def weigh(self, x: Images, num_samples: int) -> Weights:
        """Weights [K, B] of `num_samples` latents per image drawn from the posterior approximation.

        The draws are independent and may be discrete, by `sample`: nobody above asks for their gradient.
        """


class Believes(ABC):
    """Has a prior of its latents, and a posterior given an image; a likelihood of images is not asked for."""

    @abstractmethod
    def believe(self, x: Images) -> Beliefs:
        """Prior and approximate posterior of the latents of images [B, C, H, W]."""


class Explains(Weighs, Believes):
    """Explains images by latents whose prior, posterior and likelihood can be evaluated anywhere."""

    @abstractmethod
    def explain(self, x: Images) -> Explanation:
        """Prior, approximate posterior and likelihood of the latents of images [B, C, H, W]."""

    def believe(self, x: Images) -> Beliefs:
        """The prior and the posterior of the explanation."""
        prior, posterior, _ = self.explain(x)
        return Beliefs(prior, posterior)


class Energies(ABC):
    """Gives images an energy."""

    energy_side: Side = Side.EXACT
    """UPPER where the energy is an upper bound in expectation, of all methods of a class or of one."""

    temperature: float = 1.0
    """The T of p(x) = exp(-E(x) / T) / Z. A net whose E comes without one, as Hopfield's, has no
    probabilities until it names it; the rows of its log Z do so too."""

    @abstractmethod
    def energy(self, x: Images) -> PerImage:
        """E(x) / T: minus log p(x) in nats up to a constant that is the same for all images, [B]."""


class Normalises(Energies):
    """Estimates its own normalising constant."""

    partition_steps: ClassVar[int] = 14_500
    """Intermediate distributions of the annealing behind a score (Salakhutdinov, Murray 2008)."""

    @abstractmethod
    def log_partition(self, num_chains: int, num_steps: int) -> Partition:
        """The value of log Z: by enumeration where that is possible, else by annealed importance sampling."""


class Encodes(ABC):
    """Gives images a code."""

    @abstractmethod
    def encode(self, x: Images) -> Codes:
        """Codes [B, D]; for a posterior its mean, for several layers the top one's or the one decoded."""


class Infers(Encodes):
    """Has stochastic latent layers whose posterior means can be read.

    A unit is active where its posterior mean varies by over a hundredth of its variance under the prior.
    """

    @abstractmethod
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        """E_q[z|x] of every stochastic layer, the one next to the pixels first; each [B, D_l]."""

    def encode(self, x: Images) -> Codes:
        """The top layer's posterior means, [B, D]."""
        return self.posterior_means(x)[-1]

    def prior_variance(self, layer: int) -> float | Tensor:
        """Variance under the prior of the units of a layer, 0 next to the pixels: one number or [D_l].

        1 for N(0, I); p (1 - p) for bits, at most 1/4; a / ((1 + a)^2 (2 + a)) for sticks of Beta(1, a).
        """
        return 1.0


class Divides(ABC):
    """Divides what it says of an image into shares, of sticks or of a mixture's components."""

    @abstractmethod
    def divide(self, x: Images) -> Codes:
        """Mean shares [B, K], at least 0 and 1 in sum, of images [B, C, H, W]."""

    def share_norms(self) -> Tensor | None:
        """Norms [K] of the decoder's weights that read each share; None where it reads none."""
        return None


class Decodes(ABC):
    """Turns codes into images."""

    @abstractmethod
    def decode(self, z: Codes) -> Images:
        """Mean images [B, C, H, W] in [0, 1] of codes [B, D]; drawn ones where `sample` draws pixels."""


class Reconstructs(ABC):
    """Passes images through its code and back."""

    @abstractmethod
    def reconstruct(self, x: Images) -> Images:
        """Mean images [B, C, H, W], deterministic; those of a linear decoder may leave [0, 1].

        Where `sample` draws pixels, they are drawn here too.
        """


class Repairs(ABC):
    """Fills in what is missing or corrupt."""

    @abstractmethod
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        """Images [B, C, H, W] that agree with `x` where `mask` is 1 (known)."""


class Classifies(ABC):
    """Predicts labels."""

    classifies_by: str = "p(y|x)"
    """What `classify` gives the logarithm of, as protocols name it: p(y|x), or what stands in its place where
    that cannot be had, as p(y|E[h|x]) of a model with hidden units between image and label."""

    @abstractmethod
    def classify(self, x: Images) -> LogProbs:
        """Log-probabilities of the labels given the images, those of `classifies_by`, [B, classes]."""


class ClassifiesCodes(Believes, Classifies):
    """Predicts labels from its latents alone."""

    @abstractmethod
    def classify_codes(self, z: Tensor) -> Tensor:
        """Log-probabilities of the labels given codes [..., D]: [..., classes]."""


class Clusters(ABC):
    """Groups images without labels."""

    @abstractmethod
    def cluster(self, x: Images) -> LogProbs:
        """The value of log q(cluster|x), [B, clusters]."""


class Recovers(Conditions, Clusters):
    """Finds the codes of its own samples in them again, and its categories in any images."""

    num_categories: int

    @abstractmethod
    def recovered(self, n: int) -> tuple[Tensor, Tensor]:
        """Of n samples: log Q(c|x) + H(c) of the category [n] and of each continuous code [n, J], in nats.

        The means are lower bounds on what images tell of their codes, at most the entropies H(c).
        """


class Nests(Clusters):
    """Groups images in a tree, whose leaves are its clusters."""

    @abstractmethod
    def hierarchy(self) -> Hierarchy:
        """The tree, with the image of every node."""
