"""Facts of the deep autoencoder: its RBMs' gradients, unrolling, the linear code, phases, the loss."""

import math

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from support import all_states, batch, state, suited_digits, tiny, trainer
from torch.nn.functional import binary_cross_entropy_with_logits

from zoo.contract.batch import Batch
from zoo.errors import UsageError
from zoo.methods.autoencoders.deep_autoencoder import DeepAutoencoder

TINY = {"hidden_dims": (9, 7), "latent_dim": 3, "pretrain_epochs": 1}

SHAPE = (1, 2, 3)


def small(scale: float = 0.8, **options) -> DeepAutoencoder:
    torch.manual_seed(0)
    options = {"hidden_dims": (5, 4), "latent_dim": 2, "pretrain_epochs": 1} | options
    method = DeepAutoencoder(SHAPE, **options)
    with torch.no_grad():
        for p in method.parameters():
            p.normal_(std=scale)
        for layer in method.layers:
            method.unroll(layer)
    return method


def at(epoch: int, monkeypatch) -> None:
    monkeypatch.setattr(LightningModule, "current_epoch", epoch)


def grey(n: int = 6) -> Batch:
    return Batch(torch.rand(n, *SHAPE), torch.zeros(n).long(), torch.arange(n))


def test_the_unrolled_net_is_the_stacked_pass_of_means_up_and_down():
    """Decoder biases are those of the visible units, each level's own."""
    method, x = small(), torch.rand(5, *SHAPE)
    one, two, three = method.layers
    h1 = torch.sigmoid(x.flatten(1) @ one.weight.T + one.hidden_bias)
    h2 = torch.sigmoid(h1 @ two.weight.T + two.hidden_bias)
    code = h2 @ three.weight.T + three.hidden_bias
    torch.testing.assert_close(method.encode(x), code, atol=1e-6, rtol=0)
    h2 = torch.sigmoid(code @ three.weight + three.visible_bias)
    h1 = torch.sigmoid(h2 @ two.weight + two.visible_bias)
    image = torch.sigmoid(h1 @ one.weight + one.visible_bias).view_as(x)
    torch.testing.assert_close(method.reconstruct(x), image, atol=1e-6, rtol=0)


def test_after_its_rbms_a_trained_stack_is_unrolled_and_then_goes_its_own_ways():
    class Watch(Callback):
        ties: list[bool] = []

        def on_train_epoch_end(self, trainer, pl_module):
            tied = [torch.equal(layer.weight_down, layer.weight.T) for layer in pl_module.layers]
            self.ties.append(all(tied))

    method, watch = tiny("DeepAutoencoder"), Watch()
    trainer(max_epochs=5, limit_train_batches=3, callbacks=[watch]).fit(
        method, datamodule=suited_digits(method)
    )
    assert watch.ties == [True, True, True, False, False]


