"""What a tree of groups is worth: agreement with the labels level by level, and kin of one class."""

import torch
from torch import Tensor

from zoo.contract.capabilities import Encodes, Hierarchy, Nests, Side
from zoo.scores.representation import clustering, kmeans_clusters
from zoo.scores.results import Measure
from zoo.scores.scene import Scene, drawn, part_of
from zoo.scores.section import Section, cluster_probabilities, encodings
from zoo.scores.sections.codes import PROBE_CODES, train_codes


def paths(tree: Hierarchy) -> Tensor:
    """The node of every leaf on each level, the root's children first, [levels, leaves].

    Where a leaf lies higher up than others it stands for itself on the levels below.
    """
    parent = tree.parent.cpu()
    inner = torch.zeros(len(parent), dtype=torch.bool)
    inner[parent[parent >= 0]] = True
    rows = []
    for leaf in (~inner).nonzero()[:, 0].tolist():
        path = [leaf]
        while int(parent[path[0]]) > 0:
            path.insert(0, int(parent[path[0]]))
        rows.append(path)
    deepest = max(map(len, rows))
    return torch.tensor([path + path[-1:] * (deepest - len(path)) for path in rows]).T


def trees(scene: Scene) -> None:
    """NMI of every level with the labels, and how often two leaves of one class have the same parent."""
    method, columns = scene.method, scene.per_image
    assert isinstance(method, Nests)
    train_y, test_y = scene.labels
    leaf = columns["log_prob_cluster"].argmax(1)
    on_level = paths(method.hierarchy())
    num_leaves = on_level.shape[1]
    rows = drawn(len(train_y), PROBE_CODES)
    codes = train_codes(scene, rows) if isinstance(method, Encodes) else None
    for level, node in enumerate(on_level, 1):
        k = len(node.unique())
        how = f"{len(test_y)} images, {k} nodes of level {level}"
        scene.put("level_nmi", clustering(node[leaf], test_y).nmi, scene.treated(how), layer=level)
        if codes is not None and k < num_leaves:
            found = kmeans_clusters(codes, columns["code"], k, scene.seed)
            how = f"{len(test_y)} images, k-means of {part_of(len(rows), len(train_y))} training codes, k={k}"
            nmi = clustering(found, test_y).nmi
            scene.put("level_nmi", nmi, scene.treated(how), layer=level, floor="k-means")
    above = on_level[-2] if len(on_level) > 1 else torch.zeros(num_leaves, dtype=torch.long)
    used = leaf.unique()
    label = torch.stack([test_y[leaf == one].bincount().argmax() for one in used])
    one, other = torch.triu_indices(len(used), len(used), 1)
    kin, alike = above[used][one] == above[used][other], label[one] == label[other]
    if not alike.any():  # every class has one leaf
        return
    how = f"{len(test_y)} images, {{}} pairs of {len(used)} used leaves"
    share = float(kin[alike].double().mean())
    scene.put("kin_of_one_class", share, scene.treated(how.format(f"{int(alike.sum())} like-labelled")))
    share = float(kin.double().mean())
    scene.put("kin_of_one_class", share, scene.treated(how.format(f"all {len(kin)}")), floor="any_two_leaves")


TREES = Section(
    (Nests,),
    trees,
    {
        "level_nmi": Measure("of 1"),
        "kin_of_one_class": Measure("share", Side.EXACT),
    },
    "NMI of each level of the tree, k-means of as many clusters beside it; share of pairs of leaves with one "
    "majority label that have the same parent",
    reads=(encodings, cluster_probabilities),
)
