"""Both files of a saved method, damaged at random: the same method comes back, or one line says why not."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from support import tiny

import zoo
from zoo.contract.saved import save_pretrained, weights_sha256
from zoo.errors import UsageError
from zoo.hub import CONFIG, WEIGHTS, seal

SECONDS = 1.5
METHODS = ("VAE", "GAN", "Diffusion", "PCA", "DBN")
VALUES = (
    *(None, True, False, 0, 1, -1, 3, 10**12, 10**40, 0.5, 1e300, "", "tanh", "VAE", [], {}),
    *([10**12], [16, 10**12], ["tanh"], [[1]], [1, 8, 8], {"class": "Digits"}),
)


def flip_a_bit(content: bytes, stream: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[stream.randrange(len(damaged))] ^= 1 << stream.randrange(8)
    return bytes(damaged)


def cut(content: bytes, stream: random.Random) -> bytes:
    return content[: stream.randrange(len(content))]


def put_a_value(content: bytes, stream: random.Random) -> bytes:
    """A random value in the place of a random entry, at any depth."""
    config = json.loads(content)
    place, key = config, stream.choice(list(config))
    while isinstance(place[key], (dict, list)) and place[key] and stream.random() < 0.8:
        place = place[key]
        key = stream.choice(list(place)) if isinstance(place, dict) else stream.randrange(len(place))
    place[key] = stream.choice(VALUES)
    return json.dumps(config).encode()


def drop_an_entry(content: bytes, stream: random.Random) -> bytes:
    config = json.loads(content)
    place = stream.choice([config, config["init_args"]])
    del place[stream.choice(list(place))]
    return json.dumps(config).encode()


DAMAGE = {
    CONFIG: (flip_a_bit, cut, put_a_value, drop_an_entry),
    WEIGHTS: (flip_a_bit, cut),
}


def outcome(folder: Path, whole: tuple) -> str:
    """`equal`, `other`, or what the refusal says; any other exception fails the test."""
    try:
        method = zoo.from_pretrained(folder)
    except UsageError as error:
        return str(error)
    return "equal" if (weights_sha256(method), dict(method.hparams_initial)) == whole else "other"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_damaged_file_gives_the_method_back_or_one_line(name, tmp_path):
    """Half of the damage is accepted as if it were on purpose: then it may be another method."""
    stream, counts = random.Random(0), Counter()
    folders = [save_pretrained(tiny(method), tmp_path / method) for method in METHODS]
    wholes = [tiny(method) for method in METHODS]
    wholes = [(weights_sha256(method), dict(method.hparams_initial)) for method in wholes]
    originals = [(folder / name).read_bytes() for folder in folders]
    configs = [(folder / CONFIG).read_bytes() for folder in folders]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        i, spoil = stream.randrange(len(METHODS)), stream.choice(DAMAGE[name])
        accepted = stream.random() < 0.5
        (folders[i] / CONFIG).write_bytes(configs[i])
        (folders[i] / name).write_bytes(spoil(originals[i], stream))
        if accepted:
            try:
                seal(folders[i])
            except UsageError:
                accepted = False
        found = outcome(folders[i], wholes[i])
        assert len(found) < 500
        assert "\n" not in found
        counts[found if found in ("equal", "other") else "refused", accepted] += 1
        (folders[i] / name).write_bytes(originals[i])
    assert counts["other", False] == 0, counts
    assert counts["refused", False] > 10, counts
