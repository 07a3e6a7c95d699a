"""CONTRIBUTING.md, executed: its examples are added to a copy of the repository, and its checks run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
COPIED = ("zoo", "configs", "tests", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
SHORTENED = " --trainer.max_epochs=1 --score.num_samples=2"


def section(heading: str) -> str:
    return GUIDE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def blocks(heading: str) -> dict[str, str]:
    """New files of a section by their paths."""
    found = re.findall(r"`([^`\n]+)`, new:\n\n```\w+\n(.*?)```", section(heading), re.DOTALL)
    assert found
    return dict(found)


def shared_lines(heading: str) -> tuple[str, list[str]]:
    """The shared file of a section, and the lines that are put into it."""
    path, lines = re.findall(r"`([^`\n]+)`,[^\n]*(?<!new):\n\n```\w+\n(.*?)```", section(heading), re.DOTALL)[
        0
    ]
    return path, lines.splitlines(keepends=True)


def commands(heading: str) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", section(heading), re.DOTALL)[0].splitlines()


def put(file: Path, line: str) -> None:
    """A line in its place in the alphabet of the lines like it, or before the end of its list."""
    lines = file.read_text().splitlines(keepends=True)
    indent, start = re.match(r"( *)(from zoo|\"|)", line).groups()
    like = [i for i, other in enumerate(lines) if re.match(rf"{indent}{start or '[A-Z]'}\S", other)]
    like = [i for i in like if start or lines[i].strip().endswith(",")]
    at = next((i for i in like if lines[i] > line), like[-1] + 1)
    file.write_text("".join([*lines[:at], line, *lines[at:]]))


def shell(command: str, checkout: Path) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=checkout,
        env=env | {"PYTHONPATH": str(checkout), "PATH": path, "ZOO_CACHE": str(checkout.parent / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def git(command: str, checkout: Path) -> list[str]:
    who = "-c user.name=zoo -c user.email=zoo@example.org"
    return shell(f"git {who} {command}", checkout).splitlines()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository, committed."""
    folder = tmp_path_factory.mktemp("contributing") / "zoo"
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    (folder / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    git("init --quiet && git add --all", folder)
    git("commit --quiet --message 'As it is'", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("heading", "most"), [("Add a method", 1), ("Add a data set", 2)])
def test_an_addition_by_its_steps_touches_no_other_line_and_passes_its_checks(heading, most, checkout):
    path, lines = shared_lines(heading)
    for line in lines:
        put(checkout / path, line)
    new = blocks(heading)
    for name, content in new.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(content)
    git("add --all", checkout)
    touched = [line.split("\t") for line in git("diff --cached --numstat", checkout)]
    assert sorted(touched) == sorted(
        [[str(most), "0", path], *([str(text.count("\n")), "0", name] for name, text in new.items())]
    )
    for command in commands(heading):
        shown = shell(command + SHORTENED if " zoo fit " in command else command, checkout)
        if " pytest " in command:
            assert re.search(r"^\d+ passed", shown, re.MULTILINE), shown
        if " zoo fit " in command:
            assert re.search(r"^results: runs/\S+/results.json$", shown, re.MULTILINE)
    assert git("status --porcelain --untracked-files=all", checkout)
    git("commit --quiet --message 'One more'", checkout)
    assert not git("status --porcelain --untracked-files=all", checkout)


def test_the_metric_section_names_what_is_there():
    text = section("Add a metric")
    for name in re.findall(r"`(zoo/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
    from zoo.scores import section as module

    assert "Section" in vars(module)
    assert "SECTIONS" in (ROOT / "zoo/scores/sections/__init__.py").read_text()
