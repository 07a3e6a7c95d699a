"""Small made-up sets: bits with a heartbeat, points on a spiral and of other densities in the plane."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.data.facts import Facts
from zoo.data.modules import Binarize, ImageData
from zoo.data.sources import Example, Source, made
from zoo.errors import require

TOY_SIZES = {"train": 10_000, "test": 2_000}
PAPER = (
    "Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli. Deep unsupervised learning using nonequilibrium "
    "thermodynamics. ICML 2015. arXiv:1503.03585"
)
HEARTBEAT_LENGTH, HEARTBEAT_PERIOD = 20, 5
ROLL_NOISE, ROLL_RADIUS = 0.5, 16.0
"""In scikit-learn's units, in which the roll reaches to about 14."""

DENSITIES = {"circle": "points on a circle", "spiral": "points on a spiral", "grid": "25 Gaussians"}
PLANE_RADIUS, PLANE_NOISE = 0.4, 0.01
"""In units of the square in which points lie, about its middle; the noise's standard deviation."""
GRID_SIDE, SPIRAL_TURNS = 5, 1.5


@dataclass(frozen=True)
class HeartbeatSource(Source):
    """Twenty bits of which every fifth is 1, from each of the five phases alike; the phase is the label."""

    in_order: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        return "heartbeat"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 1, HEARTBEAT_LENGTH)

    def fingerprint(self) -> str:
        return f"{TOY_SIZES}"

    def examples(self) -> Iterator[Example]:
        at = np.arange(HEARTBEAT_LENGTH)
        for split, n in TOY_SIZES.items():
            y = np.arange(n) % HEARTBEAT_PERIOD
            x = 255 * (at % HEARTBEAT_PERIOD == y[:, None]).astype(np.uint8)
            yield from made(split, x.reshape(-1, *self.image_shape), y)


@dataclass(frozen=True)
class SwissRollSource(Source):
    """scikit-learn's swiss roll from the side: points of the plane as images of two pixels of 256 levels."""

    in_order: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        return "swiss_roll"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 1, 2)

    def fingerprint(self) -> str:
        return f"scikit-learn {TOY_SIZES} {ROLL_NOISE} {ROLL_RADIUS}"

    def examples(self) -> Iterator[Example]:
        from sklearn.datasets import make_swiss_roll

        for seed, (split, n) in enumerate(TOY_SIZES.items()):
            points, _ = make_swiss_roll(n, noise=ROLL_NOISE, random_state=seed)
            plane = points[:, [0, 2]] / (2 * ROLL_RADIUS) + 0.5
            x = (plane * 256).clip(0, 255).astype(np.uint8)
            yield from made(split, x.reshape(-1, *self.image_shape), np.full(n, -1))


class Heartbeat(ImageData):
    """Twelve thousand sequences of 20 bits with a 1 at every fifth (Sohl-Dickstein et al. 2015)."""

    facts = Facts(
        name="heartbeat",
        called="Heartbeat",
        title="heartbeat (binary sequences of Sohl-Dickstein et al. 2015, made by this package)",
        licence="MIT",
        citation=PAPER,
        classes=tuple(f"phase {phase}" for phase in range(HEARTBEAT_PERIOD)),
        sizes=(TOY_SIZES["train"], TOY_SIZES["test"]),
    )

    @property
    def source(self) -> Source:
        return HeartbeatSource(self.pad)


class SwissRoll(ImageData):
    """Twelve thousand points on a spiral in the plane; wants `binarize: none` and `dequantize: true`."""

    facts = Facts(
        name="swiss_roll",
        called="SwissRoll",
        title="swiss roll (scikit-learn's, as in Sohl-Dickstein et al. 2015)",
        licence="BSD 3-Clause",
        citation=PAPER,
        sizes=(TOY_SIZES["train"], TOY_SIZES["test"]),
    )

    @property
    def source(self) -> Source:
        return SwissRollSource(self.pad)


@dataclass(frozen=True)
class PlaneSource(Source):
    """Points of a density in the plane, as images of two pixels of 256 levels; the label is the piece."""

    density: str
    in_order: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        return f"plane_{self.density}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 1, 2)

    def fingerprint(self) -> str:
        return f"{self.density} {TOY_SIZES} {PLANE_RADIUS} {PLANE_NOISE} {GRID_SIDE} {SPIRAL_TURNS}"

    def examples(self) -> Iterator[Example]:
        for seed, (split, n) in enumerate(TOY_SIZES.items()):
            stream = np.random.default_rng(seed)
            y = stream.integers(GRID_SIDE**2 if self.density == "grid" else 1, size=n)
            if self.density == "grid":
                centres = np.stack((y % GRID_SIDE, y // GRID_SIDE), 1) / (GRID_SIDE - 1) - 0.5
                points = 2 * PLANE_RADIUS * centres
            else:
                share = stream.random(n)
                turns = 1.0 if self.density == "circle" else SPIRAL_TURNS
                radius = PLANE_RADIUS * (np.ones(n) if self.density == "circle" else np.sqrt(share))
                angle = 2 * np.pi * turns * (share if self.density == "circle" else np.sqrt(share))
                points = radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
            plane = points + PLANE_NOISE * stream.standard_normal((n, 2)) + 0.5
            x = (plane * 256).clip(0, 255).astype(np.uint8)
            yield from made(split, x.reshape(-1, *self.image_shape), y)


class Plane(ImageData):
    """Twelve thousand points of a density in the plane; wants `binarize: none` and `dequantize: true`.

    Args:
        density: `circle`; `spiral`, of one and a half turns; `grid`, 25 Gaussians.
        binarize: See `ImageData`; by default grey levels as they are.
        options: See `ImageData`.
    """

    def __init__(self, density: str = "circle", binarize: Binarize = "none", **options) -> None:
        super().__init__(binarize, **options)
        require(density in DENSITIES, f"density must be one of {', '.join(DENSITIES)}, got {density!r}")
        self.density = density
        self.facts = self.described({"density": density})

    @classmethod
    def described(cls, arguments: dict[str, Any]) -> Facts:
        density = str(arguments.get("density", "circle"))
        return Facts(
            name=f"plane_{density}",
            called=f"Plane ({density})",
            title=f"{DENSITIES.get(density, density)} in the plane (made by this package)",
            licence="MIT",
            sizes=(TOY_SIZES["train"], TOY_SIZES["test"]),
        )

    @property
    def source(self) -> Source:
        return PlaneSource(self.pad, self.density)

    def source_arguments(self) -> dict[str, Any]:
        return {"density": self.density}
