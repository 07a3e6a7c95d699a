"""Codes side by side: the table, the plane of rate and distortion, and what is refused."""

import importlib.util

import pytest
from PIL import Image
from support import ROOT

from zoo.errors import UsageError
from zoo.publishing.checkpoints import checkpoints

spec = importlib.util.spec_from_file_location("information", ROOT / "scripts/information.py")
information = importlib.util.module_from_spec(spec)
spec.loader.exec_module(information)


def test_every_number_is_that_of_the_record_and_the_plane_is_drawn(tmp_path, capsys):
    information.main(["vae-digits", str(checkpoints()["aae-digits"].folder), "--out", str(tmp_path)])
    rows = [line for line in capsys.readouterr().out.splitlines() if "-digits" in line]
    found = {cells[0]: cells[1:] for cells in ([c.strip() for c in row.split("│")[1:-1]] for row in rows)}
    numbers = checkpoints()["vae-digits"].results.numbers
    assert found["vae-digits"] == [
        str(numbers.get(f"test/{name}", "")) for name in information.COLUMNS.values()
    ]
    assert found["aae-digits"][0] == ""
    with Image.open(tmp_path / "rate_distortion.png") as picture:
        assert picture.size == (1040, 700)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nothing"], "must be a slug or a folder of scored models, got 'nothing'"),
        (["vae-digits", "vae-mnist"], "must be of one data set, got digits, mnist"),
    ],
)
def test_what_cannot_be_compared_is_refused(names, message):
    with pytest.raises(UsageError, match=message):
        information.compared(names)


def test_codes_without_a_rate_have_no_place_in_the_plane(tmp_path):
    with pytest.raises(UsageError, match="none of these checkpoints has both"):
        information.main(["aae-digits", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
