"""The measures as torchmetrics: batches, resets, two processes, and what is refused."""

import math
import re

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore as TheirInceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from zoo.errors import UsageError
from zoo.scores.features import shipped
from zoo.scores.metrics import (
    Estimate,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    NeighbourhoodMetrics,
    fid,
    inception_score,
    kid,
    neighbourhoods,
)

SET_METRICS = (FrechetDistance, KernelDistance, NeighbourhoodMetrics)
ALL_METRICS = (*SET_METRICS, InceptionScore)


def digits_extractor():
    return shipped("digits")


def pictures(n, seed=0):
    """Real digits [n, 1, 8, 8], and the same under noise."""
    from zoo.data.sets import Digits

    real = Digits(binarize="none").split("train").x[:n]
    noise = 0.3 * torch.randn(real.shape, generator=torch.Generator().manual_seed(seed))
    return real, (real.flip(0) + noise).clamp(0, 1)


def numbers_of(result):
    """A flat list of what a metric computes."""
    return [float(v) for v in torch.tensor([result], dtype=torch.float64).flatten()]


class Flat(nn.Module):
    """Pixels as features."""

    num_features = 9

    def forward(self, x):
        return x.flatten(1)


def fed(metric, real, fake, **options):
    metric.update(real, real=True, **options)
    metric.update(fake, real=False, **options)
    return metric.compute()


def test_fid_is_torchmetrics_on_the_same_features():
    real, fake = torch.rand(300, 1, 3, 3), torch.rand(250, 1, 3, 3) ** 2
    theirs = FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(1, 3, 3))
    ours = fid(real.flatten(1), fake.flatten(1)).value
    assert ours == pytest.approx(float(fed(theirs, real, fake)), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features:UserWarning")
def test_kid_is_torchmetrics_with_one_subset_of_all_images():
    real, fake = torch.rand(150, 1, 3, 3), torch.rand(150, 1, 3, 3) ** 2
    theirs = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=150)
    ours = kid(real.flatten(1), fake.flatten(1)).value
    assert ours == pytest.approx(float(fed(theirs, real, fake)[0]), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features:UserWarning")
@pytest.mark.filterwarnings("ignore:std\\(\\)")
def test_the_inception_score_is_torchmetrics_with_one_split():
    logits = 3 * torch.randn(200, 1, 3, 3)
    theirs = TheirInceptionScore(feature=Flat(), splits=1)
    theirs.update(logits)
    ours = inception_score(logits.flatten(1).log_softmax(-1), splits=1).value
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_the_classes_give_what_the_functions_give():
    real, fake = pictures(300)
    net = digits_extractor()
    a, b = net.extract(real), net.extract(fake)
    assert fed(FrechetDistance(net), real, fake) == fid(a.activations, b.activations)
    assert fed(KernelDistance(net), real, fake) == kid(a.activations, b.activations)
    assert fed(NeighbourhoodMetrics(net), real, fake) == neighbourhoods(a.activations, b.activations)
    assert fed(InceptionScore(net), real, fake) == inception_score(b.log_probs)


@pytest.mark.parametrize("sizes", [[300], [1, 299], [100, 0, 50, 150], [37] * 8 + [4]])
@pytest.mark.parametrize("cls", ALL_METRICS)
def test_batches_of_any_size_give_the_same(cls, sizes):
    real, fake = pictures(300)
    metric = cls(digits_extractor())
    for x, y in zip(real.split(sizes), fake.split(sizes), strict=True):
        metric.update(y)
        metric.update(x, real=True)
    whole = fed(cls(digits_extractor()), real, fake)
    assert numbers_of(metric.compute()) == pytest.approx(numbers_of(whole), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("cls", SET_METRICS)
def test_the_order_of_images_does_not_change_the_values(cls):
    """Errors of FID and neighbourhoods depend on blocks, so on the order; so does the inception score."""
    real, fake = pictures(300)
    whole = numbers_of(fed(cls(digits_extractor()), real, fake))
    mixed = numbers_of(fed(cls(digits_extractor()), real[torch.randperm(300)], fake[torch.randperm(300)]))
    wanted = {FrechetDistance: slice(1), NeighbourhoodMetrics: slice(0, None, 2)}.get(cls, slice(None))
    assert mixed[wanted] == pytest.approx(whole[wanted], rel=1e-4)


@pytest.mark.parametrize("cls", ALL_METRICS)
def test_reset_forgets_both_sets(cls):
    real, fake = pictures(200)
    metric = cls(digits_extractor())
    fed(metric, fake, real)
    metric.reset()
    assert fed(metric, real, fake) == fed(cls(digits_extractor()), real, fake)


@pytest.mark.parametrize("cls", ALL_METRICS)
def test_the_feature_network_is_nobodys_parameter(cls):
    owner = nn.Module()
    owner.metric = cls(digits_extractor())
    assert owner.state_dict() == {}
    assert list(owner.parameters()) == []
    assert list(owner.buffers()) == []


@pytest.mark.parametrize("cls", ALL_METRICS)
@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda x: x * math.nan, "images must be finite, got 640 values that are NaN or infinite"),
        (lambda x: x + 1.5, "images must lie in [0, 1], got 1.5 to 2.5"),
        (lambda x: x - 0.5, "images must lie in [0, 1], got -0.5 to 0.5"),
        (lambda x: x.expand(-1, 3, -1, -1), "reads images (1, 8, 8), got (3, 8, 8)"),
        (lambda x: x[..., :7], "reads images (1, 8, 8), got (1, 8, 7)"),
        (lambda x: x[None], "images must be [N, C, H, W], got shape (1, 10, 1, 8, 8)"),
    ],
)
def test_bad_images_are_refused_in_one_line_and_leave_no_trace(cls, spoil, line):
    real, fake = pictures(200)
    metric = cls(digits_extractor())
    for kind in (True, False):
        with pytest.raises(UsageError, match=re.escape(line)) as error:
            metric.update(spoil(real[:10]), real=kind)
        assert "\n" not in str(error.value)
    assert fed(metric, real, fake) == fed(cls(digits_extractor()), real, fake)


