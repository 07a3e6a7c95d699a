"""Facts of drawn trees: every node has its image, below its parent's, joined to it; the verb."""

import pytest
import torch
from PIL import Image
from support import tiny

from zoo.cli.verbs.pictures import tree as verb
from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.pictures.grids import GAP, SMALLEST_SIDE
from zoo.pictures.trees import ACROSS, DOWN, tree

SIDE = SMALLEST_SIDE + 2 * GAP
STEP, LEVEL = SIDE + ACROSS, SIDE + DOWN


def centre(x: float, level: int) -> tuple[int, int]:
    return ACROSS + round(x * STEP) + SIDE // 2, DOWN // 2 + level * LEVEL + SIDE // 2


def test_leaves_stand_side_by_side_and_parents_above_the_middle():
    grey = torch.linspace(0.1, 0.9, 7)[:, None, None, None].expand(7, 1, 28, 28)
    picture = tree(torch.tensor([-1, 0, 0, 1, 1, 2, 2]), grey)
    assert picture.size == (4 * STEP + ACROSS, 3 * LEVEL)
    places = [(1.5, 0), (0.5, 1), (2.5, 1), (0, 2), (1, 2), (2, 2), (3, 2)]
    for value, place in zip(grey[:, 0, 0, 0], places, strict=True):
        assert picture.getpixel(centre(*place)) == pytest.approx(255 * float(value), abs=1)


def test_a_line_leads_from_a_parent_to_each_of_its_children():
    picture = tree(torch.tensor([-1, 0, 0]), torch.ones(3, 3, 28, 28))
    (x, y), (left, low), (right, _) = (centre(*place) for place in ((0.5, 0), (0, 1), (1, 1)))
    half = (low + y) // 2
    for child in (left, right):
        near = (x + child) // 2
        colours = picture.crop((near - 2, half - 2, near + 3, half + 3)).getcolors()
        assert (0, 0, 0) in [colour for _, colour in colours]
    assert picture.getpixel((x, half)) == (255, 255, 255)


def test_leaves_may_lie_higher_than_others_and_the_root_alone():
    grey = torch.linspace(0.1, 0.9, 5)[:, None, None, None].expand(5, 1, 28, 28)
    picture = tree(torch.tensor([-1, 0, 0, 2, 2]), grey)
    assert picture.getpixel(centre(0, 1)) == pytest.approx(255 * 0.3, abs=1)
    assert picture.getpixel(centre(1.5, 1)) == pytest.approx(255 * 0.5, abs=1)
    assert tree(torch.tensor([-1]), grey[:1]).size == (STEP + ACROSS, LEVEL)


def test_the_verb_writes_the_tree_of_what_has_one(tmp_path, capsys):
    folder = save_pretrained(tiny("NCRPVAE"), tmp_path / "model")
    verb(str(folder), out=str(tmp_path / "tree.png"))
    assert "tree of 1 nodes" in capsys.readouterr().out
    with Image.open(tmp_path / "tree.png") as picture:
        assert picture.size == (STEP + ACROSS, LEVEL)
    with pytest.raises(UsageError, match=r"out must end in \.png, got 'tree.gif'"):
        verb(str(folder), out="tree.gif")
    with pytest.raises(UsageError, match="VAE has no tree"):
        verb(str(save_pretrained(tiny("VAE"), tmp_path / "vae")))
