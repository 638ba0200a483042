"""Recipes: where they lie, and how recipe -> variant -> `--set` becomes one validated `Recipe`. Torch-free."""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ardbench import data, methods, models, plugins
from ardbench.config import PGD, Recipe, in_pixels
from ardbench.data import DatasetInfo, own
from ardbench.data.epoch import Epoch
from ardbench.data.extra import opened, path_of
from ardbench.errors import ArdbenchError, unknown
from ardbench.evaluation.protocols import protocol
from ardbench.faults import blamed, outside, place
from ardbench.recipes.defaults import base_of, default_name, fitting, in_words
from ardbench.recipes.values import one
from ardbench.untrusted import read_toml

if TYPE_CHECKING:
    from ardbench.methods.base import Method

DEEP = 20
"""Recipes that may extend one another."""
KIND = "attack.kind"
KEPT = {"attack": ("bn", "bn_update")}
"""What a section of another kind takes over from the one that it replaces."""
Tree = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


def recipe_names() -> list[str]:
    """Return the names of the recipes: the built-in ones, and those of plugins and of installed packages."""
    return sorted([*built_in(), *plugins.of("recipe")])


@cache
def built_in() -> tuple[str, ...]:
    """Return the names of our own recipes; files that start with an underscore are shared parts, not recipes."""
    return tuple(sorted(Path(file.name).stem for file in files(__name__).iterdir() if _is_recipe(file.name)))


def describe(name: str, dataset: str | None = None) -> Tree:
    """Return a recipe as written, its shared parts filled in and its variants under `variants`; `name` without a variant."""
    return found(name, dataset)[1]


