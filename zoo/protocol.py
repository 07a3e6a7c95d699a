"""The metrics, one section each: what a method must be able to do, and what is then measured of it.

A section reads from a `Scene` and writes its numbers there. One that raises `UsageError` is skipped, with the
error's line as the reason.
"""

import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from zoo.cache import content_hash, remembered
from zoo.contract.capabilities import (
    Classifies,
    Clusters,
    Conditions,
    Emits,
    Encodes,
    Energies,
    Explains,
    Infers,
    Normalises,
    Reconstructs,
    Samples,
    Scores,
    Side,
    Weighs,
)
from zoo.data.modules import ImageData
from zoo.data.sets import from_recipe
from zoo.errors import UsageError, require
from zoo.parts.annealing.latents import latent_ais
from zoo.parts.annealing.verdicts import SHORTER, judged
from zoo.parts.estimators import active_units, bits_per_dim, csl
from zoo.pictures.walks import nearest as nearest_of
from zoo.scores.features import Features
from zoo.scores.metrics import (
    Estimate,
    fid,
    inception_score,
    kid,
    mean_and_error,
    neighbourhoods,
    share,
    wilson,
)
from zoo.scores.parzen import parzen
from zoo.scores.representation import (
    aggregate_posterior,
    clustering,
    kmeans_clusters,
    knn_accuracy,
    linear_probe,
    outlier_auroc,
    total_correlation,
)
from zoo.scores.scene import Scene, as_tensors, code_version

LOW_ESS = 10.0
LOOSE_SHARE = 0.1
"""Share of images with a low effective sample size above which the bound is called loose."""
PARZEN_VALIDATION = 1000
PROBE_CODES = 20_000
OUTLIERS, OUTLIER_SAMPLES = 1000, 50
OTHER_DATA = {"MNIST": "FashionMNIST", "FashionMNIST": "MNIST"}
AIS_IMAGES, AIS_CHAINS, AIS_STEPS = 100, 16, 1000
PARTITION_CHAINS, PARTITION_STEPS = 100, 14_500
CSL_CHAINS, CSL_IMAGES = 100, 1000
CORRELATED = 2000
MIXING_CHAINS = 10
PARZEN_STATES = 1000
"""Most states of each chain behind the Parzen window of chains."""


class Section(NamedTuple):
    """A metric."""

    needs: tuple[type, ...]
    """Capabilities of which the method must have one."""
    run: Callable[[Scene], None]


