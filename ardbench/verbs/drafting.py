"""A recipe as a file to edit: every value that is given, with what it is for. Torch-free."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ardbench import plugins
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError
from ardbench.methods import method_class
from ardbench.recipes import defaults, found, moved, resolve, toml
from ardbench.recipes.origins import origins
from ardbench.runs import write_atomic

HEAD = "What is not here has its default: `ardbench show` this file. docs/recipes.md says what each value may be."
SECTIONS = {
    "student": "`ardbench list models`",
    "data": "which images, and how they are augmented: crop-flip, crop, resized-crop-flip, resized-crop or none",
    "data.validation": "images held out of training, by class, to select by",
    "threat": "the ball while training, in pixels of [0, 1]",
    "evaluation": "the ball while measuring",
    "attack": "the search for x' while training",
    "optimizer": "sgd or adamw",
    "schedule": "constant, step, cosine or onecycle; milestones and warmup are shares of the run",
    "selection": "what picks the checkpoint `best`: last, best-val or best-test",
    "average": "none, swa or ema",
    "method": "the method's own switches: docs/methods.md",
}
"""What is said of sections and values in any draft."""


def draft(name: str, dataset: str | None, student: str | None) -> tuple[Recipe, str]:
    """Return a recipe and the text of a file that resolves to the same run.

    Args:
        name, dataset, student: as `resolve` takes them.
    """
    recipe = resolve(name, dataset=dataset, student=student)
    typed = {key for key, value in {"data.name": dataset, "student": student}.items() if value is not None}
    given, _ = origins(name, recipe.data.name, typed)
    tree = _only(recipe.model_dump(mode="json", exclude_none=True), {*given, "family"} - {"name"})
    own, said, remark = found(name.partition("@")[0], recipe.data.name)[0], SECTIONS, moved(name, recipe)
    if own is None:
        remark, said = f"The default of {recipe.method['name']} on {recipe.data.name}.", SECTIONS | defaults.RULES
    head = [f"# {line}" for line in (remark, HEAD) if line]
    return recipe, "\n".join([*head, *toml.lines(tree, said)]) + "\n"


def save(name: str, dataset: str | None, student: str | None, file: Path | None) -> tuple[Path, str]:
    """Write the draft of a recipe, and return its file and the command that trains it.

    Raises:
        ArdbenchError: there is such a file, or no such recipe.
    """
    recipe, text = draft(name, dataset, student)
    plain = re.sub(r"[^0-9A-Za-z.]+", "-", f"{name.removesuffix('.toml')}-{dataset or ''}").strip("-.")
    path = file or Path(f"{plain}.toml")
    if path.suffix != ".toml":
        raise ArdbenchError(f"--out {path} is no file of a recipe: give one that ends in .toml.")
    if path.exists():
        raise ArdbenchError(f"{path} is there already: move it, or give another file with --out.")
    write_atomic(path, text.encode())
    kind = method_class(recipe.method["name"])
    taught = [f" --teacher {role}=SOURCE" for role in kind.roles if isinstance(role, str)]
    command = "distill" if kind.roles or kind.peer else "train"
    return path, f"{shlex.join(['ardbench', *plugins.words(), command, str(path)])}{''.join(taught)}"


def _only(tree: toml.Tree, keys: set[str], above: str = "") -> dict[str, object]:
    """Return the part of a document that has the dotted keys; sections that have none are left out."""
    found = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        kept = _only(value, keys, f"{name}.") if isinstance(value, dict) else value
        if (isinstance(value, dict) and kept) or name in keys:
            found[key] = kept
    return found
