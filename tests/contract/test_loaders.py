"""Plain loaders: what is taken as a batch, how methods start and learn from it, and what is refused."""

import pytest
import torch
from support import suited_digits, tiny, trainer
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.contract.batch import Batch
from zoo.contract.loaders import LoadedImages, as_batch
from zoo.contract.saved import save_pretrained
from zoo.data.sets import Digits
from zoo.errors import UsageError

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([3, 0, 1, 3])
BYTES = (X * 255).byte()
TAKEN = {
    "images": (X, X, None),
    "images without a channel": (X[:, 0], X, None),
    "images alone in a list": ([X], X, None),
    "images and labels": ([X, Y], X, Y),
    "a tuple": ((X, Y.int()), X, Y),
    "a dict": ({"image": X, "label": Y}, X, Y),
    "a dict of another habit": ({"pixel_values": X, "labels": Y, "id": "a"}, X, Y),
    "bytes": ((BYTES, Y), BYTES.float() / 255, Y),
    "half precision": (X.half(), X.half().float(), None),
}


@pytest.mark.parametrize("what", TAKEN)
def test_habits_are_taken(what):
    found, x, y = TAKEN[what]
    batch = as_batch(found)
    assert batch.x.dtype == torch.float32
    torch.testing.assert_close(batch.x, x, atol=0, rtol=0)
    assert batch.y.tolist() == ([-1] * 4 if y is None else y.tolist())
    assert batch.row.tolist() == [-1] * 4


def test_a_batch_stays_as_it_is():
    batch = Batch(X, Y, torch.arange(4))
    assert as_batch(batch) is batch


REFUSED = {
    "a string": ("cat", "a batch must be images, images and labels, or a dict with an image, got 'cat'"),
    "three things": ([X, Y, Y], "a batch must be images, .* got list of 3"),
    "a dict without images": ({"text": 1}, "a batch must have images as image, .* got text"),
    "a picture": ([X[0, 0], Y], r"must be \[B, C, H, W\], got shape \(8, 8\)"),
    "no images": (X[:0], r"must be \[B, C, H, W\], got shape \(0, 1, 8, 8\)"),
    "numbers from -1 to 1": (2 * X - 1, r"pixels must lie in \[0, 1\], got -0\.9\d* to"),
    "numbers up to 255": (X * 255, r"pixels must lie in \[0, 1\], got .* to 25"),
    "no numbers": (X / 0 * 0, r"pixels must lie in \[0, 1\], got nan to nan"),
    "integers": (BYTES.long(), "must be floats or bytes, got torch.int64"),
    "a list of pictures": ([list(X), Y], "must be a tensor, got list"),
    "labels of another number": (
        [X, Y[:3]],
        r"must be 4 integers, got torch.int64 of shape \(3,\)",
    ),
    "labels that are no integers": (
        [X, Y.float()],
        "must be 4 integers, got torch.float32",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_taken_is_refused_in_one_line(what):
    found, message = REFUSED[what]
    with pytest.raises(UsageError, match=message):
        as_batch(found)


def loader(x: torch.Tensor, y: torch.Tensor | None = None, batch_size: int = 50) -> DataLoader:
    return DataLoader(TensorDataset(x, *(() if y is None else (y,))), batch_size=batch_size)


def test_a_loader_tells_what_a_data_module_tells():
    data = Digits(binarize="none", num_validation=0)
    x, y, _ = data.split("train")
    found = LoadedImages(loader(x, y))
    torch.testing.assert_close(found.mean_image(), data.mean_image())
    assert torch.equal(found.images("train"), data.originals("train"))
    assert torch.equal(found.split("train", 7).y, y[:7])
    assert torch.equal(found.split("train", torch.tensor([5, 2])).x, x[[5, 2]])
    assert (found.batch_size, len(found.images("train"))) == (50, len(x))


def test_a_loader_without_batches_is_refused():
    with pytest.raises(UsageError, match="the training loader must have at least one batch"):
        LoadedImages(loader(X[:0])).mean_image()


@pytest.mark.parametrize("name", ["VAE", "PCA", "RBM", "GAN", "Diffusion", "VIB", "VAEDGP", "DAE", "SBM2"])
def test_a_method_learns_from_a_plain_loader_as_from_a_data_module(name):
    """The start is the same: the first look at the same images, in the same order, has the same terms."""
    method = tiny(name)
    data = suited_digits(method)
    x, y, _ = data.split("train")
    trainer(max_epochs=1, limit_train_batches=3).fit(method, loader(x, y), loader(x[:10], y[:10]))
    assert method.train_seconds >= 0
    if hasattr(method, "mean_image"):
        torch.testing.assert_close(method.mean_image, data.mean_image(), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["VaDE", "NCRPVAE", "DBN", "GLO", "Hopfield"])
def test_what_asks_for_rows_refuses_a_plain_loader(name):
    method = tiny(name)
    x = suited_digits(method).split("train").x
    with pytest.raises(UsageError, match="by their rows: fit it with a data module"):
        trainer(max_epochs=1).fit(method, loader(x), loader(x))


def test_grey_levels_are_refused_where_0_and_1_are_needed():
    with pytest.raises(UsageError, match="Helmholtz needs pixels of 0 and 1, the loader has grey levels"):
        trainer(max_epochs=1).fit(tiny("Helmholtz"), loader(X), loader(X))
    with pytest.raises(UsageError, match=r"VAE has \(1, 8, 8\), the loader \(1, 4, 8\)"):
        trainer(max_epochs=1).fit(tiny("VAE"), loader(X[:, :, :4].round()), loader(X[:, :, :4].round()))


def test_a_loaded_method_learns_in_train_mode_and_is_tested_on_a_plain_loader(tmp_path):
    method = zoo.from_pretrained(save_pretrained(tiny("VAE"), tmp_path / "model"))
    assert not method.training
    seen = []
    original, method.loss = method.loss, lambda batch: (seen.append(method.training), original(batch))[1]
    binary = X.round()
    trainer(max_epochs=1).fit(method, loader(binary), loader(binary))
    assert seen == [False, True, False]  # the sanity check, the batch, the validation
    (found,) = trainer().test(method, loader(binary), verbose=False)
    assert found.keys() >= {"test/loss", "test/elbo"}
    assert found["test/loss"] == pytest.approx(-found["test/elbo"], abs=1e-4)
