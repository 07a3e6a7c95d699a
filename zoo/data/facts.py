"""What is known of a data set, and how its images were cut and treated for a score."""

from typing import NamedTuple

NOT_STATED = "not stated"
OWN = "own:"
"""Origin of the pictures in a folder of one's own."""


class Facts(NamedTuple):
    """What is known of a data set; its data module carries it, and nothing else does."""

    name: str
    """Short name, as it stands in recipes and slugs: `fashion_mnist`."""
    called: str
    """What running text calls it: `FashionMNIST`."""
    title: str
    """Full name and makers, as a card's last line has them."""
    licence: str = NOT_STATED
    hub: str | None = None
    """`owner/name` on the Hugging Face Hub."""
    citation: str = NOT_STATED
    classes: tuple[str, ...] = ()
    """Name of every label, in their order."""
    outliers: str | None = None
    """Data module of other images of the same shape, from which its own are told apart."""
    sizes: tuple[int, int] | None = None
    """Images in the training and in the test split of the source."""
    origin: str = ""
    """What stands before the name of data that are no named set, in protocols: `own:` or `owner/`."""

    @property
    def full_name(self) -> str:
        """The name by which protocols tell data apart: of one's own folder `digits` it is `own:digits`."""
        return self.origin + self.name

    @property
    def credit(self) -> str:
        """Title and licence."""
        return f"{self.title}, {'licence ' if self.licence == NOT_STATED else ''}{self.licence}"


class DataProtocol(NamedTuple):
    """How images are cut and treated: `str` of it is the sentence that stands beside every number."""

    name: str
    """Full name of the data."""
    shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    sizes: tuple[int, int, int]
    """Training, validation and test images."""
    treatment: str
    """What is done to the pixels, in a word: `dynamic`."""
    how: str = ""
    """What that word leaves open: `test drawn once, seed 0`."""
    held_out: str = ""
    """Where the test images come from, if not from the source's own split."""
    shrink: int = 1
    """Side of the squares of pixels that were averaged into one."""
    whole: bool = False
    """Whether the training and the test images are the same: all there are."""
    labels: str = ""
    """How many labels the method was shown, where it was not all."""
    bags: str = ""
    """How images were put into bags, if they were."""
    content: str = ""
    """Start of a hash of the test images, of one's own pictures: two folders may have one name."""
    read_as: str = ""
    """The version that was read, and how, where that is no part of the name: `transparency on white`."""

    @property
    def dims(self) -> str:
        """The shape in words: `1x28x28`."""
        return "x".join(map(str, self.shape))

    @property
    def cut(self) -> str:
        """The sizes in words: `50k/10k/10k`."""
        return "/".join(map(_thousands, self.sizes))

    @property
    def images(self) -> str:
        """Which images they are, whatever is done to the values of their pixels."""
        shrunk = f" ({self.shrink}x{self.shrink} means)" if self.shrink > 1 else ""
        content = f"@{self.content}" if self.content else ""
        return f"{self.name}{content} {self.dims}{shrunk}" + (" whole" if self.whole else "")

    @property
    def short(self) -> str:
        """Name, sizes and treatment, for a cell of a table."""
        return f"{self.name} {self.cut}, {self.treatment}{self._further}"

    def written(self) -> dict[str, str]:
        """What stands in results: the sentence, and its parts that tables show."""
        return {"protocol": str(self), "name": self.name, "short": self.short}

    def __str__(self) -> str:
        """The sentence."""
        where = f" ({self.held_out})" if self.held_out else ""
        how = f" ({self.how})" if self.how else ""
        read = f", {self.read_as}" if self.read_as else ""
        return f"{self.images} {self.cut}{where}{read}, {self.treatment}{how}{self._further}"

    @property
    def _further(self) -> str:
        return "".join(f", {text}" for text in (self.labels, self.bags) if text)


def _thousands(n: int) -> str:
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
