"""The registry of methods: a name and where its class lies."""

from __future__ import annotations

import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ardbench.config import MethodConfig
from ardbench.errors import ArdbenchError, unknown
from ardbench.faults import outside, refused

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
    "adaiad": "ardbench.methods.adaiad:AdaIAD",
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
    if outside(found):
        _check_class(found)
    return found


def _check_class(kind: Any) -> None:
    """Refuse a class from outside that says in another form who it is, what it is configured by, and who teaches it."""
    from ardbench.methods.base import Method

    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise refused(kind, "is no Method", "derive it from ardbench.methods.base.Method", "")
    if not (isinstance(kind.Config, type) and issubclass(kind.Config, MethodConfig)):
        wanted = "derive it from ardbench.config.MethodConfig, with a field for each constant"
        raise refused(kind, "has a Config that is no MethodConfig", wanted, "Config")
    names = kind.roles[:-1] if isinstance(kind.roles, tuple) and kind.roles[-1:] == (...,) else kind.roles
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names) or (kind.roles and not names):
        raise refused(kind, f"has roles = {kind.roles!r}", 'give a tuple of names, such as roles = ("robust",)', "")
