"""One picture: upright, opaque, 8 bits; what cannot be read is named."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageOps

from zoo.data.decoding import AHEAD, CHUNK, Encoded, PictureSource, colour, readable
from zoo.data.folders import FolderSource
from zoo.data.kept import cache_file
from zoo.data.sets import HubImages, ImageFolder
from zoo.errors import UsageError

HIDDEN = (200, 10, 30)
"""A colour under transparent pixels, that must not show."""


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def brought(content: bytes, size: tuple[int, int] = (2, 2), grey: bool = False, on: str = "white"):
    return FolderSource(0, size, grey, ".", background=on).brought(content, "x")


def with_alpha(alpha: int) -> Image.Image:
    return Image.new("RGBA", (2, 2), (*HIDDEN, alpha))


@pytest.mark.parametrize("on", ["white", "black", "#406080", "grey"])
@pytest.mark.parametrize("alpha", [0, 1, 100, 254, 255])
def test_transparency_is_a_weighted_mean_with_the_background(alpha, on):
    got = brought(encoded(with_alpha(alpha)), on=on)
    wanted = [(alpha * c + (255 - alpha) * b) / 255 for c, b in zip(HIDDEN, colour(on), strict=True)]
    assert np.abs(got - np.array(wanted)[:, None, None]).max() <= 0.51


def palette(index: int) -> Image.Image:
    picture = Image.new("P", (2, 2), index)
    picture.putpalette([*HIDDEN, 0, 90, 0])
    return picture


TRANSPARENT = {
    "RGBA": encoded(with_alpha(0)),
    "RGBA, webp": encoded(with_alpha(0), "WEBP", lossless=True, exact=True),
    "RGBA, tiff": encoded(with_alpha(0), "TIFF"),
    "LA": encoded(Image.new("LA", (2, 2), (40, 0))),
    "PA, as a palette of RGBA": encoded(with_alpha(0).quantize(2)),
    "P, one colour": encoded(palette(0), transparency=0),
    "P, alpha of each colour": encoded(palette(0), transparency=b"\0\xff"),
    "P, gif": encoded(palette(0), "GIF", transparency=0),
    "L, one level": encoded(Image.new("L", (2, 2), 40), transparency=40),
    "RGB, one colour": encoded(Image.new("RGB", (2, 2), HIDDEN), transparency=HIDDEN),
    "1, one level": encoded(Image.new("1", (2, 2), 0), transparency=0),
}


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_no_colour_shows_that_lies_hidden(kind, grey):
    assert (brought(TRANSPARENT[kind], grey=grey) == 255).all()
    assert (brought(TRANSPARENT[kind], grey=grey, on="black") == 0).all()


def test_what_is_not_transparent_stays_as_it_is():
    stream = np.random.default_rng(0)
    x = stream.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    opaque = np.dstack((x, np.full((2, 2), 255, np.uint8)))
    for picture in (Image.fromarray(x), Image.fromarray(opaque)):
        assert np.array_equal(brought(encoded(picture), on="black"), x.transpose(2, 0, 1))
    level = stream.integers(0, 256, (2, 2), dtype=np.uint8)
    assert np.array_equal(brought(encoded(Image.fromarray(level)), grey=True)[0], level)
    assert (brought(encoded(palette(1), transparency=0)) == np.array([0, 90, 0])[:, None, None]).all()


def test_hidden_colours_do_not_bleed_when_a_picture_is_scaled():
    x = np.zeros((16, 16, 4), np.uint8)
    x[..., :3] = HIDDEN
    x[4:12, 4:12] = (255, 255, 255, 255)
    assert (brought(encoded(Image.fromarray(x)), size=(4, 4)) == 255).all()


@pytest.mark.parametrize(
    ("kind", "orientation"), [*itertools.product(("JPEG", "PNG", "WEBP", "TIFF"), range(1, 9))]
)
def test_pictures_stand_upright(kind, orientation):
    x = np.zeros((8, 8, 3), np.uint8)
    x[:4] = 255
    x[4:, :4] = 90
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(x), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("L"))
    got = brought(content, size=(8, 8), grey=True)[0]
    assert np.array_equal(got, upright)
    # How each of the eight corners of the standard turns the stored rows (TIFF 6.0, tag 274).
    stored = brought(encoded(Image.fromarray(x), kind), size=(8, 8), grey=True)[0]
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }
    assert np.array_equal(got, turned[orientation])


def test_a_turned_picture_is_cropped_as_it_is_seen():
    x = np.zeros((4, 12), np.uint8)
    x[:, 4:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(x), exif=exif)
    assert (brought(content, size=(4, 4), grey=True) == 255).all()
    tall = brought(content, size=(12, 4), grey=True)[0]
    assert np.array_equal(tall, np.rot90(x, -1))


@pytest.mark.parametrize("background", ["", "whitish", "#12", "#11223344", "[1]"])
def test_a_background_is_an_opaque_colour(background, tmp_path):
    for make in (lambda **o: ImageFolder(str(tmp_path), **o), lambda **o: HubImages("a/b", **o)):
        with pytest.raises(UsageError, match="background must be a colour such as white"):
            make(background=background)


def test_the_background_is_in_the_key_of_the_cache(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "0.jpg")
    files = {cache_file(ImageFolder(str(tmp_path), background=on).source) for on in ("white", "black")}
    assert len(files) == 2
    assert ImageFolder(str(tmp_path), background="black").recipe()["init_args"]["background"] == "black"


KINDS = (
    "PNG",
    "JPEG",
    "GIF",
    "WEBP",
    "TIFF",
    "BMP",
    "ICO",
    "JPEG2000",
    "AVIF",
    "TGA",
    "PPM",
    "QOI",
    "DDS",
    "BLP",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_picture_is_read_or_named_in_one_line(kind):
    stream = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(stream.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    options = {"exif": exif} if kind in ("PNG", "JPEG") else {}
    whole = encoded(picture.quantize(9) if kind == "BLP" else picture, kind, **options)
    refusals = []
    for _ in range(60):
        changed = bytearray(whole)
        for at in stream.integers(min(len(whole), 80), size=3):
            changed[at] = stream.integers(256)
        if stream.integers(2):
            changed = changed[: stream.integers(1, len(whole))]
        try:
            assert brought(bytes(changed)).shape == (3, 2, 2)
        except UsageError as error:
            refusals.append(str(error))
    assert refusals
    assert all(text.startswith("x of ") and "\n" not in text for text in refusals)


def test_endings_that_pillow_only_knows_by_name_are_not_read():
    assert {".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".bmp", ".avif"} <= readable()
    assert not readable() & {".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".pdf", ".svg", ".txt"}


class Counted(PictureSource):
    """Pictures in grey levels 0, 1, ...; counts how many were asked for."""

    asked = 0

    @property
    def name(self) -> str:
        return "counted"

    def fingerprint(self) -> str:
        return ""

    def count(self) -> int | None:
        return None

    def pictures(self):
        for level in range(256):
            type(self).asked += 1
            yield Encoded("train", str(level), encoded(Image.new("L", (2, 2), level)), level)


def test_the_order_is_kept_and_little_is_read_ahead(monkeypatch):
    monkeypatch.setattr("zoo.data.decoding.cores", lambda: 1)
    source = Counted(0, (2, 2), True)
    examples = source.examples()
    first = next(examples)
    assert Counted.asked <= CHUNK * (AHEAD + 2) < 256
    levels = [int(example.x[0, 0, 0]) for example in (first, *examples)]
    assert levels == list(range(256))


def test_a_damaged_picture_among_many_is_named(tmp_path):
    for i in range(3 * CHUNK):
        Image.new("L", (2, 2), i).save(tmp_path / f"{i:03}.png")
    (tmp_path / "040.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"^040\.png of .* must be an image that Pillow can read"):
        list(FolderSource(0, (2, 2), True, str(tmp_path)).examples())
