"""The metrics, a file per group: what a method must be able to do, and what is then measured of it."""

from collections.abc import Collection, Iterator

from zoo.errors import one_line
from zoo.scores.results import Measure
from zoo.scores.scene import Scene
from zoo.scores.section import Section
from zoo.scores.sections import chains, codes, labels, likelihood, samples, trees

SECTIONS: dict[str, Section] = {
    "log_prob": likelihood.LOG_PROB,
    "reconstruction": codes.RECONSTRUCTION,
    "active_units": codes.ACTIVE_UNITS,
    "partition": likelihood.PARTITION,
    "fid": samples.FID,
    "kid": samples.KID,
    "inception_score": samples.INCEPTION_SCORE,
    "neighbourhoods": samples.NEIGHBOURHOODS,
    "classes": samples.CLASSES,
    "conditional": labels.CONDITIONAL,
    "accuracy": labels.ACCURACY,
    "bottleneck": labels.BOTTLENECK,
    "recovered": labels.RECOVERED,
    "parzen": samples.PARZEN,
    "csl": chains.CSL,
    "mixing": chains.MIXING,
    "walked": chains.WALKED,
    "training_distance": samples.TRAINING_DISTANCE,
    "codes": codes.CODES,
    "sampled_codes": codes.SAMPLED_CODES,
    "shares": codes.DIVIDED,
    "clusters": codes.CLUSTERS,
    "trees": trees.TREES,
    "aggregate": codes.AGGREGATE,
    "code_use": codes.CODE_USE,
    "matching": codes.MATCHING,
    "outliers": labels.OUTLIERS_AUROC,
    "ais": likelihood.AIS,
}
"""In the order in which they run."""
MEASURES: dict[str, Measure] = {
    name: measure for section in SECTIONS.values() for name, measure in section.numbers.items()
}
"""Every number by its name."""
RANKED = sorted(
    (name for name in MEASURES if MEASURES[name].board), key=lambda name: MEASURES[name].board or 0
)
"""What is ranked, in the order of the boards."""
HEADLINES = sorted(
    (name for name in MEASURES if MEASURES[name].headline), key=lambda name: MEASURES[name].headline or 0
)
"""What stands for a checkpoint in an index, in its order."""


def said_of(name: str) -> str:
    """What a number says: the sentence of the first section that writes it."""
    return next(section.text for section in SECTIONS.values() if name in section.numbers)


def run_sections(scene: Scene, wanted: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """Run the wanted sections in order; yield each metric with the reason why it was skipped, if it was.

    The global random stream is left as it was, whatever a section or a method draws from it.
    """
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
        scene.measures = section.numbers
        try:
            with scene.stream(name):
                section.run(scene)
        except ValueError as reason:  # also torch's, of values outside a distribution's support
            yield name, one_line(reason)
        else:
            yield name, None
