"""Looking never changes training: no score, picture or verb moves the global random streams."""

import numpy as np
import pytest
import torch
from support import tiny, trainer

from zoo.cli.light import run
from zoo.contract.capabilities import Conditions, Encodes, Samples, Scores, Side
from zoo.contract.method import Method
from zoo.data import Digits
from zoo.scores.evaluation import Evaluator
from zoo.scores.features import Extractor
from zoo.scores.results import Measure, Protocol
from zoo.scores.scene import Scene
from zoo.scores.section import Section
from zoo.scores.sections import SECTIONS, run_sections

TREATMENTS = {
    "dithered": {"binarize": "none", "dequantize": True},
    "drawn at every visit": {"binarize": "dynamic"},
    "labels withheld": {"binarize": "dynamic", "labelled": 100},
}


def streams() -> tuple:
    """The state of the global streams from which methods draw."""
    numpy = np.random.get_state()
    return torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2]


class Restless(Method, Samples, Scores, Conditions, Encodes):
    """Rolls the global dice whenever it is asked for anything, as a method of one's own may."""

    paper = "None."
    side = Side.ESTIMATE

    def __init__(self) -> None:
        super().__init__((1, 8, 8))

    def configure_optimizers(self):
        return None

    def sample(self, n, *, generator=None):
        return torch.rand(n, 1, 8, 8)

    def sample_given(self, y, *, generator=None):
        return torch.rand(len(y), 1, 8, 8)

    def log_prob(self, x, num_samples):
        return torch.randn(len(x))

    def encode(self, x):
        return torch.randn(len(x), 3)


@pytest.mark.parametrize(
    ("name", "treatment"),
    [
        ("PCA", "dithered"),
        ("Diffusion", "dithered"),
        ("VAE", "drawn at every visit"),
        ("LabelDBN", "drawn at every visit"),
        ("VAE", "labels withheld"),
        *(("Restless", treatment) for treatment in TREATMENTS),
    ],
)
def test_a_score_leaves_the_streams_alone(name, treatment, tmp_path):
    method = Restless() if name == "Restless" else tiny(name)
    evaluator = Evaluator(num_samples=2, num_images=150, out=str(tmp_path / "r.json"))
    fit = trainer(callbacks=[evaluator], limit_test_batches=1)
    data = Digits(**TREATMENTS[treatment])
    before = streams()
    fit.test(method, datamodule=data, verbose=False)
    assert streams() == before
    assert evaluator.results.numbers


def test_a_section_that_rolls_the_global_dice_has_a_stream_of_its_own(monkeypatch):
    values = []

    def roll(scene):
        values.append(float(torch.rand(())))
        scene.put("dice", values[-1], Protocol("", ""))

    monkeypatch.setitem(SECTIONS, "dice", Section((torch.nn.Module,), roll, {"dice": Measure("of 1")}, ""))
    scenes = [Scene(tiny("VAE"), Digits(), seed, 2, 10) for seed in (0, 0, 1)]
    before = streams()
    assert [dict(run_sections(scene, ["dice"])) for scene in scenes] == [{"dice": None}] * 3
    assert streams() == before
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "pca-digits", "--out", "x.png"],
        ["sample", "rbm-digits", "--film", "--n", "4", "--frames", "3", "--out", "x.gif"],
        ["nearest", "diffusion-digits", "--n", "2", "--out", "x.png"],
        ["repair", "dae-digits", "--n", "2", "--out", "x.png"],
        ["interpolate", "vae-digits", "--n", "2", "--steps", "3", "--out", "x.png"],
        ["traverse", "vae-digits", "--n", "2", "--steps", "3", "--out", "x.png"],
        ["data", "show", "Digits", "--binarize", "none", "--dequantize", "true", "--out", "x.png"],
        ["data", "show", "Digits", "--out", "x.png"],
        ["features", "Digits"],
        ["score", "pca-digits", "--metrics", "log_prob", "codes", "clusters"],
    ],
    ids=" ".join,
)
def test_a_verb_leaves_the_streams_alone(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = streams()
    run(words)
    assert streams() == before
    capsys.readouterr()


@pytest.mark.parametrize("learned", [True, False])
def test_a_line_says_once_that_the_features_know_the_validation_images(learned, monkeypatch, capsys):
    known = Scene.extractor.func

    def network(scene: Scene) -> Extractor:
        net = known(scene)
        assert net.learned_from_validation
        net.learned_from_validation = learned
        return net

    monkeypatch.setattr(Scene, "extractor", property(network))
    evaluator = Evaluator(num_images=200, every_n_epochs=1)
    fit = trainer(max_epochs=2, limit_train_batches=1, callbacks=[evaluator])
    fit.fit(tiny("VAE"), datamodule=Digits())
    assert "val/fid" in fit.callback_metrics
    said = capsys.readouterr().out.count("val/fid and val/kid flatter: digits-cnn-128@")
    assert said == int(learned)
