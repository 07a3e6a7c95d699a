"""The rules of the house that a machine can see."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
from conftest import ROOT

import zoo

SHARED = sorted((ROOT / "zoo").glob("*.py"))
FAMILIES = sorted(path for path in (ROOT / "zoo").glob("*/*.py") if path.name != "__init__.py")
BOTH = [*SHARED, *FAMILIES]


def code(path) -> str:
    """A module without its docstrings and comments."""
    text = re.sub(r'"""(.|\n)*?"""', '""', path.read_text())
    return re.sub(r"#.*", "", text)


@pytest.mark.parametrize("path", BOTH, ids=lambda path: path.stem)
def test_length(path):
    assert len(path.read_text().splitlines()) <= (250 if path in FAMILIES else 500)


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_a_method_neither_places_nor_prints_nor_writes_densities(path):
    for forbidden in (
        ".cuda(",
        "print(",
        "wandb",
        "os.environ",
        "binary_cross_entropy",
        "logsumexp",
        "lgamma",
    ):
        assert forbidden not in code(path), forbidden


@pytest.mark.parametrize("path", BOTH, ids=lambda path: path.stem)
def test_nobody_asks_what_a_method_is(path):
    text = code(path)
    assert "hasattr(" not in text
    assert "NotImplementedError" not in text
    if path.stem not in (
        "evaluation",
        "protocol",
        "scene",
        "callbacks",
        "checkpoints",
        "pictures",
        "walks",
        "verbs",
        "training",
        "distributions",
    ):
        assert not re.search(r"isinstance\((self|method|pl_module),", text)


def test_every_method_has_a_module_docstring_with_its_departures():
    for module in zoo.METHODS.values():
        doc = (ROOT / (module.replace(".", "/") + ".py")).read_text().split('"""')[1]
        assert "Departs from the paper:" in doc
        assert re.search(r"arXiv:|doi:", doc)


def test_constraints_are_what_runs_and_lie_inside_the_ranges():
    from packaging.requirements import Requirement

    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower()
        assert name in pinned, name
        assert version(name).split("+")[0] == pinned[name], name
        assert pinned[name] in requirement.specifier, name


def test_torchvision_is_on_no_path():
    script = "import zoo.training, zoo.verbs, zoo.hub, sys; print('torchvision' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
