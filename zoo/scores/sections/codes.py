"""What codes are worth: reconstructions, probes, clusters, information."""

import math

import torch
from torch import Tensor
from torch.distributions import Independent

from zoo.cache import content_hash, remembered
from zoo.contract.capabilities import (
    Believes,
    Clusters,
    Divides,
    Encodes,
    Explains,
    Infers,
    Reconstructs,
    Samples,
    Side,
)
from zoo.errors import require
from zoo.parts.distributions.sticks import share_dimension
from zoo.parts.estimators import active_units
from zoo.parts.kernels import gram, peak
from zoo.scores.metrics import Estimate, mean_and_error, moments, squared_mmd, wilson
from zoo.scores.representation import (
    NEIGHBOURS,
    aggregate_posterior,
    clustering,
    kmeans_clusters,
    knn_accuracy,
    linear_probe,
    total_correlation,
)
from zoo.scores.results import Measure, Protocol
from zoo.scores.scene import BLOCK, Scene, as_tensors, code_version, drawn, part_of
from zoo.scores.section import (
    Section,
    cluster_probabilities,
    encodings,
    posterior_means,
    reconstruction_errors,
    shares,
)

PROBE_CODES = 20_000
CORRELATED = 2000


def reconstruction(scene: Scene) -> None:
    """Squared error of the reconstructed test images; of grey ones also the signal-to-noise ratio."""
    values, ratios = scene.per_image["reconstruction_error"], scene.per_image["reconstruction_psnr"]
    method = scene.method
    kind = "drawn" if isinstance(method, Samples) and method.draws_pixels else "mean"
    how = f"{len(values)} images, {kind} reconstruction"
    scene.put("reconstruction_error", mean_and_error(values), scene.treated(how))
    if scene.data.pixels != "binary" and ratios.isfinite().all():
        scene.put("reconstruction_psnr", mean_and_error(ratios), scene.treated(f"{how}, clipped"))


def active(scene: Scene) -> None:
    """Latent units whose posterior mean varies."""
    method = scene.method
    assert isinstance(method, Infers)
    n = len(scene.per_image["row"])
    require(n > 1, f"the variance of posterior means needs at least 2 images, got {n}")
    layers = sorted(name for name in scene.per_image if name.startswith("posterior_mean_"))
    for layer, name in enumerate(layers, 1):
        means = scene.per_image[name]
        suffix = f"_layer_{layer}" if len(layers) > 1 else ""
        variance = torch.as_tensor(method.prior_variance(layer - 1)).detach().cpu()
        of = "" if (variance == 1).all() else " of the prior's"
        how = scene.treated(f"{len(means)} images, Var > 0.01{of}")
        count = float(active_units(means, prior_variance=variance).sum())
        place = layer if len(layers) > 1 else None
        scene.put("active_units", count, how, of=means.shape[1], layer=place)
        logs = means.var(0).clamp(min=1e-12).log10().sort(descending=True).values
        scene.details[f"log10_variance_of_posterior_mean{suffix}"] = [round(float(v), 3) for v in logs]


def codes(scene: Scene) -> None:
    """What a linear probe and nearest neighbours read from the codes; raw pixels beside them."""
    require(not scene.data.whole, "probes need images that no one has trained on, the data are whole")
    train_y, test_y = scene.labels
    rows = drawn(len(train_y), PROBE_CODES)
    counted, train_y = part_of(len(rows), len(train_y)), train_y[rows]

    def read(train: Tensor, test: Tensor) -> dict[str, Estimate]:
        near = knn_accuracy(train, train_y, test, test_y)
        return {"probe_accuracy": linear_probe(train, train_y, test, test_y)} | {
            f"knn_accuracy_{k}": accuracy for k, accuracy in near.items()
        }

    sizes = f"{counted} training and {len(test_y)} test"
    for name, accuracy in read(train_codes(scene, rows), scene.per_image["code"]).items():
        interval = wilson(accuracy.value, len(test_y))
        scene.put(name, accuracy, scene.treated(f"{sizes} codes"), interval=interval)
    scored = scene.per_image["row"].long()
    train, test = scene.real("train", PROBE_CODES), scene.real("test")[scored]
    known = remembered(
        "codes",
        [code_version(), content_hash(train), content_hash(test)],
        lambda: as_tensors(read(train.flatten(1), test.flatten(1))),
    )
    for name, (value, error) in known.items():
        how = scene.untreated(f"{sizes} images as bytes")
        scene.put(name, Estimate(float(value), float(error)), how, floor="raw_pixels")


