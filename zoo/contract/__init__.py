"""What a method is and what it may promise: `from zoo.contract import Batch, Descent, Samples, ...`.

Names are imported from their modules when they are first used: a verb that needs `Side` does not wait for
Lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.contract.batch import BYTE as BYTE
    from zoo.contract.batch import IMAGES_AT_ONCE as IMAGES_AT_ONCE
    from zoo.contract.batch import MID_GREY as MID_GREY
    from zoo.contract.batch import Batch as Batch
    from zoo.contract.batch import PixelKind as PixelKind
    from zoo.contract.batch import Terms as Terms
    from zoo.contract.batch import labels_below as labels_below
    from zoo.contract.batch import need_labels as need_labels
    from zoo.contract.capabilities import *  # noqa: F403
    from zoo.contract.learning import ClosedForm as ClosedForm
    from zoo.contract.learning import Descent as Descent
    from zoo.contract.learning import Game as Game
    from zoo.contract.method import Method as Method
    from zoo.contract.shapes import *  # noqa: F403

MODULES = ("batch", "shapes", "capabilities", "learning", "method")


def __getattr__(name: str) -> Any:
    for module in MODULES:
        found = importlib.import_module(f"zoo.contract.{module}")
        if name in vars(found) and not name.startswith("_"):
            return vars(found)[name]
    raise AttributeError(f"module 'zoo.contract' has no attribute {name!r}")
