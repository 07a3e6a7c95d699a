"""The data sets by name, and what is trained on one's own pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.facts import Facts
from zoo.data.modules import ImageData
from zoo.data.sources import DigitsSource, FolderSource, HubSource, Source
from zoo.data.toys import Heartbeat, SwissRoll
from zoo.errors import UsageError, require


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

    @property
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

    @property
    def source(self) -> Source:
        return HubSource(self.pad, (28, 28), True, str(self.facts.hub), in_order=True)


class HubImages(ImageData):
    """Any image data set on the Hugging Face Hub, or under the folder in ZOO_DATA in the same layout.

    Args:
        repo_id: `owner/name` of the data set.
        size: Side, or (height, width), to which images are scaled and centre-cropped.
        grey: Reduce colour to grey.
        revision: Branch, tag or commit on the Hub.
        options: See `ImageData`.
    """

    def __init__(
        self,
        repo_id: str,
        size: int | tuple[int, int] = 32,
        grey: bool = False,
        revision: str = "main",
        **options,
    ) -> None:
        super().__init__(**options)
        require(repo_id.count("/") == 1, f"repo_id must read owner/name, got {repo_id!r}")
        self._source = HubSource(self.pad, _sides(size), grey, repo_id, revision)
        self.facts = self.described({"repo_id": repo_id})

    @classmethod
    def described(cls, arguments: dict[str, Any]) -> Facts:
        repo_id = str(arguments.get("repo_id"))
        name = repo_id.rsplit("/", maxsplit=1)[-1]
        return Facts(name=name, called=name, title=f"{repo_id} on the Hugging Face Hub", hub=repo_id)

    @property
    def source(self) -> Source:
        return self._source

    def source_arguments(self) -> dict[str, Any]:
        source = self._source
        return {
            "repo_id": source.repo_id,
            "size": source.size,
            "grey": source.grey,
            "revision": source.revision,
        }


class ImageFolder(ImageData):
    """A folder of pictures of any size; subfolders, where there are any, are labels.

    Args:
        path: The folder.
        size: Side, or (height, width), to which images are scaled and centre-cropped.
        grey: Reduce colour to grey.
        options: See `ImageData`.
    """

    def __init__(self, path: str, size: int | tuple[int, int] = 32, grey: bool = False, **options) -> None:
        super().__init__(**options)
        require(Path(path).is_dir(), f"path must be a folder of images, got {path!r}")
        self._source = FolderSource(self.pad, _sides(size), grey, path)
        self.facts = self.described({"path": path})

    @classmethod
    def described(cls, arguments: dict[str, Any]) -> Facts:
        name = Path(str(arguments.get("path"))).resolve().name
        return Facts(name=name, called=name, title=f"{name}, a folder of pictures")

    @property
    def source(self) -> Source:
        return self._source

    def source_arguments(self) -> dict[str, Any]:
        return {"path": self._source.path, "size": self._source.size, "grey": self._source.grey}


DATA: dict[str, Any] = {
    module.__name__: module
    for module in (
        Digits,
        MNIST,
        FashionMNIST,
        Heartbeat,
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
