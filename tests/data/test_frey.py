"""Frey faces: a film, of which blocks are held out."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import FreyFaces
from zoo.errors import UsageError

NUM_FRAMES = 1965


@pytest.fixture
def film(tmp_path, monkeypatch):
    """The mirror of a film whose frame i says i in its first two pixels."""
    import datasets

    frames = np.zeros((NUM_FRAMES, 28, 20), dtype=np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = np.arange(NUM_FRAMES) // 256, np.arange(NUM_FRAMES) % 256
    encoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    folder = tmp_path / "frey_faces" / "data"
    folder.mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": encoded}, features=features)
    table.to_parquet(folder / "train-00000-of-00001.parquet")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def frames_of(data, split):
    x = (data.split(split).x.flatten(1) * 255).round().long()
    return x[:, 0] * 256 + x[:, 1]


def test_blocks_of_the_film_are_held_out_in_order(film):
    data = FreyFaces(binarize="none")
    train, val, test = (frames_of(data, split) for split in ("train", "val", "test"))
    blocks = torch.arange(NUM_FRAMES).split(131)
    assert torch.equal(test, torch.cat([blocks[4], blocks[9], blocks[14]]))
    assert torch.equal(val, torch.cat([train, val])[-157:])
    assert torch.equal(val, blocks[13].new_tensor([*blocks[12][-26:], *blocks[13]]))
    assert (len(train) + len(val), len(test)) == data.facts.sizes
    assert data.stated == data.protocol
    assert str(data.protocol).startswith("frey 1x28x20 1415/157/393")


def test_without_the_film_one_line_says_where_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="frey_faces is not under ZOO_DATA"):
        FreyFaces(binarize="none").split("train")
