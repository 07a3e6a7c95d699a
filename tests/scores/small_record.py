"""A small record of a score, which several files check."""

import dataclasses

from zoo.contract.capabilities import Side
from zoo.scores.results import Number, Protocol, Results

FID = Protocol(
    "digits 1x8x8", "359 samples against 359 test images as bytes; digits-cnn-128@1a2b3c4d", num_images=359
)
DYNAMIC = Protocol(
    "digits 1x8x8 1295/143/359, dynamic (test drawn once, seed 0)",
    "359 images, K=5000 samples",
    num_samples=5000,
)
REAL = Protocol("digits 1x8x8 1295/143/359, real", "359 images")


def number(value, protocol=FID, error=None, *, side=Side.ESTIMATE, unit="squared distance", interval=None):
    return Number(value, unit, side, protocol, error, interval)


def results(**changes):
    """A score with everything in it."""
    fields = {
        "method": "VAE",
        "numbers": {
            "test/log_prob": number(-21.25, DYNAMIC, 0.2, side=Side.LOWER, unit="nats/image"),
            "test/fid": number(12.5, FID, 0.5),
            "test/precision": number(0.9, FID, 0.02, unit="share", interval=(0.85, 0.93)),
            "test/active_units": number(4.0, DYNAMIC, side=Side.EXACT, unit="of 8"),
        },
        "skipped": {
            "conditional": "needs Conditions",
            "clusters": "needs Clusters",
            "csl": "needs Emits",
            "ais": "needs Emits",
        },
        "data": {"protocol": "digits 1x8x8", "test_sha256": "ab" * 32},
        "weights_sha256": "cd" * 32,
        "seed": 7,
        "versions": {"torch": "2.13.0", "python": "3.11"},
        "hardware": "a computer",
        "seconds": {"fid": 0.25, "per_image": 3.0},
        "floors": {
            "train": {"test/fid": number(1.5, FID, 0.25)},
            "independent_pixels": {"test/fid": number(300.25, FID, 4.0)},
        },
        "warnings": ["the bound is loose"],
        "train_seconds": 12.5,
        "peak_memory_mb": 512.0,
        "details": {"class_histogram": [1.0, 2.0, 3.0]},
    }
    return Results(**fields | changes)


def changed(value, protocol=FID, name="test/fid"):
    first = results()
    return dataclasses.replace(first, numbers=first.numbers | {name: number(value, protocol, 0.5)})
