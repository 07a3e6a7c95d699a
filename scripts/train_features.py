"""Train the feature networks that ship with the package: python scripts/train_features.py mnist.

Only training images are used: no validation, no early stopping. The test split is read once, at the end, for
the accuracy that stands in the file's header.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from zoo.data.sets import MNIST, Digits, FashionMNIST
from zoo.data.sources import prepared
from zoo.files import write_bytes
from zoo.scores.features import CLASSIFIERS, Classifier, weights_file

DATA = {"digits": Digits, "mnist": MNIST, "fashion_mnist": FashionMNIST}
EPOCHS = {"digits": 60, "mnist": 8, "fashion_mnist": 16}
FLIPS = ("fashion_mnist",)
BATCH, LR, WEIGHT_DECAY, DROPOUT, SHIFT = 128, 3e-3, 1e-2, 0.3, 2


def augmented(x: Tensor, flip: bool) -> Tensor:
    """Each image shifted by up to two pixels (one, below 16 pixels), and mirrored where that makes sense."""
    most = SHIFT if x.shape[-1] >= 16 else 1
    n, size = len(x), x.shape[-1]
    padded = nn.functional.pad(x, (most,) * 4)
    down, across = torch.randint(2 * most + 1, (2, n, 1))
    grid = torch.arange(size)
    x = padded[torch.arange(n)[:, None, None], :, (down + grid)[:, :, None], (across + grid)[:, None, :]]
    x = x.permute(0, 3, 1, 2)
    if flip:
        x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(-1), x)
    return x.float() / 255


def train(name: str, seed: int, out: Path) -> None:
    """Train, measure once, write."""
    torch.manual_seed(seed)
    arrays = prepared(DATA[name]().source)
    x, y = arrays["train_x"], arrays["train_y"]
    net = Classifier(DATA[name]().image_shape, CLASSIFIERS[name], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS[name] * (len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    began = time.perf_counter()
    for epoch in range(EPOCHS[name]):
        nn.Module.train(net, True)
        total = 0.0
        for rows in torch.randperm(len(y))[: len(y) // BATCH * BATCH].split(BATCH):
            hidden = nn.functional.dropout(net.activations(augmented(x[rows], name in FLIPS)), DROPOUT)
            loss = nn.functional.cross_entropy(net.output(hidden), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch} loss {total / (len(y) // BATCH):.4f} {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    net.eval()
    test_x = arrays["test_x"].float() / 255
    right = (net.extract(test_x).log_probs.argmax(1) == arrays["test_y"]).sum().item()
    about = {
        "test_accuracy": f"{right / len(test_x):.4f}",
        "test_images": str(len(test_x)),
        "train_images": str(len(y)),
        "command": f"python scripts/train_features.py {name} --seed {seed}",
        "image_shape": "x".join(map(str, x.shape[1:])),
        "num_classes": str(net.num_classes),
        "torch": torch.__version__,
    }
    write_bytes(out, save({key: t.contiguous() for key, t in net.state_dict().items()}, metadata=about))
    print(f"{out}: {about}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=sorted(DATA))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="by default the package's own file")
    arguments = parser.parse_args()
    sys.exit(train(arguments.name, arguments.seed, arguments.out or weights_file(arguments.name)))
