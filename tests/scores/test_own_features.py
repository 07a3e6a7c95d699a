"""Features of one's own labelled data: trained once, found by the images, named on every row."""

import re
import shlex
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from safetensors import safe_open
from support import tiny

from zoo.cache import cache_root
from zoo.cli.light import run
from zoo.cli.main import main
from zoo.data import DATA, Digits, Heartbeat, ImageFolder, SwissRoll, from_recipe
from zoo.errors import UsageError
from zoo.scores import classifiers
from zoo.scores.classifiers import Examples, augmented, command, extractor, own_features, ready, trained
from zoo.scores.evaluation import Evaluator
from zoo.scores.features import shipped, weights_file

NAME = r"own:discs-cnn-128@[0-9a-f]{8} \(\d+\.\d% of 26 held-out images right\)"


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """A folder of 300 colour pictures in three classes: the channel in which a disc shines."""
    folder = tmp_path_factory.mktemp("own") / "discs"
    stream = np.random.default_rng(0)
    down, across = np.mgrid[:16, :16]
    for i in range(300):
        picture = stream.integers(0, 80, (16, 16, 3), dtype=np.uint8)
        y, x = stream.integers(4, 12, 2)
        picture[(down - y) ** 2 + (across - x) ** 2 < 16, i % 3] = 255
        place = folder / ("red", "green", "blue")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{i}.png")
    return folder


@pytest.fixture
def _few_epochs(monkeypatch):
    monkeypatch.setattr(classifiers, "MANY_EPOCHS", 8)


@pytest.fixture
def data(discs, tmp_path, monkeypatch) -> ImageFolder:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return ImageFolder(str(discs), size=16, binarize="none", dequantize=True)


def scored(data):
    evaluator = Evaluator(num_samples=2, num_images=200, metrics=["kid", "inception_score", "classes"])
    trainer = Trainer(
        logger=False,
        callbacks=[evaluator],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        accelerator="cpu",
    )
    trainer.test(tiny("PCA", data.image_shape, latent_dim=1), datamodule=data, verbose=False)
    assert evaluator.results is not None
    return evaluator.results


def words_of(line: str) -> list[str]:
    """The command between backquotes, as the shell splits it."""
    return shlex.split(re.search(r"`(.+)`", line)[1])


@pytest.mark.usefixtures("_few_epochs")
def test_the_line_of_a_skipped_metric_is_the_command_that_mends_it(data, capsys):
    before = scored(data)
    assert not before.numbers
    assert len(set(before.skipped.values())) == 1
    words = words_of(before.skipped["kid"])
    assert words[:3] == ["zoo", "features", "ImageFolder"]
    capsys.readouterr()
    run(words[1:])
    first = capsys.readouterr().out
    assert re.search(rf"^own:discs@[0-9a-f]{{8}} 3x16x16: {NAME}$", first, re.MULTILINE)
    assert "trained in" in first
    run(words[1:])
    second = capsys.readouterr().out
    assert second == first.splitlines(keepends=True)[-1]
    after = scored(data)
    assert not after.skipped
    for key in ("kid", "inception_score", "class_distance"):
        number = after.numbers[f"test/{key}"]
        assert re.search(rf"{NAME}$", number.protocol.how)
        assert f"test/{key}" in after.floors["train"]
        assert f"test/{key}" in after.floors["independent_pixels"]
    assert after.numbers["test/inception_score"].unit == "classes, of 3"


@pytest.mark.usefixtures("_few_epochs")
def test_it_learns_from_its_own_images_alone_and_says_how_well(data):
    assert ready(data) is None
    net = own_features(data)
    (x, y), (test_x, test_y) = ((data.originals(s), data.labels(s)) for s in ("train", "test"))
    assert len(x) == 300 - 26 - len(data.originals("val")) < 300 - 26
    share = float((net.extract(test_x.float() / 255).log_probs.argmax(1) == test_y).double().mean())
    assert f"({share:.1%} of {len(test_y)} held-out images right)" in net.name
    assert share > 0.7
    (file,) = (cache_root() / "computed").glob("classifier-*.safetensors")
    again = trained(Examples(x, y, test_x[:] * 0, test_y * 0), epochs=8)
    with safe_open(file, "pt") as kept:
        assert all(torch.equal(kept.get_tensor(key), tensor) for key, tensor in again.state_dict().items())


