"""Models by their classes: saved, loaded, pushed and pulled, by the names that users of the Hub type."""

import json

import pytest
from support import having, tiny, trainer

import zoo
from zoo.contract.saved import weights_sha256
from zoo.data import Digits
from zoo.errors import UsageError
from zoo.hub import CONFIG


def test_a_class_loads_what_it_saved_and_refuses_what_another_did(tmp_path):
    folder = tiny("VAE").save_pretrained(tmp_path / "model")
    assert type(zoo.VAE.from_pretrained(folder)) is zoo.VAE
    with pytest.raises(UsageError, match="must be GAN to load it, got 'VAE'"):
        zoo.GAN.from_pretrained(folder)
    assert weights_sha256(zoo.VAE.from_pretrained("vae-digits")) == weights_sha256(
        zoo.from_pretrained("vae-digits")
    )


def test_what_is_saved_names_the_data_that_it_learned_from(tmp_path):
    method = tiny("VAE")
    method.save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / CONFIG).read_text())["data"] is None
    trainer(limit_train_batches=1, limit_val_batches=0).fit(method, datamodule=Digits(batch_size=20))
    folder = method.save_pretrained(tmp_path / "model")
    again = zoo.VAE.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for place in (folder, again):
        assert json.loads((place / CONFIG).read_text())["data"]["init_args"]["batch_size"] == 20


def test_the_folder_of_a_run_is_that_of_its_model(tmp_path):
    method = tiny("VAE")
    method.save_pretrained(tmp_path / "version_0/model")
    assert weights_sha256(zoo.from_pretrained(tmp_path / "version_0")) == weights_sha256(method)


def test_a_revision_of_a_slug_asks_for_an_owner(monkeypatch):
    monkeypatch.delenv("ZOO_HUB_ORG", raising=False)
    with pytest.raises(UsageError, match="revision belongs to a Hub repository: name it owner/vae-digits"):
        zoo.from_pretrained("vae-digits", revision="main")


def test_the_front_door_shows_methods_and_not_what_it_is_made_of():
    shown = dir(zoo)
    assert {"VAE", "GAN", "from_pretrained", "list_models"} <= set(shown)
    assert not {"Any", "Path", "TYPE_CHECKING", "Unpack"} & set(shown)
    assert all(getattr(zoo, name) is not None for name in shown)


@pytest.mark.parametrize("name", sorted(having(object)))
def test_every_method_has_the_verbs(name):
    kind = zoo.method_class(name)
    assert all(
        callable(getattr(kind, verb)) for verb in ("from_pretrained", "save_pretrained", "push_to_hub")
    )
