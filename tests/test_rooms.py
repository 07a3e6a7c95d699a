"""The house as a whole: corridors run one way, no circle, no two things of one name, what ships with it."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
import yaml

import zoo

ROOT = Path(zoo.__file__).parents[1]
AWAITED: set[str] = set()


def lint(folder: Path) -> str:
    """What `lint-imports` says of the house in a folder."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def test_the_contracts_between_the_rooms_are_kept():
    assert re.search(r"Contracts: 5 kept, 0 broken\.", lint(ROOT))


BREACHES = {
    "parts/corruption.py": ("from zoo.scores.results import Results", "The corridors run one way"),
    "parts/networks/convolutional.py": ("from zoo.parts.networks import unet", "No circle"),
    "scores/parzen.py": (
        "from zoo.methods.energy.rbm import RBM",
        "Only the registry names methods, and it imports them by name",
    ),
    "methods/variational/vae.py": (
        "from zoo.methods.variational.iwae import IWAE",
        "A method owns layers, never another method",
    ),
    "pictures/grids.py": ("import zoo", "Rooms do not enter through the front door"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The code and its contracts, to be broken."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path in (ROOT / "zoo").rglob("*.py"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.mark.parametrize("place", BREACHES)
def test_a_breach_is_found_in_a_function_too(place, copy):
    line, contract = BREACHES[place]
    path = copy / "zoo" / place
    before = path.read_text()
    path.write_text(f"{before}\n\ndef breach() -> None:\n    {line}\n")
    said = lint(copy)
    path.write_text(before)
    assert f"{contract} BROKEN" in said


def test_modules_import_in_no_circle():
    graph = grimp.build_graph("zoo", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(list(TopologicalSorter(imports).static_order())) == len(graph.modules)


def public_names() -> dict[str, set[str]]:
    """Public functions and classes by name, with the modules that define one; verbs left out."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "zoo").rglob("*.py")):
        module = str(path.relative_to(ROOT / "zoo").with_suffix(""))
        if module.startswith("cli/verbs/"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                found.setdefault(node.name, set()).add(module)
    return found


def test_no_two_things_in_the_house_share_a_name():
    shared = {name: modules for name, modules in public_names().items() if len(modules) > 1}
    assert not {name: modules for name, modules in shared.items() if name not in {"run", "main", *AWAITED}}


def test_types_and_recipes_ship_with_the_package():
    assert (ROOT / "zoo/py.typed").is_file()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["zoo"]
    assert wheel["force-include"] == {"configs": "zoo/configs"}


def test_the_citation_and_the_changelog_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == zoo.__version__
    assert citation["authors"] == [{"name": "The zoo contributors"}]
    assert citation["license"] == "MIT"
    assert f"## {zoo.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_and_ci_call_the_tools_that_are_pinned():
    pinned = (ROOT / "constraints.txt").read_text()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert all(hook["language"] == "system" for hook in hooks[0]["hooks"])
    for tool, package in {
        "ruff check": "ruff",
        "lint-imports": "import-linter",
        "pyright": "pyright",
    }.items():
        assert f"\n{package}==" in pinned
        for script in ("scripts/check.sh", ".ci/run"):
            assert tool in (ROOT / script).read_text()
