"""A method in a package of your own: trained, saved, loaded, scored, ranked; imported where the user says."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli.fit import ZooCLI
from zoo.cli.light import run
from zoo.cli.main import main
from zoo.contract.batch import Batch
from zoo.contract.learning import Descent
from zoo.contract.saved import class_name, refuse_unsavable, save_pretrained
from zoo.errors import UsageError
from zoo.hub import CONFIG, seal
from zoo.methods import class_named, from_folder, method_class, own_class
from zoo.publishing.checkpoints import scored
from zoo.scores.results import Results

GUIDE = (Path(zoo.__file__).parents[1] / "CONTRIBUTING.md").read_text()
OWN = GUIDE.split("\n## A method in a package of your own\n")[1].split("\n## ")[0]
CODE = re.search(r"`zoo/methods/variational/bmm.py`, new:\n\n```python\n(.*?)```", GUIDE, re.DOTALL)[1]
RECIPE = re.search(r"`bmm.yaml`, yours:\n\n```yaml\n(.*?)```", OWN, re.DOTALL)[1]
PACKAGE, PATH = "mypackage", "mypackage.bmm.BMM"


def child(command: list[str], cwd: Path) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(Path(zoo.__file__).parents[1]), "ZOO_CACHE": str(cwd / "cache")}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The user's folder after the first command of the guide."""
    folder = tmp_path_factory.mktemp("home")
    (folder / PACKAGE).mkdir()
    (folder / PACKAGE / "__init__.py").touch()
    (folder / PACKAGE / "bmm.py").write_text(CODE)
    (folder / "bmm.yaml").write_text(RECIPE)
    command = ["-m", "zoo", "fit", "--config", "bmm.yaml", "--trainer.max_epochs=2"]
    result = child([sys.executable, *command], folder)
    assert result.returncode == 0, result.stderr
    (folder / "fit.log").write_text(result.stdout)
    return folder


@pytest.fixture
def there(home, monkeypatch) -> Path:
    """The user stands in that folder, and what lies there can be imported."""
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    return home


@pytest.fixture
def model(there) -> str:
    return "runs/bmm/version_0/model"


def test_the_folder_names_the_class_in_full(home):
    config = json.loads((home / "runs/bmm/version_0/model" / CONFIG).read_text())
    assert config["class"] == PATH
    assert config["init_args"]["num_components"] == 40
    assert Results.read(home / "runs/bmm/version_0/results.json").method == PATH


def test_what_fit_prints_loads_and_samples(home):
    lines = dict(line.split(": ", 1) for line in (home / "fit.log").read_text().splitlines()[-4:])
    assert lines["samples"].strip() == "runs/bmm/version_0/samples.png"
    for name, shown in (("load", "torch.Size([4, 1, 8, 8])\n"), ("sample", "64 images: samples.png\n")):
        python, rest = lines[name].strip().split(" ", 1)
        assert python == "python"
        result = child(["bash", "-c", f"{sys.executable} {rest}"], home)
        assert result.stdout == shown, result.stderr


