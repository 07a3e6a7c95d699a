"""The feature networks: accuracy of those that ship, and bytes in, features out, whatever goes on around."""

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from zoo.data.sets import MNIST, Digits, FashionMNIST
from zoo.errors import UsageError
from zoo.scores import features
from zoo.scores.classifiers import extractor
from zoo.scores.features import (
    NUM_FEATURES,
    Classifier,
    Extractor,
    Features,
    as_bytes,
    shipped,
    weights_file,
)

LEAST = {"digits": 0.97, "mnist": 0.992, "fashion_mnist": 0.92}
DATA = {"digits": Digits, "mnist": MNIST, "fashion_mnist": FashionMNIST}
CLASSIFIERS = tuple(DATA)
MEBI = 2**20


def header(name):
    with safe_open(weights_file(name), "pt") as file:
        return file.metadata()


def held_out(name, n=None):
    """Test images as grey levels, and their labels."""
    batch = DATA[name](binarize="none").split("test")
    return batch.x[:n], batch.y[:n]


@pytest.fixture
def net():
    return shipped("digits")


@pytest.fixture
def images():
    return held_out("digits", 60)[0]


# --- what ships


def test_the_digits_classifier_is_as_accurate_as_its_header_says(net):
    x, y = held_out("digits")
    right = int((net.extract(x).log_probs.argmax(1) == y).sum())
    assert f"{right / len(y):.4f}" == header("digits")["test_accuracy"]
    assert str(len(y)) == header("digits")["test_images"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_large_classifiers_are_as_accurate_as_their_headers_say(name):
    x, y = held_out(name, 2000)
    share = float((shipped(name).extract(x).log_probs.argmax(1) == y).double().mean())
    stated = float(header(name)["test_accuracy"])
    assert abs(share - stated) < 4 * math.sqrt(stated * (1 - stated) / 2000)
    assert share > LEAST[name] - 0.01


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_ships_is_small_and_says_where_it_comes_from(name):
    about = header(name)
    assert weights_file(name).stat().st_size <= MEBI
    assert float(about["test_accuracy"]) >= LEAST[name]
    assert re.fullmatch(rf"python scripts/train_features.py {name} --seed \d+", about["command"])
    assert {"torch", "train_images", "test_images", "image_shape", "num_classes"} <= about.keys()
    assert int(about["train_images"]) + int(about["test_images"]) in (1797, 70_000)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_ships_is_float32_without_gradients_in_eval_mode(name):
    net = shipped(name)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(m.training for m in net.modules())
    assert all(t.isfinite().all() for t in net.state_dict().values())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_name_holds_data_width_and_a_hash(name):
    first = shipped(name).name
    assert re.fullmatch(rf"{name.replace('_', '-')}-cnn-{NUM_FEATURES}@[0-9a-f]{{8}}", first)
    assert shipped(name).name == first
    assert len({shipped(other).name for other in CLASSIFIERS}) == len(CLASSIFIERS)


def test_the_hash_changes_with_any_weight(net):
    names = {net.name}
    for tensor in net.state_dict().values():
        tensor.view(-1)[-1] += 1
        names.add(features._versioned("digits-cnn-128", net))
    assert len(names) == 1 + len(net.state_dict())


def test_the_hash_is_that_of_the_loaded_weights(net):
    assert features._versioned("digits-cnn-128", net) == net.name


# --- bytes in, features out


def test_features_have_the_stated_widths_and_the_scores_are_log_probabilities(net, images):
    found = net.extract(images)
    assert found.activations.shape == (60, net.num_features) == (60, NUM_FEATURES)
    assert found.log_probs.shape == (60, net.num_classes) == (60, 10)
    torch.testing.assert_close(found.log_probs.exp().sum(1), torch.ones(60))
    assert float(found.activations.min()) == 0.0  # after the ReLU
    torch.testing.assert_close(net(images), found.activations, rtol=0, atol=0)


def test_the_scores_are_those_of_the_activations(net, images):
    found = net.extract(images)
    expected = torch.log_softmax(found.activations @ net.output.weight.T + net.output.bias, -1)
    torch.testing.assert_close(found.log_probs, expected)


def test_the_activations_differ_between_classes_more_than_within(net):
    x, y = held_out("digits")
    f = net.extract(x).activations
    within = torch.cat([f[y == k] - f[y == k].mean(0) for k in range(10)]).square().sum(1).mean()
    total = (f - f.mean(0)).square().sum(1).mean()
    assert within < 0.5 * total


def test_train_is_ignored(net, images):
    before = net.extract(images)
    assert net.train() is net
    assert net.train(True) is net
    assert not any(m.training for m in net.modules())
    after = net.extract(images)
    assert torch.equal(before.activations, after.activations)


def test_a_parent_that_trains_does_not_train_the_network(net, images):
    state = {key: t.clone() for key, t in net.state_dict().items()}
    torch.nn.ModuleList([net]).train()
    net.extract(images)
    assert all(torch.equal(t, state[key]) for key, t in net.state_dict().items())


def test_there_is_no_gradient(net, images):
    untrained = Classifier((1, 8, 8), (4,), 3)
    for found in (net.extract(images.clone().requires_grad_()), untrained.extract(images)):
        assert not any(t.requires_grad for t in found)


def test_autocast_has_no_effect(net, images):
    plain = net.extract(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net.extract(images)
    for a, b in zip(plain, inside, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("batch", [1, 7, 59, 60, 1000])
def test_the_batch_size_does_not_matter(net, images, batch):
    whole = net.extract(images)
    net.batch = batch
    for a, b in zip(whole, net.extract(images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_network_sees_bytes_over_255(net, images):
    scaled = as_bytes(images).float() / 255
    torch.testing.assert_close(net(images), net.activations(scaled), rtol=0, atol=0)


def test_no_more_than_a_batch_is_read_at_once(net, images):
    sizes = []
    net.read, read = lambda x: sizes.append(len(x)) or read(x), net.read
    net.batch = 25
    net.extract(images)
    assert sizes == [25, 25, 10]


def test_no_images_have_no_features(net):
    found = net.extract(torch.zeros(0, 1, 8, 8))
    assert found.activations.shape == (0, NUM_FEATURES)
    assert found.log_probs.shape == (0, 10)


def test_images_are_rounded_to_bytes(net, images):
    nudged = (images + 0.4 / 255 * (2 * torch.rand(images.shape) - 1)).clamp(0, 1)
    for a, b in zip(net.extract(images), net.extract(nudged), strict=True):
        assert torch.equal(a, b)


def test_float64_and_float32_images_have_the_same_features(net, images):
    for a, b in zip(net.extract(images), net.extract(images.double()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_survives(dtype):
    every = torch.arange(256, dtype=dtype).reshape(1, 1, 16, 16)
    found = as_bytes(every / 255)
    assert found.dtype == torch.uint8
    assert torch.equal(found.flatten(), torch.arange(256, dtype=torch.uint8))


def test_values_round_to_the_nearest_byte():
    x = torch.tensor([0.0, 0.49, 0.51, 1.49, 254.49, 254.51, 255.0]).reshape(1, 1, 1, 7) / 255
    assert as_bytes(x).flatten().tolist() == [0, 0, 1, 1, 254, 255, 255]


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (
            torch.full((2, 1, 8, 8), math.nan),
            "images must be finite, got 128 values that are NaN or infinite",
        ),
        (torch.full((1, 1, 2, 2), math.inf), "images must be finite, got 4 values that are NaN or infinite"),
        (torch.full((1, 1, 2, 2), 1.01), "images must lie in [0, 1], got 1.01 to 1.01"),
        (torch.tensor([-1e-3, 0.5]).view(1, 1, 1, 2), "images must lie in [0, 1], got -0.001 to 0.5"),
        (torch.full((1, 1, 2, 2), 255.0), "images must lie in [0, 1], got 255 to 255"),
        (torch.zeros(1, 1, 1, 8, 8), "images must be [N, C, H, W], got shape (1, 1, 1, 8, 8)"),
    ],
)
def test_what_cannot_become_bytes_is_refused(images, line):
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        as_bytes(images)


def test_bad_images_in_a_later_batch_are_refused(net, images):
    net.batch = 10
    images = images.clone()
    images[-1, 0, 0, 0] = math.nan
    with pytest.raises(UsageError, match="images must be finite, got 1 values"):
        net.extract(images)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (1, 8, 7)])
def test_images_of_another_shape_are_refused(net, shape):
    line = f"{net.name} reads images (1, 8, 8), got {shape}"
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        net.extract(torch.zeros(2, *shape))


# --- which network for which data


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.data)])
def test_the_shipped_networks_are_found_by_the_name_and_shape_of_their_data(name):
    assert extractor(DATA[name]()).name == shipped(name).name
    assert DATA[name]().source.name == name


# --- a network of one's own


class Mean(Extractor):
    """Mean of the pixels as the only feature."""

    name, num_features, num_classes, batch = "mean", 1, 2, 4

    def read(self, x):
        mean = x.double().mean((1, 2, 3))[:, None].float()
        return Features(mean, torch.cat([mean, -mean], 1).log_softmax(-1))


def test_a_network_of_ones_own_reads_bytes():
    found = Mean().extract(torch.full((5, 3, 2, 2), 0.5))
    assert found.activations.flatten().tolist() == [128.0] * 5


def test_the_activations_of_a_classifier_are_differentiable():
    net = Classifier((1, 8, 8), (4,), 3)
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    net.activations(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_the_files_lie_in_the_package():
    assert {weights_file(name).parent for name in CLASSIFIERS} == {Path(features.__file__).parent}
    assert all(weights_file(name).is_file() for name in CLASSIFIERS)
