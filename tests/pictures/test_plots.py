"""Facts of maps and curves: dots and lines lie where they should, in their colours; round ticks; the verb."""

import importlib.util

import pytest
import torch
from support import ROOT, having, tiny

from zoo.cli.verbs.pictures import map_
from zoo.contract.capabilities import Encodes
from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.pictures.plots import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curves, scatter, ticks
from zoo.pictures.walks import plane


def pixel(x: float, y: float) -> tuple[int, int]:
    """Where a share of the points' range lies, whose margins are 3 %."""
    inner = [(0.03 + share) / 1.06 for share in (x, y)]
    across, down = inner[0] * (WIDTH - LEFT - RIGHT), inner[1] * (HEIGHT - TOP - BOTTOM)
    return round(LEFT + across), round(HEIGHT - BOTTOM - down)


def test_dots_lie_where_their_points_do_in_the_colour_of_their_label():
    points = torch.tensor([[0.0, 10.0], [2.0, 20.0], [1.0, 15.0]])
    picture = scatter(points, torch.tensor([0, 1, 12]), ["a", "b"])
    for place, colour in {(0, 0): COLOURS[0], (1, 1): COLOURS[1], (0.5, 0.5): COLOURS[2]}.items():
        assert picture.getpixel(pixel(*place)) == colour
    assert picture.getpixel(pixel(0.25, 0.75)) == (255, 255, 255)


def test_a_curve_passes_between_its_points():
    picture = curves(
        {"up": torch.tensor([[0.0, 0.0], [4.0, 4.0]]), "flat": torch.tensor([[0.0, 1.0], [4.0, 1.0]])},
        "two lines",
    )
    for place, colour in {(0.6, 0.6): COLOURS[0], (0.6, 0.25): COLOURS[1]}.items():
        x, y = pixel(*place)
        near = picture.crop((x - 1, y - 1, x + 2, y + 2)).getcolors()
        assert colour in [found for _, found in near]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (-0.13, 0.38, [0, 0.2]),
        (97.0, 103.0, [98, 100, 102]),
        (0.0, 0.004, [0, 0.001, 0.002, 0.003, 0.004]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_plane_is_the_code_itself_or_its_two_widest_directions():
    x = torch.rand(40, 1, 8, 8)
    two = tiny("DeepAutoencoder", latent_dim=2)
    assert torch.equal(plane(two, x), two.encode(x))
    five = tiny("DeepAutoencoder", latent_dim=5)
    z = five.encode(x).double()
    eigenvalues = torch.linalg.eigvalsh(z.T.cov(correction=0)).flip(0)
    points = plane(five, x).double()
    torch.testing.assert_close(points.var(0, correction=0), eigenvalues[:2], rtol=1e-3, atol=1e-7)
    with pytest.raises(UsageError, match="codes must have at least two dimensions for a map, got 1"):
        plane(tiny("DeepAutoencoder", latent_dim=1), x)
    with pytest.raises(UsageError, match="GAN has no codes"):
        plane(tiny("GAN"), x)
    assert "GAN" not in having(Encodes)


def test_the_verb_writes_a_map(tmp_path, monkeypatch, capsys):
    from zoo.publishing import opened as room

    method = tiny("DeepAutoencoder")
    save_pretrained(method, tmp_path / "model")
    from zoo.data.sets import Digits

    monkeypatch.setattr(room, "opened", lambda folder, code: (method, Digits(binarize="none")))
    map_(str(tmp_path / "model"), n=50, out=str(tmp_path / "map.png"))
    assert "50 points" in capsys.readouterr().out
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_the_script_reads_what_a_run_logged(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("curves_script", ROOT / "scripts/curves.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    run = tmp_path / "dae-digits/version_0"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("epoch,train/loss\n0,\n1,4.5\n2,3.5\n")
    assert script.curve(run, "train/loss").tolist() == [[2.0, 4.5], [3.0, 3.5]]
    script.main(str(tmp_path / "curves.png"), "train/loss", str(run))
    assert (tmp_path / "curves.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="has no val/loss"):
        script.curve(run, "val/loss")
    drawn = {}
    monkeypatch.setattr(
        script, "curves", lambda lines, caption: drawn.update(lines) or curves(lines, caption)
    )
    script.main(str(tmp_path / "curves.png"), "train/loss=5.5", str(run))
    assert drawn["at most 5.5"].tolist() == [[2.0, 5.5], [3.0, 5.5]]
    with pytest.raises(UsageError, match="must be a number, got x"):
        script.main(str(tmp_path / "curves.png"), "train/loss=x", str(run))
