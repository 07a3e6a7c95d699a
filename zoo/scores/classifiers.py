"""Which feature network a data set has, and how a small classifier becomes one.

Three classifiers ship with the package; they learned from all training images, those that validate too. For
any other labelled data set `zoo features` trains one, on training images without those that validate, and
keeps it in the cache under their hash: a score then finds it by the images alone, and states its own hash and
held-out accuracy on every row. Colour images have the extra `inception` besides.
"""

import inspect
import shlex
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.cache import Arrays, content_hash, recalled, remembered
from zoo.data.kept import ByteImages
from zoo.data.modules import ImageData
from zoo.errors import UsageError, require
from zoo.randomness import own_stream
from zoo.scores.features import (
    COLOURS,
    NUM_FEATURES,
    Classifier,
    Extractor,
    Inception,
    _versioned,
    classifier,
    has_inception,
    shipped,
    weights_file,
)

BATCH, LR, WEIGHT_DECAY, DROPOUT, SHIFT = 128, 3e-3, 1e-2, 0.3, 2
FEW_EPOCHS, MANY_EPOCHS, IMAGES_SEEN = 8, 60, 480_000
WIDTHS = (32, 64, 96)
SMALL_SIDE, SMALLEST_SIDE = 16, 4
"""Below the first side a classifier has two stages, below the second there is none."""
KEPT = "classifier"
RECIPE = 1
"""Version of the training; enters the name in the cache."""
OF_IMAGES = ("pad", "shrink", "draw_seed", "num_validation")
"""Arguments of every data module that change which images there are to learn from."""
Watch = Callable[[int, int, float], None]
"""Told the epoch, from 1, how many there are, and the mean loss of this one."""


class Examples(NamedTuple):
    """Images and labels a classifier learns from, and those it is measured on."""

    x: Tensor | ByteImages
    """[N, C, H, W] uint8."""
    y: Tensor
    """[N] int64."""
    test_x: Tensor | ByteImages
    test_y: Tensor


def extractor(data: ImageData) -> Extractor:
    """The feature network of a data set: what ships, what `zoo features` trained, or the extra's.

    Raises:
        UsageError: If there is none; says how to come by one.
    """
    net = ready(data)
    if net is not None:
        return net
    labelled, images = _labelled(data), data.protocol.images
    if data.image_shape[0] == COLOURS and (has_inception() or not labelled):
        return _inception()
    require(labelled, f"no features for {images}: `zoo features` learns them from labels, and there are none")
    _stages(data.image_shape)
    raise UsageError(f"no features for {images} yet: `{command(data)}` trains them, in minutes")


def ready(data: ImageData) -> Classifier | None:
    """The classifier that ships for a data set, or lies in the cache; None where neither does."""
    facts, shape = data.facts, data.image_shape
    ships = not facts.origin and weights_file(facts.name).is_file()
    if ships and (net := shipped(facts.name)).image_shape == shape:
        return net
    kept = recalled(KEPT, _key(examples(data))) if _labelled(data) else None
    return None if kept is None else _rebuilt(facts.full_name, shape, kept)


def _labelled(data: ImageData) -> bool:
    """Whether every image has a label, those withheld from the method too."""
    found = examples(data)
    return min(int(y.min()) for y in (found.y, found.test_y)) >= 0


def examples(data: ImageData) -> Examples:
    """What a classifier of these images learns from, none of which validates, and what it is measured on."""
    if data.subset or data.num_validation == 0:  # as where data are whole
        data = type(data)(**_given(data), binarize="none")
    train, test = data.images("train"), data.images("test")
    return Examples(train, data.labels("train"), test, data.labels("test"))


def _given(data: ImageData) -> dict[str, Any]:
    """The arguments on which it depends which images these are; without validation, those of the default."""
    of_images = {name: getattr(data, name) for name in OF_IMAGES}
    return data.source_arguments() | of_images | {"num_validation": data.num_validation or None}


