"""The distance of chains that start where walks from test images end."""

import torch
from support import tiny

from zoo.contract.capabilities import Returns
from zoo.contract.method import Method
from zoo.data.sets import Digits
from zoo.scores.metrics import fid
from zoo.scores.scene import Scene, drawn
from zoo.scores.sections import run_sections


class Mirror(Method, Returns):
    """Gives images back darker; samples noise."""

    paper = "Optics."
    seen: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__((1, 8, 8))
        self.save_hyperparameters()
        self.seen = []

    def walk(self, n, *, generator=None):
        yield torch.rand(n, 1, 8, 8)

    def walk_back(self, x, *, generator=None):
        self.seen.append(x)
        return 0.9 * x


def test_walks_start_in_the_test_images_that_were_drawn_and_are_held_against_all():
    data, method = Digits(binarize="none"), Mirror()
    scene = Scene(method, data, seed=0, num_samples=1, num_images=200)
    assert dict(run_sections(scene, ["walked"])) == {"walked": None}
    x = torch.cat(method.seen)
    assert torch.equal(x, data.split("test", drawn(359, 200)).x)
    number = scene.numbers["test/fid_walked"]
    real = scene.features(data.split("test").x).activations
    assert number.value == fid(real, scene.features(0.9 * x).activations).value
    assert "200 walks from test images and back, against 359" in str(number.protocol)


def test_what_does_not_walk_back_is_skipped():
    scene = Scene(tiny("PCA"), Digits(binarize="none"), seed=0, num_samples=1, num_images=200)
    assert "needs Returns" in dict(run_sections(scene, ["walked"]))["walked"]
