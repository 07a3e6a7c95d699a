"""Feature networks behind FID, KID, IS, precision, recall, density and coverage.

An extractor maps bytes to the activations that the distances compare and to class log-probabilities. The
numbers of two extractors never compare, so a protocol names its extractor and a hash of its weights. The
classifiers of `digits`, `mnist` and `fashion_mnist` ship with the package (`scripts/train_features.py` trains
them, on training images only, those that validate among them); which network a data set has is decided in
`classifiers`.
"""

import hashlib
from abc import abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from zoo.contract.shapes import Codes, Images, LogProbs
from zoo.errors import UsageError, require
from zoo.randomness import own_stream

NUM_FEATURES = 128
CONVOLUTION = 4
"""Axes of a convolution's kernel."""
COLOURS = 3
INCEPTION_FEATURES = 2048
INCEPTION_CLASSES = 1008
SMALL_BATCH, LARGE_BATCH = 50, 500


class Features(NamedTuple):
    """What an extractor says of B images."""

    activations: Codes
    """[B, d], of the last hidden layer."""
    log_probs: LogProbs
    """log p(class|x), [B, classes]."""


class Extractor(nn.Module):
    """Bytes to features; always in eval mode and in float32."""

    name: str
    """Name and version, as it stands in protocols: `mnist-cnn-128@1a2b3c4d`."""
    num_features: int
    """The width d of the activations."""
    num_classes: int
    batch: int
    """Images that are read at once."""
    learned_from_validation: bool = False
    """Whether it learned from the images that validate: what is held against these then flatters."""

    @abstractmethod
    def read(self, x: Tensor) -> Features:
        """Features of bytes [B, C, H, W]."""

    @torch.no_grad()
    def extract(self, images: Images) -> Features:
        """Features of images [N, C, H, W] in [0, 1], rounded to bytes, in bounded memory.

        Raises:
            UsageError: If the images are not finite, leave [0, 1] or have another shape than the extractor's.
        """
        with torch.autocast(images.device.type, enabled=False):
            parts = [self.read(as_bytes(part)) for part in images.split(self.batch)]
        return Features(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def forward(self, images: Images) -> Codes:
        """The activations alone: what `torchmetrics` asks of a feature network."""
        return self.extract(images).activations

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in eval mode."""
        return super().train(False)


class Classifier(Extractor):
    """A small classifier: stages of convolution, batch norm, ReLU and pooling, then one hidden layer.

    Args:
        image_shape: (C, H, W).
        widths: Channels of each stage.
        num_classes: Number of classes.
    """

    batch = LARGE_BATCH

    def __init__(self, image_shape: tuple[int, int, int], widths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape, self.num_classes, self.num_features = image_shape, num_classes, NUM_FEATURES
        self.name = "untrained"
        self.stages = nn.Sequential()
        for wide in widths:
            conv = nn.Conv2d(channels, wide, 3, padding=1, bias=False)
            self.stages.extend([conv, nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)])
            channels, height, width = wide, height // 2, width // 2
        self.hidden = nn.Linear(channels * height * width, NUM_FEATURES)
        self.output = nn.Linear(NUM_FEATURES, num_classes)

    def activations(self, x: Tensor) -> Codes:
        """Activations of pixels [B, C, H, W] in [0, 1]; differentiable."""
        return self.hidden(self.stages(x).flatten(1)).relu()

    def read(self, x: Tensor) -> Features:
        """Features of bytes [B, C, H, W]; the activations are those of the hidden layer, after its ReLU."""
        found = tuple(x.shape[1:])
        require(found == self.image_shape, f"{self.name} reads images {self.image_shape}, got {found}")
        activations = self.activations(x.float() / 255)
        return Features(activations, self.output(activations).log_softmax(-1))


class Inception(Extractor):
    """The Inception network of the original FID and IS, through torch-fidelity (extra `inception`).

    Images are resized to 299 x 299 as TensorFlow 1 did; the score ignores the bias of the output layer.
    The weights (92 MB) are downloaded once, and read as tensors only.
    """

    num_features, num_classes, batch = INCEPTION_FEATURES, INCEPTION_CLASSES, SMALL_BATCH

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as fidelity  # pyright: ignore
        except (ImportError, RuntimeError) as error:  # torchvision for another torch is a RuntimeError
            raise UsageError(
                "colour images need the extra inception (pip install generative-zoo[inception]), "
                f"which is not installed: {error}"
            ) from error
        url = fidelity.URL_INCEPTION_V3
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = path.stem.rsplit("-", 1)[1]
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
        torch.load(path, weights_only=True)  # refuses anything but tensors, before torch-fidelity reads it
        self.net = fidelity.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
        self.name = _versioned(f"inception-{INCEPTION_FEATURES}", self.net)

    def read(self, x: Tensor) -> Features:
        """Features of bytes [B, 3, H, W]."""
        require(x.shape[1] == COLOURS, f"{self.name} reads {COLOURS} channels, got {x.shape[1]}")
        activations, logits = self.net(x)
        return Features(activations, logits.log_softmax(-1))


def has_inception() -> bool:
    """Whether the extra is installed."""
    return find_spec("torch_fidelity") is not None


def shipped(data_name: str) -> Classifier:
    """The classifier that ships with the package for a data set; it learned from all training images."""
    with safe_open(weights_file(data_name), "pt") as file:
        about = file.metadata()
        tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    channels, height, width = map(int, about["image_shape"].split("x"))
    widths = tuple(len(kernel) for kernel in tensors.values() if kernel.ndim == CONVOLUTION)
    net = classifier((channels, height, width), widths, int(about["num_classes"]))
    net.load_state_dict(tensors)
    net.name = _versioned(f"{data_name.replace('_', '-')}-cnn-{NUM_FEATURES}", net)
    net.learned_from_validation = True
    return net.requires_grad_(False).eval()


def classifier(image_shape: tuple[int, int, int], widths: tuple[int, ...], num_classes: int) -> Classifier:
    """A classifier whose weights are still to be read; the first ones are drawn from a stream of its own."""
    with own_stream(0):
        return Classifier(image_shape, widths, num_classes)


def weights_file(data_name: str) -> Path:
    """Where a shipped classifier lies; its header holds test accuracy, command, seed and versions."""
    return Path(__file__).with_name(f"features_{data_name}.safetensors")


def as_bytes(images: Images) -> Tensor:
    """Images in [0, 1] rounded to uint8.

    Raises:
        UsageError: If a value is not finite or leaves [0, 1].
    """
    require(images.ndim == 4, f"images must be [N, C, H, W], got shape {tuple(images.shape)}")
    bad = int((~images.isfinite()).sum())
    require(bad == 0, f"images must be finite, got {bad} values that are NaN or infinite")
    low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 1.0)
    require(low >= 0 and high <= 1, f"images must lie in [0, 1], got {low:.4g} to {high:.4g}")
    return (images * 255).round().byte()


def _versioned(name: str, net: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(net.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"{name}@{digest.hexdigest()[:8]}"