@pytest.mark.parametrize("cls", SET_METRICS)
def test_a_missing_set_is_refused(cls):
    real, fake = pictures(20)
    metric = cls(digits_extractor())
    metric.update(fake)
    with pytest.raises(UsageError, match=f"^{cls.__name__} needs real images, got none$"):
        metric.compute()
    metric.reset()
    metric.update(real, real=True)
    with pytest.raises(UsageError, match=f"^{cls.__name__} needs fake images, got none$"):
        metric.compute()


def test_the_inception_score_needs_fakes_and_no_real_images():
    real, fake = pictures(20)
    metric = InceptionScore(digits_extractor())
    metric.update(real, real=True)
    with pytest.raises(UsageError, match=r"^InceptionScore needs fake images, got none$"):
        metric.compute()
    metric.update(fake)
    assert metric.compute().value >= 1


@pytest.mark.parametrize(
    ("cls", "line"),
    [
        (FrechetDistance, "FID needs more images than the 128 features, and at least 3, got 2"),
        (KernelDistance, "KID needs at least 3 images on each side, got 2 and 2"),
        (NeighbourhoodMetrics, "neighbourhoods need more than 6 images on each side, got 2"),
        (InceptionScore, "the inception score needs at least 10 images, got 2"),
    ],
)
def test_too_few_images_are_refused(cls, line):
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        fed(cls(digits_extractor()), *pictures(2))


@pytest.mark.parametrize("cls", ALL_METRICS)
def test_samples_that_are_all_the_same_have_defined_values(cls):
    real, _ = pictures(200)
    found = fed(cls(digits_extractor()), real, torch.full((200, 1, 8, 8), 0.5))
    assert all(math.isfinite(v) for v in numbers_of(found))
    if cls is InceptionScore:
        assert found == pytest.approx(Estimate(1.0, 0.0), abs=1e-6)


def deals(rank, real, fake):
    """Batches of real and fake images of one of two processes: in turn, uneven, all fakes on the first."""
    parts = real[rank::2].split(50 + 30 * rank)
    for mine in (fake[rank::2], fake[:200] if rank == 0 else fake[200:], fake if rank == 0 else fake[:0]):
        yield parts, mine.split(80) if len(mine) else ()


def dealt(cls, parts, fakes):
    metric = cls(digits_extractor())
    for part in parts:
        metric.update(part, real=True)
    for part in fakes:
        metric.update(part)
    return numbers_of(metric.compute())


def on_this_process(rank):
    """What each metric gives for the images dealt to one of two processes."""
    return [dealt(cls, *deal) for deal in deals(rank, *pictures(300)) for cls in ALL_METRICS]


def test_two_processes_give_what_one_gives(two_processes):
    real, fake = pictures(300)
    first, second = (torch.load(two_processes.folder / f"metrics{rank}.pt") for rank in (0, 1))
    assert first == second
    both = zip(deals(0, real, fake), deals(1, real, fake), strict=True)
    alone = [dealt(cls, one[0] + other[0], one[1] + other[1]) for one, other in both for cls in ALL_METRICS]
    for found, expected in zip(first, alone, strict=True):
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)