def contrastive_statistics(method: DeepAutoencoder, index: int, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The released code's update of one RBM, written out with the draws of a given seed."""
    layer = method.layers[index]
    with torch.no_grad():
        v = method.hidden(x, index)
        a = v @ layer.weight.T + layer.hidden_bias
        if index == len(method.layers) - 1:
            up, h = a, a + torch.randn_like(a)
        else:
            up = a.sigmoid()
            h = (torch.rand_like(a) < up).float()
        v_model = torch.sigmoid(h @ layer.weight + layer.visible_bias)
        up_model = v_model @ layer.weight.T + layer.hidden_bias
        up_model = up_model if index == len(method.layers) - 1 else up_model.sigmoid()
        n = len(x)
        return (
            (up.T @ v - up_model.T @ v_model) / n,
            (up - up_model).mean(0),
            (v - v_model).mean(0),
        )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_rbm_follows_contrastive_divergence_and_nothing_else_moves(index, monkeypatch):
    method, data = small(weight_decay=0.0), grey(8)
    at(index, monkeypatch)
    torch.manual_seed(1)
    method.loss(data)["loss"].mean().backward()
    torch.manual_seed(1)
    expected = contrastive_statistics(method, index, data.x)
    layer = method.layers[index]
    for p, statistic in zip((layer.weight, layer.hidden_bias, layer.visible_bias), expected, strict=True):
        torch.testing.assert_close(-p.grad, statistic, atol=1e-6, rtol=1e-5)
    moved = {id(p) for p in method.parameters() if p.grad is not None}
    assert moved == {id(p) for p in method.learning()}


def test_weights_of_an_rbm_decay(monkeypatch):
    at(0, monkeypatch)
    gradients = []
    for weight_decay in (0.0, 0.5):
        method, data = small(weight_decay=weight_decay), Batch(*(t.clone() for t in _fixed()))
        torch.manual_seed(1)
        method.loss(data)["loss"].mean().backward()
        gradients.append(method.layers[0].weight.grad)
    torch.testing.assert_close(gradients[1] - gradients[0], 0.5 * method.layers[0].weight.detach())


def _fixed() -> Batch:
    torch.manual_seed(5)
    return grey()


def test_free_energies_sum_the_hidden_units_out(monkeypatch):
    """Of bits by enumeration, of Gaussian units by the integral of exp(hW v - |h - b|^2 / 2) dh."""
    method, v = small(), torch.rand(4, 6)
    at(1, monkeypatch)
    layer, v5 = method.layers[1], torch.rand(4, 5)
    h = all_states(4).float()
    log_sum = ((v5 @ layer.weight.T + layer.hidden_bias) @ h.T).logsumexp(1)
    torch.testing.assert_close(method.free_energy(layer, v5), -v5 @ layer.visible_bias - log_sum)
    at(2, monkeypatch)
    layer, v4 = method.layers[2], v[:, :4]
    places = torch.linspace(-12, 12, 4001)
    integral = torch.zeros(4)
    for i in range(2):  # Gaussian units are independent of one another given v
        a = v4 @ layer.weight[i]
        f = a[:, None] * places - 0.5 * (places - layer.hidden_bias[i]).square()
        integral += f.logsumexp(1) + math.log(24 / 4000) - 0.5 * math.log(2 * math.pi)
    constant = 0.5 * layer.hidden_bias.square().sum()
    torch.testing.assert_close(
        method.free_energy(layer, v4), -v4 @ layer.visible_bias - integral - constant, atol=1e-3, rtol=1e-4
    )


def test_codes_leave_the_unit_interval_and_have_no_noise():
    method, x = small(scale=2.0), torch.rand(50, *SHAPE)
    codes = method.encode(x)
    assert codes.min() < 0
    assert codes.max() > 1
    for training in (True, False):
        assert torch.equal(method.train(training).encode(x), codes)


def test_hidden_layers_receive_means_not_draws(monkeypatch):
    """The opposite of a deep belief net: no draw comes into what the second RBM learns from."""
    method, data, seen = small(), grey(), []
    at(1, monkeypatch)
    monkeypatch.setattr(method, "free_energy", lambda rbm, v: seen.append(v) or v.sum(1) * rbm.weight.sum())
    method.loss(data)
    layer = method.layers[0]
    torch.testing.assert_close(
        seen[0], torch.sigmoid(data.x.flatten(1) @ layer.weight.T + layer.hidden_bias).detach()
    )


def test_the_loss_is_summed_over_pixels(monkeypatch):
    """Its gradient is that of the mean over pixels, times their number."""
    method, data = small(), grey()
    at(3, monkeypatch)
    logits = method.logits(method.hidden(data.x, 3))
    mean = binary_cross_entropy_with_logits(logits, data.x)
    weight = method.layers[1].weight
    (of_mean,) = torch.autograd.grad(mean, weight)
    (of_loss,) = torch.autograd.grad(method.loss(data)["loss"].mean(), weight)
    torch.testing.assert_close(of_loss, math.prod(SHAPE) * of_mean)


@pytest.mark.parametrize("activation", ["logistic", "tanh", "relu"])
def test_a_glorot_start_tunes_the_whole_from_the_first_epoch(activation):
    method = tiny("DeepAutoencoder", init="glorot", activation=activation)
    assert method.rbm is None
    terms = method.loss(batch())
    assert torch.equal(terms["loss"], terms["distortion"])
    assert len(method.learning()) == len(list(method.parameters()))
    bound = (6 / (64 + 9)) ** 0.5
    assert method.layers[0].weight.abs().max() <= bound
    assert float(method.layers[0].weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_step_sizes_and_moments_begin_anew_with_each_phase():
    class Watch(Callback):
        seen: list[tuple[float, int]] = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                optimizer = trainer.optimizers[0]
                self.seen.append((optimizer.param_groups[0]["lr"], len(optimizer.state)))

    method, watch = tiny("DeepAutoencoder", pretrain_lr=0.02, lr=0.01, lr_final=0.001), Watch()
    trainer(max_epochs=6, limit_train_batches=2, callbacks=[watch]).fit(
        method, datamodule=suited_digits(method)
    )
    rates, states = zip(*watch.seen, strict=True)
    half = 0.001 + 0.009 * (1 + math.cos(math.pi / 3)) / 2
    assert rates[:4] == (0.02, 0.02, 0.02, 0.01)
    assert rates[4] == pytest.approx(half)
    assert states == (0, 0, 0, 0, 12, 12)


def test_it_learns_more_than_its_mean_image():
    method = DeepAutoencoder((1, 8, 8), hidden_dims=(64,), latent_dim=8, pretrain_epochs=1, lr=1e-2)
    data = suited_digits(method, batch_size=50)
    trainer(max_epochs=8, limit_val_batches=0).fit(method, datamodule=data)
    x = data.split("test").x
    error = (method.reconstruct(x) - x).square().sum()
    assert error < 0.8 * (x - data.mean_image()).square().sum()


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, states = tiny("DeepAutoencoder"), []
    trainer(max_epochs=5, limit_train_batches=2).fit(whole, datamodule=suited_digits(whole))
    part = tiny("DeepAutoencoder")
    first = trainer(max_epochs=5, limit_train_batches=2)
    first.fit_loop.max_epochs = 3
    first.fit(part, datamodule=suited_digits(part))
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = tiny("DeepAutoencoder")
    trainer(max_epochs=5, limit_train_batches=2).fit(
        again, datamodule=suited_digits(again), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    states = [state(m) for m in (whole, again)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"hidden_dims": (3, 0)}, "hidden_dims must be at least 1, got 0"),
        ({"pretrain_epochs": 0}, "pretrain_epochs must be at least 1, got 0"),
        ({"activation": "relu"}, "init: rbm needs activation: logistic, got activation: relu"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DeepAutoencoder(SHAPE, **options)