def sampled_codes(scene: Scene) -> None:
    """What nearest neighbours read from one draw of the latents per image, in the place of their means."""
    require(not scene.data.whole, "neighbours need images that no one has trained on, the data are whole")
    train_y, test_y = scene.labels
    rows, scored = drawn(len(train_y), PROBE_CODES), scene.per_image["row"].long()
    with scene.stream("training images"):
        train = scene.data.split("train", rows).x
    test = scene.data.split("test", scored).x
    codes = [_drawn_codes(scene, name, x) for name, x in (("train", train), ("test", test))]
    sizes = f"{part_of(len(rows), len(train_y))} training and {len(test_y)} test"
    how = scene.treated(f"{sizes} codes, one draw of the posterior each")
    for k, found in knn_accuracy(codes[0], train_y[rows], codes[1], test_y).items():
        scene.put(f"knn_accuracy_sampled_{k}", found, how, interval=wilson(found.value, len(test_y)))


def _drawn_codes(scene: Scene, split: str, x: Tensor) -> Tensor:
    method = scene.method
    assert isinstance(method, Believes)

    def draw(rows: slice) -> tuple[Tensor]:
        return (method.believe(x[rows].to(method.device)).posterior.sample(),)

    return scene.spread(f"sampled {split} codes", len(x), draw)[0]


def divided(scene: Scene) -> None:
    """How many shares say nearly all of an image, and how much of all images each share says."""
    method, found = scene.method, scene.per_image["share"]
    assert isinstance(method, Divides)
    how = scene.treated(f"{len(found)} images, mean shares; the fewest that make up 0.99")
    scene.put("effective_dim", mean_and_error(share_dimension(found)), how, of=found.shape[1])
    usage = found.double().mean(0)
    protocol = scene.treated(f"{len(found)} images, mean shares")
    scene.put("smallest_share", float(usage.min()), protocol, of=found.shape[1])
    scene.put("largest_share", float(usage.max()), protocol, of=found.shape[1])
    scene.details["share"] = [round(float(v), 6) for v in usage]
    norms = method.share_norms()
    if norms is not None:
        scene.details["decoder_weight_norm_of_share"] = [round(float(v), 6) for v in norms]


def train_codes(scene: Scene, rows: Tensor) -> Tensor:
    """Codes of some training images, [N, D]."""
    method = scene.method
    assert isinstance(method, Encodes)
    with scene.stream("training images"):
        x = scene.data.split("train", rows).x
    return scene.spread("codes", len(x), lambda part: (method.encode(x[part].to(method.device)),))[0]


def code_use(scene: Scene) -> None:
    """What test images lose when their codes change places: nothing where the decoder does not read them."""
    method = scene.method
    assert isinstance(method, Explains)
    num = len(scene.data.images("test"))
    rows = drawn(num, scene.num_images)
    x = scene.data.split("test", rows).x

    def lost(part: slice) -> tuple[Tensor]:
        _, posterior, log_likelihood = method.explain(x[part].to(method.device))
        z = posterior.sample(torch.Size((1,)))
        return ((log_likelihood(z) - log_likelihood(z.roll(1, 1)))[0],)

    require(len(x) > 1, f"codes change places among at least 2 images, got {len(x)}")
    values = scene.spread("code_use", len(x), lost)[0]
    how = f"{part_of(len(x), num)} images, one draw each, against the code of the image before in blocks of "
    scene.put("code_use", mean_and_error(values), scene.treated(f"{how}{BLOCK}"))


