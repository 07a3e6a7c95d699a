"""Every method x every capability in its header."""

import itertools

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from support import (
    ALL,
    EPOCHS_OF_PHASES,
    MeanByDescent,
    Repeated,
    batch,
    begun,
    having,
    images,
    lasting,
    same,
    settings,
    state,
    suited_digits,
    tiny,
    trainer,
)

import zoo
from zoo import from_pretrained
from zoo.contract.capabilities import (
    Classifies,
    ClassifiesCodes,
    Conditions,
    Decodes,
    Emits,
    Encodes,
    Infers,
    Reconstructs,
    Repairs,
    Samples,
    Scores,
    Side,
    Walks,
    Weighs,
)
from zoo.contract.learning import Descent, Game
from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.pictures.walks import interpolate
from zoo.scores.evaluation import Evaluator

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
LINEAR = {"PCA"}
"""Methods whose reconstructions are projections, which may leave [0, 1]."""


class Watch(Callback):
    """At every step of an optimizer: whose parameters it has, which may have a gradient, which have one."""

    def __init__(self) -> None:
        self.steps: list[tuple[set[str], set[str], set[str]]] = []
        self.learnt: set[str] = set()

    def on_fit_start(self, trainer, pl_module):
        self.learnt = {key for key, p in pl_module.named_parameters() if p.requires_grad}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = dict(pl_module.named_parameters())
        self.steps.append(
            (
                {key for key, p in named.items() if id(p) in own},
                {key for key, p in named.items() if p.requires_grad},
                {key for key, p in named.items() if p.grad is not None and p.grad.abs().sum() > 0},
            )
        )


