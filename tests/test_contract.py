"""Every method x every capability in its header, and the three ways to learn."""

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, suited_digits, tiny
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

import zoo
from zoo import from_pretrained
from zoo.contract.batch import Batch, Terms
from zoo.contract.capabilities import (
    Classifies,
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
from zoo.contract.learning import ClosedForm, Descent, Game
from zoo.contract.method import Method
from zoo.contract.saved import save_pretrained
from zoo.data.sets import Digits
from zoo.errors import NonFiniteError, UsageError
from zoo.pictures.walks import interpolate
from zoo.scores.evaluation import Evaluator

ALL = sorted(zoo.METHODS)
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
LINEAR = {"PCA"}
"""Methods whose reconstructions are projections, which may leave [0, 1]."""
EPOCHS_OF_PHASES = 4
"""In so many epochs the tiny methods have gone through all of their phases."""


def having(capability: type) -> list[str]:
    return [name for name in ALL if issubclass(zoo.method_class(name), capability)]


def trainer(**options) -> Trainer:
    settings = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "inference_mode": False,
    }
    return Trainer(**settings | options)


def images(shape=(1, 8, 8), n=6) -> torch.Tensor:
    return (torch.rand(n, *shape) < 0.3).float()


def batch(shape=(1, 8, 8), n=6) -> Batch:
    return Batch(images(shape, n), torch.arange(n) % 3, torch.arange(n))


class Handful:
    """What a method may ask of the data before a fit, of six images."""

    def __init__(self, shape) -> None:
        self.x = images(shape)

    def originals(self, split):
        return (255 * self.x).byte()

    def mean_image(self):
        return self.x.mean(0)

    def split(self, name):
        return batch(self.x.shape[1:])


def begun(name: str, shape=(1, 8, 8), **options) -> Method:
    """A tiny instance that has seen its data, as before its first step."""
    method = tiny(name, shape, **options)
    method.start_from(Handful(shape))
    return method


