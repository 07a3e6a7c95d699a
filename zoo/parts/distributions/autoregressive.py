"""Bits given a context, independent of one another or each dependent on those before it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints
from torch.nn.functional import linear, pad

from zoo.parts.distributions.bits import bernoulli, draw_bits

BitKind = Literal["sbn", "darn", "nade"]
"""Sigmoid belief net: independent given the context. Deep autoregressive network: each unit's input is linear
in the units before it. Neural autoregressive distribution estimator: it passes through hidden units."""


class InTurn(Distribution, ABC):
    """Bits b [..., D] with p(b) = prod_i p(b_i | b_1, ..., b_{i-1}).

    Args:
        drive: Inputs [..., D] of the units before any of them adds to the others'.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, drive: Tensor) -> None:
        self.drive = drive
        super().__init__(drive.shape[:-1], drive.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Zeros and ones."""
        return constraints.independent(constraints.boolean, 1)

    @abstractmethod
    def logits(self, bits: Tensor) -> Tensor:
        """Logits [..., D] of every unit given those before it in bits [..., D]."""

    @abstractmethod
    def unfold(self, choose: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
        """Units of a shape [..., D], one after the other: each is what is chosen of its logit."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the probabilities in nats, [...]."""
        return bernoulli(self.logits(value), 1).log_prob(value)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Zeros and ones, [*sample_shape, ..., D]."""
        return self.unfold(draw_bits, self._extended_shape(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """Each unit's mean given the means of those before it, [..., D]; the true one has no closed form."""
        return self.unfold(torch.sigmoid, self._extended_shape())


class Darn(InTurn):
    """The input of unit i is drive_i + sum_{j<i} weight_ij b_j.

    Args:
        drive: [..., D].
        weight: [D, D]; what is not below the diagonal does not count.
    """

    def __init__(self, drive: Tensor, weight: Tensor) -> None:
        super().__init__(drive)
        self.weight = weight.tril(-1)

    def logits(self, bits: Tensor) -> Tensor:
        """Logits [..., D] of every unit given those before it."""
        return self.drive + bits @ self.weight.T

    def unfold(self, choose: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
        """Units of a shape [..., D], one after the other."""
        logits, units = self.drive.expand(shape), []
        for i, column in enumerate(self.weight.unbind(1)):
            units.append(choose(logits[..., i]))
            logits = torch.addcmul(logits, units[-1].unsqueeze(-1), column)
        return torch.stack(units, -1)


class Nade(InTurn):
    """The input of unit i is drive_i + out_i sigmoid(hidden + sum_{j<i} into_j b_j).

    Args:
        drive: [..., D].
        hidden: Inputs of M hidden units before the first bit, [..., M].
        into: [D, M].
        out: [D, M].
    """

    def __init__(self, drive: Tensor, hidden: Tensor, into: Tensor, out: Tensor) -> None:
        super().__init__(drive)
        self.hidden, self.into, self.out = hidden, into, out

    def logits(self, bits: Tensor) -> Tensor:
        """Logits [..., D] of every unit given those before it; holds [..., D, M]."""
        added = (bits[..., :-1, None] * self.into[:-1]).cumsum(-2)
        a = self.hidden.unsqueeze(-2) + pad(added, (0, 0, 1, 0))
        return self.drive + (a.sigmoid() * self.out).sum(-1)

    def unfold(self, choose: Callable[[Tensor], Tensor], shape: torch.Size) -> Tensor:
        """Units of a shape [..., D], one after the other."""
        drive, units = self.drive.expand(shape), []
        a = self.hidden.expand(*shape[:-1], -1)
        for i, (into, out) in enumerate(zip(self.into, self.out, strict=True)):
            units.append(choose(drive[..., i] + (a.sigmoid() * out).sum(-1)))
            a = torch.addcmul(a, units[-1].unsqueeze(-1), into)
        return torch.stack(units, -1)


def probabilities(p: Distribution, bits: Tensor) -> Tensor:
    """Chances [..., D] of a 1, of every unit given those before it: over draws their mean is p's own."""
    logits = p.logits(bits) if isinstance(p, InTurn) else _independent_logits(p).expand_as(bits)
    return logits.sigmoid()


def _independent_logits(p: Distribution) -> Tensor:
    assert isinstance(p, Independent)
    return p.base_dist.logits  # pyright: ignore[reportAttributeAccessIssue]


class Affine(nn.Module):
    """Weights and biases from a context [..., C] to [..., D]; without a context, C = 0, only biases.

    Weights start Glorot-uniform.

    Args:
        in_dim: Width C of the context.
        out_dim: Width D.
        bias: Where the biases start.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((out_dim,), bias))
        self.weight = glorot(out_dim, in_dim) if in_dim else None

    def forward(self, context: Tensor | None) -> Tensor:
        """Outputs [..., D]; [D] without a context."""
        if self.weight is None or context is None:
            return self.bias
        return linear(context, self.weight, self.bias).float()


class BitHead(nn.Module):
    """Context [..., C], or none, to independent bits [..., D].

    Args:
        in_dim: Width C of the context, 0 for none.
        dim: Number D of bits.
        bias: Where their biases start.
    """

    def __init__(self, in_dim: int, dim: int, bias: float = 0.0) -> None:
        super().__init__()
        self.drive = Affine(in_dim, dim, bias)
        self.draw_size = dim
        """Numbers that one draw takes while its probability is computed."""

    def forward(self, context: Tensor | None = None) -> Distribution:
        """The bits' distribution, event [D]."""
        return bernoulli(self.drive(context), 1)


class DarnHead(BitHead):
    """Context [..., C], or none, to bits [..., D] whose inputs are linear in the bits before them."""

    def __init__(self, in_dim: int, dim: int, bias: float = 0.0) -> None:
        super().__init__(in_dim, dim, bias)
        self.weight = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, context: Tensor | None = None) -> Distribution:
        """The bits' distribution, event [D]."""
        return Darn(self.drive(context), self.weight)


class NadeHead(BitHead):
    """Context [..., C], or none, to bits [..., D] that see those before them through hidden units.

    Args:
        in_dim: Width C of the context, 0 for none.
        dim: Number D of bits.
        bias: Where their biases start.
        hidden_dim: Number M of hidden units.
    """

    def __init__(self, in_dim: int, dim: int, bias: float, hidden_dim: int) -> None:
        super().__init__(in_dim, dim, bias)
        self.hidden = Affine(in_dim, hidden_dim)
        self.into, self.out = glorot(dim, hidden_dim), glorot(dim, hidden_dim)
        self.draw_size = dim * hidden_dim

    def forward(self, context: Tensor | None = None) -> Distribution:
        """The bits' distribution, event [D]."""
        return Nade(self.drive(context), self.hidden(context), self.into, self.out)


def bit_head(kind: BitKind, in_dim: int, dim: int, bias: float, nade_dim: int) -> BitHead:
    """A head of a kind; `nade_dim` counts the hidden units of a NADE."""
    if kind == "nade":
        return NadeHead(in_dim, dim, bias, nade_dim)
    return {"sbn": BitHead, "darn": DarnHead}[kind](in_dim, dim, bias)


def glorot(out_dim: int, in_dim: int) -> nn.Parameter:
    """Glorot-uniform weights [out_dim, in_dim]."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(out_dim, in_dim)))