def own_features(data: ImageData, watch: Watch | None = None) -> Classifier:
    """The classifier of a labelled data set, from the cache; trained now if it is not there.

    Args:
        data: Whose training images are learned from; the test images are read once, for the accuracy.
        watch: Called after every epoch.

    Raises:
        UsageError: If the images have no labels or are too small.
    """
    found = examples(data)
    name, shape = data.facts.full_name, data.image_shape
    without = int((torch.cat((found.y, found.test_y)) < 0).sum())
    require(without == 0, f"features are learned from labels, {without} images of {name} have none")
    require(len(found.y.unique()) > 1, f"features need at least 2 classes, {name} has 1")

    def work() -> Arrays:
        epochs = max(FEW_EPOCHS, min(MANY_EPOCHS, IMAGES_SEEN // len(found.y)))
        net = trained(found, epochs=epochs, watch=watch)
        logs = [net.extract(x.float() / 255).log_probs for x in found.test_x.split(BATCH)]
        right = (torch.cat(logs).argmax(1) == found.test_y).sum()
        return net.state_dict() | {"held_out": torch.stack((right, torch.tensor(len(found.test_y))))}

    return _rebuilt(name, shape, remembered(KEPT, _key(found), work))


def trained(
    examples: Examples, *, epochs: int, flip: bool = False, seed: int = 0, watch: Watch | None = None
) -> Classifier:
    """A classifier after a fixed number of epochs: no validation, no early stopping.

    Args:
        examples: What it learns from; their test part is not read.
        epochs: Passes over them.
        flip: Mirror half of the images.
        seed: Of first weights, order, shifts and dropout; the global stream stays as it is.
        watch: Called after every epoch.
    """
    x, y = examples.x, examples.y
    size = min(BATCH, len(y))
    batches = len(y) // size
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(seed)
        shape = (x.shape[1], x.shape[2], x.shape[3])
        net = Classifier(shape, _stages(shape), int(y.max()) + 1)
        optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * batches)
        for epoch in range(epochs):
            nn.Module.train(net, True)
            total = 0.0
            for rows in torch.randperm(len(y))[: batches * size].split(size):
                hidden = nn.functional.dropout(net.activations(augmented(x[rows], flip)), DROPOUT)
                loss = nn.functional.cross_entropy(net.output(hidden), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach())
            if watch is not None:
                watch(epoch + 1, epochs, total / batches)
    return net.requires_grad_(False).eval()


def augmented(x: Tensor, flip: bool) -> Tensor:
    """Each image shifted by up to two pixels (one, below 16 pixels), and mirrored where that makes sense.

    Args:
        x: Bytes [N, C, H, W].
        flip: Mirror half of them.

    Returns:
        Pixels [N, C, H, W] in [0, 1].
    """
    n, height, width = len(x), x.shape[-2], x.shape[-1]
    most = SHIFT if width >= SMALL_SIDE else 1
    padded = nn.functional.pad(x, (most,) * 4)
    down, across = torch.randint(2 * most + 1, (2, n, 1))
    rows, columns = down + torch.arange(height), across + torch.arange(width)
    x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    x = x.permute(0, 3, 1, 2)
    if flip:
        x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(-1), x)
    return x.float() / 255


def command(data: ImageData) -> str:
    """The command line that trains the features of a data set."""
    kind = type(data)
    usual = {
        name: parameter.default
        for one in (ImageData, kind)
        for name, parameter in inspect.signature(one).parameters.items()
    }
    words = ["zoo", "features", kind.__name__]
    for name, value in _given(data).items():
        short = value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
        if value is not None and short != usual[name]:
            words += [f"--{name}", _word(short)]
    return shlex.join(words)


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _key(examples: Examples) -> list[Any]:
    """What the classifier and its accuracy are a function of."""
    return [RECIPE, *map(content_hash, examples)]


def _stages(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Widths of the stages of a classifier of images (C, H, W).

    Raises:
        UsageError: If they are too small.
    """
    height, width = shape[1:]
    side = min(height, width)
    require(
        side >= SMALLEST_SIDE,
        f"features need images of at least {SMALLEST_SIDE} pixels a side, got {height} x {width}",
    )
    return WIDTHS[: 3 if side >= SMALL_SIDE else 2]


def _rebuilt(name: str, shape: tuple[int, int, int], kept: Arrays) -> Classifier:
    tensors = dict(kept)
    right, of = tensors.pop("held_out").tolist()
    net = classifier(shape, _stages(shape), len(tensors["output.bias"]))
    net.load_state_dict(tensors)
    version = _versioned(f"{name.replace('_', '-')}-cnn-{NUM_FEATURES}", net)
    net.name = f"{version} ({right / of:.1%} of {of} held-out images right)"
    return net.requires_grad_(False).eval()


@lru_cache(maxsize=1)
def _inception() -> Extractor:
    with own_stream(0):
        return Inception().requires_grad_(False).eval()
