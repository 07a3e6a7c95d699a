"""What a metric is, and how the wanted ones are run."""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from zoo.contract.capabilities import (
    Believes,
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
)
from zoo.errors import one_line
from zoo.scores.scene import Scene
from zoo.scores.sections.chains import conservative, mixing
from zoo.scores.sections.codes import active, aggregate, clusters, codes, reconstruction
from zoo.scores.sections.labels import accuracy, conditional, outliers
from zoo.scores.sections.likelihood import annealed, log_prob, partition
from zoo.scores.sections.samples import (
    classes,
    classifier_score,
    frechet_distance,
    kernel_distance,
    nearest,
    parzen_window,
    training_distance,
)


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
        except ValueError as reason:  # also torch's, of values outside a distribution's support
            yield name, one_line(reason)


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
    "aggregate": Section((Believes,), aggregate),
    "outliers": Section((Scores, Energies), outliers),
    "ais": Section((Explains,), annealed),
}
ON_REQUEST = ("ais",)
"""Too slow to run unless asked for."""