def test_the_commands_of_the_guide_run(there, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    first, *commands = re.findall(r"```bash\n(.*?)```", OWN, re.DOTALL)[0].splitlines()
    assert first == "python -m zoo fit --config bmm.yaml"
    shown = {}
    for command in commands:
        python, verb = command.split(" -m zoo ")
        assert python == "python"
        words = verb.split()
        run(words)
        shown[words[0]] = capsys.readouterr().out
    assert set(shown) == {"sample", "score", "leaderboard"}
    score = Results.read("runs/bmm/version_0/results.json").numbers["test/fid"]
    assert "1 numbers agree with runs/bmm/version_0/results.json, 0 do not" in shown["score"]
    assert "side by side" in shown["score"]
    assert re.search(rf"bmm-version_0 +│ +{score}", shown["leaderboard"])
    assert re.search(r"1 │ gan-digits +│", shown["leaderboard"])


def test_no_name_in_a_file_is_imported(model, monkeypatch, tmp_path):
    sys.modules.pop(f"{PACKAGE}.bmm", None)
    Path(tmp_path, "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    for name in (PATH, "trap.BMM"):
        (tmp_path / "model" / CONFIG).write_text(json.dumps(config | {"class": name}))
        seal(tmp_path / "model")
        with pytest.raises(UsageError, match=rf"one of AAE, .*, or be given as code .*, got '{name}'"):
            zoo.from_pretrained(tmp_path / "model")
    assert not {f"{PACKAGE}.bmm", "trap"} & set(sys.modules)


def test_code_loads_it_in_python_and_keeps_the_draws(model):
    kind = own_class(PATH)
    method = zoo.from_pretrained(model, code=kind)
    assert type(method) is kind
    assert not method.training
    again = from_folder(Path(model), kind)
    one, two = (m.sample(5, generator=torch.Generator().manual_seed(1)) for m in (method, again))
    assert torch.equal(one, two)


def test_a_class_whose_module_moved_still_loads(model, tmp_path):
    kind = own_class(PATH)
    shutil.copytree(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    (tmp_path / "model" / CONFIG).write_text(json.dumps(config | {"class": "__main__.BMM"}))
    seal(tmp_path / "model")
    assert type(zoo.from_pretrained(tmp_path / "model", code=kind)) is kind
    assert class_named("__main__.BMM", [kind]) is kind
    assert class_named("__main__.Other", [kind]) is None


MISTAKES = {
    "no code": (
        [],
        "class of {model}/config.json must be one of AAE, .* or be given as code",
    ),
    "no path": (["--code", "BMM"], "code must read package.module.Class, got 'BMM'"),
    "a relative path": (["--code", "..bmm.BMM"], "code must read package.module.Class, got '..bmm.BMM'"),
    "no package": (["--code", "nopackage.bmm.BMM"], "code 'nopackage.bmm.BMM' cannot be imported: No module"),
    "no module": (["--code", "mypackage.no.BMM"], "'mypackage.no.BMM' cannot be imported: No module named"),
    "no class": (
        ["--code", "mypackage.bmm.Nothing"],
        "code must be a method, .*, got 'mypackage.bmm.Nothing'",
    ),
    "no method": (["--code", "mypackage.bmm.nn.Linear"], "code 'mypackage.bmm.nn.Linear' cannot be imported"),
    "a base": (["--code", "zoo.contract.learning.Descent"], "code must be a method, .*learning.Descent'"),
    "another class": (
        ["--code", "zoo.methods.variational.vae.VAE"],
        "class of {model}/config.json must be VAE to load it, got 'mypackage.bmm.BMM'",
    ),
}
VERBS = ("sample", "nearest", "repair", "interpolate", "traverse")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_about_the_code_is_one_line(mistake, model):
    words, message = MISTAKES[mistake]
    with pytest.raises(UsageError, match=message.format(model=model)) as caught:
        run(["sample", model, *words])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_a_saved_method_takes_code(verb, model):
    """BMM samples and does nothing else: the others know so, which they cannot without its class."""
    words = [verb, model, "--code", PATH]
    if verb in ("sample", "nearest"):
        run(words)
    else:
        with pytest.raises(UsageError, match="BMM"):
            run(words)


def refused(words: list[str], capsys, monkeypatch) -> str:
    """The one line with which the command line ends."""
    monkeypatch.setattr("sys.argv", ["zoo", *words])
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zoo: error: ")
    return line


def test_an_import_error_of_the_package_exits_with_2_and_one_line(model, capsys, monkeypatch):
    Path(PACKAGE, "broken.py").write_text("import not_installed\n")
    line = refused(["score", model, "--code", f"{PACKAGE}.broken.BMM"], capsys, monkeypatch)
    assert f"code '{PACKAGE}.broken.BMM' cannot be imported: No module named 'not_installed'" in line


def test_score_refuses_code_that_no_model_has(model):
    with pytest.raises(UsageError, match="code must be the class of one of the models, got BMM"):
        run(["score", "vae-digits", "--metrics", "fid", "--code", PATH])


def test_score_of_a_name_in_the_zoo_is_never_the_guests(there):
    """A user's VAE is another class: its folder says so, and a folder of the zoo's does not become it."""
    Path(PACKAGE, "vae.py").write_text(CODE.replace("class BMM", "class VAE"))
    kind = own_class(f"{PACKAGE}.vae.VAE")
    assert class_name(kind) == f"{PACKAGE}.vae.VAE"
    assert class_named("VAE", [kind]) is zoo.VAE
    assert class_named(f"{PACKAGE}.vae.VAE", [kind]) is kind
    assert class_named(f"{PACKAGE}.vae.VAE") is None
    assert class_name(zoo.VAE) == "VAE"
    del kind, sys.modules[f"{PACKAGE}.vae"], sys.modules[PACKAGE].vae
    gc.collect()  # two classes of one name would trouble whoever names it in short


def test_the_leaderboard_takes_runs_folders_and_slugs_and_calls_them_apart(there, tmp_path, capsys):
    for seed in ("seed_0", "seed_1"):
        shutil.copytree("runs/bmm", tmp_path / seed / "bmm")
    (tmp_path / "unfinished/version_0/model").mkdir(parents=True)
    found = [one.slug for one in scored([tmp_path])]
    assert found == ["seed_0-bmm-version_0", "seed_1-bmm-version_0"]
    (one,) = scored([Path("runs/bmm/version_0")])
    assert (one.slug, one.config["class"], one.home.name) == ("bmm-version_0", PATH, "version_0")
    assert scored([Path("runs"), Path("runs/bmm")])[0].slug == one.slug
    assert len(scored([Path("runs"), Path("runs/bmm/version_0/model")])) == 1
    run(["leaderboard", "--root", str(tmp_path), "--family", "own", "--metric", "log_prob"])
    shown = capsys.readouterr().out
    assert all(slug in shown for slug in found)
    run(["leaderboard", "runs"])
    assert "bmm-version_0" in capsys.readouterr().out
    with pytest.raises(UsageError, match="folders must hold checkpoints, found none in mypackage, nor"):
        run(["leaderboard", PACKAGE])
    with pytest.raises(UsageError, match="no folder and no checkpoint 'vae-digitz': did you mean vae-digits"):
        run(["leaderboard", "vae-digitz"])
    with pytest.raises(UsageError, match="pull takes no folders, got runs"):
        run(["leaderboard", "pull", "runs"])


def test_the_page_knows_a_guests_paper_if_told_its_class(there):
    run(["leaderboard", "runs", "vae-digits", "--html", "board"])
    page = Path("board/index.html").read_text()
    assert f"python -m zoo score runs/bmm/version_0/model --code {PATH}<" in page
    assert "python -m zoo score vae-digits<" in page
    assert page.count("data:image/png") >= 2
    assert "Juan, Vidal" not in page
    run(["leaderboard", "runs", "vae-digits", "--html", "board", "--code", PATH])
    page = Path("board/index.html").read_text()
    assert "Juan, Vidal. Bernoulli Mixture Models" in page
    assert "Adam descends the exact negative log-likelihood" in page
    assert "Can: Samples, Scores." in page


def test_a_model_that_could_not_be_saved_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    class Forgets(Descent):
        def __init__(self, image_shape=(1, 8, 8), width: int = 3) -> None:
            super().__init__(image_shape)

        def loss(self, batch: Batch):
            return {"loss": batch.x.sum()}

        def configure_optimizers(self):
            return None

    with pytest.raises(UsageError, match=r"Forgets must save image_shape, width: .*save_hyperparameters\(\)"):
        refuse_unsavable(Forgets())

    class Keeps(Forgets):
        def __init__(self, image_shape=(1, 8, 8), width: object = 3) -> None:
            super().__init__(image_shape)
            self.save_hyperparameters()

    refuse_unsavable(Keeps(width=(3, (4, 5))))
    with pytest.raises(UsageError, match=r"width of Keeps must be a plain JSON value to be saved, got \{1\}"):
        refuse_unsavable(Keeps(width={1}))
    folder = save_pretrained(Keeps(), tmp_path / "model")
    assert type(from_folder(folder, Keeps)) is Keeps
    cli = ZooCLI.__new__(ZooCLI)
    cli.model = Keeps()
    assert "sample" not in cli._what_next(folder), "it does not sample: it is loaded and scored"
    assert f"python -m zoo score {folder} --code {class_name(Keeps)}\n" in cli._what_next(folder)
    cli.model = zoo.VAE()
    assert f"zoo.from_pretrained('{folder}').sample(4)" in cli._what_next(folder)
    assert "--code" not in cli._what_next(folder)


def test_what_knows_the_zoo_alone_says_so_in_one_line():
    with pytest.raises(UsageError, match=rf"class must be one of AAE, .*, got '{PATH}'"):
        method_class(PATH)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nopackage.bmm.BMM"], "No module named 'nopackage'"),
        (["--model", f"{PACKAGE}.bmm.Nothing"], "has no attribute 'Nothing'"),
        (["--model", "torch.nn.Linear"], "Method"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_fit_says_in_one_line_what_is_wrong_with_a_class_path(words, message, there, capsys, monkeypatch):
    assert message in refused(["fit", "--data", "Digits", *words], capsys, monkeypatch)
