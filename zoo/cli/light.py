"""The parser of the light verbs: nothing here imports Lightning's trainer before it must."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from zoo.cli.verbs.data import data, features
from zoo.cli.verbs.listing import list_
from zoo.cli.verbs.pictures import interpolate, map_, nearest, repair, sample, traverse, tree
from zoo.cli.verbs.publishing import demo, leaderboard, publish, reproduce
from zoo.cli.verbs.scoring import compare, score
from zoo.errors import OneLine

VERBS = {
    "sample": sample,
    "repair": repair,
    "interpolate": interpolate,
    "traverse": traverse,
    "nearest": nearest,
    "map": map_,
    "tree": tree,
    "score": score,
    "compare": compare,
    "leaderboard": leaderboard,
    "demo": demo,
    "reproduce": reproduce,
    "publish": publish,
    "list": list_,
    "data": data,
    "features": features,
}


def run(argv: list[str]) -> None:
    """Parse and run one light verb."""
    from jsonargparse import ArgumentParser

    class Parser(OneLine, ArgumentParser):
        """Says what is wrong in one line."""

    function = VERBS[argv[0]]
    description = (function.__doc__ or "").split("\n")[0]
    parser = Parser(prog=f"zoo {argv[0]}", description=description, allow_abbrev=False)
    parameters = inspect.signature(function).parameters
    own: set[str | int] = {
        name
        for name, p in parameters.items()
        if p.annotation in (bool, list[str], list[str] | None, Sequence[str])
    }
    for name in [name for name in parameters if name in own]:
        text, needed = _described(function, name), parameters[name].default is inspect.Parameter.empty
        if parameters[name].annotation is bool:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif parameters[name].annotation == Sequence[str]:
            parser.add_argument(name, nargs="*", help=text)
        else:
            parser.add_argument(name if needed else f"--{name}", nargs="+", help=text)
    of_data = [name for name, p in parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
    parser.add_function_arguments(function, as_positional=True, skip={*own, *of_data})
    if of_data:
        _add_options_of_data(parser, argv[1:])
    function(**vars(parser.parse_args([_underscored(word) for word in argv[1:]])))


def _add_options_of_data(parser: Any, words: list[str]) -> None:
    """The arguments of the data set that is named, as options."""
    classes = [word for word in words if word[:1].isupper()]
    if not classes:
        return
    from zoo.data.sets import DATA

    named = next((word for word in classes if word in DATA), None)
    if named is not None:
        parser.add_class_arguments(DATA[named], as_group=False)


def _underscored(word: str) -> str:
    """`--print-only` is `--print_only`."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _described(function: Callable, name: str) -> str:
    """What the docstring says of an argument."""
    found = re.search(rf"^ +{name}: (.*(?:\n {{12}}.*)*)", function.__doc__ or "", re.MULTILINE)
    return " ".join(found[1].split()) if found else ""
