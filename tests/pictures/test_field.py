"""Arrows of a step in the plane, and the script that draws them."""

import importlib.util

import numpy as np
import pytest
import torch
from support import ROOT, begun, tiny

from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.pictures.plots import COLOURS, HEIGHT, LEFT, RIGHT, WIDTH, arrows

spec = importlib.util.spec_from_file_location("field_script", ROOT / "scripts/field.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_an_arrow_leads_from_its_tail_to_its_head_which_is_wider():
    tails, heads = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    picture = arrows(tails, heads, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    blue = (np.asarray(picture) == np.array(COLOURS[0])).all(2)
    columns = torch.from_numpy(blue.sum(0))
    drawn = columns.nonzero().flatten()
    span = (WIDTH - LEFT - RIGHT) / 1.06
    assert int(drawn[-1] - drawn[0]) == pytest.approx(span, abs=2)
    assert int(columns[drawn[0] + 20]) == 1
    assert int(columns[drawn[-1] - 5]) > 3
    assert arrows(tails, tails, heads).size == (WIDTH, HEIGHT), "no step, no head"


def test_a_step_leads_from_a_lattice_to_the_means():
    chain = begun("Walkback", (1, 1, 2)).averaged
    tails, heads = script.steps(chain, 3, 1.0)
    torch.testing.assert_close(tails[[0, 8]], torch.tensor([[-0.1, -0.1], [1.1, 1.1]]))
    guess = chain.guess(chain.network(tails.view(-1, 1, 1, 2), 0)).view(-1, 2)
    torch.testing.assert_close(heads, (tails + guess) / 2)


def test_the_script_draws_a_saved_walkback_of_the_plane_and_nothing_else(tmp_path):
    save_pretrained(tiny("Walkback", (1, 1, 2)), tmp_path / "model")
    script.main(str(tmp_path / "field.png"), str(tmp_path / "model"))
    assert (tmp_path / "field.png").stat().st_size > 1000
    save_pretrained(tiny("Walkback"), tmp_path / "images")
    save_pretrained(tiny("PCA"), tmp_path / "pca")
    for name, line in (("images", "needs images of two pixels"), ("pca", "needs a Walkback, got PCA")):
        with pytest.raises(UsageError, match=line):
            script.main(str(tmp_path / "other.png"), str(tmp_path / name))
    assert not (tmp_path / "other.png").exists()
