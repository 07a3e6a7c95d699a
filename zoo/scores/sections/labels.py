"""What a method knows of classes."""

import math

import torch
from torch import Tensor

from zoo.contract.capabilities import (
    Classifies,
    ClassifiesCodes,
    Clusters,
    Conditions,
    Energies,
    Recovers,
    Scores,
    Side,
    Weighs,
)
from zoo.data.modules import ImageData
from zoo.data.sets import from_recipe
from zoo.errors import UsageError, require
from zoo.parts.distributions.divergences import kl_of
from zoo.scores.metrics import mean_and_error, proportion, wilson
from zoo.scores.representation import matching, outlier_auroc
from zoo.scores.results import Measure
from zoo.scores.scene import Scene, drawn, part_of
from zoo.scores.section import Section

OUTLIERS, OUTLIER_SAMPLES = 1000, 50
BIT = math.log(2)
"""Nats of a bit."""
CODE_DRAWS = 12
"""Codes of an image that a classifier of codes is shown, one by one (Alemi et al. 2017)."""
MATCHED = 10_000
"""Most training images on which a method's own categories are matched with classes."""


def conditional(scene: Scene) -> None:
    """What the classifier, and the method's own if it has one, see in samples of a class asked for."""
    method = scene.method
    assert isinstance(method, Conditions)
    scene.need_one_per_class()
    asked = torch.arange(scene.n) % scene.extractor.num_classes
    category, matched = _categories(scene, method)

    def draw(rows: slice) -> tuple[Tensor, ...]:
        wanted = category[asked[rows]]
        images = method.sample_given(wanted.clamp(min=0).to(method.device))
        seen = scene.extractor.extract(images).log_probs
        own = method.classify(images) if isinstance(method, Classifies) else seen
        surprises = [-log_probs.cpu().gather(1, asked[rows, None])[:, 0] for log_probs in (seen, own)]
        return (seen.argmax(1).cpu().where(wanted >= 0, wanted), *surprises)

    found, surprise, own_surprise = scene.spread("conditional", scene.n, draw)
    how = f"{scene.n} samples, classes in turn{matched}"
    judged = scene.untreated(f"{how}; {scene.extractor.name}", num_images=scene.n)
    hits = proportion(found == asked)
    scene.put("conditional_accuracy", hits, judged, interval=wilson(hits.value, scene.n))
    scene.put("label_surprise", mean_and_error(surprise), judged)
    if isinstance(method, Classifies):
        judged = scene.untreated(f"{how}; {method.classifies_by}", num_images=scene.n)
        scene.put("label_surprise_own", mean_and_error(own_surprise), judged)


def _categories(scene: Scene, method: Conditions) -> tuple[Tensor, str]:
    """What to ask the method for to get each class, -1 where it has nothing; and how that was found."""
    classes = scene.extractor.num_classes
    if method.num_categories is None:
        return torch.arange(classes), ""
    if not isinstance(method, Clusters):
        name = type(method).__name__
        raise UsageError(f"matching categories needs Clusters: {name} has not that capability")
    with scene.stream("training images"):
        train = scene.data.split("train")
    known = (train.y >= 0).nonzero()[:, 0]
    require(len(known) > 0, f"{scene.data.source.name} has no labels")
    rows = known[drawn(len(known), MATCHED)]
    x, y, device = train.x[rows], train.y[rows], scene.method.device
    found = scene.spread("categories", len(x), lambda part: (method.cluster(x[part].to(device)),))[0]
    images = f"{part_of(len(x), len(known))} training images"
    how = f", {method.num_categories} own categories matched one to one on {images}"
    return matching(found, y, classes), how


def accuracy(scene: Scene) -> None:
    """Share of the test images whose label the method itself predicts."""
    method, (_, labels) = scene.method, scene.labels
    assert isinstance(method, Classifies)
    x = scene.data.split("test").x[scene.per_image["row"].long()]

    def predict(rows: slice) -> tuple[Tensor]:
        return (method.classify(x[rows].to(method.device)).argmax(1),)

    hits = proportion(scene.spread("accuracy", len(x), predict)[0] == labels)
    how = scene.treated(f"{len(x)} images, by {method.classifies_by}")
    scene.put("accuracy", hits, how, interval=wilson(hits.value, len(x)))


def recovered(scene: Scene) -> None:
    """What samples tell of their codes, and whether the categories are those of real images.

    Categories are matched with classes on training images alone. Purity knows no match: several categories
    may show one class.
    """
    method = scene.method
    assert isinstance(method, Recovers)
    k = method.num_categories
    require(scene.n >= k, f"{k} categories need at least as many samples, got {scene.n}")
    category, codes = scene.spread(
        "recovered", scene.n, lambda rows: method.recovered(rows.stop - rows.start)
    )
    num = f"{scene.n} samples"
    how = f"{num}, log Q(c|x) + H(c)"
    most = f"{how}, at most H(c) = {math.log(k):.4f}"
    scene.put("category_information", mean_and_error(category), scene.treated(most))
    summed = scene.treated(f"{how}, summed over {codes.shape[1]} codes")
    scene.put("continuous_information", mean_and_error(codes.sum(1)), summed)
    scene.details["information_by_code"] = [round(float(v), 4) for v in codes.mean(0)]
    own, matched = _categories(scene, method)
    _, labels = scene.labels
    x = scene.data.split("test").x[scene.per_image["row"].long()]

    def find(rows: slice) -> tuple[Tensor]:
        return (method.cluster(x[rows].to(method.device)).argmax(1),)

    found = scene.spread("recovered categories", len(x), find)[0]
    hits = proportion(own[labels] == found)
    how = scene.treated(f"{len(x)} images{matched}")
    scene.put("category_accuracy", hits, how, interval=wilson(hits.value, len(x)))
    asked = torch.arange(scene.n) % k

    def show(rows: slice) -> tuple[Tensor]:
        images = method.sample_given(asked[rows].to(method.device))
        return (scene.extractor.extract(images).log_probs.argmax(1).cpu(),)

    shown = scene.spread("recovered classes", scene.n, show)[0]
    modes = torch.stack([shown[asked == category].mode().values for category in range(k)])
    hits = proportion(shown == modes[asked])
    how = scene.untreated(
        f"{num} of {k} categories in turn, share of each category's commonest class; {scene.extractor.name}",
        num_images=scene.n,
    )
    scene.put("category_purity", hits, how, interval=wilson(hits.value, scene.n))


