"""Facts of the scores of trees: paths of uneven depth, NMI of each level, kin of one class."""

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from zoo.contract.capabilities import Encodes, Hierarchy, Nests
from zoo.scores.scene import Scene
from zoo.scores.sections import trees as section
from zoo.scores.sections.trees import paths, trees

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
LEAVES = torch.tensor([0, 0, 1, 1, 2, 2, 3, 1])


def hierarchy(parent: list[int]) -> Hierarchy:
    return Hierarchy(torch.tensor(parent), torch.zeros(len(parent), 1, 2, 2))


class Grouped(Nests):
    def __init__(self, parent: list[int]) -> None:
        self.parent = parent

    def cluster(self, x):
        return torch.zeros(len(x), 4)

    def hierarchy(self):
        return hierarchy(self.parent)


class Coded(Grouped, Encodes):
    def encode(self, x):
        return x.flatten(1)


def scored(method: Nests, leaves: torch.Tensor = LEAVES) -> dict[str, tuple[float, str]]:
    """What the section writes, by name, floor and layer."""
    found = {}
    log_q = torch.nn.functional.one_hot(leaves, 4).double()
    code = torch.tensor([0.0, 0, 0, 9, 9, 9, 9, 9])[:, None]

    def put(name, value, how, *, layer=None, floor=None):
        found[name, layer, floor] = value, how

    scene = object.__new__(Scene)
    vars(scene).update(
        method=method,
        per_image={"log_prob_cluster": log_q, "code": code},
        labels=(LABELS, LABELS),
        put=put,
        treated=lambda how: how,
        seed=0,
    )
    trees(scene)
    return found


def test_a_leaf_that_lies_higher_stands_for_itself_below():
    assert paths(hierarchy([-1, 0, 0, 1, 1])).tolist() == [[2, 1, 1], [2, 3, 4]]
    assert paths(hierarchy([-1, 0, 0, 1, 1, 2, 2])).tolist() == [[1, 1, 2, 2], [3, 4, 5, 6]]
    assert paths(hierarchy([-1, 3, 0, 0, 3])).tolist() == [[3, 2, 3], [1, 2, 4]]
    assert paths(hierarchy([-1])).tolist() == [[0]]


def test_levels_and_kin_are_counted():
    found = scored(Grouped([-1, 0, 0, 1, 1, 2, 2]))
    upper = torch.tensor([0, 0, 0, 0, 1, 1, 1, 0])
    assert found["level_nmi", 1, None][0] == pytest.approx(normalized_mutual_info_score(LABELS, upper))
    assert found["level_nmi", 2, None][0] == pytest.approx(normalized_mutual_info_score(LABELS, LEAVES))
    assert found["level_nmi", 1, None][1] == "8 images, 2 nodes of level 1"
    assert found["kin_of_one_class", None, None] == (1.0, "8 images, 2 like-labelled pairs of 4 used leaves")
    share, how = found["kin_of_one_class", None, "any_two_leaves"]
    assert (share, how) == (pytest.approx(2 / 6), "8 images, all 6 pairs of 4 used leaves")
    crossed = scored(Grouped([-1, 0, 0, 1, 2, 1, 2]))
    assert crossed["kin_of_one_class", None, None][0] == 0


def test_means_of_the_codes_are_the_floor_of_an_inner_level(monkeypatch):
    monkeypatch.setattr(section, "train_codes", lambda scene, rows: scene.per_image["code"][rows])
    found = scored(Coded([-1, 0, 0, 1, 1, 2, 2]))
    split = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    floor, how = found["level_nmi", 1, "k-means"]
    assert floor == pytest.approx(normalized_mutual_info_score(LABELS, split))
    assert how == "8 images, k-means of 8 training codes, k=2"
    assert ("level_nmi", 2, "k-means") not in found


def test_there_are_no_kin_where_every_class_has_one_leaf():
    found = scored(Grouped([-1, 0, 0, 1, 1, 2, 2]), torch.where(LABELS == 0, 0, 3))
    assert found.keys() == {("level_nmi", 1, None), ("level_nmi", 2, None)}
    assert scored(Grouped([-1]), torch.zeros(8).long()).keys() == {("level_nmi", 1, None)}
