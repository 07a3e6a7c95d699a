"""Where variables live, as torch's `support` of a distribution says."""

from torch.distributions import Distribution, Transform, biject_to, constraints
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from zoo.errors import UsageError


def support_of(distribution: Distribution) -> Constraint:
    """The support of a distribution; that of a mixture is its components', wherever it stands.

    Raises:
        UsageError: If the distribution names none.
    """
    try:
        support = distribution.support
    except RuntimeError:
        support = None
    if not isinstance(support, Constraint):
        name = type(distribution).__name__
        raise UsageError(f"a distribution of latents must name its support, {name} has none")
    return _of_components(support)


def _of_components(support: Constraint) -> Constraint:
    if isinstance(support, MixtureSameFamilyConstraint):
        return _of_components(support.base_constraint)
    if isinstance(support, constraints.independent):
        base = _of_components(support.base_constraint)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    if isinstance(support, constraints.cat):
        return constraints.cat([_of_components(c) for c in support.cseq], support.dim, support.lengths)
    return support


def unbounded(distribution: Distribution) -> Transform:
    """The map from coordinates without bounds to a continuous variable's values: for Gaussians the identity.

    Raises:
        UsageError: If the variable is discrete, or torch knows no such map for its support.
    """
    support = support_of(distribution)
    if support.is_discrete:
        raise UsageError(f"latents must be continuous to be moved along gradients, got {support}")
    try:
        return biject_to(support)
    except RuntimeError as error:
        raise UsageError(f"latents must have coordinates without bounds in torch, got {support}") from error
