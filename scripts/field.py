"""Draw the step of a chain on points in the plane: `python scripts/field.py OUT.png MODEL [TEMPERATURE]`.

Arrows lead from a lattice of points to the means of one step of a saved `Walkback` from there; dots are
samples.
"""

import sys

import torch

from zoo.errors import UsageError, positive, require
from zoo.files import atomic
from zoo.hub import model_folder
from zoo.methods import from_folder
from zoo.methods.chains.shared.operators import Operator
from zoo.methods.chains.walkback import Walkback
from zoo.pictures.plots import arrows

SIDE, DOTS = 25, 1000


@torch.no_grad()
def steps(chain: Operator, side: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A lattice of points over [-0.1, 1.1] squared and the means of a step from each, [side^2, 2]."""
    line = torch.linspace(-0.1, 1.1, side)
    points = torch.cartesian_prod(line, line)
    s = points.view(-1, 1, 1, 2)
    return points, chain.transition(s, chain.network(s, 0), temperature).mean.view(-1, 2)


def main(out: str, model: str, temperature: str = "1") -> None:
    """Write the picture."""
    positive(temperature=float(temperature))
    method = from_folder(model_folder(model))
    if not isinstance(method, Walkback):
        raise UsageError(f"field needs a Walkback, got {type(method).__name__}")
    require(method.image_shape == (1, 1, 2), f"field needs images of two pixels, got {method.image_shape}")
    samples = method.sample(DOTS, generator=torch.Generator().manual_seed(0)).view(-1, 2)
    with atomic(out) as temporary:
        arrows(*steps(method.averaged, SIDE, float(temperature)), samples).save(temporary, format="PNG")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UsageError as error:
        sys.exit(f"field: error: {error}")
