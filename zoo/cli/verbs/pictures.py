"""The verbs that make pictures of a saved method and images of its test split."""

import os
import sys
from typing import Any, Literal

from zoo.errors import UsageError, require


def sample(
    model: str,
    n: int = 64,
    seed: int = 0,
    out: str | None = None,
    film: bool = False,
    frames: int = 60,
    revision: str | None = None,
    code: str | None = None,
) -> None:
    """Draw images from a saved model.

    Args:
        model: A slug (`vae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many images.
        seed: Seed of the draw.
        out: A .png (one grid) or .safetensors (tensor `images`, [n, C, H, W] in [0, 1]); of a film, a .gif or
            an animated .png. By default samples.png or film.gif.
        film: Show the Markov chains on their way to the images.
        frames: Most frames of a film, evenly spaced over the chains' steps.
        revision: Branch, tag or commit on the Hub.
        code: Class of a method of your own, such as `mypackage.mymethod.MyMethod`; it is imported.
    """
    out = out or ("film.gif" if film else "samples.png")
    suffix = os.path.splitext(out)[1]
    kinds = (".gif", ".png") if film else (".png", ".safetensors")
    require(suffix in kinds, f"out must end in {' or '.join(kinds)}, got {out!r}")
    require(n >= 1, f"n must be at least 1, got {n}")
    require(frames >= 1, f"frames must be at least 1, got {frames}")
    require(seed >= 0, f"seed must not be negative, got {seed}")

    import torch

    from zoo.contract.capabilities import Samples, Walks
    from zoo.hub import model_folder
    from zoo.methods import from_folder, own_class

    method = from_folder(model_folder(model, revision), own_class(code) if code else None)
    name, columns = type(method).__name__, max(1, round(n**0.5))
    generator = torch.Generator().manual_seed(seed)
    if film:
        from zoo.pictures.grids import save_film

        if not isinstance(method, Walks):
            raise UsageError(f"{name} has no chain to film")
        save_film(method.walk(n, generator=generator), out, columns, frames)
        sys.stdout.write(f"film of {n} chains: {out}\n")
        return
    if not isinstance(method, Samples):
        raise UsageError(f"{name} does not sample")
    images = method.sample(n, generator=generator)
    if suffix == ".png":
        from zoo.pictures.grids import save_grid

        save_grid(images, out, columns)
    else:
        from safetensors.torch import save

        from zoo.files import write_bytes

        write_bytes(out, save({"images": images.contiguous()}))
    sys.stdout.write(f"{n} images: {out}\n")


def repair(
    model: str,
    hidden: Literal["left", "right", "top", "bottom", "border"] = "bottom",
    n: int = 10,
    seed: int = 0,
    out: str = "repaired.png",
    revision: str | None = None,
    code: str | None = None,
) -> None:
    """Fill in the hidden part of test images; shows them, what is known, and what is made of it.

    Args:
        model: A slug (`dae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        hidden: The part that is hidden.
        n: How many images.
        seed: Seed of the repair.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
        code: Class of a method of your own, such as `mypackage.mymethod.MyMethod`; it is imported.
    """
    import torch

    from zoo.contract.capabilities import Repairs
    from zoo.pictures.walks import mask

    method, data = _loaded(model, revision, out, n, code)
    if not isinstance(method, Repairs):
        raise UsageError(f"{type(method).__name__} does not repair")
    x = data.split("test", n).x
    known = mask(data.image_shape, hidden).expand_as(x)
    repaired = method.repair(x, known, generator=torch.Generator().manual_seed(seed))
    _write(torch.cat((x, torch.where(known.bool(), x, 0.5), repaired)), out, len(x))


def interpolate(
    model: str,
    n: int = 10,
    steps: int = 10,
    out: str = "interpolations.png",
    revision: str | None = None,
    code: str | None = None,
) -> None:
    """Walk from test images to others through codes.

    Args:
        model: A slug (`vae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many walks.
        steps: Images per walk.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
        code: Class of a method of your own, such as `mypackage.mymethod.MyMethod`; it is imported.
    """
    from zoo.pictures.walks import interpolate, paired

    method, data = _loaded(model, revision, out, n, code)
    first, second = paired(data.split("test", 2 * n).x)
    _write(interpolate(method, first, second, steps).flatten(0, 1), out, steps)


