"""Boards of those that cluster: three ways of counting apart; k-means of pixels and of codes as floors."""

import pytest
from support import tiny, trainer

from zoo.contract.capabilities import Side
from zoo.data.sets import Digits
from zoo.leaderboard.table import Entrant, boards
from zoo.scores.evaluation import Evaluator
from zoo.scores.representation import clustering, kmeans_clusters
from zoo.scores.results import Number, Protocol

WAYS = ["cluster_accuracy_hungarian", "cluster_accuracy_majority", "cluster_accuracy_aae", "nmi", "ari"]
OWN = Protocol("digits 1x8x8", "359 images")
CODES = Protocol("digits 1x8x8 1295/143/359, dynamic", "359 images, k-means of 1295 training codes, k=10")


def entrant(slug: str, method: str, value: float, protocol: Protocol, floors=None) -> Entrant:
    numbers = {f"test/{way}": Number(value, "u", Side.ESTIMATE, protocol, 0.01) for way in WAYS}
    return Entrant(slug, method, "digits", numbers, floors or {}, {})


def test_what_clusters_by_itself_stands_above_k_means_of_pixels_and_of_vaes_codes():
    pixels = {"k-means of pixels, k=10": entrant("", "", 0.5, OWN).numbers}
    whole = Protocol("digits 1x8x8 whole 1797/143/1797, dynamic", "1797 images, k-means of 1797")
    entrants = [
        entrant("gmvae-digits", "GMVAE", 0.7, OWN, pixels),
        entrant("explicit-mixture-digits", "ExplicitMixture", 0.6, OWN, pixels),
        entrant("vae-digits", "VAE", 0.4, CODES),
        entrant("vae-whole-digits", "VAE", 0.4, whole),
        entrant("pca-digits", "PCA", 0.3, CODES),
    ]
    shown = boards(entrants)
    for way in WAYS:
        (own,) = (one for one in shown if one.metric == way and one.protocol == OWN)
        others = [one for one in shown if one.metric == way and one.protocol != OWN]
        assert [entry.slug for entry in own.entries] == ["gmvae-digits", "explicit-mixture-digits"]
        floors = {name: number.value for name, number in own.floors.items()}
        assert floors == {"k-means of pixels, k=10": 0.5, "k-means of vae-digits codes": 0.4}
        assert own.ranks() == [1, 2]
        assert all(not one.floors for one in others)
        assert sorted(e.slug for one in others for e in one.entries) == [
            "pca-digits",
            "vae-digits",
            "vae-whole-digits",
        ]


def test_a_protocol_refines_what_says_less():
    assert CODES.refines(OWN)
    assert not OWN.refines(CODES)
    assert not OWN.refines(OWN)
    assert not CODES.refines(Protocol("digits 1x8x8 whole", "359 images"))
    assert not CODES.refines(Protocol("digits 1x8x8", "35 images"))


def test_k_means_of_pixels_stands_beside_every_number_of_clusters(tmp_path):
    data = Digits()
    evaluator = Evaluator(metrics=["clusters"], out=str(tmp_path / "results.json"))
    method = tiny("GMVAE", num_clusters=10)
    trainer(callbacks=[evaluator]).test(method, datamodule=data, verbose=False)
    results = evaluator.results
    assert results is not None
    (beside,) = results.floors.values()
    assert list(results.floors) == ["k-means of pixels, k=10"]
    assert {f"test/{way}" for way in (*WAYS, "used_clusters")} == beside.keys() == results.numbers.keys()
    train, test = (data.images(split)[:].float().flatten(1) / 255 for split in ("train", "test"))
    wanted = clustering(kmeans_clusters(train, test, 10, 0), data.labels("test"))
    assert beside["test/cluster_accuracy_hungarian"].value == pytest.approx(wanted.hungarian.value)
    assert beside["test/cluster_accuracy_majority"].value == pytest.approx(wanted.majority.value)
    assert beside["test/cluster_accuracy_aae"].value == pytest.approx(wanted.aae.value)
    assert beside["test/nmi"].value == pytest.approx(wanted.nmi)
    assert beside["test/nmi"].error is None
    assert all(number.protocol == OWN for number in (*beside.values(), *results.numbers.values()))
    assert beside["test/cluster_accuracy_hungarian"].value > 0.5
