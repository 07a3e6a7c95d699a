"""Facts of the semi-supervised adversarial autoencoder."""

import pytest
import torch
from support import Handful, batch, images, same, tiny, trainer

from zoo.data import Digits
from zoo.errors import UsageError
from zoo.methods.adversarial.label_aae import LabelAAE

TINY = {
    "latent_dim": 4,
    "hidden_dims": (16,),
    "optimizer": "adam",
    "reconstruction_lr": 1e-3,
    "adversarial_lr": 1e-3,
    "label_lr": 1e-3,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_a_code_is_the_probabilities_of_the_labels_and_a_style():
    method = tiny("LabelAAE")
    code = method.encode(images(n=5))
    assert code.shape == (5, 14)
    torch.testing.assert_close(code[:, :10].sum(1), torch.ones(5))
    torch.testing.assert_close(method.classify(images(n=5).fill_(0.5)).exp().sum(1), torch.ones(5))
    x = images(n=5)
    torch.testing.assert_close(method.classify(x).exp(), method.encode(x)[:, :10])


def test_the_prior_of_categories_is_uniform_and_of_one_asked_for_itself():
    method = tiny("LabelAAE", prior_std=2.0)
    any_of_them = method.draw(torch.full((20_000,), -1))
    assert ((any_of_them[:, :10] == 0) | (any_of_them[:, :10] == 1)).all()
    torch.testing.assert_close(any_of_them[:, :10].mean(0), torch.full((10,), 0.1), atol=0.01, rtol=0)
    assert float(any_of_them[:, 10:].std()) == pytest.approx(2.0, rel=0.02)
    y = torch.arange(10)
    assert torch.equal(method.draw(y)[:, :10].argmax(1), y)


def test_the_cross_entropy_is_that_of_its_own_classes():
    method, x, y = tiny("LabelAAE"), images(n=6), torch.arange(6)
    wanted = torch.nn.functional.nll_loss(method.classify(x), y, reduction="none")
    torch.testing.assert_close(method.label_loss(x, y)["loss"], wanted)


def test_withheld_labels_are_never_learned_from():
    """The third phase sees only what is known, in batches as large as the others."""
    data = Digits(binarize="none", labelled=20, batch_size=50)
    method, seen = tiny("LabelAAE"), []
    known = data.split("train")
    known = known.x[known.y >= 0]
    learn = method.label_loss
    method.label_loss = lambda x, y: seen.append((x, y)) or learn(x, y)
    trainer(limit_train_batches=3, limit_val_batches=0).fit(method, datamodule=data)
    assert [len(y) for _, y in seen] == [50] * 3
    for x, y in seen:
        assert int(y.min()) >= 0
        assert float(torch.cdist(x.flatten(1), known.flatten(1)).min(1).values.max()) < 1e-2


def test_where_all_labels_are_known_the_batch_is_learned_from():
    method = tiny("LabelAAE")
    method.start_from(Handful((1, 8, 8)))
    one = batch()
    x, y = method.labelled(one)
    assert torch.equal(x, one.x)
    assert torch.equal(y, one.y)


def test_every_phase_of_the_encoder_has_moments_of_its_own():
    method = tiny("LabelAAE")
    fitting = trainer(limit_train_batches=3)
    fitting.fit(method, datamodule=Digits(binarize="none"))
    players = dict(zip(method.players(), fitting.optimizers, strict=True))
    moments = [players[name].state for name in ("autoencoder", "encoder", "classifier")]
    shared = list(method.encoder.parameters())
    for i, one in enumerate(moments):
        for other in moments[i + 1 :]:
            assert all(one[p]["exp_avg"] is not other[p]["exp_avg"] for p in shared)
            assert not any(torch.equal(one[p]["exp_avg"], other[p]["exp_avg"]) for p in shared)


def test_data_without_labels_are_refused():
    class Unlabelled(Handful):
        def split(self, name, which=None):
            return super().split(name)._replace(y=torch.full((6,), -1))

    with pytest.raises(UsageError, match="LabelAAE needs labels, got none of 6 training images"):
        tiny("LabelAAE").start_from(Unlabelled((1, 8, 8)))
    with pytest.raises(UsageError, match="labels must be below num_classes: 2, got 2"):
        tiny("LabelAAE", num_classes=2).start_from(Handful((1, 8, 8)))


def test_a_class_that_there_is_not_cannot_be_drawn():
    method = tiny("LabelAAE")
    with pytest.raises(UsageError, match=r"y must lie between 0 and 9, got \[3, 10\]"):
        method.sample_given(torch.tensor([3, 10]))


def test_the_phase_of_labels_moves_the_encoder_alone():
    method = tiny("LabelAAE")
    decoder = {name: value.clone() for name, value in method.decoder.state_dict().items()}

    def step(batch, batch_idx):
        method.descend("classifier", method.label_loss, *method.labelled(batch))

    method.training_step = step
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    trainer(limit_train_batches=1).fit(method, datamodule=Digits(binarize="none"))
    assert not same(before, method.encoder.state_dict())
    started = {k: v for k, v in method.decoder.state_dict().items() if "linear.bias" not in k}
    assert same({k: decoder[k] for k in started}, started)


def test_settings_out_of_range_are_refused():
    with pytest.raises(UsageError, match="num_classes must be at least 2, got 1"):
        LabelAAE(num_classes=1)
    with pytest.raises(UsageError, match=r"label_lr must be positive, got 0\.0"):
        LabelAAE(label_lr=0.0)
