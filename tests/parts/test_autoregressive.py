"""Facts of bits given a context: probabilities, turns, means, and the heads that make them."""

import pytest
import torch
from support import all_states
from torch.distributions import Independent

from zoo.errors import UsageError
from zoo.parts.annealing.latents import unbounded
from zoo.parts.distributions.autoregressive import Darn, Nade, bit_head, probabilities
from zoo.parts.distributions.layers import Layers

KINDS = ("sbn", "darn", "nade")


def head(kind: str, in_dim: int, dim: int = 5, scale: float = 1.0):
    torch.manual_seed(0)
    made = bit_head(kind, in_dim, dim, -1.0, 4)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=scale)
    return made.requires_grad_(False)


def log_prob_in_turn(made, kind: str, context: torch.Tensor, bits: torch.Tensor) -> float:
    """Written out, unit by unit, with numbers."""
    total, dim = 0.0, len(bits)
    drive = made.drive.weight @ context + made.drive.bias
    for i in range(dim):
        a = drive[i]
        if kind == "darn":
            a = a + sum(made.weight[i, j] * bits[j] for j in range(i))
        if kind == "nade":
            inner = made.hidden.weight @ context + made.hidden.bias
            inner = inner + sum((made.into[j] * bits[j] for j in range(i)), torch.zeros_like(inner))
            a = a + made.out[i] @ (1 / (1 + torch.exp(-inner)))
        p = 1 / (1 + torch.exp(-a))
        total += float(torch.log(p if bits[i] else 1 - p))
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_dim", [0, 3])
def test_the_probabilities_of_all_bits_sum_to_one(kind, in_dim):
    context = torch.randn(4, in_dim) if in_dim else None
    p = head(kind, in_dim)(context)
    assert p.event_shape == (5,)
    log_p = torch.stack([p.log_prob(b.expand(*p.batch_shape, 5).float()) for b in all_states(5)])
    torch.testing.assert_close(
        log_p.double().logsumexp(0), torch.zeros(p.batch_shape).double(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_unit_sees_those_before_it(kind):
    made, context = head(kind, 3), torch.randn(3)
    p = made(context)
    for bits in all_states(5)[::3].float():
        expected = log_prob_in_turn(made, kind, context, bits)
        assert float(p.log_prob(bits)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_probabilities_that_are_claimed(kind):
    context = torch.randn(2, 3)
    p = head(kind, 3, dim=4)(context)
    torch.manual_seed(1)
    drawn = p.sample(torch.Size((40_000,)))
    assert drawn.shape == (40_000, 2, 4)
    states = all_states(4).to(drawn)
    claimed = p.log_prob(states[:, None].expand(-1, 2, -1)).exp()
    found = torch.stack([(drawn == s).all(-1).float().mean(0) for s in states])
    torch.testing.assert_close(found, claimed.to(found), atol=0.01, rtol=0)
    marginal = (claimed[..., None] * states[:, None]).sum(0)
    torch.testing.assert_close(probabilities(p, drawn).mean(0), marginal, atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_weights_between_units_all_kinds_are_independent(kind):
    made = head(kind, 3)
    for name, weights in made.named_parameters():
        if not name.startswith("drive"):
            weights.zero_()
    context, bits = torch.randn(6, 3), all_states(5)[:6].float()
    expected = head("sbn", 3)
    expected.drive = made.drive
    torch.testing.assert_close(made(context).log_prob(bits), expected(context).log_prob(bits))
    torch.testing.assert_close(made(context).mean.float(), expected(context).mean)


@pytest.mark.parametrize("kind", ["darn", "nade"])
def test_the_mean_is_that_of_each_unit_given_the_means_before_it(kind):
    p = head(kind, 3)(torch.randn(2, 3))
    assert isinstance(p, Darn | Nade)
    torch.testing.assert_close(p.mean, p.logits(p.mean).sigmoid())


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_would_look_ahead_has_no_gradient(kind):
    made = head(kind, 3).requires_grad_(True)
    bits = all_states(5)[13].float()
    p = made(torch.randn(3))
    logits = p.base_dist.logits if isinstance(p, Independent) else p.logits(bits)
    for i in range(5):
        made.zero_grad()
        logits[i].backward(retain_graph=True)
        if kind == "darn":
            assert not made.weight.grad[:, i:].any()
        if kind == "nade" and i < 4:
            assert made.into.grad is None or not made.into.grad[i:].any()


def test_layers_of_bits_in_turn_are_discrete():
    made = head("darn", 3, dim=2)
    layers = Layers(head("nade", 0, dim=3)(), made, (3, 2), child_first=True)
    with pytest.raises(UsageError, match="latents must be continuous"):
        unbounded(layers)
    assert layers.sample(torch.Size((7,))).shape == (7, 5)
