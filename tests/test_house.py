"""The rules of the house that a machine can see."""

import re
import tomllib
from importlib.metadata import version

import pytest
from support import ROOT

import zoo

FILES = sorted((ROOT / "zoo").rglob("*.py"))
FAMILIES = [
    path for path in FILES if path.is_relative_to(ROOT / "zoo/methods") and path.name != "__init__.py"
]
METHOD_FILES = [path for path in FAMILIES if path.parent.name != "shared"]
ASKING = ("scores", "pictures", "training", "publishing", "cli")
"""Rooms in which a method may be asked what it can do."""


def name(path) -> str:
    return str(path.relative_to(ROOT / "zoo").with_suffix(""))


def code(path) -> str:
    """A module without its docstrings and comments."""
    text = re.sub(r'"""(.|\n)*?"""', '""', path.read_text())
    return re.sub(r"#.*", "", text)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_length(path):
    assert len(path.read_text().splitlines()) <= (260 if path in METHOD_FILES else 500)


@pytest.mark.parametrize("path", FAMILIES, ids=name)
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


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nobody_asks_what_a_method_is(path):
    text = code(path)
    assert "hasattr(" not in text
    assert "NotImplementedError" not in text
    if path.relative_to(ROOT / "zoo").parts[0] not in (*ASKING, "parts"):
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
