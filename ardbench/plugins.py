"""Code from outside: files that are typed as plugins, and what installed packages announce. Torch-free until it is loaded.

Nothing else runs: recipes, suites, checkpoints and run folders hold names, and the sha256 of the source behind each.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from ardbench import errors
from ardbench.errors import ArdbenchError
from ardbench.faults import raised

VARIABLE = "ARDBENCH_PLUGINS"
"""Paths of plugins, which processes that are started from here take over."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Kind:
    """A sort of thing that may come from outside.

    Args:
        word: what it is called in a sentence.
        registry: the dict that a plugin has of it.
        group: of entry points.
        ours: the table of our own names, or what returns them.
        form: what stands in the dict.
    """

    word: str
    registry: str
    group: str
    ours: str
    form: str


CLASS = "a class, or an import path such as 'package.module:Class'"
KINDS = {
    "method": Kind("method", "METHODS", "ardbench.methods", "ardbench.methods:METHODS", CLASS),
    "module": Kind("module", "MODULES", "ardbench.modules", "ardbench.methods:MODULES", CLASS),
    "model": Kind("network", "MODELS", "ardbench.models", "ardbench.models:MODELS", CLASS),
    "dataset": Kind("data set", "DATASETS", "ardbench.datasets", "ardbench.data:DATASETS", "an ardbench.data.Dataset"),
    "recipe": Kind("recipe", "RECIPES", "ardbench.recipes", "ardbench.recipes:built_in", "a dict, or the path of a TOML file"),
}  # fmt: skip


@dataclass(frozen=True)
class Outside:
    """Something from outside.

    Args:
        value: the thing itself, or its import path.
        origin: the plugin's path, or the package and its version.
        file: the plugin; None for a package.
        digest: of the plugin.
    """

    kind: str
    name: str
    value: Any
    origin: str
    file: Path | None = None
    digest: str = ""

    @property
    def word(self) -> str:
        """What it is in a sentence, such as "network my-net"."""
        return f"{KINDS[self.kind].word} {self.name}"

    @property
    def package(self) -> str:
        """The module of the plugin, or the package that an import path leads to."""
        return (
            _module_name(self.file, self.digest) if self.file else str(self.value).partition(":")[0].partition(".")[0]
        )

    @property
    def sha256(self) -> str:
        """The sha256 of the plugin, of the package that an import path leads to, or of both together."""
        module = self.value.partition(":")[0] if isinstance(self.value, str) else getattr(self.value, "__module__", "")
        own = module.startswith(_PREFIX) or module.partition(".")[0] in ("ardbench", "functools", "")
        parts = [self.digest, *([] if own else [_source_of(module)])]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


_PREFIX = "ardbench_plugin_"
_typed: list[str] = []
"""Paths as they were given to `use`."""
_expected: dict[str, tuple[str, str, str]] = {}
"""What runs that were opened need: kind:name -> run, file or package, sha256."""


def words() -> list[str]:
    """Return what is typed before a command of this session, so that its next one has the plugins too."""
    return [word for path in _typed for word in ("--plugin", path)]


