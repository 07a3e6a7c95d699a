"""Facts of the networks of the adversarial game: those of 2014, convolutions, norms, precision."""

import math

import pytest
import torch
from adversarial_models import SPECTRAL, dcgan, mlp2014
from lightning.pytorch.callbacks import Callback
from support import Repeated, images, state, trainer
from torch import nn

from zoo.contract.batch import Batch
from zoo.data.sets import Digits
from zoo.methods.adversarial.gan import GAN
from zoo.parts.networks.convolutional import ConvDecoder, ConvEncoder, halvings


def test_the_networks_of_2014():
    method = GAN()
    generator = [tuple(p.shape) for p in method.generator.parameters()]
    assert generator == [(1200, 100), (1200,), (1200, 1200), (1200,), (784, 1200), (784,)]
    discriminator = [tuple(p.shape) for p in method.discriminator.parameters()]
    assert discriminator == [(1200, 784), (1200,), (1200, 240), (1200,), (1, 240), (1,)]
    for net, limit in ((method.generator, 0.05), (method.discriminator, 0.005)):
        weights = torch.cat([p.detach().flatten() for p in net.parameters() if p.ndim == 2])
        assert weights.abs().max() <= limit
        assert weights.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)
        assert all((p == 0).all() for p in net.parameters() if p.ndim == 1)
    kinds = [type(m).__name__ for m in method.discriminator.modules() if not list(m.children())]
    assert kinds == ["Flatten", "Dropout", "Linear", "Dropout", "Linear", "Dropout", "Linear"]
    assert [m.p for m in method.discriminator.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.5, 0.5]


def test_the_generator_of_2014_starts_at_the_mean_image():
    method = mlp2014()
    data = Digits(binarize="none")
    trainer(limit_train_batches=0).fit(method, datamodule=data)
    with torch.no_grad():
        for net in (method.generator, method.average.network):
            nn.init.zeros_(net[-1].linear.weight)
    expected = data.mean_image().clamp(1e-3, 0.999)
    assert torch.allclose(method.generator(torch.randn(2, 5)), expected.expand(2, -1, -1, -1), atol=1e-5)
    assert torch.allclose(method.sample(2), expected.expand(2, -1, -1, -1), atol=1e-5)


def test_the_convolutional_networks_of_28_and_32_pixels():
    generator = ConvDecoder(100, (1, 28, 28), 64)
    assert generator[0].weight.shape == (128 * 7 * 7, 100)
    shapes = [tuple(m.weight.shape) for m in generator if isinstance(m, nn.ConvTranspose2d)]
    assert shapes == [(128, 64, 4, 4), (64, 1, 4, 4)]
    kinds = [type(m).__name__ for m in generator]
    stage = ["BatchNorm2d", "ReLU", "ConvTranspose2d"]
    assert kinds == ["Linear", "Unflatten", *stage, *stage]
    encoder = ConvEncoder((1, 28, 28), 64)
    kinds = [type(m).__name__ for m in encoder]
    assert kinds == ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU", "Flatten"]
    assert encoder[1].negative_slope == 0.2
    assert encoder.out_dim == 128 * 7 * 7
    large = ConvDecoder(100, (3, 32, 32), 128)
    assert large[0].weight.shape == (512 * 4 * 4, 100)
    assert [m.weight.shape[1] for m in large if isinstance(m, nn.ConvTranspose2d)] == [256, 128, 3]
    assert halvings((1, 8, 8)) == (1, (4, 4))
    assert halvings((1, 28, 20)) == (2, (7, 5))
    assert halvings((1, 9, 8))[0] == 0


def test_dcgan_starts_from_narrow_gaussians():
    method = GAN(backbone="dcgan", norm="batch", fc_dim=512)
    for net in method.players().values():
        weights = torch.cat([p.detach().flatten() for p in net.parameters() if p.ndim > 1])
        assert weights.std().item() == pytest.approx(0.02, rel=0.01)
        gains = torch.cat(
            [m.weight.detach() for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        )
        assert gains.mean().item() == pytest.approx(1, abs=0.005)
        assert 0.015 < gains.std() < 0.025


def test_pixels_leave_the_generator_and_enter_the_discriminator_in_one_range():
    """Saturated, the generator makes exactly the black and white of the loader; D sees [-1, 1] of both."""
    method = dcgan((1, 8, 8))
    seen = []
    method.discriminator[0][0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        method.average.network[-1].weight.mul_(1e4)
    fake, real = method.sample(50), Digits(binarize="none").split("train").x
    for extreme in (torch.amin, torch.amax):
        assert extreme(fake, (0, 1, 2, 3)).item() == pytest.approx(
            extreme(real, (0, 1, 2, 3)).item(), abs=0.01
        )
    for x in (fake, real):
        method.logit(x)
        assert seen[-1].min().item() == pytest.approx(-1, abs=0.02)
        assert seen[-1].max().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("make", [dcgan, mlp2014])
def test_images_and_logits_are_float32_in_mixed_precision(make):
    method = make()
    with torch.autocast("cpu", torch.bfloat16):
        fake = method.generator(method.draw_noise(4))
        assert fake.dtype == torch.float32
        assert method.logit(fake).dtype == torch.float32


def test_gradients_in_mixed_precision_are_those_of_full_precision():
    gradients = []
    for precision in ("32-true", "bf16-mixed"):
        method = mlp2014(optimizer="adam")
        for module in method.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for parameter in method.parameters():
            nn.init.normal_(parameter, std=0.3)
        found = []

        class Look(Callback):
            def on_before_optimizer_step(self, trainer, pl_module, optimizer, found=found):
                found.append(torch.cat([p.grad.flatten() for p in optimizer.param_groups[0]["params"]]))

        loader = Repeated(Batch(images(n=64), torch.zeros(64).long(), torch.arange(64)))
        torch.manual_seed(0)
        fitting = trainer(precision=precision, callbacks=[Look()])
        fitting.fit(method, loader, loader)
        gradients.append(found)
    for full, mixed in zip(*gradients, strict=True):
        assert nn.functional.cosine_similarity(full, mixed, dim=0) > 0.995
        assert mixed.norm().item() == pytest.approx(full.norm().item(), rel=0.05)


@pytest.mark.parametrize("backbone", ["dcgan", "mlp2014"])
def test_spectral_norms_are_one_and_freeze_in_eval(backbone):
    method = dcgan((1, 28, 28), **SPECTRAL) if backbone == "dcgan" else mlp2014(**SPECTRAL)
    x = images(method.image_shape)
    layers = [m for m in method.discriminator.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in method.discriminator.modules())
    assert len(layers) == (4 if backbone == "dcgan" else 3)
    for _ in range(50):
        method.logit(x)
    method.eval()
    before = state(method)
    for layer in layers:
        top = torch.linalg.svdvals(layer.weight.flatten(1))[0].item()
        assert top == pytest.approx(1, abs=1e-3)
    one, two = method.logit(x), method.logit(x)
    assert torch.equal(one, two)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_batch_norm_sees_real_and_generated_images_in_passes_of_their_own():
    method = dcgan((1, 28, 28))
    sizes = []
    norm = next(m for m in method.discriminator.modules() if isinstance(m, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    method.discriminator_loss(images((1, 28, 28), 4), images((1, 28, 28), 7)[:4])
    assert sizes == [4, 4]
