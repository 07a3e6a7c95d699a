"""Shares of sticks and components, and neighbours among drawn codes."""

import pytest
import torch
from support import suited_digits, tiny, trainer

from zoo.scores.evaluation import Evaluator
from zoo.scores.representation import knn_accuracy


def scored(folder, method, metrics, **options):
    evaluator = Evaluator(num_samples=3, metrics=metrics, out=str(folder / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=suited_digits(method, **options), verbose=False)
    return evaluator.results


def test_use_of_sticks_and_the_norms_that_read_them_stand_side_by_side(tmp_path):
    method = tiny("SBVAE")
    results = scored(tmp_path, method, ["shares"])
    x = suited_digits(method).split("test").x
    usage = method.divide(x).mean(0)
    assert results.details["share"] == pytest.approx(usage.tolist(), abs=1e-5)
    norms = method.decoder[0].weight.detach().norm(dim=0).tolist()
    assert results.details["decoder_weight_norm_of_share"] == pytest.approx(norms, abs=1e-5)
    assert results.numbers["test/smallest_share"].value == pytest.approx(float(usage.min()), abs=1e-6)
    assert results.numbers["test/largest_share"].value == pytest.approx(float(usage.max()), abs=1e-6)
    assert results.numbers["test/effective_dim"].value == 5
    assert results.numbers["test/effective_dim"].unit == "of 5 shares"


def test_a_component_that_is_not_used_is_seen(tmp_path):
    method = tiny("DLGMM")
    with torch.no_grad():
        method.stick_head.linear.bias.copy_(torch.tensor([8.0, 0.5, -8.0, 0.5]))
    results = scored(tmp_path, method, ["shares"])
    assert results.numbers["test/smallest_share"].value < 0.01
    assert "decoder_weight_norm_of_share" not in results.details


def test_neighbours_are_sought_among_draws_which_are_points_of_the_simplex(tmp_path, monkeypatch):
    seen = []

    def watched(*rows, **options):
        seen.extend(rows[::2])
        return knn_accuracy(*rows, **options)

    monkeypatch.setattr("zoo.scores.sections.codes.knn_accuracy", watched)
    method = tiny("SBVAE")
    results = scored(tmp_path, method, ["sampled_codes"])
    assert [tuple(codes.shape) for codes in seen] == [(1295, 5), (359, 5)]
    for codes in seen:
        assert (codes >= 0).all()
        torch.testing.assert_close(codes.sum(1), torch.ones(len(codes)), rtol=0, atol=1e-6)
    assert not torch.equal(seen[1], method.encode(suited_digits(method).split("test").x)), "no means"
    number = results.numbers["test/knn_accuracy_sampled_5"]
    assert number.protocol.how.endswith("1295 training and 359 test codes, one draw of the posterior each")
    refused = scored(tmp_path, method, ["sampled_codes"], whole=True)
    assert refused.skipped["sampled_codes"].startswith("neighbours need images that no one has trained on")
