"""Facts of the schedules of diffusion rates."""

import math

import pytest
import torch

from zoo.methods.chains.shared.betas import NoiseSchedule, bumps, spread_steps


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


@pytest.mark.parametrize("first", [1e-3, 1e-5])
def test_the_log_of_signal_to_noise_falls_as_much_at_every_step(first):
    betas = NoiseSchedule("logsnr", 100, 3, first)()
    logsnr = (1 - betas).cumprod(0).logit()
    assert float(betas[0]) == pytest.approx(first)
    torch.testing.assert_close(logsnr.diff(), (logsnr[-1] - logsnr[0]).expand(99) / 99)
    assert float(logsnr[0] + logsnr[-1]) == pytest.approx(0, abs=1e-9)
    assert NoiseSchedule("logsnr", 100, 3)()[0] == pytest.approx(1e-3)


def test_the_cosine_schedule():
    kept = (1 - NoiseSchedule("cosine", 1000, 3)()).cumprod(0)
    for t in (1, 500, 998):
        angle = [math.cos((u / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t, 0)]
        assert float(kept[t - 1]) == pytest.approx(angle[0] / angle[1], rel=1e-9)
    assert NoiseSchedule("cosine", 1000, 3)()[-1] == 0.999


def test_steps_of_a_batch_are_uniform_each_and_evenly_spread_together():
    torch.manual_seed(0)
    draws = torch.stack([spread_steps(5, 2, 11, torch.device("cpu")) for _ in range(4000)])
    assert draws.min() == 2
    assert draws.max() == 11
    counts = torch.stack([(draws == t).double().mean(0) for t in range(2, 12)])
    assert (counts - 0.1).abs().max() < 4 * math.sqrt(0.09 / 4000)
    assert (draws.sort(1).values.diff() == 2).double().mean() == 1
