"""The data sets by name, and what is trained on one's own pictures."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.data.decoding import BACKGROUND, Encoded, colour
from zoo.data.facts import OWN, Facts
from zoo.data.folders import FolderSource
from zoo.data.modules import Binarize, ImageData
from zoo.data.repositories import HubSource
from zoo.data.sources import DigitsSource, Source
from zoo.data.toys import Heartbeat, Plane, SwissRoll
from zoo.errors import UsageError, require

FREY_BLOCK, FREY_TEST = 131, 5
"""Frames of a block (a fifteenth of the film), and of how many blocks the last one tests."""


class Digits(ImageData):
    """The 1,797 real handwritten digits of 8 x 8 pixels that come with scikit-learn; no download."""

    facts = Facts(
        name="digits",
        called="Digits",
        title="optical digits of scikit-learn (UCI)",
        licence="CC BY 4.0",
        citation="Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning "
        "Repository, 1998. doi:10.24432/C50P49",
        classes=tuple("0123456789"),
        sizes=(1438, 359),
    )

    @property
    def source(self) -> Source:
        return DigitsSource(self.pad)


class MNIST(ImageData):
    """60,000 + 10,000 handwritten digits, 28 x 28 (LeCun, Cortes, Burges)."""

    facts = Facts(
        name="mnist",
        called="MNIST",
        title="MNIST (LeCun, Cortes, Burges)",
        licence="CC BY-SA 3.0",
        hub="ylecun/mnist",
        citation="LeCun, Bottou, Bengio, Haffner. Gradient-based learning applied to document recognition. "
        "Proceedings of the IEEE 86(11), 1998. doi:10.1109/5.726791",
        classes=tuple("0123456789"),
        outliers="FashionMNIST",
        sizes=(60_000, 10_000),
    )

    @cached_property
    def source(self) -> Source:
        return HubSource(self.pad, (28, 28), True, str(self.facts.hub), in_order=True)


class FashionMNIST(ImageData):
    """60,000 + 10,000 pictures of clothes, 28 x 28 (Xiao, Rasul, Vollgraf 2017)."""

    facts = Facts(
        name="fashion_mnist",
        called="FashionMNIST",
        title="Fashion-MNIST (Xiao, Rasul, Vollgraf)",
        licence="MIT",
        hub="zalando-datasets/fashion_mnist",
        citation="Xiao, Rasul, Vollgraf. Fashion-MNIST: a novel image dataset for benchmarking machine "
        "learning algorithms. 2017. arXiv:1708.07747",
        classes=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        outliers="MNIST",
        sizes=(60_000, 10_000),
    )

    @cached_property
    def source(self) -> Source:
        return HubSource(self.pad, (28, 28), True, str(self.facts.hub), in_order=True)


class FreySource(HubSource):
    """The frames of one film, of which blocks test: neighbours are too alike to be divided at random."""

    @property
    def name(self) -> str:
        return "frey"

    def pictures(self) -> Iterator[Encoded]:
        frames = list(super().pictures())
        for split in ("train", "test"):
            for at, frame in enumerate(frames):
                tests = at // FREY_BLOCK % FREY_TEST == FREY_TEST - 1
                if tests == (split == "test"):
                    yield frame._replace(split=split)


class FreyFaces(ImageData):
    """1,965 frames of one face, 28 x 20; every fifth block of 131 tests, the last of the others validate."""

    facts = Facts(
        name="frey",
        called="FreyFaces",
        title="Frey faces (Frey, Roweis)",
        licence="for research, as distributed with the papers",
        citation="Roweis, Saul, Hinton. Global coordination of local linear models. NIPS 2001",
        sizes=(1572, 393),
    )

    @cached_property
    def source(self) -> Source:
        return FreySource(self.pad, (28, 20), True, "frey_faces", in_order=True)


class HubImages(ImageData):
    """Any image data set on the Hugging Face Hub, or under the folder in ZOO_DATA in the same layout.

    Args:
        repo_id: `owner/name` of the data set.
        size: Side, or (height, width), to which images are scaled and centre-cropped.
        grey: Reduce colour to grey.
        revision: Branch, tag or commit on the Hub.
        name: Configuration, of a data set that has several.
        background: Colour on which transparent pictures are laid: `white`, `black`, `#808080`.
        binarize: See `ImageData`; by default grey levels as they are.
        options: See `ImageData`.

    Raises:
        UsageError: If an argument is out of range.
    """

    def __init__(
        self,
        repo_id: str,
        size: int | tuple[int, int] = 32,
        grey: bool = False,
        revision: str = "main",
        name: str | None = None,
        background: str = BACKGROUND,
        binarize: Binarize = "none",
        **options,
    ) -> None:
        super().__init__(binarize, **options)
        require(repo_id.count("/") == 1, f"repo_id must read owner/name, got {repo_id!r}")
        colour(background)
        self._source = HubSource(
            self.pad, _sides(size), grey, repo_id, revision, configuration=name, background=background
        )
        self.facts = self.described({"repo_id": repo_id})

    @classmethod
    def described(cls, arguments: dict[str, Any]) -> Facts:
        repo_id = str(arguments.get("repo_id"))
        name = repo_id.rsplit("/", maxsplit=1)[-1]
        title = f"{repo_id} on the Hugging Face Hub"
        return Facts(name, called=repo_id, title=title, hub=repo_id, origin=repo_id.removesuffix(name))

    @property
    def source(self) -> Source:
        return self._source

    @property
    def read_as(self) -> str:
        return self._source.read_as

    def source_arguments(self) -> dict[str, Any]:
        source = self._source
        return {
            "repo_id": source.repo_id,
            "size": source.size,
            "grey": source.grey,
            "revision": source.revision,
            "name": source.configuration,
            "background": source.background,
        }


class ImageFolder(ImageData):
    """A folder of pictures of any size, of every kind that the installed Pillow reads.

    The folders `train` and `test`, `val` or `validation` at its top are splits where `train` stands beside
    one of the others, or alone; the folders below, or else those at the top, are labels. Hidden files and
    the folders of runs are no pictures.

    Args:
        path: The folder.
        size: Side, or (height, width), to which images are scaled and centre-cropped.
        grey: Reduce colour to grey.
        background: Colour on which transparent pictures are laid: `white`, `black`, `#808080`.
        binarize: See `ImageData`; by default grey levels as they are.
        options: See `ImageData`.

    Raises:
        UsageError: If an argument is out of range, or there is no such folder.
    """

    def __init__(
        self,
        path: str,
        size: int | tuple[int, int] = 32,
        grey: bool = False,
        background: str = BACKGROUND,
        binarize: Binarize = "none",
        **options,
    ) -> None:
        super().__init__(binarize, **options)
        require(Path(path).is_dir(), f"path must be a folder of images, got {path!r}")
        colour(background)
        self._source = FolderSource(self.pad, _sides(size), grey, path, background=background)
        self.facts = self.described({"path": path})

    @classmethod
    def described(cls, arguments: dict[str, Any]) -> Facts:
        name = Path(str(arguments.get("path"))).resolve().name
        return Facts(name, called=f"{OWN}{name}", title=f"{name}, a folder of pictures", origin=OWN)

    @property
    def source(self) -> Source:
        return self._source

    @property
    def read_as(self) -> str:
        return self._source.read_as

    def source_arguments(self) -> dict[str, Any]:
        source = self._source
        return {
            "path": source.path,
            "size": source.size,
            "grey": source.grey,
            "background": source.background,
        }


DATA: dict[str, Any] = {
    module.__name__: module
    for module in (
        Digits,
        MNIST,
        FashionMNIST,
        FreyFaces,
        Heartbeat,
        Plane,
        SwissRoll,
        HubImages,
        ImageFolder,
    )
}


def from_recipe(recipe: Any) -> ImageData:
    """The data module of a recipe: a class name of `DATA` with its arguments; nothing else is imported.

    Raises:
        UsageError: If the class is unknown or the arguments do not fit.
    """
    name, arguments = _parts(recipe)
    try:
        return DATA[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    except TypeError as error:
        raise UsageError(f"init_args of {name} do not fit: {error}") from error


def facts_of(recipe: Any) -> Facts:
    """What is known of the data of a recipe; they need not be there.

    Raises:
        UsageError: If the class is unknown.
    """
    name, arguments = _parts(recipe)
    return DATA[name].described(arguments)


def _parts(recipe: Any) -> tuple[str, dict[str, Any]]:
    try:
        name, arguments = recipe["class"], dict(recipe["init_args"])
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"data must have class and init_args, got {recipe!r}") from error
    require(name in DATA, f"data class must be one of {', '.join(sorted(DATA))}, got {name!r}")
    return name, arguments


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    require(len(sides) == 2 and min(sides) >= 1, f"size must be one or two positive integers, got {size}")
    return sides[0], sides[1]
