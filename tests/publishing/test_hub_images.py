"""Data sets on the Hub, read by the real client from a server on this machine."""

import io
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image
from stand_in_hub import Repository, stand_in_hub
from support import ROOT

CLIENT = """
import sys, zoo
from zoo.data import HubImages
from zoo.data.kept import cache_file
from zoo.errors import UsageError
def say(*words): print(*words, sep=" | ", flush=True)
def read(repo, **options):
    data = HubImages(repo, size=4, grey=True, binarize="none", num_validation=0, **options)
    try: say(data.protocol, cache_file(data.source).name)
    except UsageError as error: say(error)
read("me/shapes")
read("me/shapes")
for repo in ("me/shapes", "me/files"): say(*HubImages(repo).source.classes())
sys.stdin.readline()
read("me/shapes")
read("me/shapes", revision=sys.argv[1])
read("me/several")
read("me/several", name="small")
read("me/files")
read("me/nothing")
sys.stdin.readline()
read("me/files")
read("me/unseen")
try: zoo.from_pretrained("me/model")
except UsageError as error: say(error)
"""


def table(n: int) -> bytes:
    """A table of n pictures with texts as labels."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    x = [np.full((4, 4), row, np.uint8) for row in range(n)]
    columns = {"image": x, "label": ["cat" if row % 2 else "dog" for row in range(n)]}
    written = io.BytesIO()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(written)
    return written.getvalue()


def picture(level: int) -> bytes:
    written = io.BytesIO()
    Image.new("L", (4, 4), level).save(written, "PNG")
    return written.getvalue()


@pytest.mark.hub
def test_a_data_set_is_read_at_its_commit_as_it_is_now_and_as_it_was_last_seen(tmp_path):
    configs = "".join(f"- config_name: {one}\n  data_files: {one}/*.parquet\n" for one in ("large", "small"))
    with stand_in_hub() as (store, settings):
        shapes, several, files = (
            store.repositories.setdefault(f"datasets/me/{name}", Repository())
            for name in ("shapes", "several", "files")
        )
        first = shapes.commit({"data/train-00000-of-00001.parquet": table(10)})
        tables = {f"{one}/train.parquet": table(n) for one, n in {"large": 20, "small": 12}.items()}
        several.commit({"README.md": f"---\nconfigs:\n{configs}---\n".encode(), **tables})
        names = [f"{split}/{label}/{i}.png" for split in ("train", "test") for label in "ab" for i in "12"]
        commit = files.commit({name: picture(i) for i, name in enumerate(names)})
        env = os.environ | settings | {"HF_HOME": str(tmp_path / "hf"), "ZOO_CACHE": str(tmp_path / "cache")}
        env |= {"ZOO_DATA": "", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command, pipe = [sys.executable, "-c", CLIENT, first], subprocess.PIPE
        with subprocess.Popen(
            command, env=env, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None

            def lines(n: int) -> list[list[str]]:
                return [child.stdout.readline().strip().split(" | ") for _ in range(n)]

            before, again, of_shapes, of_files = lines(4)
            second = shapes.commit({"data/train-00000-of-00001.parquet": table(20)})
            print(file=child.stdin, flush=True)
            after, pinned, listed, small, folder, nothing = lines(6)
            store.down = True
            print(file=child.stdin, flush=True)
            unreachable, unseen, model = lines(3)
            said = child.stderr.read()
    assert child.returncode == 0, said
    assert before == again
    assert (of_shapes, of_files) == (["cat", "dog"], ["a", "b"])
    protocol, cached = before
    sentence = "me/shapes 1x4x4 {}/0/{} (held out by content, seed 0), commit {}, transparency on white, real"
    assert protocol == sentence.format(8, 2, first[:8])
    assert after[0] == sentence.format(17, 3, second[:8])
    assert after[-1] != cached
    assert pinned[0] == protocol
    assert listed == ["name must choose a configuration of me/several: large, small"]
    assert small[0].startswith("me/several 1x4x4 10/0/2 (held out by content, seed 0), small, commit ")
    assert folder[0] == f"me/files 1x4x4 4/0/4, commit {commit[:8]}, transparency on white, real"
    assert nothing[0].startswith("me/nothing is not under ZOO_DATA (not set) and cannot be read from the Hub")
    assert unreachable == folder
    assert f"me/files: the Hub cannot be asked (RemoteProtocolError), read as of commit {commit[:8]}" in said
    assert unseen[0].startswith("me/unseen is not under ZOO_DATA (not set) and cannot be read from the Hub")
    assert model[0].startswith("no folder 'me/model', and the Hub gave no repository of that name: ")
