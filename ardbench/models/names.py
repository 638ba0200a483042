"""How networks are named: ours by a word, those of libraries as LIBRARY:NAME?key=value. Torch-free."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ardbench.errors import ArdbenchError
from ardbench.untrusted import OPTION_LIMIT

LIBRARIES = ("timm", "torchvision")
OBJECT = "object:"
"""Begins the name of a network that a caller of Python gave: its class follows."""


def of_library(name: str) -> bool:
    """Return whether a name is of a network that a library builds."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def split_source(text: str) -> tuple[str, str]:
    """Return FILE and ARCH of FILE:ARCH, where ARCH may be of a library; ("", text) where there is no colon."""
    for library in LIBRARIES:
        place, mark, rest = text.partition(f":{library}:")
        if mark:
            return place, f"{library}:{rest}"
    place, _, arch = text.rpartition(":")
    return place, arch


def split(name: str) -> tuple[str, str, dict[str, Any]]:
    """Return library, network and options of LIBRARY:NAME?key=value&key=value.

    Raises:
        ArdbenchError: no network, an option without a value, or one that is given twice.
    """
    library, _, rest = name.partition(":")
    model, _, query = rest.partition("?")
    if not model:
        raise ArdbenchError(f"{name!r} names no network: give one such as {library}:resnet18.")
    options: dict[str, Any] = {}
    for text in query.split("&") if query else ():
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals and value) or key in options:
            raise ArdbenchError(f"{name}: {text!r} is no option: write each once as key=value, such as ?stem=small.")
        options[key] = _value(value)
        if isinstance(options[key], int) and abs(options[key]) > OPTION_LIMIT:
            raise ArdbenchError(f"{name[:200]}: {key} is larger than any network's: give {OPTION_LIMIT} at most.")
    return library, model, options


@cache
def stands_in_source(library: str, model: str) -> bool:
    """Return whether a library's source defines a function of a network's name; nothing of it is loaded. Few names are made
    otherwise, which the library alone knows."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        return True  # so that building says what is missing
    defined = re.compile(rf"^def {re.escape(model)}\(".encode(), re.MULTILINE)
    return any(defined.search(path.read_bytes()) for path in (Path(spec.origin).parent / "models").rglob("*.py"))


def _value(text: str) -> Any:
    """Return a number, a truth or a word as it was typed."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
