"""What is computed once and kept: files named by what went into them, with a hash of their own content.

They lie under ZOO_CACHE (by default `~/.cache/zoo`); a damaged file is made again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zoo.files import write_bytes

ROWS_AT_ONCE = 1024
LAYOUT = 1
"""Version of the cache's layout; enters its name."""
Arrays = dict[str, Tensor]
"""`train_x`, `train_y` and, where the source has a test split, `test_x`, `test_y`: uint8 [N, C, H, W], int64
[N]."""


def cache_root() -> Path:
    """ZOO_CACHE, or `~/.cache/zoo`."""
    return Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo")


def remembered(name: str, key: Sequence[Any], work: Callable[[], Arrays]) -> Arrays:
    """The tensors that `work` makes, kept in the cache.

    Args:
        name: What they are, in a word.
        key: JSON values of which the tensors are a function.
        work: Makes them if they are not there.
    """
    arrays = recalled(name, key)
    if arrays is None:
        arrays = {key: tensor.contiguous() for key, tensor in work().items()}
        write_bytes(_file(name, key), save(arrays, metadata={"sha256": _digest(arrays)}))
    return arrays


def recalled(name: str, key: Sequence[Any]) -> Arrays | None:
    """What `remembered` keeps under this name and key; None where there is nothing yet."""
    return _read_cache(_file(name, key))


def _file(name: str, key: Sequence[Any]) -> Path:
    digest = hashlib.sha256(json.dumps([LAYOUT, name, *key]).encode()).hexdigest()
    return cache_root() / "computed" / f"{name}-{digest[:16]}.safetensors"


def content_hash(array: Any) -> str:
    """SHA-256 of the type, shape and bytes of a tensor, or of what is read from a file by rows like one."""
    digest = hashlib.sha256(f"{array.dtype} {tuple(array.shape)}".encode())
    for part in array.split(ROWS_AT_ONCE):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_cache(path: Path) -> Arrays | None:
    """The arrays of a cache file; None if there is none or its content is not what was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            arrays = {key: file.get_tensor(key) for key in sorted(file.keys())}
            written = (file.metadata() or {}).get("sha256")
    except SafetensorError:
        return None
    return arrays if _digest(arrays) == written else None


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key} {tuple(arrays[key].shape)}".encode())
        digest.update(arrays[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
