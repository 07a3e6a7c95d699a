"""Too few images or samples: the number is left out, in one line."""

import pytest
import torch
from support import suited_digits, tiny, trainer

from zoo.contract.capabilities import Side
from zoo.data import Digits
from zoo.errors import UsageError
from zoo.scores.evaluation import Evaluator, _rows
from zoo.scores.metrics import PerImage
from zoo.scores.results import Number, Protocol


def score(method, folder, data, **options):
    evaluator = Evaluator(num_samples=2, out=str(folder / "results.json"), **options)
    trainer(callbacks=[evaluator]).test(method, datamodule=data, verbose=False)
    assert evaluator.results is not None
    return evaluator.results


def test_classes_and_inception_score_need_samples_enough(tmp_path):
    """Of 9 samples no histogram of ten classes is flat; a split of one sample has score 1."""
    method = tiny("LabelDBN")
    metrics = ["classes", "conditional", "inception_score"]
    few = score(method, tmp_path, suited_digits(method), num_images=9, metrics=metrics)
    line = "10 classes need at least as many samples, got 9"
    assert few.skipped == {
        "classes": line,
        "conditional": line,
        "inception_score": "the inception score needs at least 20 samples, got 9",
    }
    assert not few.numbers
    enough = score(method, tmp_path, suited_digits(method), num_images=20, metrics=metrics)
    assert not enough.skipped


def test_the_score_while_training_is_refused_before_it_begins():
    method, data = tiny("GAN"), Digits(num_validation=20)
    run = trainer(callbacks=[Evaluator(every_n_epochs=5)], max_epochs=9)
    line = "every_n_epochs must be 0 where fid cannot be measured: FID needs more images than the 128"
    with pytest.raises(UsageError, match=line):
        run.fit(method, datamodule=data)
    assert run.global_step == 0


def test_a_single_number_is_a_row_too():
    metric = PerImage()
    metric.update(torch.tensor([[2.0]]))
    assert _rows(metric).tolist() == [[2.0]]


def test_an_error_of_almost_nothing_has_six_decimals():
    number = Number(4.094344562222102, "nats", Side.ESTIMATE, Protocol("", ""), 4.4e-16)
    assert str(number) == "~ 4.094345 ± 0.000000"