def traverse(
    model: str,
    n: int = 10,
    steps: int = 10,
    span: float = 2.0,
    out: str = "traversals.png",
    revision: str | None = None,
    code: str | None = None,
) -> None:
    """Walk along the principal directions of the test images' codes.

    Args:
        model: A slug (`vae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many directions.
        steps: Images per direction.
        span: How far each way, in standard deviations.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
        code: Class of a method of your own, such as `mypackage.mymethod.MyMethod`; it is imported.
    """
    from zoo.pictures.walks import CODES, traverse

    method, data = _loaded(model, revision, out, n, code)
    x = data.split("test", CODES).x
    _write(traverse(method, x, n, steps, span).flatten(0, 1), out, steps)


def nearest(
    model: str,
    n: int = 10,
    seed: int = 0,
    out: str = "nearest.png",
    revision: str | None = None,
    code: str | None = None,
) -> None:
    """Show samples, and below each its nearest training image.

    Args:
        model: A slug (`gan-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many samples.
        seed: Seed of the draw.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
        code: Class of a method of your own, such as `mypackage.mymethod.MyMethod`; it is imported.
    """
    import torch

    from zoo.pictures.walks import with_nearest

    method, data = _loaded(model, revision, out, n, code)
    images, found, distances = with_nearest(method, data, n, seed)
    _write(torch.cat((images, found)), out, n)
    sys.stdout.write("distances: " + " ".join(f"{distance:.2f}" for distance in distances.tolist()) + "\n")


def map_(
    model: str,
    n: int = 2000,
    out: str = "map.png",
    revision: str | None = None,
    code: str | None = None,
) -> None:
    """Show test images as points in the plane of their codes, coloured by label.

    Args:
        model: A slug (`deep-autoencoder-2d-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many images.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
        code: Class of a method of your own, such as `mypackage.mymethod.MyMethod`; it is imported.
    """
    from zoo.files import atomic
    from zoo.pictures.walks import code_map

    method, data = _loaded(model, revision, out, n, code)
    with atomic(out) as temporary:
        code_map(method, data, n).save(temporary, format="PNG")
    sys.stdout.write(f"{min(n, len(data.images('test')))} points: {out}\n")


def tree(
    model: str,
    out: str = "tree.png",
    revision: str | None = None,
    code: str | None = None,
) -> None:
    """Show the tree into which a model groups images, each node by what it stands for.

    Args:
        model: A slug (`ncrp-vae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
        code: Class of a method of your own, such as `mypackage.mymethod.MyMethod`; it is imported.
    """
    require(out.endswith(".png"), f"out must end in .png, got {out!r}")
    from zoo.contract.capabilities import Nests
    from zoo.hub import model_folder
    from zoo.methods import from_folder, own_class
    from zoo.pictures.trees import save_tree

    method = from_folder(model_folder(model, revision), own_class(code) if code else None)
    if not isinstance(method, Nests):
        raise UsageError(f"{type(method).__name__} has no tree")
    nodes = save_tree(method, out)
    sys.stdout.write(f"tree of {nodes} nodes: {out}\n")


def _loaded(model: str, revision: str | None, out: str, n: int, code: str | None) -> tuple[Any, Any]:
    require(out.endswith(".png"), f"out must end in .png, got {out!r}")
    require(n >= 1, f"n must be at least 1, got {n}")
    from zoo.hub import model_folder
    from zoo.methods import own_class
    from zoo.publishing.opened import opened

    return opened(model_folder(model, revision), own_class(code) if code else None)


def _write(images: Any, out: str, columns: int) -> None:
    from zoo.pictures.grids import save_grid

    save_grid(images, out, columns)
    sys.stdout.write(f"{len(images)} images: {out}\n")
