"""The methods' settings: by name, each documented, one meaning per name; and names of things in general."""

import ast
import inspect
import json
import re
from collections import defaultdict

import pytest
import torch
from support import ROOT, suited_digits, tiny, trainer

import zoo
from zoo import from_pretrained
from zoo.contract import Emits, Walks
from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.hub import seal
from zoo.methods.energy.shared.contrastive import Pace
from zoo.methods.energy.shared.greedy import Plan

METHODS = sorted(zoo.METHODS)
ROOMS = ("contract", "parts", "methods")


def settings(name: str) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(zoo.method_class(name).__init__).parameters)
    del parameters["self"]
    return parameters


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_given_by_name_after_the_shape(name):
    (first, shape), *rest = settings(name).items()
    assert (first, shape.kind) == ("image_shape", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert {p.kind for _, p in rest} == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError, match="positional"):
        zoo.method_class(name)((1, 8, 8), 3)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_documented_in_its_place_and_kept_for_the_checkpoint(name):
    text = inspect.getdoc(zoo.method_class(name))
    arguments = text.split("Args:\n")[1].split("\nRaises:")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == list(settings(name))
    assert list(tiny(name).hparams_initial) == list(settings(name))


def test_a_name_has_one_type_over_all_methods():
    kinds = defaultdict(set)
    for name in METHODS:
        for setting, parameter in settings(name).items():
            kind = str(parameter.annotation)
            kinds[setting].add("choice" if kind.startswith("typing.Literal") else kind)
    many = {name: types for name, types in kinds.items() if len(types) > 1}
    assert many == {
        "latent_dim": {"<class 'int'>", "int | None"},  # null: PCA validates
        "momentum_epochs": {"<class 'int'>", "<class 'float'>"},  # whole ones, or a rise over fractions
        "pretrain_epochs": {"<class 'int'>", "tuple[int, ...]"},  # of each layer: the same, or their own
    }


@pytest.mark.parametrize("name", [name for name in METHODS if "lr_schedule" in settings(name)])
def test_lr_final_is_a_step_size_and_lr_final_share_a_share_of_it(name):
    names = settings(name).keys() & {"lr_final", "lr_final_share"}
    assert len(names) <= 1
    if not names:
        return
    method = tiny(name, lr_schedule="cosine", lr=0.02, **dict.fromkeys(names, 0.001))
    data = suited_digits(method)
    data.setup()
    method.trainer = trainer(max_epochs=7)
    method.start_from(data)
    chosen = method.configure_optimizers()
    scheduler, groups = chosen["lr_scheduler"], chosen["optimizer"].param_groups
    first = [group["lr"] for group in groups]
    factor = scheduler.lr_lambdas[0](7)
    for group, lr in zip(groups, first, strict=True):
        assert group["initial_lr"] == lr
    if names == {"lr_final"}:
        assert [lr * factor for lr in first] == pytest.approx([0.001] * len(first))
    else:
        assert factor == pytest.approx(0.001)


@pytest.mark.parametrize(("name", "old"), [("RBM", "sample_steps"), ("GLO", "lr_final")])
def test_a_folder_with_a_setting_that_is_not_there_is_refused_in_one_line(name, old, tmp_path):
    folder = save_pretrained(tiny(name), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    config["init_args"][old] = 1
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder)
    with pytest.raises(UsageError, match=f"do not fit {name}: .*'{old}'"):
        from_pretrained(folder)


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(zoo.method_class(name), Walks)])
def test_a_sample_is_the_last_state_of_a_walk(name):
    method = tiny(name).eval()
    walk = list(method.walk(3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(method.sample(3, generator=torch.Generator().manual_seed(1)), walk[-1])
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in walk)


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(zoo.method_class(name), Emits)])
def test_no_method_writes_again_what_its_capability_gives(name):
    own = vars(zoo.method_class(name))
    assert "sample" not in own
    assert "walk" not in own or name in ("DAE", "GSN")  # these emit after their walk


@pytest.mark.parametrize("name", ["RBM", "DBN", "LabelDBN"])
def test_grouped_settings_arrive_under_their_own_names(name):
    values = {"lr": 0.2, "weight_decay": 0.3, "momentum": 0.4, "momentum_final": 0.6, "momentum_epochs": 7}
    values |= {"lr_schedule": "linear", "gibbs_steps": 3, "lengthen_every": 4}
    if name != "RBM":
        values |= {"pretrain_epochs": (2, 5, 6), "updown_steps": (8, 9), "updown_lr": 0.7}
        values |= {"hidden_dims": (7, 64, 7), "start": "transposed"}
    method = tiny(name, **values)
    fields = {*Pace._fields, *(Plan._fields if name != "RBM" else ("gibbs_steps", "lengthen_every"))}
    assert fields <= values.keys()
    assert {field: getattr(method, field) for field in fields} == {field: values[field] for field in fields}


def test_no_two_classes_or_constants_of_the_ground_share_a_name():
    places = defaultdict(set)
    for path in (p for room in ROOMS for p in (ROOT / "zoo" / room).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = {
                n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)
            }
            names |= {node.name} if isinstance(node, ast.ClassDef) else set()
            names = {n for n in names if not n.startswith("_")}
            for found in names:
                places[found].add(path.name)
    assert {found for found, where in places.items() if len(where) > 1} == set()
