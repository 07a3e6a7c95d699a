"""The data sets by name, and what is trained on one's own pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.modules import ImageData
from zoo.data.sources import DigitsSource, FolderSource, HubSource, Source
from zoo.data.toys import Heartbeat, SwissRoll
from zoo.errors import UsageError, require


class Digits(ImageData):
    """The 1,797 real handwritten digits of 8 x 8 pixels that come with scikit-learn; no download."""

    @property
    def source(self) -> Source:
        return DigitsSource(self.pad)


class MNIST(ImageData):
    """60,000 + 10,000 handwritten digits, 28 x 28 (LeCun, Cortes, Burges)."""

    @property
    def source(self) -> Source:
        return HubSource(self.pad, (28, 28), True, "ylecun/mnist")


class FashionMNIST(ImageData):
    """60,000 + 10,000 pictures of clothes, 28 x 28 (Xiao, Rasul, Vollgraf 2017)."""

    @property
    def source(self) -> Source:
        return HubSource(self.pad, (28, 28), True, "zalando-datasets/fashion_mnist")


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
    try:
        name, arguments = recipe["class"], dict(recipe["init_args"])
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"data must have class and init_args, got {recipe!r}") from error
    require(name in DATA, f"data class must be one of {', '.join(sorted(DATA))}, got {name!r}")
    try:
        return DATA[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    except TypeError as error:
        raise UsageError(f"init_args of {name} do not fit: {error}") from error


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    require(len(sides) == 2 and min(sides) >= 1, f"size must be one or two positive integers, got {size}")
    return sides[0], sides[1]
