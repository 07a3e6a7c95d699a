"""The same method, data and score on a CUDA device."""

import pytest
import torch
from support import ALL, state, suited_digits, tiny, trainer

from zoo.contract.capabilities import Scores
from zoo.data.sets import Digits
from zoo.scores.evaluation import Evaluator

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_learns_on_the_device_where_its_pixels_live(name, precision, tmp_path):
    method = tiny(name)
    data = suited_digits(method)
    evaluator = Evaluator(num_samples=20, out=str(tmp_path / "results.json"))
    fitting = trainer(accelerator="gpu", devices=1, precision=precision, max_epochs=2, callbacks=[evaluator])
    before = state(method)
    fitting.fit(method, datamodule=data)
    assert data._splits["train"].x.is_cuda
    after = method.state_dict()
    assert any(key not in before or not torch.equal(before[key], after[key].cpu()) for key in after)
    fitting.test(method, datamodule=data, verbose=False)
    assert evaluator.results is not None
    assert evaluator.results.hardware == torch.cuda.get_device_name(0)


@pytest.mark.parametrize("name", ALL)
def test_scores_agree_with_the_cpu(name):
    method = tiny(name)
    if not isinstance(method, Scores):
        return
    x = Digits().split("test").x[:50]
    here = method.log_prob(x, 2000)
    difference = here - method.cuda().log_prob(x.cuda(), 2000).cpu()
    assert difference.mean().abs() < 0.05 + 5 * difference.std() / len(x) ** 0.5