def clusters(scene: Scene) -> None:
    """Agreement of the method's clusters with the labels, and of k-means on pixels; else of k-means on codes.

    Clusters of the method's own are groups of images, however it sees their pixels: all stand on one board.
    """
    method, columns = scene.method, scene.per_image
    train_y, test_y = scene.labels
    if not isinstance(method, Clusters):
        k, rows = len(train_y.unique()), drawn(len(train_y), PROBE_CODES)
        found = kmeans_clusters(train_codes(scene, rows), columns["code"], k, scene.seed)
        by = f"k-means of {part_of(len(rows), len(train_y))} training codes, k={k}"
        _put_agreement(scene, _agreement(found, test_y), scene.treated(f"{len(test_y)} images, {by}"), k)
        return
    k, how = columns["log_prob_cluster"].shape[1], scene.untreated(f"{len(test_y)} images")
    _put_agreement(scene, _agreement(columns["log_prob_cluster"], test_y), how, k)
    train, test = scene.real("train", PROBE_CODES), scene.real("test")[columns["row"].long()]
    known = remembered(
        "clusters",
        [code_version(), content_hash(train), content_hash(test), k, scene.seed],
        lambda: as_tensors(
            _agreement(kmeans_clusters(train.flatten(1), test.flatten(1), k, scene.seed), test_y)
        ),
    )
    beside = {name: Estimate(float(value), float(error)) for name, (value, error) in known.items()}
    _put_agreement(scene, beside, how, k, floor=f"k-means of pixels, k={k}")


def _agreement(log_probs: Tensor, y: Tensor) -> dict[str, Estimate]:
    found = clustering(log_probs, y)
    assert found.aae is not None
    accuracies = {"hungarian": found.hungarian, "majority": found.majority, "aae": found.aae}
    others = {"nmi": found.nmi, "ari": found.ari, "used_clusters": found.used_clusters}
    return {f"cluster_accuracy_{protocol}": accuracy for protocol, accuracy in accuracies.items()} | {
        name: Estimate(float(value), math.nan) for name, value in others.items()
    }


def _put_agreement(
    scene: Scene, agreement: dict[str, Estimate], how: Protocol, k: int, floor: str | None = None
) -> None:
    n = len(scene.per_image["row"])
    for name, estimate in agreement.items():
        interval = None if math.isnan(estimate.error) else wilson(estimate.value, n)
        scene.put(name, estimate, how, of=k, interval=interval, floor=floor)


def aggregate(scene: Scene) -> None:
    """Mutual information of image and latent, and the distance of all posteriors together from the prior."""
    method = scene.method
    assert isinstance(method, Believes)
    num = len(scene.data.images("test"))
    rows = drawn(num, scene.num_images)
    x = scene.data.split("test", rows).x.to(method.device)
    few = drawn(len(x), CORRELATED)
    with scene.stream("aggregate"), torch.no_grad():
        beliefs = method.believe(x)
        found = aggregate_posterior(beliefs.posterior, beliefs.prior)
        posterior = method.believe(x[few]).posterior
        correlation = total_correlation(posterior) if isinstance(posterior, Independent) else None
    how = f"{part_of(len(x), num)} posteriors, one draw each"
    capped = f"{how}; at most log {len(x)} = {math.log(len(x)):.2f}"
    scene.put("mutual_information", found.information, scene.treated(capped))
    scene.put("marginal_kl", found.marginal_kl, scene.treated(f"{how}, biased upwards"))
    if correlation is not None:  # a posterior of several layers does not factorise
        biased = f"{part_of(len(few), num)} posteriors, one draw each, biased upwards"
        scene.put("total_correlation", correlation, scene.treated(biased))


