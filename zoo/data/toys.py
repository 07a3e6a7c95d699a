"""Small made-up sets of the 2015 paper on diffusion: bits with a heartbeat, points on a spiral."""

from dataclasses import dataclass, field

import torch

from zoo.cache import Arrays
from zoo.data.facts import Facts
from zoo.data.modules import ImageData
from zoo.data.sources import Source

TOY_SIZES = {"train": 10_000, "test": 2_000}
PAPER = (
    "Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli. Deep unsupervised learning using nonequilibrium "
    "thermodynamics. ICML 2015. arXiv:1503.03585"
)
HEARTBEAT_LENGTH, HEARTBEAT_PERIOD = 20, 5
ROLL_NOISE, ROLL_RADIUS = 0.5, 16.0
"""In scikit-learn's units, in which the roll reaches to about 14."""


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

    def read(self) -> Arrays:
        at, arrays = torch.arange(HEARTBEAT_LENGTH), {}
        for split, n in TOY_SIZES.items():
            y = torch.arange(n) % HEARTBEAT_PERIOD
            arrays |= {f"{split}_y": y, f"{split}_x": 255 * (at % HEARTBEAT_PERIOD == y[:, None]).byte()}
            arrays[f"{split}_x"] = arrays[f"{split}_x"].view(-1, *self.image_shape)
        return arrays


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

    def read(self) -> Arrays:
        from sklearn.datasets import make_swiss_roll

        arrays = {}
        for seed, (split, n) in enumerate(TOY_SIZES.items()):
            points, _ = make_swiss_roll(n, noise=ROLL_NOISE, random_state=seed)
            plane = torch.from_numpy(points[:, [0, 2]]) / (2 * ROLL_RADIUS) + 0.5
            x = (plane * 256).clamp(0, 255).byte().view(-1, *self.image_shape)
            arrays |= {f"{split}_x": x.contiguous(), f"{split}_y": torch.full((n,), -1)}
        return arrays


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