def test_every_method_has_tiny_settings_and_is_final():
    for name in ALL:
        assert isinstance(settings(name), dict)
        cls = zoo.method_class(name)
        assert cls.__name__ == name
        assert not cls.__subclasses__()
        assert "paper" in vars(cls)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_has_a_loss_per_image_or_scalar_and_gradient_reaches_every_parameter(name, shape, monkeypatch):
    """In the phase in which it learns, and in no other."""
    method = begun(name, shape)
    if not isinstance(method, Descent):
        return
    learnt: set[str] = set()
    for epoch in range(EPOCHS_OF_PHASES):
        monkeypatch.setattr(LightningModule, "current_epoch", epoch)
        due = {id(parameter) for parameter in method.learning()}
        method.zero_grad()
        terms = method.loss(batch(shape))
        assert "loss" in terms
        assert all(term.shape in ((6,), ()) for term in terms.values())
        terms["loss"].mean().backward()
        for key, parameter in method.named_parameters():
            if id(parameter) not in due:
                assert parameter.grad is None, key
                continue
            learnt.add(key)
            assert parameter.grad is not None, key
            assert parameter.grad.abs().sum() > 0, key
    assert learnt == {key for key, parameter in method.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", having(Game))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_parameter_has_a_player_and_its_gradient_reaches_it(name, shape, precision):
    """Of every shape, in mixed precision too; while one player steps, no other may have a gradient."""
    method = tiny(name, shape)
    watch = Watch()
    loader = Repeated(batch(shape), 3)
    trainer(callbacks=[watch], precision=precision, max_epochs=2).fit(method, loader, loader)
    players = {
        who: {key for key, p in method.named_parameters() if any(p is q for q in net.parameters())}
        for who, net in method.players().items()
    }
    assert set().union(*players.values()) == watch.learnt
    assert {frozenset(keys) for keys in players.values()} == {frozenset(own) for own, _, _ in watch.steps}
    assert all(own == may for own, may, _ in watch.steps)
    assert set().union(*(own & have for own, _, have in watch.steps)) == watch.learnt
    assert watch.steps[0][2] <= watch.steps[0][0]
    assert all(p.requires_grad == (key in watch.learnt) for key, p in method.named_parameters())


@pytest.mark.parametrize("name", having(Game))
def test_a_step_of_one_player_leaves_the_others_parameters_as_they_are(name, monkeypatch):
    method = tiny(name)
    moves = []
    step = type(method).descend

    def descend(self, player, *args, **options):
        def others():
            nets = self.players()
            own = {id(p) for p in nets[player].parameters()}
            rest = [p for net in nets.values() for p in net.parameters() if id(p) not in own]
            return [(p, p.detach().clone(), p.grad) for p in rest]

        before = others()
        own = {key: p.detach().clone() for key, p in self.players()[player].named_parameters()}
        gradients = [None if g is None else g.clone() for _, _, g in before]
        terms = step(self, player, *args, **options)
        for (p, value, _), gradient in zip(before, gradients, strict=True):
            assert torch.equal(p, value)
            assert (p.grad is None) if gradient is None else torch.equal(p.grad, gradient)
        moves.append(all(not torch.equal(p, own[k]) for k, p in self.players()[player].named_parameters()))
        return terms

    monkeypatch.setattr(type(method), "descend", descend)
    trainer(limit_train_batches=2, max_epochs=2).fit(method, datamodule=suited_digits(method))
    assert len(moves) >= 2 * len(method.players())
    assert all(moves)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_loss_sample_and_score_are_pure(name, training):
    """In training mode all but the running statistics of batch norms, of which no loss is a function."""
    method = begun(name).train(training)
    x = batch()
    before = lasting(method)
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        values = []
        if isinstance(method, Descent):
            values += method.loss(x).values()
        if isinstance(method, Samples) and not training:
            values.append(method.sample(3))
        if isinstance(method, Scores):
            values.append(method.log_prob(x.x, 4))
        results.append(values)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert same(before, lasting(method))
    assert all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize("name", having(Samples))
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_are_images_and_a_generator_leaves_the_global_stream_alone(name, shape):
    method = tiny(name, shape)
    before = torch.get_rng_state()
    one = method.sample(5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    two = method.sample(5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one, two)
    assert one.shape == (5, *shape)
    assert one.min() >= 0
    assert one.max() <= 1
    assert not torch.equal(one, method.sample(5, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("name", having(Walks))
def test_a_walk_ends_in_the_sample_and_leaves_the_global_stream_alone_at_every_step(name):
    method = tiny(name)
    before = torch.get_rng_state()
    states = []
    for x in method.walk(3, generator=torch.Generator().manual_seed(3)):
        assert torch.equal(before, torch.get_rng_state())
        assert torch.is_grad_enabled()
        assert x.shape == (3, 1, 8, 8)
        assert 0 <= x.min() <= x.max() <= 1
        states.append(x)
    assert len(states) > 1
    assert torch.equal(states[-1], method.sample(3, generator=torch.Generator().manual_seed(3)))
    assert all(not torch.equal(one, two) for one, two in itertools.pairwise(states))


@pytest.mark.parametrize("name", having(Emits))
def test_emissions_are_distributions_over_images_whose_means_are_images(name):
    method = tiny(name)
    draws = [list(method.emit(3, generator=torch.Generator().manual_seed(3))) for _ in range(2)]
    assert len(draws[0]) > 1
    for p, again in zip(*draws, strict=True):
        assert p.batch_shape == (3,)
        assert p.event_shape == (1, 8, 8)
        assert p.log_prob(images(n=3)).isfinite().all()
        assert 0 <= p.mean.min() <= p.mean.max() <= 1
        assert torch.equal(p.mean, again.mean)


@pytest.mark.parametrize("name", having(Repairs))
def test_repairs_agree_with_what_is_known_and_do_not_look_at_the_rest(name):
    method = tiny(name)
    x, mask = images(), images()
    before = torch.get_rng_state()
    one = method.repair(x, mask, generator=torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    assert one.shape == x.shape
    assert 0 <= one.min() <= one.max() <= 1
    assert torch.equal(one[mask == 1], x[mask == 1])
    for hidden in (1 - x, torch.full_like(x, torch.nan)):
        blind = torch.where(mask == 1, x, hidden)
        assert torch.equal(one, method.repair(blind, mask, generator=torch.Generator().manual_seed(3)))
    other = method.repair(x, mask, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(one[mask == 0], other[mask == 0])


@pytest.mark.parametrize("name", having(Scores))
def test_scores_are_finite_per_image_and_state_their_side(name):
    method = tiny(name)
    assert isinstance(method.side, Side)
    value = method.log_prob(images(), 4)
    assert value.shape == (6,)
    assert value.isfinite().all()
    with pytest.raises(UsageError, match="num_samples must be at least 1, got 0"):
        method.log_prob(images(), 0)


@pytest.mark.parametrize("name", having(Weighs))
def test_weights_have_one_row_per_sample(name):
    weights = tiny(name).weigh(images(), 4)
    assert weights.log_w.shape == (4, 6)


@pytest.mark.parametrize("name", having(Encodes))
def test_codes_and_means(name):
    method = tiny(name)
    code = method.encode(images())
    assert code.shape[0] == 6
    if isinstance(method, Infers):
        layers = method.posterior_means(images())
        assert code.shape in {layer.shape for layer in layers}
    if isinstance(method, Decodes):
        assert method.decode(code).shape == (6, 1, 8, 8)


@pytest.mark.parametrize("name", sorted({*having(Encodes)} & {*having(Decodes)}))
def test_interpolations_lead_from_one_image_to_the_other(name):
    method, x = begun(name).eval(), images(n=6)
    torch.manual_seed(0)
    strips = interpolate(method, x[::2], x[1::2], 5)
    assert torch.equal(strips[:, 0], x[::2])
    assert torch.equal(strips[:, -1], x[1::2])
    torch.manual_seed(0)
    middle = (method.encode(x[::2]) + method.encode(x[1::2])) / 2
    torch.testing.assert_close(strips[:, 2], method.decode(middle))


@pytest.mark.parametrize("name", having(Classifies))
def test_classes_have_probabilities(name):
    method = begun(name).eval()
    log_p = method.classify(images())
    assert log_p.shape[0] == 6
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(6))


@pytest.mark.parametrize("name", having(ClassifiesCodes))
def test_codes_alone_have_classes(name):
    method = begun(name).eval()
    prior, posterior = method.believe(images())
    for z in (posterior.sample((4,)), prior.sample((4, 6))):
        log_p = method.classify_codes(z)
        assert log_p.shape[:2] == (4, 6)
        torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(4, 6))


@pytest.mark.parametrize("name", having(Conditions))
def test_an_image_per_class_asked_for(name):
    method, y = begun(name).eval(), torch.tensor([2, 0, 1, 1])
    one, two = (method.sample_given(y, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (4, 1, 8, 8)
    assert 0 <= one.min() <= one.max() <= 1


@pytest.mark.parametrize("name", having(Reconstructs))
def test_reconstructions_are_deterministic_images(name):
    method = tiny(name)
    x = images()
    one, two = method.reconstruct(x), method.reconstruct(x)
    assert torch.equal(one, two)
    assert one.shape == x.shape
    assert one.isfinite().all()
    assert name in LINEAR or 0 <= one.min() <= one.max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_hub_round_trip_is_bitwise(name, tmp_path):
    method = tiny(name)
    save_pretrained(method, tmp_path / "model")
    loaded = from_pretrained(tmp_path / "model")
    assert type(loaded) is type(method)
    assert not loaded.training
    one, two = (
        {name: value for name, value in state(m).items() if name not in m.unpublished}
        for m in (method, loaded)
    )
    assert one
    assert same(one, two)
    assert dict(loaded.hparams_initial) == dict(method.hparams_initial)
    if isinstance(method, Samples):
        draws = [m.sample(4, generator=torch.Generator().manual_seed(0)) for m in (method, loaded)]
        assert torch.equal(*draws)


@pytest.mark.parametrize("name", ALL)
def test_looking_never_changes_training(name, digits):
    """Validation every epoch, or never: the same weights."""
    weights = []
    for limit in (0, 1.0):
        method = tiny(name)
        data = suited_digits(method)
        trainer(max_epochs=2, limit_val_batches=limit, limit_train_batches=3).fit(method, datamodule=data)
        weights.append(state(method))
    assert same(*weights)


@pytest.mark.parametrize("name", ALL)
def test_learns_in_bf16_mixed(name):
    method = begun(name)
    before = state(method)
    trainer(precision="bf16-mixed", limit_train_batches=3).fit(method, datamodule=suited_digits(method))
    after = state(method)
    assert not same(before, after)
    assert all(value.isfinite().all() for value in after.values())
    assert all(value.dtype == before[key].dtype for key, value in after.items())
    assert all(p.dtype == torch.float32 for p in method.parameters())


@pytest.mark.parametrize("name", ALL)
def test_evaluator_reports_only_what_the_method_can_do(name, tmp_path):
    method = tiny(name)
    evaluator = Evaluator(num_samples=3, out=str(tmp_path / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=suited_digits(method), verbose=False)
    results = evaluator.results
    assert results is not None
    assert ("test/elbo" in results.numbers) == isinstance(method, Weighs)
    assert ("test/reconstruction_error" in results.numbers) == isinstance(method, Reconstructs)
    assert all(key in results.data for key in ("protocol", "test_sha256"))


def test_all_methods_on_two_processes(two_processes):
    """Equal state on both, but for what is declared or batch norms keep."""
    learnt = {name: values for name, *values in map(str.split, two_processes("methods"))}
    for name in ALL:
        assert learnt[name] == ["0.0", "0.0"], f"{name} has another state on the second process"


@pytest.mark.parametrize("shape", [(), (1, 28), (1, 0, 28), (1, -1, 2)])
def test_impossible_shapes_are_refused(shape):
    for cls in (MeanByDescent, *map(zoo.method_class, ALL)):
        with pytest.raises(UsageError, match="image_shape must be three positive integers"):
            cls(image_shape=shape)
