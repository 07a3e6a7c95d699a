"""What the states of a method's own chains say."""

import torch

from zoo.contract.capabilities import Emits, Side
from zoo.errors import require
from zoo.parts.estimators import csl
from zoo.scores.metrics import mean_and_error
from zoo.scores.parzen import parzen
from zoo.scores.results import Measure, Protocol
from zoo.scores.scene import Scene
from zoo.scores.section import Section
from zoo.scores.sections.samples import PARZEN_VALIDATION

CSL_CHAINS, CSL_IMAGES = 100, 1000
MIXING_CHAINS = 10
PARZEN_STATES = 1000
"""Most states of each chain behind the Parzen window of chains."""


def conservative(scene: Scene) -> None:
    """CSL: the log-likelihood under the states of the method's own chains."""
    method = scene.method
    assert isinstance(method, Emits)
    x = scene.data.split("test", CSL_IMAGES).x.to(method.device)
    with scene.stream("csl"), torch.no_grad():
        found = csl(method.emit(CSL_CHAINS), x)
    lost = int(found.log_prob.isinf().sum())
    require(
        lost == 0, f"every image must be explained by some state of the chains, {lost} of {len(x)} are not"
    )
    states = f"{found.num_states} states of {CSL_CHAINS} chains"
    scene.put("csl", mean_and_error(found.log_prob), scene.treated(f"{len(x)} images, {states}"))


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
    validation, test = scene.real("val", PARZEN_VALIDATION), scene.real("test", scene.n)
    means = torch.cat(states[:PARZEN_STATES])
    chains = f"{len(means)} states (means) of {MIXING_CHAINS} chains, {len(test)} test images"
    how = Protocol(
        f"{scene.image_set}, real", f"{chains}, sigma chosen on {len(validation)} validation images"
    )
    found = mean_and_error(parzen(means, validation, test).log_prob)
    scene.put("parzen_chains", found, how)


CSL = Section(
    (Emits,),
    conservative,
    {"csl": Measure("nats/image", Side.LOWER, "higher", board=100, headline=50)},
    "conservative log-likelihood over the method's own chains",
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