def run_sections(scene: Scene, wanted: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """Run the wanted sections in order; yield each metric with the reason why it was skipped, if it was."""
    for name, section in SECTIONS.items():
        if name not in wanted:
            continue
        if not isinstance(scene.method, section.needs):
            needs = " or ".join(need.__name__ for need in section.needs)
            yield name, f"needs {needs}: {type(scene.method).__name__} has not that capability"
            continue
        if name in scene.refused:
            yield name, scene.refused[name]
            continue
        try:
            section.run(scene)
            yield name, None
        except UsageError as reason:
            yield name, str(reason)


def log_prob(scene: Scene) -> None:
    """Log-likelihood of the test images, bits/dim, and what importance weights say beside it."""
    method, columns = scene.method, scene.per_image
    assert isinstance(method, Scores)
    data, side, n = scene.data, method.side, len(columns["row"])
    weighs = isinstance(method, Weighs)
    how = f"{data.protocol}; {n} images" + (f", K={scene.num_samples} samples" if weighs else "")
    mean = mean_and_error(columns["log_prob"])
    _log_likelihood(scene, side, mean, how)
    if "baseline_log_prob" in columns:
        bits = (columns["log_prob"] - columns["baseline_log_prob"]) / (
            math.log(2) * math.prod(method.image_shape)
        )
        scene.put("gain_over_baseline", mean_and_error(bits), "bits/dim", side, how)
    if not weighs:
        return
    for name, of in (("elbo", Side.LOWER), ("rate", Side.ESTIMATE), ("distortion", Side.ESTIMATE)):
        scene.put(name, mean_and_error(columns[name]), "nats/image", of, how)
    ess = columns["ess"]
    low = share(ess < LOW_ESS)
    scene.put("ess_median", float(ess.median()), "samples", Side.ESTIMATE, how)
    scene.put("ess_below_10", low, "share of images", Side.ESTIMATE, how, interval=wilson(low.value, n))
    if low.value > LOOSE_SHARE:
        scene.warnings.append(
            f"the bound is loose: {low.value:.0%} of the images have an effective sample size below "
            f"{LOW_ESS:g} of {scene.num_samples}"
        )


def _log_likelihood(scene: Scene, side: Side, mean: tuple[float, float], how: str) -> None:
    key = "log_prob" if side is Side.EXACT else f"log_prob_{side.name.lower()}"
    scene.put(key, mean, "nats/image", side, how)
    if scene.data.pixels == "real":
        return  # grey levels without dithering have a density, not a probability: no bits
    dims = math.prod(scene.method.image_shape)
    opposite = {Side.LOWER: Side.UPPER, Side.UPPER: Side.LOWER}.get(side, side)
    bits = bits_per_dim(-mean[0], dims, bytes_scaled=scene.data.pixels == "deq")
    scene.put("bits_per_dim", (bits, mean[1] / (math.log(2) * dims)), "bits/dim", opposite, how)


def reconstruction(scene: Scene) -> None:
    """Squared error of the reconstructed test images; of grey ones also the signal-to-noise ratio."""
    values, ratios = scene.per_image["reconstruction_error"], scene.per_image["reconstruction_psnr"]
    how = f"{scene.data.protocol}; {len(values)} images, mean reconstruction"
    scene.put("reconstruction_error", mean_and_error(values), "squared error/image", Side.EXACT, how)
    if scene.data.pixels != "binary" and ratios.isfinite().all():
        scene.put("reconstruction_psnr", mean_and_error(ratios), "dB/image", Side.EXACT, f"{how}, clipped")


def active(scene: Scene) -> None:
    """Latent units whose posterior mean varies."""
    layers = sorted(name for name in scene.per_image if name.startswith("posterior_mean_"))
    for layer, name in enumerate(layers, 1):
        means = scene.per_image[name]
        suffix = f"_layer_{layer}" if len(layers) > 1 else ""
        how = f"{scene.data.protocol}; {len(means)} images, Var > 0.01"
        count = float(active_units(means).sum())
        scene.put(f"active_units{suffix}", count, f"of {means.shape[1]}", Side.EXACT, how)
        logs = means.var(0).clamp(min=1e-12).log10().sort(descending=True).values
        scene.details[f"log10_variance_of_posterior_mean{suffix}"] = [round(float(v), 3) for v in logs]


def partition(scene: Scene) -> None:
    """Log-likelihood by the normalising constant: exact, or annealed and then judged."""
    method = scene.method
    assert isinstance(method, Normalises)
    with scene.stream("partition"):
        verdict = judged(method.log_partition, PARTITION_CHAINS, PARTITION_STEPS)
        if verdict.refusal is not None:
            verdict = judged(method.log_partition, PARTITION_CHAINS, SHORTER * PARTITION_STEPS)
    z = verdict.partition
    exact = z.num_steps == 0
    require(verdict.refusal is None, verdict.refusal or "")
    if verdict.rerun:
        scene.warnings.append(f"log Z may be low: anneal four times as long; {verdict.rerun}")
    how = "log Z by enumeration" if exact else f"AIS, {PARTITION_CHAINS} chains, {z.num_steps} distributions"
    bounded = method.energy_side is Side.UPPER
    sides = (Side.LOWER, Side.ESTIMATE) if bounded else (Side.EXACT, Side.OPTIMISTIC)
    side = sides[0 if exact else 1]
    scene.put("log_partition", (z.log_z, z.error), "nats", Side.EXACT if exact else Side.ESTIMATE, how)
    if not exact:
        scene.put("partition_ess", z.ess, f"of {PARTITION_CHAINS} chains", Side.ESTIMATE, how)
        scene.put("partition_spread", z.spread, "nats, of log-weights", Side.ESTIMATE, how)
    mean, error = mean_and_error(-scene.per_image["energy"] - z.log_z)
    n = len(scene.per_image["energy"])
    how += ", a bound on the energy" if bounded else ""
    _log_likelihood(
        scene, side, (mean, math.hypot(error, z.error)), f"{scene.data.protocol}; {n} images, {how}"
    )


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


def conditional(scene: Scene) -> None:
    """Share of conditional samples that the classifier takes for the class asked for."""
    method = scene.method
    assert isinstance(method, Conditions)
    asked = torch.arange(scene.n) % scene.extractor.num_classes

    def draw(rows: slice) -> tuple[Tensor]:
        images = method.sample_given(asked[rows].to(method.device))
        return (scene.extractor.extract(images).log_probs.argmax(1),)

    hits = share(scene.spread("conditional", scene.n, draw)[0] == asked)
    how = f"{scene.image_set}; {scene.n} samples, classes in turn; {scene.extractor.name}"
    interval = wilson(hits.value, scene.n)
    scene.put("conditional_accuracy", hits, "share", Side.ESTIMATE, how, interval=interval)


def accuracy(scene: Scene) -> None:
    """Share of the test images whose label the method itself predicts."""
    method, (_, labels) = scene.method, scene.labels
    assert isinstance(method, Classifies)
    x = scene.data.split("test").x[scene.per_image["row"].long()]

    def predict(rows: slice) -> tuple[Tensor]:
        return (method.classify(x[rows].to(method.device)).argmax(1),)

    hits = share(scene.spread("accuracy", len(x), predict)[0] == labels)
    how = f"{scene.data.protocol}; {len(x)} images"
    scene.put("accuracy", hits, "share right", Side.EXACT, how, interval=wilson(hits.value, len(x)))


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


def conservative(scene: Scene) -> None:
    """CSL: the log-likelihood under the states of the method's own chains."""
    method = scene.method
    assert isinstance(method, Emits)
    x = scene.data.split("test").x[:CSL_IMAGES].to(method.device)
    with scene.stream("csl"), torch.no_grad():
        found = csl(method.emit(CSL_CHAINS), x)
    lost = int(found.log_prob.isinf().sum())
    require(
        lost == 0, f"every image must be explained by some state of the chains, {lost} of {len(x)} are not"
    )
    states = f"{found.num_states} states of {CSL_CHAINS} chains"
    how = f"{scene.data.protocol}; {len(x)} images, {states}"
    scene.put("csl", mean_and_error(found.log_prob), "nats/image", Side.LOWER, how)


def mixing(scene: Scene) -> None:
    """How often the method's own chains change their class, and how many classes each comes to."""
    method = scene.method
    assert isinstance(method, Emits)
    with scene.stream("mixing"), torch.no_grad():
        states = [p.mean.clamp(0, 1).cpu() for p in method.emit(MIXING_CHAINS)]
    found = torch.stack([scene.features(images).log_probs.argmax(1) for images in states], 1)
    require(len(states) > 1, f"chains must have at least two states, got {len(states)}")
    visited = torch.tensor([float(len(chain.unique())) for chain in found])
    how = f"{scene.image_set}; {len(states)} consecutive states of {MIXING_CHAINS} chains; "
    how += scene.extractor.name
    switches = mean_and_error((found[:, 1:] != found[:, :-1]).double().mean(1))
    scene.put("class_switches", switches, "share of steps", Side.ESTIMATE, how)
    units = f"classes per chain, of {scene.extractor.num_classes}"
    scene.put("classes_visited", mean_and_error(visited), units, Side.ESTIMATE, how)
    validation, test = scene.real("val", PARZEN_VALIDATION), scene.real("test", scene.n)
    means = torch.cat(states[:PARZEN_STATES])
    chains = f"{len(means)} states (means) of {MIXING_CHAINS} chains, {len(test)} test images"
    how = f"{scene.image_set}, real; {chains}, sigma chosen on {len(validation)} validation images"
    found = mean_and_error(parzen(means, validation, test).log_prob)
    scene.put("parzen_chains", found, "nats/image", Side.ESTIMATE, how)


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


def codes(scene: Scene) -> None:
    """What a linear probe and nearest neighbours read from the codes; raw pixels beside them."""
    train_y, test_y = scene.labels
    n = min(PROBE_CODES, len(train_y))
    train_y = train_y[:n]

    def read(train: Tensor, test: Tensor) -> dict[str, Estimate]:
        near = knn_accuracy(train, train_y, test, test_y)
        return {"probe_accuracy": linear_probe(train, train_y, test, test_y)} | {
            f"knn_accuracy_{k}": accuracy for k, accuracy in near.items()
        }

    sizes = f"{n} training and {len(test_y)} test"
    for name, accuracy in read(_train_codes(scene, n), scene.per_image["code"]).items():
        interval = wilson(accuracy.value, len(test_y))
        how = f"{scene.data.protocol}; {sizes} codes"
        scene.put(name, accuracy, "share right", Side.ESTIMATE, how, interval=interval)
    scored = scene.per_image["row"].long()
    train, test = scene.real("train", n), scene.real("test", None)[scored]
    known = remembered(
        "codes",
        [code_version(), content_hash(train), content_hash(test)],
        lambda: as_tensors(read(train.flatten(1), test.flatten(1))),
    )
    for name, (value, error) in known.items():
        how = f"{scene.image_set}; {sizes} images as bytes"
        estimate = Estimate(float(value), float(error))
        scene.put(name, estimate, "share right", Side.ESTIMATE, how, floor="raw_pixels")


def _train_codes(scene: Scene, n: int) -> Tensor:
    method = scene.method
    assert isinstance(method, Encodes)
    with scene.stream("training images"):
        x = scene.data.split("train").x[:n]
    return scene.spread("codes", n, lambda rows: (method.encode(x[rows].to(method.device)),))[0]


def clusters(scene: Scene) -> None:
    """Agreement of the method's clusters, or of k-means on its codes, with the labels."""
    method, columns = scene.method, scene.per_image
    train_y, test_y = scene.labels
    if isinstance(method, Clusters):
        log_probs, source = columns["log_prob_cluster"], "own clusters"
    else:
        k, n = int(train_y.max()) + 1, min(PROBE_CODES, len(train_y))
        log_probs = kmeans_clusters(_train_codes(scene, n), columns["code"], k, scene.seed)
        source = f"k-means of {n} training codes, k={k}"
    found = clustering(log_probs, test_y)
    how = f"{scene.data.protocol}; {len(test_y)} images, {source}"
    for protocol in ("hungarian", "majority", "aae"):
        accuracy = getattr(found, protocol)
        interval = wilson(accuracy.value, len(test_y))
        name = f"cluster_accuracy_{protocol}"
        scene.put(name, accuracy, "share right", Side.ESTIMATE, how, interval=interval)
    scene.put("nmi", found.nmi, "of 1", Side.ESTIMATE, how)
    scene.put("ari", found.ari, "of 1", Side.ESTIMATE, how)
    scene.put("used_clusters", float(found.used_clusters), f"of {log_probs.shape[1]}", Side.EXACT, how)


def aggregate(scene: Scene) -> None:
    """Mutual information of image and latent, and the distance of all posteriors together from the prior."""
    method = scene.method
    assert isinstance(method, Explains)
    x = scene.data.split("test").x[: scene.n].to(method.device)
    with scene.stream("aggregate"), torch.no_grad():
        account = method.explain(x)
        found = aggregate_posterior(account.posterior, account.prior)
        few = method.explain(x[:CORRELATED]).posterior
        correlation = total_correlation(few) if isinstance(few, Independent) else None
    how = f"{scene.data.protocol}; {len(x)} posteriors, one draw each"
    capped = f"{how}; at most log {len(x)} = {math.log(len(x)):.2f}"
    scene.put("mutual_information", found.information, "nats", Side.ESTIMATE, capped)
    scene.put("marginal_kl", found.marginal_kl, "nats", Side.ESTIMATE, how)
    if correlation is not None:  # a posterior of several layers does not factorise
        biased = f"{scene.data.protocol}; {min(CORRELATED, len(x))} posteriors, one draw each, biased upwards"
        scene.put("total_correlation", correlation, "nats", Side.ESTIMATE, biased)


def outliers(scene: Scene) -> None:
    """AUROC of telling the test images from those of another data set by log-likelihood or energy."""
    method, recipe = scene.method, scene.data.recipe()
    require(recipe["class"] in OTHER_DATA, f"no outliers of the shape of {scene.image_set} are known")
    other = from_recipe(recipe | {"class": OTHER_DATA[recipe["class"]]})

    def read(name: str, data: ImageData) -> Tensor:
        x = data.split("test").x[:OUTLIERS].to(method.device)

        def score(rows: slice) -> tuple[Tensor]:
            if isinstance(method, Scores):
                return (method.log_prob(x[rows], OUTLIER_SAMPLES).double(),)
            assert isinstance(method, Energies)
            return (-method.energy(x[rows]).double(),)

        return scene.spread(name, len(x), score)[0]

    inside, outside = read("inliers", scene.data), read("outliers", other)
    by = "log p(x)" if isinstance(method, Scores) else "energy"
    by += f", K={OUTLIER_SAMPLES}" if isinstance(method, Weighs) else ""
    how = (
        f"{scene.data.protocol}; {len(inside)} images against {len(outside)} of {other.source.name}, by {by}"
    )
    scene.put("outlier_auroc", outlier_auroc(inside, outside), "of 1", Side.ESTIMATE, how)


def annealed(scene: Scene) -> None:
    """A second opinion on the importance bound: annealed importance sampling of the latents."""
    method = scene.method
    assert isinstance(method, Explains)
    x = scene.data.split("test").x[:AIS_IMAGES].to(method.device)
    found = scene.spread(
        "ais", len(x), lambda rows: tuple(latent_ais(method.explain(x[rows]), AIS_CHAINS, AIS_STEPS))
    )
    log_prob, ess, acceptance = found
    how = f"{scene.data.protocol}; first {len(x)} images, AIS from the prior, {AIS_CHAINS} chains, "
    how += f"{AIS_STEPS} distributions, acceptance {float(acceptance.mean()):.2f}"
    scene.put("log_prob_ais", mean_and_error(log_prob), "nats/image", Side.LOWER, how)
    scene.put("ais_ess_median", float(ess.median()), f"of {AIS_CHAINS} chains", Side.ESTIMATE, how)
    if "log_prob" in scene.per_image:
        difference = mean_and_error(log_prob - scene.per_image["log_prob"][: len(x)])
        how += f"; less the importance bound of the same images, K={scene.num_samples}"
        scene.put("ais_less_bound", difference, "nats/image", Side.ESTIMATE, how)


SECTIONS: dict[str, Section] = {
    "log_prob": Section((Scores,), log_prob),
    "reconstruction": Section((Reconstructs,), reconstruction),
    "active_units": Section((Infers,), active),
    "partition": Section((Normalises,), partition),
    "fid": Section((Samples,), frechet_distance),
    "kid": Section((Samples,), kernel_distance),
    "inception_score": Section((Samples,), classifier_score),
    "neighbourhoods": Section((Samples,), nearest),
    "classes": Section((Samples,), classes),
    "conditional": Section((Conditions,), conditional),
    "accuracy": Section((Classifies,), accuracy),
    "parzen": Section((Samples,), parzen_window),
    "csl": Section((Emits,), conservative),
    "mixing": Section((Emits,), mixing),
    "training_distance": Section((Samples,), training_distance),
    "codes": Section((Encodes,), codes),
    "clusters": Section((Clusters, Encodes), clusters),
    "aggregate": Section((Explains,), aggregate),
    "outliers": Section((Scores, Energies), outliers),
    "ais": Section((Explains,), annealed),
}
ON_REQUEST = ("ais",)
"""Too slow to run unless asked for."""
