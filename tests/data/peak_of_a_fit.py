"""A short fit on so many made-up pictures that are read from the file; prints its peak memory in KiB."""

import hashlib
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from lightning.pytorch import Trainer

from zoo.data import Facts, ImageData, kept
from zoo.data.sources import Example, Source
from zoo.methods.autoencoders.pca import PCA

SHAPE = (1, 32, 32)


@dataclass(frozen=True)
class Many(Source):
    """One picture and its negatives, again and again."""

    n: int

    @property
    def name(self) -> str:
        return "many"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return SHAPE

    def fingerprint(self) -> str:
        return ""

    def examples(self) -> Iterator[Example]:
        x = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
        for row in range(self.n):
            yield Example("train", x ^ np.uint8(row % 256), 0, hashlib.sha256(b"%d" % row).digest())


class ManyPictures(ImageData):
    """They, dithered."""

    facts = Facts("many", "many", "made-up pictures")

    @property
    def source(self) -> Source:
        return Many(0, int(sys.argv[1]))


kept.IN_MEMORY = 2**20
data = ManyPictures(binarize="none", dequantize=True)
trainer = Trainer(
    max_epochs=1,
    limit_train_batches=20,
    limit_val_batches=5,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    accelerator="cpu",
)
trainer.fit(PCA(SHAPE, latent_dim=4), datamodule=data)
print(data.test_hash(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