def against_prior(scene: Scene) -> None:
    """How all codes together are spread, beside as many draws of the prior."""
    method = scene.method
    assert isinstance(method, Believes)
    num = len(scene.data.images("test"))
    rows = drawn(num, scene.num_images)
    x = scene.data.split("test", rows).x.to(method.device)
    with scene.stream("matching"), torch.no_grad():
        beliefs = method.believe(x)
        codes = beliefs.posterior.sample().flatten(1).double()
        of_prior = beliefs.prior.sample(torch.Size([len(x)])).flatten(1).double()
    n, dim = codes.shape
    require(n > dim, f"the covariance of codes of {dim} numbers needs more images, got {n}")
    how = scene.treated(f"{part_of(n, num)} posteriors, one draw each; as many draws of the prior")
    equal = peak("rbf")
    distance = squared_mmd(
        codes, of_prior, lambda a, b: gram(a, b, "rbf"), lambda a: torch.full_like(a[:, 0], equal)
    )
    spread, wanted = (moments(draws).covariance for draws in (codes, of_prior))
    log_det = float(torch.logdet(spread) - torch.logdet(wanted))
    require(math.isfinite(log_det), f"the covariance of codes must have a determinant, got log {log_det}")
    scene.put("code_mmd", distance, how)
    scene.put("code_log_det", log_det, how)
    scene.put("code_variance", float((spread.diagonal() / wanted.diagonal()).mean()), how)


RIGHT = "share right"
RECONSTRUCTION = Section(
    (Reconstructs,),
    reconstruction,
    {
        "reconstruction_error": Measure("squared error/image", Side.EXACT, "lower", board=140, headline=70),
        "reconstruction_psnr": Measure("dB/image", Side.EXACT, "higher", board=150, headline=40),
    },
    "squared error of reconstructed test images, of grey levels PSNR",
    reads=(reconstruction_errors,),
)
ACTIVE_UNITS = Section(
    (Infers,),
    active,
    {"active_units": Measure("of {}", Side.EXACT)},
    "units with Var E[z given x] > 0.01",
    reads=(posterior_means,),
)
CODES = Section(
    (Encodes,),
    codes,
    {
        "probe_accuracy": Measure(RIGHT, better="higher", board=170),
        "knn_accuracy_3": Measure(RIGHT),
        "knn_accuracy_5": Measure(RIGHT, better="higher", board=180),
        "knn_accuracy_10": Measure(RIGHT),
    },
    "linear probe and k-nearest-neighbour accuracy, raw pixels beside them",
    reads=(encodings,),
)
SAMPLED_CODES = Section(
    (Believes,),
    sampled_codes,
    {f"knn_accuracy_sampled_{k}": Measure(RIGHT) for k in NEIGHBOURS},
    "k-nearest-neighbour accuracy of one draw of the posterior per image",
)
DIVIDED = Section(
    (Divides,),
    divided,
    {
        "effective_dim": Measure("of {} shares"),
        "smallest_share": Measure("of 1, {} shares"),
        "largest_share": Measure("of 1, {} shares"),
    },
    "shares of sticks or components: how many make up 99 % of an image, the least and the most used",
    reads=(shares,),
)
CLUSTERS = Section(
    (Clusters, Encodes),
    clusters,
    {
        "cluster_accuracy_hungarian": Measure(RIGHT, better="higher", board=190),
        "cluster_accuracy_majority": Measure(RIGHT, better="higher", board=192),
        "cluster_accuracy_aae": Measure(RIGHT, better="higher", board=194),
        "nmi": Measure("of 1", better="higher", board=200),
        "ari": Measure("of 1", better="higher", board=210),
        "used_clusters": Measure("of {}", Side.EXACT),
    },
    "accuracy (`hungarian`, `majority`, `aae`), NMI, ARI, k-means of pixels beside them; where there are "
    "only codes, of k-means of codes",
    reads=(encodings, cluster_probabilities),
)
AGGREGATE = Section(
    (Believes,),
    aggregate,
    {
        "mutual_information": Measure("nats", better="higher", board=220),
        "marginal_kl": Measure("nats"),
        "total_correlation": Measure("nats"),
    },
    "mutual information of image and latent (capped at log n), marginal KL, total correlation",
)
CODE_USE = Section(
    (Explains,),
    code_use,
    {"code_use": Measure("nats/image")},
    "nats that images lose under the codes of others: 0 where the decoder does not use its code",
)
MATCHING = Section(
    (Believes,),
    against_prior,
    {
        "code_mmd": Measure("squared MMD"),
        "code_log_det": Measure("nats, 0 for the prior"),
        "code_variance": Measure("of the prior's"),
    },
    "all codes together against the prior: unbiased squared MMD, log-determinant of the covariance, mean "
    "variance",
)