@pytest.mark.usefixtures("_few_epochs")
def test_training_is_seeded_kept_and_leaves_the_global_stream_alone(data, discs):
    epochs = []
    net = own_features(data, lambda epoch, of, _: epochs.append((epoch, of)))
    assert epochs == [(epoch, 8) for epoch in range(1, 9)]
    again = own_features(data, lambda *_: pytest.fail("trained again"))
    assert again.name == net.name
    before = torch.get_rng_state()
    trained(classifiers.examples(data), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    for same in ({"subset": 9}, {"num_validation": 0}, {"labelled": 3}, {"whole": True}):
        options = {"size": 16, "binarize": "pseudo"} | same
        assert extractor(ImageFolder(str(discs), **options)).name == net.name
    for other in ({"draw_seed": 1}, {"pad": 1}, {"shrink": 2}, {"grey": True}, {"num_validation": 50}):
        assert ready(ImageFolder(str(discs), **({"size": 16} | other))) is None


@pytest.mark.parametrize("options", [{}, {"num_validation": 50}, {"subset": 20}, {"whole": True}])
def test_no_image_that_validates_is_learned_from(discs, options):
    data = ImageFolder(str(discs), size=16, binarize="none", **options)
    learned = {x.numpy().tobytes() for x in classifiers.examples(data).x[:]}
    default = ImageFolder(str(discs), size=16, binarize="none")
    validates = (data if "num_validation" in options else default).originals("val")
    assert len(learned) == 300 - 26 - len(validates)
    assert not learned & {x.numpy().tobytes() for x in validates}


def test_a_damaged_file_is_no_network(data, monkeypatch):
    monkeypatch.setattr(classifiers, "MANY_EPOCHS", 1)
    monkeypatch.setattr(classifiers, "FEW_EPOCHS", 1)
    own_features(data)
    (file,) = (cache_root() / "computed").glob("classifier-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert ready(data) is None


def test_what_ships_comes_first_and_is_not_trained_again(capsys):
    run(["features", "Digits"])
    assert capsys.readouterr().out == f"digits 1x8x8: {shipped('digits').name}\n"


@pytest.mark.slow
def test_what_ships_comes_out_of_its_images_again():
    net = trained(Examples(*Digits().divided()), epochs=60)
    with safe_open(weights_file("digits"), "pt") as file:
        for key, tensor in net.state_dict().items():
            torch.testing.assert_close(tensor, file.get_tensor(key), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            SwissRoll,
            "no features for swiss_roll 1x1x2: `zoo features` learns them from labels, and there are none",
        ),
        (Heartbeat, "features need images of at least 4 pixels a side, got 1 x 20"),
        (
            lambda: Digits(pad=1),
            "no features for digits 1x10x10 yet: `zoo features Digits --pad 1` trains them, in minutes",
        ),
        (
            lambda: Digits(shrink=2, binarize="none"),
            "no features for digits 1x4x4 (2x2 means) yet: `zoo features Digits --shrink 2` trains them, in "
            "minutes",
        ),
    ],
)
def test_where_there_are_none_a_line_says_what_to_do(make, line):
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        extractor(make())


def test_colour_without_labels_names_the_extra(tmp_path, monkeypatch):
    for i in range(10):
        Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match=r"pip install generative-zoo\[inception\]") as error:
        extractor(ImageFolder(str(tmp_path), size=8))
    assert "\n" not in str(error.value)


def test_the_verb_refuses_what_cannot_be_learned(capsys):
    for words, line in (
        (["SwissRoll"], "features are learned from labels, 11000 images of swiss_roll have none"),
        (["Heartbeat"], "features need images of at least 4 pixels a side, got 1 x 20"),
        (["Nothing"], "data class must be one of "),
        (["HubImages"], "the following arguments are required: repo_id"),
        (["Digits", "--size", "3"], "unrecognized arguments: --size 3"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["features", *words])
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert error.startswith("zoo: error: ")
        assert line in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 32}, []),
        (
            {"size": (28, 20), "grey": True, "shrink": 2},
            ["--size", "[28,20]", "--grey", "true", "--shrink", "2"],
        ),
        (
            {"size": 48, "pad": 2, "draw_seed": 3, "subset": 9},
            ["--size", "48", "--pad", "2", "--draw_seed", "3"],
        ),
        ({"num_validation": 50}, ["--num_validation", "50"]),
        ({"num_validation": 0}, []),
    ],
)
def test_the_command_makes_the_same_images(discs, options, words):
    data = ImageFolder(str(discs), **options)
    line = shlex.split(command(data))
    assert line == ["zoo", "features", "ImageFolder", "--path", str(discs), *words]
    seen = []
    from zoo.cli import light

    def note(name: str, **given) -> None:
        """Note what arrives."""
        seen.append(from_recipe({"class": name, "init_args": given}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(light.VERBS, "features", note)
        run(line[1:])
    assert seen[0].source == data.source
    assert (seen[0].shrink, seen[0].draw_seed) == (data.shrink, data.draw_seed)


def test_shifts_stay_inside_the_margin_and_mirrors_mirror():
    x = torch.zeros(400, 1, 16, 20, dtype=torch.uint8)
    x[:, :, 8, 10] = 255
    places = augmented(x, flip=False)[:, 0].flatten(1).argmax(1)
    assert set((places // 20).tolist()) == {6, 7, 8, 9, 10}
    assert set((places % 20).tolist()) == {8, 9, 10, 11, 12}
    x = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    x[:, :, 4, 1] = 255
    columns = augmented(x, flip=True)[:, 0].flatten(1).argmax(1) % 8
    assert set(columns.tolist()) == {0, 1, 2, 5, 6, 7}


def test_every_data_set_shows_what_is_known_of_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Digits", "Heartbeat"):
        run(["data", "show", name])
        shown = capsys.readouterr().out
        facts = DATA[name].facts
        assert f"{facts.credit}\ncite: {facts.citation}\nclasses: {', '.join(facts.classes)}\n" in shown
        assert (tmp_path / f"{name.lower()}.png").is_file()
    run(["data", "show", "Digits", "--binarize", "none", "--shrink", "2", "--out", "small.png"])
    assert "digits 1x4x4 (2x2 means) 1295/143/359, real" in capsys.readouterr().out
    assert (tmp_path / "small.png").is_file()
