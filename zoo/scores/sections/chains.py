"""What the states of a method's own chains say."""

import math

import torch

from zoo.contract.capabilities import Emits, Returns, Side
from zoo.errors import require
from zoo.parts.estimators import csl
from zoo.scores.metrics import Estimate, fid, jackknife, mean_and_error
from zoo.scores.parzen import parzen
from zoo.scores.results import Measure, Protocol
from zoo.scores.scene import Scene, drawn, part_of
from zoo.scores.section import Section
from zoo.scores.sections.likelihood import warn_if_loose
from zoo.scores.sections.samples import PARZEN_VALIDATION

CSL_CHAINS, CSL_IMAGES = 100, 1000
CSL_ESS = 2.0
"""Least median of the effective number of states per image: with fewer, half of the images have no more than
one state near them, and the mean says how many states were drawn rather than how good they are."""
MIXING_CHAINS = 10
PARZEN_STATES = 1000
"""Most states of each chain behind the Parzen window of chains."""


def conservative(scene: Scene) -> None:
    """CSL: the log-likelihood under the states of the method's own chains; error over images and chains."""
    method = scene.method
    assert isinstance(method, Emits)
    num = len(scene.data.images("test"))
    x = scene.data.split("test", drawn(num, CSL_IMAGES)).x.to(method.device)
    with scene.stream("csl"), torch.no_grad():
        found = csl(method.emit(CSL_CHAINS), x)
    lost = int(found.log_prob.isinf().sum())
    require(
        lost == 0, f"every image must be explained by some state of the chains, {lost} of {len(x)} are not"
    )
    ess = float(found.ess.median())
    require(
        ess >= CSL_ESS,
        f"the median image must be explained by at least {CSL_ESS:g} effective states of the chains, got "
        f"{ess:.3g} of {found.num_states}",
    )
    states = f"{found.num_states} states of {CSL_CHAINS} chains, a bound where the chains mix"
    how = scene.treated(f"{part_of(len(x), num)} images, {states}")
    value, error = mean_and_error(found.log_prob)
    scene.put("csl", Estimate(value, math.hypot(error, jackknife(found.without.mean(1)))), how)
    scene.put("csl_ess_median", ess, how, of=found.num_states)
    warn_if_loose(scene, "csl", found.ess, found.num_states)


def mixing(scene: Scene) -> None:
    """How often the method's own chains change their class, and how many classes each comes to."""
    method = scene.method
    assert isinstance(method, Emits)
    with scene.stream("mixing"), torch.no_grad():
        states = [p.mean.clamp(0, 1).cpu() for p in method.emit(MIXING_CHAINS)]
    found = torch.stack([scene.features(images).log_probs.argmax(1) for images in states], 1)
    require(len(states) > 1, f"chains must have at least two states, got {len(states)}")
    visited = torch.tensor([float(len(chain.unique())) for chain in found])
    how = scene.untreated(
        f"{len(states)} consecutive states of {MIXING_CHAINS} chains; {scene.extractor.name}"
    )
    switches = mean_and_error((found[:, 1:] != found[:, :-1]).double().mean(1))
    scene.put("class_switches", switches, how)
    scene.put("classes_visited", mean_and_error(visited), how, of=scene.extractor.num_classes)
    validation, test = scene.real("val", PARZEN_VALIDATION), scene.real("test")
    chosen_on = part_of(len(validation), len(scene.data.images("val")))
    means = torch.stack(states[:PARZEN_STATES], 1).flatten(0, 1)
    chains = f"{len(means)} states (means) of {MIXING_CHAINS} chains, {len(test)} test images"
    how = Protocol(f"{scene.image_set}, real", f"{chains}, sigma chosen on {chosen_on} validation images")
    scene.put("parzen_chains", parzen(means, validation, test, MIXING_CHAINS).mean, how)


def walked_back(scene: Scene) -> None:
    """FID of chains that start where walks away from images of the split end: of a start that is right."""
    method = scene.method
    assert isinstance(method, Returns)
    rows = drawn(len(scene.data.images(scene.split)), scene.n)
    x = scene.data.split(scene.split, rows).x

    def back(part: slice) -> tuple[torch.Tensor]:
        return (method.walk_back(x[part].to(method.device)),)

    (images,) = scene.spread("walked", scene.n, back)
    real = scene.known(scene.real(scene.split))
    found = fid(real.activations, scene.features(images).activations)
    against = f"{scene.n} walks from {scene.split} images and back, against {len(real.activations)} as bytes"
    scene.put("fid_walked", found, scene.untreated(f"{against}; {scene.extractor.name}", num_images=scene.n))


CSL = Section(
    (Emits,),
    conservative,
    {
        "csl": Measure("nats/image", Side.LOWER, "higher", board=100, headline=50),
        "csl_ess_median": Measure("of {} states"),
    },
    "conservative log-likelihood over the method's own chains, a lower bound where the chains mix; refused "
    "below 2 effective states for the median image",
)
MIXING = Section(
    (Emits,),
    mixing,
    {
        "class_switches": Measure("share of steps"),
        "classes_visited": Measure("classes per chain, of {}"),
        "parzen_chains": Measure("nats/image"),
    },
    "how often ten chains change their class, how many classes each visits; Parzen nats under their states",
)
WALKED = Section(
    (Returns,),
    walked_back,
    {"fid_walked": Measure("distance")},
    "FID of chains that start where walks away from test images end: far below that of samples, the chain is "
    "right and its start is wrong",
)
