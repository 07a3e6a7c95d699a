"""The evaluator: every capability's numbers, its refusals, and that looking changes nothing."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from support import MeanByDescent, same, state, tiny, trainer
from torch import nn
from torch.distributions import Bernoulli, Independent

from zoo.contract.capabilities import Clusters, Conditions, Emits, Encodes, Normalises, Samples, Side
from zoo.contract.method import Method
from zoo.data.sets import Digits, ImageFolder, from_recipe
from zoo.errors import UsageError
from zoo.parts.annealing.binary_pair import BinaryPair
from zoo.parts.annealing.verdicts import log_partition
from zoo.scores.evaluation import Evaluator
from zoo.scores.results import Results
from zoo.scores.scene import drawn
from zoo.scores.sections import SECTIONS


class Silent(Method):
    """Can do nothing at all."""

    paper = "None."

    def __init__(self, image_shape=(1, 8, 8)) -> None:
        super().__init__(image_shape)
        self.weight = nn.Parameter(torch.zeros(1))

    def configure_optimizers(self):
        return None


class Sampler(Silent, Samples):
    """Draws what it is told to."""

    def __init__(self, draw) -> None:
        super().__init__()
        self.draw = draw

    def sample(self, n, *, generator=None):
        return self.draw(n)


class Everything(Silent, Conditions, Emits, Normalises, Encodes, Clusters):
    """A random RBM that also clusters by its first pixels: what the listeners listen to, in one."""

    def __init__(self, num_hidden: int = 5) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.w = 0.1 * torch.randn(64, num_hidden, generator=stream)
        self.b, self.c = torch.zeros(num_hidden), torch.full((64,), -1.0)

    @property
    def pair(self) -> BinaryPair:
        return BinaryPair(self.w, self.b, self.c, self.c)

    def sample(self, n, *, generator=None):
        return list(self.walk(n))[-1]

    def walk(self, n, *, generator=None):
        for emission in self.emit(n):
            yield emission.mean

    def emit(self, n, *, generator=None):
        v = torch.zeros(n, 64)
        for _ in range(20):
            h = torch.bernoulli((v @ self.w + self.b).sigmoid())
            logits = (h @ self.w.T + self.c).view(n, 1, 8, 8)
            yield Independent(Bernoulli(logits=logits), 3)
            v = torch.bernoulli(logits.sigmoid()).flatten(1)

    def sample_given(self, y, *, generator=None):
        return REAL[y]

    def energy(self, x):
        v = x.flatten(1)
        return -(v @ self.c + nn.functional.softplus(v @ self.w + self.b).sum(1))

    def log_partition(self, num_chains, num_steps):
        return log_partition(self.pair, num_chains, min(num_steps, 200))

    def encode(self, x):
        return (x.flatten(1) @ self.w + self.b).sigmoid()

    def cluster(self, x):
        return x.flatten(1)[:, 18:22].log_softmax(-1)


def _one_of_each_class() -> torch.Tensor:
    train = Digits(binarize="none").split("train")
    return torch.stack([train.x[train.y == y][0] for y in range(10)])


REAL = torch.zeros(10, 1, 8, 8)


def score(method: Method, tmp_path: Path, data=None, **options) -> Results:
    evaluator = Evaluator(out=str(tmp_path / "results.json"), **{"num_samples": 3} | options)
    trainer(callbacks=[evaluator]).test(method, datamodule=data or Digits(), verbose=False)
    assert evaluator.results is not None
    assert Results.read(tmp_path / "results.json") == evaluator.results
    return evaluator.results


def test_slow_metrics_wait_to_be_asked():
    assert set(SECTIONS) - set(Evaluator().metrics) == {"ais"}


def test_a_method_that_can_do_nothing_has_no_numbers_and_a_reason_for_each(tmp_path):
    results = score(Silent(), tmp_path)
    assert results.numbers == {}
    assert set(results.skipped) == set(SECTIONS) - {"ais"}
    assert all("Silent has not that capability" in reason for reason in results.skipped.values())
    assert results.skipped["fid"].startswith("needs Samples: ")


def test_every_other_capability_is_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "REAL", _one_of_each_class())
    method = Everything()
    results = score(method, tmp_path)
    value = {name.removeprefix("test/"): number.value for name, number in results.numbers.items()}
    x = Digits().split("test").x
    exact = -method.energy(x).double() - log_partition(method.pair, 1, 1).log_z
    assert value["log_prob"] == pytest.approx(exact.mean().item(), abs=1e-5)
    assert results.numbers["test/log_prob"].side is Side.EXACT
    assert results.numbers["test/bits_per_dim"].side is Side.EXACT
    assert value["conditional_accuracy"] == pytest.approx(1.0)
    assert results.numbers["test/conditional_accuracy"].interval[0] < 1
    assert value["csl"] < value["log_prob"] + 0.1
    assert results.numbers["test/csl"].side is Side.LOWER
    assert "2000 states of 100 chains" in results.numbers["test/csl"].protocol.how
    assert value["used_clusters"] <= 4
    assert str(results.numbers["test/nmi"].protocol) == "digits 1x8x8; 359 images"
    assert 0.1 < value["probe_accuracy"] < 1
    assert results.skipped.keys() == {
        "accuracy",
        "bottleneck",
        "active_units",
        "reconstruction",
        "aggregate",
        "matching",
        "code_use",
        "sampled_codes",
        "shares",
        "trees",
        "outliers",
        "log_prob",
        "walked",
        "recovered",
    }


def test_an_annealed_partition_says_so_and_adds_its_error(tmp_path):
    method = Everything(num_hidden=25)
    results = score(method, tmp_path, metrics=["partition"])
    log_prob, log_z = results.numbers["test/log_prob_optimistic"], results.numbers["test/log_partition"]
    assert log_prob.side is Side.HIGH
    assert log_z.side is results.numbers["test/bits_per_dim"].side is Side.LOW
    assert "AIS, 100 chains" in log_prob.protocol.how
    assert log_prob.error > log_z.error > 0
    assert results.numbers["test/partition_ess"].value > 50


def test_a_partition_that_cannot_be_trusted_is_refused(tmp_path):
    method = Everything(num_hidden=25)
    method.w = method.w * 60
    method.log_partition = lambda chains, steps: log_partition(method.pair, chains, 5)
    results = score(method, tmp_path, metrics=["partition"])
    assert results.numbers == {}
    assert "the effective number of chains must be at least 5" in results.skipped["partition"]


def test_a_refused_partition_is_annealed_four_times_as_long(tmp_path):
    method, asked = Everything(num_hidden=25), []
    honest = method.log_partition

    def hasty(chains, steps):
        asked.append(steps)
        return honest(chains, steps)._replace(ess=1.0 if steps < 58_000 else 50.0, num_steps=steps)

    method.log_partition = hasty
    results = score(method, tmp_path, metrics=["partition"])
    assert asked == [14_500, 3_625, 58_000, 14_500]
    assert "58000 distributions" in results.numbers["test/log_partition"].protocol.how


def test_chains_are_asked_how_well_they_mix(tmp_path):
    """Chains that alternate between two digits switch at every step and visit two classes."""
    x = Digits(binarize="none").split("train")
    pair = [x.x[x.y == label][0] for label in (0, 7)]

    class Alternating(Everything):
        def emit(self, n, *, generator=None):
            for step in range(6):
                yield Independent(Bernoulli(probs=pair[step % 2].expand(n, -1, -1, -1)), 3)

    numbers = score(Alternating(), tmp_path, metrics=["mixing"]).numbers
    assert numbers["test/class_switches"].value == 1
    assert numbers["test/classes_visited"].value == 2
    assert "6 consecutive states of 10 chains" in numbers["test/class_switches"].protocol.how


def test_a_number_does_not_depend_on_which_others_are_asked_for(tmp_path):
    """Not even on whether the feature network was needed before."""
    alone, later = (
        score(Everything(), tmp_path, metrics=metrics).numbers
        for metrics in (["mixing"], ["classes", "mixing"])
    )
    for name in ("test/class_switches", "test/classes_visited"):
        assert alone[name] == later[name]


def test_a_bound_on_the_energy_changes_the_side(tmp_path):
    class Bounded(Everything):
        energy_side = Side.UPPER

    exact = score(Bounded(), tmp_path, metrics=["partition"]).numbers
    assert exact["test/log_prob_lower"].side is Side.LOWER
    assert exact["test/bits_per_dim"].side is Side.UPPER
    assert "a bound on the energy" in exact["test/log_prob_lower"].protocol.how
    annealed = score(Bounded(num_hidden=25), tmp_path, metrics=["partition"]).numbers
    assert annealed["test/log_prob_estimate"].side is annealed["test/bits_per_dim"].side is Side.ESTIMATE


BAD = {
    "NaN": (lambda n: torch.full((n, 1, 8, 8), math.nan), "images must be finite, got 22976 values"),
    "above 1": (lambda n: torch.full((n, 1, 8, 8), 1.5), r"images must lie in [0, 1], got 1.5 to 1.5"),
    "below 0": (
        lambda n: torch.linspace(-0.5, 1, n * 64).view(n, 1, 8, 8),
        "images must lie in [0, 1], got -0.5 to 1",
    ),
    "channels": (
        lambda n: torch.rand(n, 3, 8, 8),
        "samples must have shape (359, 1, 8, 8), got (359, 3, 8, 8)",
    ),
    "too few": (
        lambda n: torch.rand(n - 1, 1, 8, 8),
        "samples must have shape (359, 1, 8, 8), got (358, 1, 8, 8)",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_samples_are_skipped_with_one_line(bad, tmp_path):
    draw, line = BAD[bad]
    results = score(Sampler(draw), tmp_path)
    assert results.numbers == {}
    for name in ("fid", "kid", "inception_score", "neighbourhoods", "classes", "parzen"):
        assert results.skipped[name].startswith(line), results.skipped[name]
        assert "\n" not in results.skipped[name]


def test_identical_samples_have_defined_values(tmp_path):
    results = score(Sampler(lambda n: torch.full((n, 1, 8, 8), 0.5)), tmp_path)
    value = {name.removeprefix("test/"): number.value for name, number in results.numbers.items()}
    assert value["fid"] > 10 * results.floors["train"]["test/fid"].value
    assert value["inception_score"] == pytest.approx(1.0)
    assert value["recall"] == 0
    assert value["coverage"] <= 0.05
    assert value["class_distance"] == pytest.approx(0.9)


def test_too_few_images_are_skipped_and_smaller_sets_say_their_size(tmp_path):
    few = score(Sampler(lambda n: torch.rand(n, 1, 8, 8)), tmp_path, num_images=100)
    assert few.skipped["fid"] == "FID needs more images than the 128 features, and at least 3, got 100"
    assert "100 samples against 359 test images" in few.numbers["test/kid"].protocol.how
    two = score(Sampler(lambda n: torch.rand(n, 1, 8, 8)), tmp_path, num_images=2)
    assert two.skipped["kid"] == "KID needs at least 3 images on each side, got 359 and 2"
    assert two.skipped["neighbourhoods"].startswith("neighbourhoods need more than 6 images")


def test_real_images_score_like_the_floor_and_better_than_noise(tmp_path):
    """The training images as samples are the training floor; the floors order as they must."""
    train = Digits(binarize="none").split("train").x
    results = score(Sampler(lambda n: train[drawn(len(train), n)]), tmp_path)
    for name, number in results.numbers.items():
        if name in results.floors["train"]:
            floor = results.floors["train"][name].value
            assert number.value == pytest.approx(floor, rel=1e-6, abs=1e-6), name
    train_floor, noise = results.floors["train"], results.floors["independent_pixels"]
    for lower in ("test/fid", "test/kid", "test/class_distance"):
        assert train_floor[lower].value < noise[lower].value
    for higher in ("precision", "recall", "density", "coverage", "inception_score", "parzen"):
        assert train_floor[f"test/{higher}"].value > noise[f"test/{higher}"].value


def test_the_score_is_a_function_of_weights_and_seed(tmp_path):
    method = tiny("VAE")
    torch.manual_seed(1)
    one = score(method, tmp_path)
    torch.manual_seed(2)
    two = score(method, tmp_path)
    other = score(method, tmp_path, seed=1)
    assert one.numbers == two.numbers
    assert one.floors == two.floors == other.floors
    assert one.numbers["test/fid"].value != other.numbers["test/fid"].value


def test_the_test_loop_may_be_cut_short(tmp_path):
    evaluator = Evaluator(num_samples=3, out=str(tmp_path / "r.json"))
    trainer(callbacks=[evaluator], limit_test_batches=2).test(tiny("VAE"), datamodule=Digits(), verbose=False)
    assert "200 images" in evaluator.results.numbers["test/log_prob_lower"].protocol.how
    assert "1295 training and 200 test codes" in evaluator.results.numbers["test/probe_accuracy"].protocol.how


def test_looking_while_training_logs_numbers_and_never_changes_the_weights():
    weights, logged = [], []
    for every in (0, 2):
        method = tiny("VAE")
        fit = trainer(
            max_epochs=4, limit_train_batches=3, callbacks=[Evaluator(num_images=200, every_n_epochs=every)]
        )
        fit.fit(method, datamodule=Digits())
        weights.append(state(method))
        logged.append(set(fit.callback_metrics))
    assert same(*weights)
    assert {"val/fid", "val/kid"} & logged[0] == set()
    assert {"val/kid"} <= logged[1]


def test_looking_while_training_needs_a_method_that_samples():
    class Mute(MeanByDescent):
        sample = None

    evaluator = Evaluator(every_n_epochs=1, num_images=10)
    with pytest.raises(UsageError, match="every_n_epochs must be 0 where fid cannot be measured: FID needs"):
        trainer(callbacks=[evaluator]).fit(MeanByDescent(), datamodule=Digits())


def test_weights_that_give_nan_are_not_scored(tmp_path):
    method = tiny("VAE")
    with torch.no_grad():
        method.posterior_head.linear.bias.fill_(math.nan)
    with pytest.raises(UsageError, match="test/log_prob_lower must be finite"):
        score(method, tmp_path, metrics=["log_prob"])
    assert not list(tmp_path.iterdir())


def test_grey_images_without_a_feature_network_say_so(tmp_path):
    from PIL import Image

    (tmp_path / "grey").mkdir()
    for i in range(30):
        Image.effect_noise((12, 12), 50 + i).save(tmp_path / f"grey/{i}.png")
    data = ImageFolder(str(tmp_path / "grey"), size=12, grey=True, binarize="dynamic")
    results = score(tiny("VAE", (1, 12, 12)), tmp_path, data)
    line = r"no features for own:grey@[0-9a-f]{8} 1x12x12: `zoo features` learns them"
    assert re.match(line, results.skipped["fid"])
    assert results.skipped["codes"].startswith("grey has no labels")


def test_colour_images_need_the_extra(tmp_path):
    from PIL import Image

    (tmp_path / "colour").mkdir()
    for i in range(30):
        Image.effect_noise((12, 12), 50 + i).convert("RGB").save(tmp_path / f"colour/{i}.png")
    data = ImageFolder(str(tmp_path / "colour"), size=12, binarize="dynamic")
    results = score(tiny("VAE", (3, 12, 12)), tmp_path, data)
    assert "colour images need the extra inception" in results.skipped["fid"]


def test_annealing_is_a_second_opinion_on_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.scores.sections.likelihood.AIS_IMAGES", 10)
    monkeypatch.setattr("zoo.scores.sections.likelihood.AIS_STEPS", 100)
    results = score(tiny("VAE"), tmp_path, num_samples=500, metrics=["log_prob", "ais"])
    difference = results.numbers["test/ais_less_bound"]
    assert abs(difference.value) < 0.1
    assert difference.error < 0.1  # of the same images: those of two images differ by some nats
    assert difference.side is Side.ESTIMATE
    assert difference.protocol.how.startswith("10 of 359 images, ")
    assert results.numbers["test/log_prob_ais"].side is Side.LOWER
    assert "acceptance 0." in results.numbers["test/log_prob_ais"].protocol.how


def test_a_data_recipe_makes_the_same_data():
    data = Digits(binarize="fixed", draw_seed=3, num_validation=100)
    again = from_recipe(data.recipe())
    assert again.protocol == data.protocol
    assert again.test_hash() == data.test_hash()
    for bad in (
        None,
        {},
        {"class": "os.system", "init_args": {}},
        {"class": "Digits", "init_args": {"x": 1}},
    ):
        with pytest.raises(UsageError, match=r"class|init_args"):
            from_recipe(bad)


def test_both_of_two_processes_have_the_numbers_of_one(two_processes, tmp_path):
    folder = two_processes.folder
    evaluator = Evaluator(num_samples=3, out=str(tmp_path / "one.json"))
    trainer(callbacks=[evaluator]).test(tiny("VAE"), datamodule=Digits(), verbose=False)
    ranks = [Results.read(folder / f"rank{rank}.json") for rank in (0, 1)]
    assert ranks[0].numbers == ranks[1].numbers
    for name, number in evaluator.results.numbers.items():
        assert number.value == pytest.approx(ranks[0].numbers[name].value, rel=1e-9), name


def test_a_likelihood_that_the_method_refuses_is_skipped_with_its_reason(tmp_path):
    method = tiny("PCA")
    method.smallest_eigenvalue.zero_()
    results = score(method, tmp_path, Digits(binarize="none"), metrics=["log_prob", "reconstruction"])
    assert set(results.numbers) == {"test/reconstruction_error", "test/reconstruction_psnr"}
    assert results.skipped["log_prob"].startswith(
        "the smallest eigenvalue of the training covariance must be"
    )


class Copies(Everything):
    """Samples training images."""

    def sample(self, n, *, generator=None):
        return Digits(binarize="none").split("train").x[:n]


def test_copies_of_training_images_are_nearer_to_them_than_test_images(tmp_path):
    results = score(Copies(), tmp_path, metrics=["training_distance", "mixing"])
    assert results.numbers["test/training_distance"].value == pytest.approx(0.0, abs=1e-3)
    floor = results.floors["test_images"]["test/training_distance"]
    real, test = (Digits(binarize="none").split(name).x.flatten(1) for name in ("train", "test"))
    assert floor.value == pytest.approx(float(torch.cdist(test, real).min(1).values.mean()), rel=1e-4)
    assert "200 states (means) of 10 chains" in results.numbers["test/parzen_chains"].protocol.how
