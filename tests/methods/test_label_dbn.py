"""Facts of the label units of a deep belief net: p(y|h), the chain, the clamped chain, the gradient."""

import pytest
import torch
from lightning.pytorch import Trainer
from support import all_states, suited_digits, tiny

from zoo.contract.batch import Batch
from zoo.data.sets import ImageFolder
from zoo.errors import UsageError
from zoo.methods.energy.label_dbn import LabelDBN, LabelledTop

TINY = {
    "hidden_dims": (7, 6, 5),
    "pretrain_epochs": (1, 1, 1),
    "updown_steps": (1,),
    "walk_steps": 20,
}

D, H, K = 5, 3, 4


@pytest.fixture
def top() -> LabelledTop:
    torch.manual_seed(0)
    one = LabelledTop(D, H, K).double()
    with torch.no_grad():
        for p in one.parameters():
            p.normal_(std=0.8)
    return one.requires_grad_(False)


def log_joint(top: LabelledTop) -> torch.Tensor:
    """log p(v, y) of all units and labels, [2^D, K], by summing over every h."""
    v, h = all_states(D).double(), all_states(H).double()
    score = torch.einsum("vd,dh,sh->vs", v, top.weight, h)[:, None] + (h @ top.label_weight.T).T
    score = score + (v @ top.pixels.bias)[:, None, None] + top.label_bias[:, None] + h @ top.bias
    found = score.logsumexp(2)
    return found - found.logsumexp((0, 1))


def test_the_free_energy_of_units_and_label_is_the_sum_over_hidden_units(top):
    found = top.joint(all_states(D).double())
    torch.testing.assert_close(found - found.logsumexp((0, 1)), log_joint(top))


def test_the_chain_has_the_joint_distribution(top):
    n, exact = 40_000, log_joint(top).exp()
    v, y = torch.zeros(n, D, dtype=torch.float64), torch.zeros(n, dtype=torch.long)
    for _ in range(60):
        v, y = top.step(v, y, clamped=False)
    states = (v @ (2.0 ** torch.arange(D, dtype=torch.float64))).long() * K + y
    order = (all_states(D).double() @ (2.0 ** torch.arange(D, dtype=torch.float64))).long()
    found = (states.bincount(minlength=2**D * K).double() / n).view(-1, K)[order]
    assert (found - exact).abs().sum() / 2 < 0.03
    torch.testing.assert_close(found.sum(0), exact.sum(0), atol=0.01, rtol=0)


def test_a_clamped_chain_draws_from_the_conditional_of_its_label(top):
    n, exact = 20_000, log_joint(top).exp()
    for label in range(K):
        v, y = torch.zeros(n, D, dtype=torch.float64), torch.full((n,), label)
        for _ in range(60):
            v, y = top.step(v, y, clamped=True)
        assert (y == label).all()
        expected = exact[:, label] @ all_states(D).double() / exact[:, label].sum()
        torch.testing.assert_close(v.mean(0), expected, atol=0.02, rtol=0)


def test_the_top_level_follows_the_gradient_of_the_joint_likelihood():
    """Contrastive divergence with many steps, averaged, points where d log p(v, y) does."""
    torch.manual_seed(1)
    method = LabelDBN(
        (1, 1, D), hidden_dims=(D, H), num_classes=K, pretrain_epochs=(1, 1), gibbs_steps=50
    ).double()
    with torch.no_grad():
        for p in method.top.parameters():
            p.normal_(std=0.5)
    v, y = all_states(D).double()[[3, 17, 30]], torch.tensor([0, 3, 1])
    params = list(method.top.theta)
    joint = method.top.joint(all_states(D).double())
    exact = torch.autograd.grad(
        joint.logsumexp((0, 1)) - method.top.joint(v).gather(1, y[:, None]).mean(), params
    )
    batch = Batch(v.repeat(4000, 1).view(-1, 1, 1, D), y.repeat(4000), torch.zeros(12_000, dtype=torch.long))
    found = torch.autograd.grad(method.contrast_top(v.repeat(4000, 1), batch)[0]["loss"].mean(), params)
    one, two = (torch.cat([g.flatten() for g in part]) for part in (exact, found))
    assert torch.cosine_similarity(one, two, dim=0) > 0.995


def test_images_without_a_label_are_refused(tmp_path):
    from PIL import Image

    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=8, grey=True, binarize="dynamic")
    data.setup()
    with pytest.raises(UsageError, match="every image needs a label between 0 and 9, got -1"):
        tiny("LabelDBN").start_from(data)
    digits = suited_digits(tiny("LabelDBN"))
    digits.setup()
    with pytest.raises(UsageError, match="every image needs a label between 0 and 6, got 9"):
        tiny("LabelDBN", num_classes=7).start_from(digits)


def test_labels_start_at_their_frequencies():
    method, data = tiny("LabelDBN"), suited_digits(tiny("LabelDBN"))
    data.setup()
    method.start_from(data)
    counts = data.split("train").y.bincount(minlength=10) + 1
    torch.testing.assert_close(method.top.label_bias.detach().exp(), counts / counts.sum())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_learns_to_tell_digits_apart_and_to_draw_the_one_asked_for(tmp_path):
    method = LabelDBN(
        (1, 8, 8), hidden_dims=(64, 128), pretrain_epochs=(40, 60), weight_decay=0.0, walk_steps=100
    )
    data = suited_digits(method, batch_size=50)
    trainer = Trainer(
        max_epochs=100,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(method, datamodule=data)
    test = data.split("test")
    assert (method.classify(test.x).argmax(1) == test.y).float().mean() > 0.6
    assert method.classifies_by == "p(y|E[h|x])"
    y = torch.arange(100) % 10
    images = method.sample_given(y, generator=torch.Generator().manual_seed(0))
    means = torch.stack([data.split("train").x[data.split("train").y == k].mean(0) for k in range(10)])
    nearest = torch.cdist(images.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == y).float().mean() > 0.4
