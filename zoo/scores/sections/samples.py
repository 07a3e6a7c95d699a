"""Samples held against images."""

import math

import torch
from torch import Tensor

from zoo.cache import content_hash, remembered
from zoo.contract.capabilities import Samples
from zoo.errors import require
from zoo.pictures.walks import nearest
from zoo.scores.features import Features
from zoo.scores.metrics import SPLITS, Estimate, fid, inception_score, kid, mean_and_error, neighbourhoods
from zoo.scores.parzen import parzen
from zoo.scores.results import Measure, Protocol
from zoo.scores.scene import Scene, code_version, part_of
from zoo.scores.section import Section

PARZEN_VALIDATION = 1000


def frechet_distance(scene: Scene) -> None:
    """FID."""
    scene.compare("fid", lambda real, fake: {"fid": fid(real.activations, fake.activations)})


def kernel_distance(scene: Scene) -> None:
    """KID."""
    scene.compare("kid", lambda real, fake: {"kid": kid(real.activations, fake.activations)})


def classifier_score(scene: Scene) -> None:
    """IS."""

    def measure(_: Features, fake: Features) -> dict[str, Estimate]:
        return {"inception_score": inception_score(fake.log_probs)}

    classes, least = scene.extractor.num_classes, 2 * SPLITS
    require(scene.n >= least, f"the inception score needs at least {least} samples, got {scene.n}")
    scene.compare("inception_score", measure, f", {SPLITS} splits", classes)


def neighbourhood(scene: Scene) -> None:
    """Improved precision and recall, density and coverage; few samples cannot cover many images."""

    def measure(real: Features, fake: Features) -> dict[str, Estimate]:
        return neighbourhoods(real.activations, fake.activations)._asdict()

    how = ", k=3 (precision, recall), k=5 (density, coverage)"
    scene.compare("neighbourhoods", measure, how, as_many=True)


def classes(scene: Scene) -> None:
    """How far the classes of the samples are from equally frequent: missing modes show here."""

    def measure(_: Features, fake: Features) -> dict[str, Estimate]:
        histogram = fake.log_probs.argmax(1).bincount(minlength=fake.log_probs.shape[1]).double()
        p = histogram / histogram.sum()
        distance = 0.5 * (p - 1 / len(p)).abs().sum()
        signs = (p > 1 / len(p)).double()
        spread = float((signs * p).sum() * (1 - (signs * p).sum()))
        return {"class_distance": Estimate(float(distance), math.sqrt(spread / len(fake.log_probs)))}

    scene.need_one_per_class()
    scene.compare("classes", measure)
    found = scene.sample_features.log_probs.argmax(1)
    scene.details["class_histogram"] = found.bincount(minlength=scene.extractor.num_classes).double().tolist()


def parzen_window(scene: Scene) -> None:
    """Parzen-window log-likelihood of the test images under the samples: for the record."""
    validation, test = scene.real("val", PARZEN_VALIDATION), scene.real("test")
    chosen_on = part_of(len(validation), len(scene.data.images("val")))
    method = scene.method
    assert isinstance(method, Samples)
    kind = "draws" if method.draws_pixels else "means"
    how = Protocol(
        f"{scene.image_set}, real",
        f"{scene.n} samples ({kind}), {len(test)} test images, sigma chosen on {chosen_on} validation "
        "images; certifies smoothness, not quality: can beat the data itself",
        num_images=scene.n,
    )

    def measure(images: Tensor) -> dict[str, Estimate]:
        return {"parzen": parzen(images, validation, test).mean}

    found = parzen(scene.samples, validation, test)
    scene.put("parzen", found.mean, how)
    scene.details["parzen_sigma"] = [found.sigma]
    scene.floor("parzen", [content_hash(validation)], measure)


def training_distance(scene: Scene) -> None:
    """How far samples are from their nearest training images, and test images: copies are nearer."""
    train, test = scene.data.images("train"), scene.real("test", scene.n)
    how = scene.untreated(
        f"{len(train)} training images, Euclid over pixels in [0, 1]; {scene.n} samples", num_images=scene.n
    )

    def measure(images: Tensor) -> tuple[float, float]:
        return mean_and_error(nearest(images, train)[0].double())

    key = [code_version(), content_hash(train), content_hash(test)]
    known = remembered("training_distance", key, lambda: {"test": torch.tensor(measure(test))})
    floor = Estimate(*known["test"].tolist())
    found = Estimate(*measure(scene.samples))
    scene.put("training_distance", found, how)
    scene.put("training_distance", floor, how, floor="test_images")


FID = Section(
    (Samples,),
    frechet_distance,
    {"fid": Measure("distance", better="lower", board=10, headline=90)},
    "Frechet distance of the features of samples and of test images",
)
KID = Section(
    (Samples,),
    kernel_distance,
    {"kid": Measure("squared MMD", better="lower", board=20)},
    "unbiased squared MMD of the same features",
)
INCEPTION_SCORE = Section(
    (Samples,),
    classifier_score,
    {"inception_score": Measure("classes, of {}", better="higher", board=30, headline=60)},
    "IS by the classifier of the data, over 10 splits",
)
NEIGHBOURHOODS = Section(
    (Samples,),
    neighbourhood,
    {
        "precision": Measure("share", better="higher", board=60),
        "recall": Measure("share", better="higher", board=50),
        "density": Measure("1 for equal sets", better="higher", board=70),
        "coverage": Measure("share", better="higher", board=40, headline=91),
    },
    "improved precision and recall (k = 3), density and coverage (k = 5)",
)
CLASSES = Section(
    (Samples,),
    classes,
    {"class_distance": Measure("total variation to uniform", better="lower", board=80)},
    "distance of the samples' classes from uniform",
)
PARZEN = Section(
    (Samples,),
    parzen_window,
    {"parzen": Measure("nats/image", better="higher", board=130, headline=92)},
    "Parzen-window nats, sigma from validation images; for the record: it certifies smoothness and can beat "
    "the data",
)
TRAINING_DISTANCE = Section(
    (Samples,),
    training_distance,
    {"training_distance": Measure("distance")},
    "distance of samples to their nearest training image; test images' as the floor",
)