def resolve(
    name: str,
    *,
    dataset: str | None = None,
    student: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    sets: Sequence[str] | Mapping[str, Any] = (),
) -> Recipe:
    """Return the validated recipe that `name` and its changes describe.

    Args:
        name: a recipe, RECIPE@VARIANT, the path of a TOML file, or a method (with `dataset`: its recipe for that data, or
            else its default one).
        dataset, student, seed, epochs: replace the recipe's own; phases and milestones are shares, so they scale.
        sets: "section.key=value" strings, values in TOML (fractions as "8/255"), or a mapping of the same.

    Raises:
        ArdbenchError: one sentence naming what is unknown, missing or out of range.
    """
    base, at, variant = name.partition("@")
    located, tree = found(base, dataset)
    variants = tree.pop("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(changes, dict) for changes in variants.values()):
        raise ArdbenchError(
            f"Recipe {base}: each variant is a section of its own: write [variants.NAME] and its changes."
        )
    if at:
        if variant not in variants:
            raise unknown(f"variant of {base}", variant, variants)
        tree = _merged(tree, {"title": f"{tree.get('title', base)} ({variant})"} | variants[variant])
    given = {"data.name": dataset, "student": student, "seed": seed, "schedule.epochs": epochs}
    changes = sets if isinstance(sets, Mapping) else dict(parsed(text) for text in sets)
    if KIND in changes:  # before what belongs to it, in whatever order they are typed
        tree = _merged(tree, {"attack": {"kind": changes[KIND]}})
    for key, value in ({k: v for k, v in given.items() if v is not None} | dict(changes)).items():
        _put(tree, key, value)
    tree.setdefault("name", (Path(located).stem if located else default_name(base)) + f"@{variant}" * bool(variant))
    return _checked(_validated(Recipe, tree, f"recipe {name}"))


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a document with their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def moved(name: str, recipe: Recipe) -> str:
    """Return what a recipe carries along to a data set that it was not written for, or that it is a default, in one sentence.

    Where it is of its data set, nothing is returned.

    Args:
        name: as `resolve` takes it.
        recipe: what became of it.
    """
    base, _, variant = name.partition("@")
    located, tree = found(base, recipe.data.name)
    if located is None:
        return in_words(recipe, data.info(recipe.data.name))
    tree = _merged(tree, tree.get("variants", {}).get(variant, {}))
    written_for, here = tree.get("data", {}).get("name", recipe.data.name), recipe.data.name
    if written_for == here:
        return ""
    keeps = [f"threat.eps = {in_pixels(recipe.threat.eps)}", f"evaluation.eps = {in_pixels(recipe.evaluation.eps)}"]
    keeps += [f"attack.step_size = {in_pixels(recipe.attack.step_size)}"] if recipe.attack else []
    keeps += [f"schedule.epochs = {recipe.schedule.epochs}", f"data.batch = {recipe.data.batch}"]
    keeps += [f"optimizer.lr = {recipe.optimizer.lr:g}"]
    return (
        f"{base} was written for {written_for}. Here it trains on {here} with {', '.join(keeps)} and all else as written: "
        "give --set for what does not fit."
    )


def _is_recipe(file: str) -> bool:
    return file.endswith(".toml") and not file.startswith("_")


def found(base: str, dataset: str | None) -> tuple[str | None, Tree]:
    """Return which recipe `base` means, and that as written: itself, a method's for the data set, or (None) its default."""
    names = recipe_names()
    if base in names or base.endswith(".toml"):
        return base, _assemble(base, ())
    if base not in methods.available():
        raise unknown("recipe or method", base, [*names, *methods.available()])
    if dataset is None:
        there = sorted(name for name, one in data.DATASETS.items() if not one.synthetic)
        raise ArdbenchError(
            f"The method {base} has a recipe per data set: add --dataset with one of {', '.join(there)}, or name a recipe file."
        )
    info = data.info(dataset)
    own = next((name for name in (f"{base}-{dataset}", f"{base}-{dataset}-level") if name in names), None)
    return (own, _assemble(own, ())) if own else (None, _default(base, info))


def _default(method: str, info: DatasetInfo) -> Tree:
    """Return the recipe of a method on a data set that has none for it.

    A method without level recipes, one from outside, has the [method] of its first recipe, or else its own defaults.
    """
    level, names = base_of(method, info), recipe_names()
    if level in names:
        tree = _assemble(level, ())
    else:
        own = [_assemble(name, ()).get("method", {}) for name in names if name.startswith(f"{method}-")]
        section = next((one for one in own if one.get("name") == method), {"name": method})
        tree = _merged(_assemble("_cifar10-level", ()), {"title": method, "method": section})
    return _merged(tree, fitting(tree["method"], tree["title"], info))


def _assemble(name: str, above: tuple[str, ...]) -> Tree:
    """Read a recipe and merge it over what it extends."""
    if name in above:
        raise ArdbenchError(f"Recipe {above[0]} extends itself: {' -> '.join([*above, name])}.")
    tree = _read(name)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ArdbenchError(f"Recipe {name}: extends must be the name of one recipe, in quotes.")
    if {"/", "\\"} & set(parent):
        raise ArdbenchError(
            f"Recipe {name}: extends must be the name of a recipe beside it or of ours, without slashes."
        )
    if len(above) > DEEP:
        raise ArdbenchError(f"Recipe {above[0]} extends more than {DEEP} others: put some of them together.")
    beside = Path(name).parent / f"{parent}.toml"
    known = str(beside) if name.endswith(".toml") and beside.is_file() else parent
    inherited = _assemble(known, (*above, name))
    inherited.pop("name", None)
    return _merged(inherited, tree)


def _read(name: str) -> Tree:
    try:
        if (one := plugins.find("recipe", name)) is not None:
            return _held(one)
        if name.endswith(".toml"):
            return read_toml(Path(name))
        return read_toml(Path(str(files(__name__) / f"{name}.toml")))
    except FileNotFoundError:
        if name.endswith(".toml"):
            raise ArdbenchError(
                f"There is no recipe file {name}: give an existing file or a name from `ardbench list recipes`."
            ) from None
        raise unknown("recipe", name, recipe_names()) from None
    except tomllib.TOMLDecodeError as error:
        raise ArdbenchError(f"Recipe {name} is not valid TOML: {error}.") from None
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no path, or nested without end
        raise ArdbenchError(f"Recipe {name} cannot be read ({error}): give a TOML file in UTF-8.") from None


def _held(one: plugins.Outside) -> Tree:
    """Return a recipe from outside: a dict, or a TOML file that a plugin names from its own folder."""
    found = one.value if one.file is not None else plugins.load("recipe", one.name, one.value)
    if isinstance(found, str | Path):
        return read_toml((one.file.parent if one.file is not None else Path()) / found)
    if not isinstance(found, dict):
        raise ArdbenchError(
            f"The {one.word} of {one.origin} is a {type(found).__name__}: give a dict or the path of a TOML file."
        )
    return deepcopy(found)


def _merged(below: Tree, above: Tree) -> Tree:
    """Return `below` with `above` laid over it, section by section; a section of another kind replaces the old one."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            kept = old if not _of_another_kind(key, old, value) else {k: old[k] for k in KEPT.get(key, ()) if k in old}
            value = _merged(kept, value)
        result[key] = value
    return result


def _of_another_kind(section: str, old: Tree, new: Tree) -> bool:
    mark = "name" if section == "method" else "kind"
    return mark in new and new[mark] != old.get(mark, PGD if section == "attack" else None)


def parsed(text: str) -> tuple[str, Any]:
    """Return key and value of a "section.key=value"."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ArdbenchError(f"--set {text!r} is not of the form section.key=value, such as --set attack.steps=7.")
    return key.strip(), one(value)


def _put(tree: Tree, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if section == "modules" and isinstance(below, list):  # modules.NAME.KEY
            below = {one["name"]: one for one in below if isinstance(one, dict) and isinstance(one.get("name"), str)}
            if key.split(".")[1] not in below or key.count(".") != 2:
                raise ArdbenchError(f"--set {key}: give modules.NAME.KEY, with NAME one of {', '.join(below)}.")
        if not isinstance(below, dict):
            raise ArdbenchError(f"--set {key}: {section} is a value, not a section.")
        tree = below
    tree[last] = deepcopy(value)  # a later key may write into it, and it is the caller's


def _validated(model: type[Model], tree: Tree, where: str, section: str = "") -> Model:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise explained(error, model, where, section) from None


def explained(error: ValidationError, model: type[BaseModel], where: str, section: str = "") -> ArdbenchError:
    """Return the first complaint of a validation as one sentence that names the key and what is allowed.

    Args:
        section: the recipe's section that `model` describes; empty for the recipe itself.
    """
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        *above, last = (str(part) for part in first["loc"])
        return unknown(f"key in {where}{', section ' + '.'.join(above) if above else ''}:", last, _fields(model, above))
    if first["type"] == "missing":
        key = f"{section}.{path}" if section else path
        return ArdbenchError(f"In {where}: {path} is missing; add it to the recipe or give --set {key}=VALUE.")
    said = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict) else f" = {told(first['input'])}"  # keys that do not fit each other
    return ArdbenchError(f"In {where}: {path}{given}{': ' if path else ''}{said[0].lower()}{said[1:]}.")


def told(value: object) -> str:
    """Return a value as it was given, in the length of a sentence."""
    return repr(value) if isinstance(value, str) and len(value) < 100 else reprlib.repr(value)


def _fields(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        kinds = (
            [k for k in (getattr(field.annotation, "__args__", None) or [field.annotation]) if field] if field else []
        )
        found = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _checked(recipe: Recipe) -> Recipe:
    """Refuse names and combinations that no section can see alone; validate [method] by the method's own model."""
    plugins.check(recipe.outside, f"Recipe {recipe.name}")
    info = data.info(recipe.data.name)
    data.check_augment(info, recipe.data.augment)
    data.check_sizes(info, recipe.data.validation, recipe.data.train_images)
    images = recipe.data.train_images or info.train_images - recipe.data.validation
    data.check_batch(Epoch.of(recipe.data, images))
    models.check_known(recipe.student)
    protocol(recipe.selection.protocol)
    kind = methods.method_class(recipe.method["name"])
    if kind.attacks and recipe.attack is None:
        raise ArdbenchError(
            f"The method {recipe.method['name']} attacks while it trains: recipe {recipe.name} needs an [attack] section."
        )
    if kind.averages and (recipe.average.kind != "ema" or recipe.average.start):
        raise ArdbenchError(
            f"The method {recipe.method['name']} learns from the student's moving average: recipe {recipe.name} needs an "
            "[average] section with kind = 'ema' and no start."
        )
    if unknown := [name for name in recipe.trainables if name not in kind.others]:
        trained = f"{' and '.join(kind.others)} beside the student" if kind.others else "the student alone"
        raise ArdbenchError(
            f"Recipe {recipe.name} has [trainables.{unknown[0]}], but {recipe.method['name']} trains {trained}: leave it "
            "out; how the student learns is for [optimizer] and [schedule]."
        )
    if own.is_own(recipe.data.name):
        known = recipe.data.model_copy(update={"sha256": own.found(recipe.data.name).sha256})
        recipe = recipe.model_copy(update={"data": known})
    if recipe.data.extra is not None:
        recipe = _with_extra(recipe, info, taught=bool(kind.roles))
    where = f"recipe {recipe.name}, section method"
    if outside(kind):
        where += f" ({kind.Config.__name__}, {place(kind.Config)})"
    with blamed(kind, "Config"):
        section = _validated(kind.Config, recipe.method, where, "method")
    modules = tuple(_module(recipe, one, kind) for one in recipe.modules)
    recipe = recipe.model_copy(update={"method": section.model_dump(mode="json"), "modules": modules})
    return recipe.model_copy(update={"outside": plugins.sources(named(recipe))})


def named(recipe: Recipe) -> list[tuple[str, str]]:
    """Return kind and name of all that a recipe names and that may come from outside; a method names its peers in [method]."""
    peers = [value for key, value in recipe.method.items() if key != "name" and isinstance(value, str)]
    modules = [("module", one["name"]) for one in recipe.modules]
    models = [("model", name) for name in dict.fromkeys([recipe.student, *peers])]
    return [("method", recipe.method["name"]), *modules, *models, ("dataset", recipe.data.name)]


def _with_extra(recipe: Recipe, info: DatasetInfo, taught: bool) -> Recipe:
    """Return a recipe that knows its extra images; where it names their sha256, plans and tables do without the file."""
    if recipe.data.extra_sha256 is not None and not path_of(recipe.data).exists():
        return recipe
    file = opened(recipe.data, info)
    if file.label is None and not taught:
        raise ArdbenchError(
            f"{file.path} has no array `label`, and {recipe.method['name']} has no teacher to label its images: give a file "
            "with labels, or distill from a teacher."
        )
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"extra_sha256": file.contents.sha256})})


def _module(recipe: Recipe, section: Tree, method: type[Method[Any]]) -> Tree:
    """Return one of [[modules]], validated by its own model and held against the method that it is laid over."""
    name = section["name"]
    kind = methods.module_class(name)
    if (why := kind.refusal(method)) is not None:
        fitting = [one for one in methods.METHODS if kind.refusal(methods.method_class(one)) is None]
        raise ArdbenchError(
            f"The module {name} {why.format(method=recipe.method['name'])}: leave it out, or lay it over one of "
            f"{', '.join(fitting)}."
        )
    where = f"recipe {recipe.name}, module {name}"
    return _validated(kind.Config, section, where, f"modules.{name}").model_dump(mode="json")
