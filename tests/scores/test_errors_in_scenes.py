"""Errors as a score writes them: over chains as over images, and intervals and ranks that follow them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import tiny
from torch.distributions import Bernoulli, Independent

from zoo.contract.capabilities import Side
from zoo.data import Digits
from zoo.leaderboard.table import Entrant, boards
from zoo.methods.energy.rbm import RBM
from zoo.parts.estimators import csl
from zoo.scores.metrics import jackknife, mean_and_error, neighbourhoods, share_interval
from zoo.scores.parzen import parzen
from zoo.scores.scene import Scene
from zoo.scores.sections import run_sections

DIGITS = Digits()
TRAIN = DIGITS.originals("train").float() / 255


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    torch.manual_seed(0)


def scene(n: int = 359) -> Scene:
    return Scene(tiny("RBM"), DIGITS, 0, 5, n)


def stuck(images, sharpness: float, steps: int = 3):
    """Chains that stay where they are, each around one image."""
    for _ in range(steps):
        yield Independent(Bernoulli(logits=sharpness * (2 * images - 1)), 3)


def chains_of(monkeypatch, sharpness: float, steps: int = 3):
    monkeypatch.setattr(RBM, "emit", lambda self, n, generator=None: stuck(TRAIN[:n], sharpness, steps))


def test_the_error_of_csl_is_the_spread_over_new_images_and_new_chains(monkeypatch):
    """The images alone, which stay, tell less than the spread that new chains bring."""
    x = DIGITS.split("test").x
    found = [csl(stuck(TRAIN[torch.randperm(len(TRAIN))[:20]], 2.0), x) for _ in range(40)]
    spread = np.std([float(one.log_prob.mean()) for one in found], ddof=1)
    over_chains = np.mean([jackknife(one.without.mean(1)) for one in found])
    assert 0.7 < over_chains / spread < 1.6
    assert mean_and_error(found[0].log_prob).error < 0.7 * spread


def test_csl_is_written_with_both_errors_and_its_effective_number_of_states(monkeypatch):
    chains_of(monkeypatch, 0.5)
    s = scene()
    assert list(run_sections(s, ["csl"])) == [("csl", None)]
    number, ess = s.numbers["test/csl"], s.numbers["test/csl_ess_median"]
    x = DIGITS.split("test").x
    log_p = torch.cat([e.log_prob(x.unsqueeze(1)).double() for e in stuck(TRAIN[:100], 0.5, 1)], 1)
    value, over_images = mean_and_error(log_p.logsumexp(1) - math.log(100))
    others = [
        float((log_p[:, torch.arange(100) != c].logsumexp(1) - math.log(99)).mean()) for c in range(100)
    ]
    assert number.value == pytest.approx(value, abs=1e-5)
    assert number.error == pytest.approx(math.hypot(over_images, math.sqrt(99 * np.var(others))), rel=1e-5)
    assert number.side is Side.LOWER
    assert "300 states of 100 chains, a bound where the chains mix" in number.protocol.how
    sizes = 3 * log_p.exp().sum(1).square() / (2 * log_p).exp().sum(1)
    assert ess.value == pytest.approx(float(sizes.median()), rel=1e-5)
    assert ess.unit == "of 300 states"
    assert ess.protocol == number.protocol
    assert s.warnings == []


def test_csl_of_few_effective_states_says_that_it_is_loose(monkeypatch):
    chains_of(monkeypatch, 2.0)
    s = scene()
    assert list(run_sections(s, ["csl"])) == [("csl", None)]
    assert 2 <= s.numbers["test/csl_ess_median"].value < 20
    (warning,) = s.warnings
    assert warning.startswith("csl is loose: ")
    assert warning.endswith(" of the images have an effective sample size below 10 of 300")


def test_csl_of_the_nearest_state_alone_is_refused(monkeypatch):
    chains_of(monkeypatch, 5.0, 1)
    s = scene()
    ((name, reason),) = run_sections(s, ["csl"])
    assert name == "csl"
    line = "the median image must be explained by at least 2 effective states of the chains, got 1."
    assert reason.startswith(line)
    assert reason.endswith(" of 100")
    assert s.numbers == {}
    assert s.warnings == []


def test_the_error_of_a_parzen_window_of_chains_is_over_chains(monkeypatch):
    """States of a chain that does not move are one state: ten are ten however long the chains are."""
    chains_of(monkeypatch, 4.0, 20)
    s = scene()
    assert list(run_sections(s, ["mixing"])) == [("mixing", None)]
    means = next(stuck(TRAIN[:10], 4.0)).mean
    once = parzen(means, s.real("val", 1000), s.real("test", 359), 10).mean
    number = s.numbers["test/parzen_chains"]
    assert (number.value, number.error) == pytest.approx(once, rel=1e-6)
    assert (
        number.error
        > 1.5 * mean_and_error(parzen(means, s.real("val", 1000), s.real("test", 359)).log_prob).error
    )


def test_intervals_and_ranks_read_the_errors_of_both_sets(monkeypatch):
    """Two recalls whose intervals over the images looked up alone would not overlap share a rank."""
    s = scene()
    s.samples = TRAIN[:359]
    list(run_sections(s, ["neighbourhoods"]))
    number = s.numbers["test/recall"]
    real, fake = s.known(s.real("test", 359)).activations, s.sample_features.activations
    found = neighbourhoods(real, fake).recall
    assert (number.value, number.error) == found
    assert number.interval == share_interval(found, 359)
    binomial = math.sqrt(found.value * (1 - found.value) / 359)
    assert number.error > 1.2 * binomial
    other = replace(number, value=found.value - 4.1 * binomial, interval=None)
    entrants = [
        Entrant(slug, "RBM", "digits", {"test/recall": one}, {}, {})
        for slug, one in (("a", number), ("b", other))
    ]
    (board,) = boards(entrants, metric="recall")
    assert board.ranks() == [1, 1]
