"""The verbs that say what there is."""

from zoo.hub import list_models, recipe_files
from zoo.methods import METHODS


def list_(pattern: str = "*", pretrained: bool = False) -> None:
    """List the methods and the recipes.

    Args:
        pattern: Shell pattern that recipe names must match, such as `*mnist*`.
        pretrained: Only recipes with a trained checkpoint.
    """
    import ast
    from importlib.util import find_spec
    from pathlib import Path

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print("methods")
    for name, module in sorted(METHODS.items()):
        spec = find_spec(module)
        source = Path(spec.origin).read_text() if spec and spec.origin else ""
        citation = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
        console.print(f"  {name:8} {' '.join(citation.split())}", markup=False)
    console.print("recipes")
    for slug in list_models(pattern, pretrained):
        path = recipe_files()[slug]
        first = path.read_text().splitlines()[0].removeprefix("# ")
        console.print(f"  {slug:18} {first}", markup=False)