def state(method: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


def lasting(method: Method) -> dict[str, torch.Tensor]:
    """The state, in training mode without what batch norms keep of the last batches."""
    if not method.training:
        return state(method)
    norms = [
        name for name, part in method.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    fleeting = {f"{norm}.{name}" for norm in norms for name, _ in method.get_submodule(norm).named_buffers()}
    return {name: value for name, value in state(method).items() if name not in fleeting}


class Repeated:
    """A loader of one batch, again and again, for shapes of which there are no data."""

    def __init__(self, batch: Batch, times: int = 1) -> None:
        self.batches = [batch] * times

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


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


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_every_method_has_tiny_settings_and_is_final():
    assert sorted(TINY) == ALL
    for name in ALL:
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
def test_every_parameter_has_one_player_and_its_gradient_reaches_it(name, shape, precision):
    """Of every shape, in mixed precision too; while one player steps, no other may have a gradient."""
    method = tiny(name, shape)
    watch = Watch()
    loader = Repeated(batch(shape), 3)
    trainer(callbacks=[watch], precision=precision).fit(method, loader, loader)
    players = {
        who: {key for key, p in method.named_parameters() if any(p is q for q in net.parameters())}
        for who, net in method.players().items()
    }
    assert sorted(key for keys in players.values() for key in keys) == sorted(watch.learnt)
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
            nets = [net for who, net in self.players().items() if who != player]
            return [(p, p.detach().clone(), p.grad) for net in nets for p in net.parameters()]

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
    trainer(limit_train_batches=2).fit(method, datamodule=suited_digits(method))
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
        assert layers[-1].shape == code.shape
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


# The three ways to learn, each proved by the smallest method there is.


class MeanByDescent(Descent, Samples):
    """Learns the mean image by least squares."""

    paper = "Least squares."

    def __init__(self, image_shape=(1, 8, 8), lr: float = 0.5) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.lr = lr
        self.mean = nn.Parameter(torch.zeros(self.image_shape))

    def loss(self, batch: Batch) -> Terms:
        distance = (batch.x - self.mean).square().flatten(1).sum(1)
        return {"loss": distance, "distance": distance}

    def sample(self, n, *, generator=None):
        return self.mean.detach().clamp(0, 1).expand(n, *self.image_shape)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class MatchingMeans(Game):
    """Player `left` descends (left - right)^2, player `right` (right - mean)^2: a game with one answer."""

    paper = "A game."

    def __init__(self, image_shape=(1, 8, 8), clip: float | None = None) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.clip = clip
        self.left, self.right = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.seen: list[tuple[bool, bool]] = []

    def players(self):
        return {"left": self.left, "right": self.right}

    def left_loss(self, target):
        return {"loss": (self.left.weight - self.right.weight).square().sum() + 0 * target}

    def right_loss(self, target):
        return {"loss": (self.right.weight + 0 * self.left.weight - target).square().sum()}

    def training_step(self, batch, batch_idx):
        before = self.left.weight.detach().clone()
        self.descend("right", self.right_loss, batch.x.mean(), clip=self.clip)
        self.seen.append((torch.equal(before, self.left.weight), self.left.weight.grad is None))
        self.descend("left", self.left_loss, batch.x.mean(), clip=self.clip)

    def configure_optimizers(self):
        return [torch.optim.SGD(player.parameters(), 0.2) for player in self.players().values()]


class MeanInOnePass(ClosedForm):
    """The mean image, exactly."""

    paper = "Arithmetic."

    def __init__(self, image_shape=(1, 8, 8)) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.register_buffer("total", torch.zeros(self.image_shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.mean = nn.Parameter(torch.zeros(self.image_shape, dtype=torch.float64))

    def statistics(self):
        return [self.total, self.count]

    def absorb(self, batch):
        self.total += batch.x.double().sum(0)
        self.count += len(batch.x)

    def settle(self):
        self.mean.copy_(self.total / self.count)
        return {"train/count": self.count}


def test_a_descent_descends(digits):
    method = MeanByDescent(lr=0.1)
    trainer(max_epochs=8).fit(method, datamodule=Digits(binarize="none"))
    expected = Digits(binarize="none").mean_image()
    assert (method.mean - expected).abs().max() < 0.1
    assert float(method.trainer.callback_metrics["val/distance"]) < 10


def test_a_game_moves_one_player_at_a_time_and_reaches_its_answer():
    method = MatchingMeans()
    trainer(max_epochs=2).fit(method, datamodule=Digits(binarize="none"))
    assert all(unmoved for unmoved, _ in method.seen)
    assert method.seen[0] == (True, True)
    mean = float(Digits(binarize="none").mean_image().mean())
    assert method.right.weight.item() == pytest.approx(mean, abs=0.02)
    assert method.left.weight.item() == pytest.approx(mean, abs=0.05)
    assert all(p.requires_grad for p in method.parameters())
    metrics = method.trainer.callback_metrics
    assert {"train/left_loss", "train/right_loss"} <= metrics.keys()


class Halving(Game):
    """Player `one` halves its weight's distance to 1 three times a round; `two` looks on, then learns it."""

    paper = "A game of mixed precision."

    def __init__(self, image_shape=(1, 8, 8)) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def players(self):
        return {"one": self.one, "two": self.two}

    def training_step(self, batch, batch_idx):
        x = torch.ones(1, 1, device=self.device)
        with torch.no_grad():
            self.two(x), self.one(x)
        for _ in range(3):
            self.descend("one", lambda: {"loss": (self.one(x).float() - 1).square()})
        self.descend("two", lambda: {"loss": (self.two(x) - self.one(x).detach()).float().square()})

    def configure_optimizers(self):
        return [torch.optim.SGD(player.parameters(), 0.25) for player in self.players().values()]


def test_a_game_in_mixed_precision_sees_every_step_and_learns_what_was_looked_at_without_gradient():
    """Autocast keeps low-precision copies of weights until the step ends: stale ones, or without gradient."""
    method = Halving()
    with torch.no_grad():
        method.one.weight.fill_(0.0)
        method.two.weight.fill_(0.0)
    loader = Repeated(batch())
    trainer(precision="bf16-mixed").fit(method, loader, loader)
    assert method.one.weight.item() == pytest.approx(7 / 8, abs=0.01)
    assert method.two.weight.item() == pytest.approx(7 / 16, abs=0.01)


def test_a_game_clips_the_gradient_norm():
    method = MatchingMeans(clip=1e-3)
    start = method.right.weight.item()
    trainer(limit_train_batches=1).fit(method, datamodule=Digits())
    assert 0 < abs(method.right.weight.item() - start) <= 0.2 * 1e-3 * 1.01


def test_a_closed_form_is_exact_after_one_pass_however_many_epochs_are_asked_for():
    method = MeanInOnePass()
    data = Digits(binarize="none")
    trainer(max_epochs=5).fit(method, datamodule=data)
    assert int(method.count) == len(data.split("train").y)
    assert int(method.trainer.callback_metrics["train/count"]) == len(data.split("train").y)
    assert method.trainer.current_epoch == 1
    assert torch.allclose(method.mean, data.split("train").x.double().mean(0), atol=1e-12)


def test_a_closed_form_of_many_passes_forgets_the_last_one_at_the_start_of_the_next(monkeypatch):
    monkeypatch.setattr(MeanInOnePass, "passes", None)
    method = MeanInOnePass()
    data = Digits(binarize="none")
    trainer(max_epochs=3).fit(method, datamodule=data)
    assert int(method.count) == len(data.split("train").y)
    assert method.trainer.current_epoch == 3


def test_all_methods_on_two_processes():
    """Equal state on both, but for what is declared or batch norms keep; for the closed form sums of both."""
    script = Path(__file__).parent / "two_processes.py"
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    learnt = {name: values for name, *values in map(str.split, result.stdout.splitlines())}
    mean = Digits(binarize="none").mean_image().mean().item()
    for cls in (MeanByDescent, MatchingMeans, MeanInOnePass):
        one, two = learnt[cls.__name__]
        assert one == two
        assert float(one) == pytest.approx(mean, abs=0.02)
    for name in ALL:
        assert learnt[name] == ["0.0", "0.0"], f"{name} has another state on the second process"


def test_epochs_are_counted_in_batches_for_a_game_with_two_optimizers():
    method = MatchingMeans()
    trainer(max_epochs=2).fit(method, datamodule=Digits())
    assert method.epochs_done == pytest.approx(2.0)


@pytest.mark.parametrize("cls", [MeanByDescent, MatchingMeans])
def test_a_term_that_is_not_finite_stops_the_run_with_its_name_and_batch(cls):
    method = cls()
    with torch.no_grad():
        next(iter(method.parameters())).fill_(float("nan"))
    before = state(copy.deepcopy(method))
    with pytest.raises(NonFiniteError, match=r"loss = nan.* at batch 0 \(epoch 0\)"):
        trainer().fit(method, datamodule=Digits())
    assert torch.equal(
        torch.stack([v.isnan().all() for v in before.values()]),
        torch.stack([v.isnan().all() for v in method.state_dict().values()]),
    )


@pytest.mark.parametrize("shape", [(), (1, 28), (1, 0, 28), (1, -1, 2)])
def test_impossible_shapes_are_refused(shape):
    for cls in (MeanByDescent, *map(zoo.method_class, ALL)):
        with pytest.raises(UsageError, match="image_shape must be three positive integers"):
            cls(image_shape=shape)


def test_a_method_refuses_pixels_it_cannot_score():
    assert not issubclass(Method, Samples)
    with pytest.raises(UsageError, match="VAE needs binary pixels, the data are real"):
        trainer().fit(tiny("VAE"), datamodule=Digits(binarize="none"))
    with pytest.raises(UsageError, match="VAE needs deq pixels, the data are real"):
        trainer().fit(tiny("VAE", likelihood="gaussian_learned"), datamodule=Digits(binarize="none"))
    with pytest.raises(UsageError, match=r"image_shape must match the data: VAE has \(1, 9, 9\)"):
        trainer().fit(tiny("VAE", (1, 9, 9)), datamodule=Digits())
