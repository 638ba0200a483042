"""The registry of methods: a name and where its class lies."""

from __future__ import annotations

import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError, unknown

if TYPE_CHECKING:
    from ardbench.methods.base import Method

METHODS = {
    "standard": "ardbench.methods.standard:Standard",
    "pgd-at": "ardbench.methods.pgd_at:PGDAT",
    "trades": "ardbench.methods.trades:TRADES",
    "mart": "ardbench.methods.mart:MART",
    "ard": "ardbench.methods.ard:ARD",
    "akd2": "ardbench.methods.akd2:AKD2",
    "adaad": "ardbench.methods.adaad:AdaAD",
    "rslad": "ardbench.methods.rslad:RSLAD",
    "iad-i": "ardbench.methods.iad:IADI",
    "iad-ii": "ardbench.methods.iad:IADII",
    "peeraid": "ardbench.methods.peeraid:PeerAiD",
    "crdnd": "ardbench.methods.crdnd:CRDND",
    "darht": "ardbench.methods.darht:DARHT",
}


def available() -> dict[str, str]:
    """Return every method by name: ours, and those that installed packages announce as `ardbench.methods`."""
    outside = {entry.name: entry.value for entry in entry_points(group="ardbench.methods")}
    return outside | METHODS


def method_class(name: str) -> type[Method[Any]]:
    """Return the class of a method, or refuse the name and offer the nearest.

    Raises:
        ArdbenchError: there is none of that name, or the package that announces it cannot be loaded.
    """
    methods = available()
    if name not in methods:
        raise unknown("method", name, methods)
    try:
        found: type[Method[Any]] = pkgutil.resolve_name(methods[name])
        _ = found.roles, found.Config, found.step
    except Exception as error:  # a package of others, which may fail in any way
        if name in METHODS:
            raise
        said = str(error).strip().partition("\n")[0][:300]
        raise ArdbenchError(
            f"The method {name} of an installed package cannot be loaded from {methods[name]} "
            f"({type(error).__name__}: {said}): mend or uninstall that package."
        ) from error
    return found