def use(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Load plugins, in this process and those that it starts.

    Raises:
        ArdbenchError: a file that is not there, is broken, or has a name that is taken.
    """
    typed = [str(Path(path).expanduser().absolute()) for path in paths]
    before = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path and path not in typed]
    text = os.pathsep.join(dict.fromkeys([*before, *typed]))
    _loaded(text, frozenset(typed))
    os.environ[VARIABLE] = text
    _typed.extend(path for path in map(str, paths) if path not in _typed)


def of(kind: str) -> dict[str, Outside]:
    """Return what there is from outside of a kind, by name; a package that takes one of our names is passed over."""
    text = os.environ.get(VARIABLE, "")
    files = {one.name: one for one in _loaded(text, frozenset()) if one.kind == kind} if text else {}
    return _announced(kind) | files


def find(kind: str, name: str) -> Outside | None:
    """Return the thing of a name that comes from outside; None where there is none, or it is ours."""
    return None if name in _ours(kind) else of(kind).get(name)


def load(kind: str, name: str, value: Any, has: Iterable[str] = ()) -> Any:
    """Return what a value from outside stands for.

    Args:
        value: the thing itself, or its import path.
        has: attributes that it must have.

    Raises:
        ArdbenchError: it cannot be imported, or has not these.
    """
    one = find(kind, name)
    origin, mend = "an installed package", "mend or uninstall that package"
    if one is not None and one.file is not None:
        origin, mend = f"plugin {one.file}", "mend that file"
    try:
        found = resolve_name(value) if isinstance(value, str) else value
        _ = [getattr(found, part) for part in has]
    except Exception as error:  # code of others, which may fail in any way
        said = str(error).strip().partition("\n")[0][:300]
        where = f" from {value}" if isinstance(value, str) else ""
        raise ArdbenchError(
            f"The {KINDS[kind].word} {name} of {origin} cannot be loaded{where} ({type(error).__name__}: {said}): {mend}."
        ) from error
    return found


def called(one: Outside, what: Callable[..., Any], *words: Any) -> Any:
    """Return what a function from outside answers; whatever it raises becomes one sentence."""
    try:
        return what(*words)
    except Exception as error:
        if isinstance(error, ArdbenchError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise ArdbenchError(
            f"The {one.word} of {one.origin} failed with {raised(error, one.package, one.origin).rstrip('.')}: mend it."
        ) from error


def sources(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return kind:name -> sha256 of those (kind, name) that come from outside."""
    found = [one for kind, name in named if (one := find(kind, name)) is not None]
    return {f"{one.kind}:{one.name}": one.sha256 for one in found}


def origins(wanted: Iterable[str]) -> dict[str, str]:
    """Return, for each kind:name, the name of the plugin's file, or the package and its version."""
    found = {key: find(*key.split(":", 1)) for key in wanted}
    return {key: one.file.name if one.file else one.origin for key, one in found.items() if one is not None}


def expect(wanted: Mapping[str, str], of: str, known: Mapping[str, str]) -> None:
    """Remember what a run needs, so that a name which is not there is refused with where it comes from."""
    for key, sha256 in wanted.items():
        _expected[key] = (of, known.get(key, ""), sha256)


def check(wanted: Mapping[str, str], of: str, known: Mapping[str, str] | None = None) -> None:
    """Refuse to go on with what was made by other code than is here.

    Args:
        wanted: kind:name -> sha256.
        of: whose wish it is.
        known: kind:name -> file or package.

    Raises:
        ArdbenchError: something is not here, or its source is another.
    """
    for key, sha256 in wanted.items():
        kind, _, name = key.partition(":")
        if kind not in KINDS:
            raise errors.unknown("kind of code from outside", kind, KINDS)
        one = find(kind, name)
        if one is None:
            raise _absent(kind, name, of, (known or {}).get(key, ""), sha256)
        if one.sha256 != sha256:
            raise ArdbenchError(
                f"{of} was made with another source of the {one.word} (sha256 {sha256[:16]}) than {one.origin} has "
                f"({one.sha256[:16]}): put that source back to go on, or train by the recipe again, which makes another run."
            )


def unknown(kind: str, name: str, allowed: Iterable[str], word: str = "") -> ArdbenchError:
    """Return the refusal of a name that is not there, with the plugin that a run wants it from or with the nearest name."""
    if (key := f"{kind}:{name}") in _expected:
        return _absent(kind, name, *_expected[key])
    return errors.unknown(word or KINDS[kind].word, name, allowed)


def _absent(kind: str, name: str, of: str, origin: str, sha256: str) -> ArdbenchError:
    package = bool(origin) and not origin.endswith(".py")
    what = (
        "install that package" if package else f"type `ardbench --plugin {origin or 'FILE.py'} COMMAND`, with that file"
    )
    return ArdbenchError(
        f"{of} needs the {KINDS[kind].word} {name}{f' of {origin}' if origin else ''} (sha256 {sha256[:16]}), which is not "
        f"here: {what}."
    )


@cache
def _loaded(text: str, strict: frozenset[str]) -> tuple[Outside, ...]:
    """Return what the plugins of $ARDBENCH_PLUGINS hold; one that is broken is told, and refused where it is `strict`."""
    found: tuple[Outside, ...] = ()
    for path in filter(None, text.split(os.pathsep)):
        try:
            found = (*found, *_free(_file(Path(path)), found))
        except ArdbenchError as error:
            if path in strict:
                raise
            if not strict:
                print(f"Without a plugin of ${VARIABLE}: {error}", file=sys.stderr)
    return found


def _free(new: Sequence[Outside], there: Sequence[Outside]) -> Sequence[Outside]:
    """Return what a plugin holds, if none of its names is taken."""
    for one in new:
        key = (one.kind, one.name)
        others = [old.origin for old in (*there, *_announced(one.kind).values()) if (old.kind, old.name) == key]
        if taken := ["ardbench itself"] * (one.name in _ours(one.kind)) + others:
            raise ArdbenchError(
                f"Plugin {one.file}: its {one.word} has the name of one of {taken[0]}: give it another."
            )
    return new


def _ours(kind: str) -> Iterable[str]:
    found = resolve_name(KINDS[kind].ours)
    names: Iterable[str] = found() if callable(found) else found
    return names


def _announced(kind: str) -> dict[str, Outside]:
    """Return what installed packages announce of a kind under names that are not ours."""
    return _announced_on(tuple(sys.path), kind)


@cache
def _announced_on(path: tuple[str, ...], kind: str) -> dict[str, Outside]:
    """The same, for a path on which packages are looked for."""
    ours = _ours(kind)
    entries = [entry for entry in entry_points(group=KINDS[kind].group) if entry.name not in ours]
    return {entry.name: Outside(kind, entry.name, entry.value, _package(entry)) for entry in entries}


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


@cache
def _file(path: Path) -> tuple[Outside, ...]:
    """Run a plugin's file once, and return what its registries hold."""
    try:
        source = path.read_bytes()
        code = compile(source, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise ArdbenchError(
            f"Plugin {path} cannot be read ({error.strerror}): give the path of a Python file."
        ) from None
    except SyntaxError as error:
        raise ArdbenchError(
            f"Plugin {path} has a syntax error in line {error.lineno} ({error.msg}): mend it."
        ) from None
    except ValueError as error:
        raise ArdbenchError(f"Plugin {path} is no Python file ({error}): give one.") from None
    digest = hashlib.sha256(source).hexdigest()
    module = ModuleType(_module_name(path, digest))
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where classes look for the names of their annotations
    try:
        exec(code, vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ArdbenchError(
            f"Plugin {path} cannot be loaded ({raised(error, module.__name__, str(path))}): mend it."
        ) from error
    return _held(module, path, digest)


def _module_name(path: Path, digest: str) -> str:
    """Return a name that no other module has, also no other version of the file."""
    return _PREFIX + re.sub(r"\W", "_", path.stem) + f"_{digest[:8]}"


def _held(module: ModuleType, path: Path, digest: str) -> tuple[Outside, ...]:
    """Return what the registries of a plugin's module hold."""
    there = {name: vars(module)[kind.registry] for name, kind in KINDS.items() if kind.registry in vars(module)}
    if not there:
        names = ", ".join(kind.registry for kind in KINDS.values())
        raise ArdbenchError(f'Plugin {path} has none of {names}: give it one, such as MODELS = {{"my-net": MyNet}}.')
    for name, registry in there.items():
        kind = KINDS[name]
        if not isinstance(registry, dict):
            raise ArdbenchError(
                f"Plugin {path}: {kind.registry} is a {type(registry).__name__}: give a dict of names and {kind.form}."
            )
        for key, value in registry.items():
            if not (isinstance(key, str) and NAME.fullmatch(key)):
                raise ArdbenchError(
                    f"Plugin {path}: {key!r} in {kind.registry} is no name: give one of letters, digits, '-', '_' and '.'."
                )
            if not _fits(name, value):
                raise ArdbenchError(
                    f"Plugin {path}: {key} in {kind.registry} is a {type(value).__name__}: give {kind.form}."
                )
    return tuple(
        Outside(name, key, value, str(path), path, digest)
        for name, registry in there.items()
        for key, value in registry.items()
    )


def _fits(kind: str, value: Any) -> bool:
    """Return whether a value has the form of its kind."""
    if kind == "recipe":
        return isinstance(value, dict | str | Path)
    if isinstance(value, str):
        return bool(re.fullmatch(r"[\w.]+:[\w.]+", value))
    if kind == "dataset":
        return isinstance(value, resolve_name("ardbench.data:Dataset"))
    return callable(value)


@cache
def _source_of(module: str) -> str:
    """Return the sha256 of all source of the package that a module lies in."""
    top = module.partition(".")[0]
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        return ""  # nothing can be imported from it, which is refused where it is asked for
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    if not folders:
        return hashlib.sha256(Path(str(spec.origin)).read_bytes()).hexdigest()
    told = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            told.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return told.hexdigest()
