"""Facts of the chains of contrastive divergence: persistent, fast, one per process."""

import torch
from energy_models import D, H, fitted, joint, rbm
from support import all_states, images, tiny, trainer


def test_chains_of_a_model_that_does_not_learn_have_its_exact_moments():
    method = rbm(num_chains=100, scale=0.5)
    p = joint(method).logsumexp(1).softmax(0).detach()
    states = all_states(D)
    first, second = p @ states, states.T @ (p[:, None] * states)
    seen, outer = torch.zeros(D).double(), torch.zeros(D, D).double()
    steps = 2000
    for step in range(steps + 100):
        method.on_train_batch_start(None, 0)
        assert ((method.chains == 0) | (method.chains == 1)).all()
        if step >= 100:
            seen += method.chains.mean(0) / steps
            outer += method.chains.T @ method.chains / (100 * steps)
    torch.testing.assert_close(seen, first, atol=0.01, rtol=0)
    torch.testing.assert_close(outer, second, atol=0.01, rtol=0)


def test_chains_go_on_where_they_were():
    """Strong weights freeze a chain in its mode: one that was reset would not stay there."""
    method = rbm(num_chains=50)
    with torch.no_grad():
        method.weight.fill_(30.0)
        method.bias.fill_(-30.0 * D / 2)
        method.pixels.bias.fill_(-30.0 * H / 2)
    method.chains.zero_()
    method.chains[:25] = 1
    before = method.chains.clone()
    for batch_idx in range(20):
        method.on_train_batch_start(None, batch_idx)
    assert torch.equal(method.chains, before)


def test_chains_take_k_steps_a_batch_and_only_then(digits):
    method = tiny("RBM", fast_lr=0.0, gibbs_steps=3, num_hidden=4)
    calls = []
    draw = method.pixels.draw
    method.pixels.draw = lambda m: calls.append(len(m)) or draw(m)
    trainer(max_epochs=2, limit_train_batches=4).fit(method, datamodule=digits)
    assert calls == [5] * 3 * 8


def test_fast_weights_follow_the_gradient_and_decay():
    method = tiny("RBM", fast_lr=0.3, lr=1e-9)
    grads = []
    before = method.on_before_optimizer_step

    def note(optimizer):
        grads.append([p.grad.clone() for p in method.theta])
        before(optimizer)

    method.on_before_optimizer_step = note
    _, record = fitted(2, method)
    expected = [torch.zeros_like(p) for p in method.theta]
    for step, kept in zip(grads, record.states, strict=True):
        for i, name in enumerate(("fast_weight", "fast_bias", "fast_visible_bias")):
            expected[i] = 19 / 20 * expected[i] - 0.3 * step[i]
            torch.testing.assert_close(kept[name], expected[i])


def test_fast_weights_move_the_chains_and_nothing_else():
    plain, fast = tiny("RBM", fast_lr=0.0), tiny("RBM", fast_lr=0.3)
    with torch.no_grad():
        plain.weight.normal_()
    x = images()
    for name in ("fast_weight", "fast_bias", "fast_visible_bias"):
        fast.load_state_dict(plain.state_dict(), strict=False)
        for other in ("fast_weight", "fast_bias", "fast_visible_bias"):
            fast.get_buffer(other).zero_()
        fast.get_buffer(name).fill_(100.0)
        torch.manual_seed(1)
        start = (torch.rand(5, 64) < 0.5).float()
        for method in (plain, fast):
            method.chains.copy_(start)
            torch.manual_seed(2)
            method.on_train_batch_start(None, 0)
        assert not torch.equal(plain.chains, fast.chains), name
        assert torch.equal(plain.energy(x), fast.energy(x))
        draws = [m.sample(3, generator=torch.Generator().manual_seed(0)) for m in (plain, fast)]
        assert torch.equal(*draws)


def test_each_process_keeps_its_own_chains_and_the_checkpoint_all(two_processes):
    assert two_processes("chains") == ["weights equal, chains differ", "resumed: every process has its own"]
