"""Walks through codes, nearest training images, masks; and the verbs that draw them."""

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny

from zoo.cli.light import run
from zoo.contract.capabilities import Decodes, Encodes
from zoo.errors import UsageError
from zoo.pictures.walks import interpolate, mask, nearest, paired, traverse

PAIR, NINE = torch.rand(2, 1, 2, 2), torch.rand(9, 1, 2, 2)


class Linear(Encodes, Decodes):
    """Codes are pixels turned by a rotation."""

    def __init__(self, dim: int) -> None:
        self.q = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0].float()

    def encode(self, x):
        return x.flatten(1) @ self.q

    def decode(self, z):
        return (z @ self.q.T).view(-1, 1, 2, 2)


def test_linear_codes_interpolate_pixels():
    a, b = torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2)
    rows = interpolate(Linear(4), a, b, 5)
    assert rows.shape == (3, 5, 1, 2, 2)
    torch.testing.assert_close(rows[:, 1], 0.75 * a + 0.25 * b)


def test_traversals_follow_the_axes_of_the_codes_in_order_of_variance():
    method, scale = Linear(4), torch.tensor([3.0, 2.0, 1.0, 0.1])
    axes = torch.linalg.qr(torch.randn(4, 4))[0]
    x = ((torch.randn(4000, 4) * scale) @ axes.T + 5).view(-1, 1, 2, 2)
    rows = traverse(method, x, 3, 3, span=2.0).flatten(2)
    torch.testing.assert_close(rows[:, 1], x.flatten(1).mean(0).expand(3, 4), atol=1e-4, rtol=0)
    for i in range(3):
        step = (rows[i, 2] - rows[i, 0]) / 4
        assert step.norm() == pytest.approx(float(scale[i]), rel=0.05)
        assert abs(float(step / step.norm() @ axes[:, i])) > 0.99


def test_nearest_is_the_loop_over_all_pairs():
    x, y = torch.rand(1203, 1, 3, 3), torch.rand(70, 1, 3, 3)
    distances, positions = nearest(x, y)
    expected = torch.stack([(y - one).flatten(1).norm(dim=1) for one in x])
    torch.testing.assert_close(distances, expected.min(1).values)
    assert torch.equal(positions, expected.argmin(1))
    assert nearest(y, y)[0].max() == 0


def test_masks_hide_what_they_say():
    shape = (1, 8, 6)
    assert torch.equal(mask(shape, "left") + mask(shape, "right"), torch.ones(shape))
    assert torch.equal(mask(shape, "top") + mask(shape, "bottom"), torch.ones(shape))
    assert mask(shape, "left")[:, :, :3].sum() == 0
    assert mask(shape, "bottom")[:, 4:].sum() == 0
    assert mask(shape, "border").sum() == 4 * 4
    assert mask((3, 5, 5), "bottom").sum(2)[0].tolist() == [5, 5, 5, 0, 0]


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: interpolate(tiny("GAN"), PAIR, PAIR, 3), "GAN has no codes that it can decode"),
        (lambda: interpolate(Linear(4), PAIR, PAIR, 1), "steps must be at least 2, got 1"),
        (
            lambda: traverse(Linear(4), torch.rand(9, 1, 2, 2), 5, 3),
            "directions must be between 1 and 4, got 5",
        ),
        (
            lambda: traverse(Linear(4), torch.rand(2, 1, 2, 2), 2, 3),
            "directions must be between 1 and 1, got 2",
        ),
        (lambda: run(["repair", "gan-digits"]), "GAN does not repair"),
        (lambda: run(["nearest", "gan-digits", "--out", "x.jpg"]), "out must end in .png, got 'x.jpg'"),
        (lambda: run(["traverse", "vae-digits", "--n", "0"]), "n must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(call, line):
    with pytest.raises(UsageError, match=line):
        call()


@pytest.mark.parametrize(
    ("words", "columns", "rows"),
    [
        (["repair", "dae-digits", "--n", "4"], 4, 3),
        (["interpolate", "vae-digits", "--n", "3", "--steps", "5"], 5, 3),
        (["traverse", "glo-digits", "--n", "2", "--steps", "4"], 4, 2),
        (["nearest", "pca-digits", "--n", "6"], 6, 2),
    ],
)
def test_the_verbs_draw_grids(words, columns, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run([*words, "--out", "picture.png"])
    assert f"{columns * rows} images: picture.png" in capsys.readouterr().out
    with Image.open("picture.png") as picture:
        assert picture.size == (columns * 59 + 3, rows * 59 + 3)


def test_a_repair_keeps_what_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(["repair", "dae-digits", "--n", "5", "--hidden", "left"])
    with Image.open("repaired.png") as file:
        picture = torch.from_numpy(np.array(file))
    tops = [3 + 59 * row for row in range(3)]
    original, shown, repaired = (
        torch.stack([picture[t : t + 56, 3 + 59 * i :][:, :56] for i in range(5)]) for t in tops
    )
    assert torch.equal(original[:, :, 28:], repaired[:, :, 28:])
    assert torch.equal(original[:, :, 28:], shown[:, :, 28:])
    assert not torch.equal(original[:, :, :28], repaired[:, :, :28])


def test_halves_are_paired_and_a_single_image_with_itself():
    x = torch.arange(7.0).view(7, 1, 1, 1)
    for n, pairs in {
        1: [(0, 0)],
        2: [(0, 1)],
        6: [(0, 3), (1, 4), (2, 5)],
        7: [(0, 4), (1, 5), (2, 6)],
    }.items():
        first, second = paired(x[:n])
        assert list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)) == pairs
