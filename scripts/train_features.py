"""Train the feature networks that ship with the package: python scripts/train_features.py mnist.

Only training images are used, all of them, also those that a fit holds out for validation: no early stopping.
The test split is read once, at the end, for the accuracy that stands in the file's header. Features of other
data are trained by `zoo features`, which leaves out the images that validate.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save

from zoo.data.sets import DATA
from zoo.files import write_bytes
from zoo.scores.classifiers import Examples, trained
from zoo.scores.features import weights_file

EPOCHS = {"digits": 60, "mnist": 8, "fashion_mnist": 16}
FLIPS = ("fashion_mnist",)


def train(name: str, seed: int, out: Path) -> None:
    """Train, measure once, write."""
    (kind,) = (kind for kind in DATA.values() if kind.described({}).name == name)
    examples = Examples(*kind().divided())
    began = time.perf_counter()

    def watch(epoch: int, of: int, loss: float) -> None:
        print(f"epoch {epoch} of {of} loss {loss:.4f} {time.perf_counter() - began:.0f} s", flush=True)

    net = trained(examples, epochs=EPOCHS[name], flip=name in FLIPS, seed=seed, watch=watch)
    test_x = examples.test_x[:].float() / 255
    right = (net.extract(test_x).log_probs.argmax(1) == examples.test_y).sum().item()
    about = {
        "test_accuracy": f"{right / len(test_x):.4f}",
        "test_images": str(len(test_x)),
        "train_images": str(len(examples.y)),
        "command": f"python scripts/train_features.py {name} --seed {seed}",
        "image_shape": "x".join(map(str, test_x.shape[1:])),
        "num_classes": str(net.num_classes),
        "torch": torch.__version__,
    }
    write_bytes(out, save({key: t.contiguous() for key, t in net.state_dict().items()}, metadata=about))
    print(f"{out}: {about}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=sorted(EPOCHS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="by default the package's own file")
    arguments = parser.parse_args()
    sys.exit(train(arguments.name, arguments.seed, arguments.out or weights_file(arguments.name)))
