"""Facts of the schedules of diffusion rates."""

import pytest
import torch

from zoo.methods.chains.shared.betas import NoiseSchedule, bumps


@pytest.mark.parametrize("num_steps", [2, 40, 2000])
def test_the_harmonic_schedule_takes_away_as_much_at_every_step(num_steps):
    betas = NoiseSchedule("harmonic", num_steps, 3)()
    kept = (1 - betas).cumprod(0)
    t = torch.arange(1, num_steps + 1, dtype=torch.float64)
    torch.testing.assert_close(kept, (num_steps - t) / num_steps, rtol=0, atol=1e-12)


def test_the_learnt_schedule_moves_all_but_its_first_step():
    betas = NoiseSchedule("learnt", 1000, 10).requires_grad_(False)
    first = betas().clone()
    assert float(first[0]) == pytest.approx(2e-3, rel=1e-3)
    torch.testing.assert_close(first[1:], 1 / torch.linspace(1000, 2, 1000).double()[1:], rtol=1e-6, atol=0)
    assert NoiseSchedule("learnt", 40, 3, first=1e-3)()[0] == 1e-3
    with torch.no_grad():
        betas.shift.fill_(0.5)
    torch.testing.assert_close(betas()[1:].logit(), first[1:].logit() + 0.5, rtol=1e-6, atol=1e-9)
    assert betas()[0] == first[0]
    with torch.no_grad():
        betas.shift.fill_(-100)
    assert float(betas()[1:].min()) == pytest.approx(1e-6)


def test_bumps_sum_to_one_and_are_centred_over_time():
    b = bumps(99, 4)
    torch.testing.assert_close(b.sum(1), torch.ones(99).double())
    assert (b.argmax(1).diff() >= 0).all()
    assert sorted(set(b.argmax(1).tolist())) == [0, 1, 2, 3]