def bottleneck(scene: Scene) -> None:
    """What codes hold of the images, what they say of the labels, and what a single code is good for."""
    method, (_, labels) = scene.method, scene.labels
    assert isinstance(method, ClassifiesCodes)
    x = scene.data.split("test").x[scene.per_image["row"].long()]

    def read(rows: slice) -> tuple[Tensor, ...]:
        return through_codes(method, x[rows].to(method.device), labels[rows].to(method.device))

    rate, cross_entropy, right = scene.spread("bottleneck", len(x), read)
    num = f"{len(x)} images"
    scene.put("code_information", mean_and_error(rate / BIT), scene.treated(f"{num}, their rate"))
    shares = labels.bincount().double() / len(labels)
    gained = torch.special.entr(shares).sum() - cross_entropy
    how = scene.treated(f"{num}, the labels' entropy less the cross-entropy of single codes")
    scene.put("label_information", mean_and_error(gained / BIT), how)
    one = mean_and_error(right)
    scene.put("accuracy_one_code", one, scene.treated(f"{num}, the mean of {CODE_DRAWS} codes, one by one"))


@torch.no_grad()
def through_codes(method: ClassifiesCodes, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What becomes of images on their way through `CODE_DRAWS` codes.

    Args:
        method: It classifies codes.
        x: Images [B, C, H, W].
        y: Their labels [B].

    Returns:
        KL(q(z|x) || p(z)) and the mean of -log q(y|z), in nats, and the share of codes that are classified
        right: each [B].
    """
    prior, posterior = method.believe(x)
    z = posterior.sample(torch.Size([CODE_DRAWS]))
    log_q = method.classify_codes(z)
    own = log_q.gather(-1, y.expand(CODE_DRAWS, -1)[..., None])[..., 0]
    right = (log_q.argmax(-1) == y).double().mean(0)
    return kl_of(posterior, prior, z).double(), -own.double().mean(0), right


def outliers(scene: Scene) -> None:
    """AUROC of telling the test images from those of another data set by log-likelihood or energy."""
    method, recipe = scene.method, scene.data.recipe()
    known = scene.data.facts.outliers
    require(known is not None, f"no outliers of the shape of {scene.image_set} are known")
    other = from_recipe(recipe | {"class": known})

    def read(name: str, data: ImageData) -> tuple[Tensor, str]:
        num = len(data.images("test"))
        x = data.split("test", drawn(num, OUTLIERS)).x.to(method.device)

        def score(rows: slice) -> tuple[Tensor]:
            if isinstance(method, Scores):
                return (method.log_prob(x[rows], OUTLIER_SAMPLES).double(),)
            assert isinstance(method, Energies)
            return (-method.energy(x[rows]).double(),)

        return scene.spread(name, len(x), score)[0], part_of(len(x), num)

    (inside, these), (outside, those) = read("inliers", scene.data), read("outliers", other)
    likelihood = "Bernoulli score" if scene.data.pixels == "pseudo" else "log p(x)"
    by = likelihood if isinstance(method, Scores) else "energy"
    by += f", K={OUTLIER_SAMPLES}" if isinstance(method, Weighs) else ""
    how = f"{these} images against {those} of {other.source.name}, by {by}"
    scene.put("outlier_auroc", outlier_auroc(inside, outside), scene.treated(how))


CONDITIONAL = Section(
    (Conditions,),
    conditional,
    {
        "conditional_accuracy": Measure("share"),
        "label_surprise": Measure("nats"),
        "label_surprise_own": Measure("nats"),
    },
    "share of samples that show the class asked for; how surprised the classifier is at it, -log p(y|x), and "
    "the method's own",
)
ACCURACY = Section(
    (Classifies,),
    accuracy,
    {"accuracy": Measure("share right", Side.EXACT, "higher", board=160, headline=30)},
    "share of test images whose label is predicted",
)
RECOVERED = Section(
    (Recovers,),
    recovered,
    {
        "category_information": Measure("nats", Side.LOWER),
        "continuous_information": Measure("nats", Side.LOWER),
        "category_accuracy": Measure("share right", Side.EXACT, headline=35),
        "category_purity": Measure("share", Side.ESTIMATE),
    },
    "bounds from below on what samples tell of their category and of their continuous codes; share of test "
    "images whose category is that of their label, matched on training images; share of samples that show "
    "the commonest class of their category",
)
BOTTLENECK = Section(
    (ClassifiesCodes,),
    bottleneck,
    {
        "code_information": Measure("bits", Side.UPPER),
        "label_information": Measure("bits", Side.LOWER),
        "accuracy_one_code": Measure("share right"),
    },
    "bounds in bits: from above on I(Z;X) by the rate, from below on I(Z;Y); accuracy by a single code",
)
OUTLIERS_AUROC = Section(
    (Scores, Energies),
    outliers,
    {"outlier_auroc": Measure("of 1", better="higher", board=230)},
    "AUROC of telling test images from another data set's by log p(x) or energy",
)
