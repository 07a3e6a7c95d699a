"""Of labels with gaps, and of images without a label: what the scores make of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny, trainer

from zoo.data.sets import ImageFolder
from zoo.scores.evaluation import Evaluator
from zoo.scores.results import Results


def scored(folder: Path, layout: dict[str, int], *metrics: str) -> Results:
    """A small PCA's scores on a folder of noise."""
    stream = np.random.default_rng(0)
    for place, n in layout.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(stream.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / place / f"{i}.png")
    evaluator = Evaluator(out=str(folder / "results.json"), num_samples=3, metrics=list(metrics))
    data = ImageFolder(str(folder), size=8, grey=True, binarize="none", num_validation=0)
    trainer(callbacks=[evaluator]).test(tiny("PCA"), datamodule=data, verbose=False)
    assert evaluator.results is not None
    return evaluator.results


def test_k_of_clustering_is_the_number_of_classes_present(tmp_path):
    layout = {"train/a": 20, "train/d": 20, "test/a": 8, "test/b": 2, "test/c": 2, "test/d": 8}
    results = scored(tmp_path, layout, "clusters")
    assert not results.skipped
    number = results.numbers["test/cluster_accuracy_hungarian"]
    assert "k=2" in str(number.protocol)


def test_images_without_a_label_are_counted(tmp_path):
    layout = {"train/a": 20, "train/b": 20, "train": 3, "test/a": 8, "test/b": 8, "test": 2}
    results = scored(tmp_path, layout, "clusters")
    assert results.skipped["clusters"] == f"{tmp_path.name} has no labels on 5 of 61 images"


@pytest.mark.parametrize("metric", ["codes", "clusters"])
def test_no_labels_at_all_are_counted_too(metric, tmp_path):
    results = scored(tmp_path, {"train": 20, "test": 8}, metric)
    assert results.skipped[metric] == f"{tmp_path.name} has no labels on 28 of 28 images"
