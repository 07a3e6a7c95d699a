"""Samples held against images."""

import math

import torch
from torch import Tensor

from zoo.cache import content_hash, remembered
from zoo.contract.capabilities import Side
from zoo.pictures.walks import nearest as nearest_of
from zoo.scores.features import Features
from zoo.scores.metrics import Estimate, fid, inception_score, kid, mean_and_error, neighbourhoods
from zoo.scores.parzen import parzen
from zoo.scores.scene import Scene, code_version

PARZEN_VALIDATION = 1000


def frechet_distance(scene: Scene) -> None:
    """FID."""
    scene.compare(
        "fid", {"fid": "distance"}, lambda real, fake: {"fid": fid(real.activations, fake.activations)}
    )


def kernel_distance(scene: Scene) -> None:
    """KID."""
    scene.compare(
        "kid", {"kid": "squared MMD"}, lambda real, fake: {"kid": kid(real.activations, fake.activations)}
    )


def classifier_score(scene: Scene) -> None:
    """IS."""

    def measure(_: Features, fake: Features) -> dict[str, Estimate]:
        return {"inception_score": inception_score(fake.log_probs)}

    units = {"inception_score": f"classes, of {scene.extractor.num_classes}"}
    scene.compare("inception_score", units, measure, ", 10 splits")


def nearest(scene: Scene) -> None:
    """Improved precision and recall, density and coverage."""

    def measure(real: Features, fake: Features) -> dict[str, Estimate]:
        return neighbourhoods(real.activations, fake.activations)._asdict()

    units = {"precision": "share", "recall": "share", "density": "1 for equal sets", "coverage": "share"}
    how = ", k=3 (precision, recall), k=5 (density, coverage)"
    scene.compare("neighbourhoods", units, measure, how)


def classes(scene: Scene) -> None:
    """How far the classes of the samples are from equally frequent: missing modes show here."""

    def measure(_: Features, fake: Features) -> dict[str, Estimate]:
        histogram = fake.log_probs.argmax(1).bincount(minlength=fake.log_probs.shape[1]).double()
        p = histogram / histogram.sum()
        distance = 0.5 * (p - 1 / len(p)).abs().sum()
        signs = (p > 1 / len(p)).double()
        spread = float((signs * p).sum() * (1 - (signs * p).sum()))
        return {"class_distance": Estimate(float(distance), math.sqrt(spread / len(fake.log_probs)))}

    scene.compare("classes", {"class_distance": "total variation to uniform"}, measure)
    found = scene.sample_features.log_probs.argmax(1)
    scene.details["class_histogram"] = found.bincount(minlength=scene.extractor.num_classes).double().tolist()


def parzen_window(scene: Scene) -> None:
    """Parzen-window log-likelihood of the test images under the samples: for the record."""
    validation, test = scene.real("val", PARZEN_VALIDATION), scene.real("test", scene.n)
    how = (
        f"{scene.image_set}, real; {scene.n} samples (means), {scene.n} test images, sigma chosen on "
        f"{len(validation)} validation images; certifies smoothness, not quality: can beat the data itself"
    )

    def measure(images: Tensor) -> dict[str, Estimate]:
        return {"parzen": mean_and_error(parzen(images, validation, test).log_prob)}

    found = parzen(scene.samples, validation, test)
    scene.put("parzen", mean_and_error(found.log_prob), "nats/image", Side.ESTIMATE, how)
    scene.details["parzen_sigma"] = [found.sigma]
    scene.floor("parzen", [content_hash(validation)], measure)


def training_distance(scene: Scene) -> None:
    """How far samples are from their nearest training images, and test images: copies are nearer."""
    train, test = scene.real("train", None), scene.real("test", scene.n)
    how = f"{scene.image_set}; {len(train)} training images, Euclid over pixels in [0, 1]; {scene.n} samples"

    def measure(images: Tensor) -> tuple[float, float]:
        return mean_and_error(nearest_of(images, train)[0].double())

    key = [code_version(), content_hash(train), content_hash(test)]
    known = remembered("training_distance", key, lambda: {"test": torch.tensor(measure(test))})
    floor = Estimate(*known["test"].tolist())
    found = Estimate(*measure(scene.samples))
    scene.put("training_distance", found, "distance", Side.ESTIMATE, how)
    scene.put("training_distance", floor, "distance", Side.ESTIMATE, how, floor="test_images")
