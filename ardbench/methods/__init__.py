"""The registries of methods and modules: a name and where its class lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from ardbench import plugins
from ardbench.config import MethodConfig
from ardbench.faults import outside, refused

if TYPE_CHECKING:
    from ardbench.methods.base import Method
    from ardbench.methods.module import Module

METHODS = {
    "standard": "ardbench.methods.standard:Standard",
    "pgd-at": "ardbench.methods.pgd_at:PGDAT",
    "trades": "ardbench.methods.trades:TRADES",
    "mart": "ardbench.methods.mart:MART",
    "adr": "ardbench.methods.adr:ADR",
    "hat": "ardbench.methods.hat:HAT",
    "saad": "ardbench.methods.saad:SAAD",
    "lbgat": "ardbench.methods.lbgat:LBGAT",
    "kdiga": "ardbench.methods.kdiga:KDIGA",
    "absld": "ardbench.methods.absld:ABSLD",
    "mtard": "ardbench.methods.mtard:MTARD",
    "b-mtard": "ardbench.methods.mtard:BMTARD",
    "ciard": "ardbench.methods.ciard:CIARD",
    "ard": "ardbench.methods.ard:ARD",
    "akd2": "ardbench.methods.akd2:AKD2",
    "adaad": "ardbench.methods.adaad:AdaAD",
    "adaiad": "ardbench.methods.adaiad:AdaIAD",
    "dgad": "ardbench.methods.dgad:DGAD",
    "rslad": "ardbench.methods.rslad:RSLAD",
    "iad-i": "ardbench.methods.iad:IADI",
    "iad-ii": "ardbench.methods.iad:IADII",
    "peeraid": "ardbench.methods.peeraid:PeerAiD",
    "crdnd": "ardbench.methods.crdnd:CRDND",
    "darht": "ardbench.methods.darht:DARHT",
}

MODULES = {
    "igdm": "ardbench.methods.igdm:IGDM",
    "fair": "ardbench.methods.fair:Fair",
}


def available() -> dict[str, Any]:
    """Return every method by name, as its class or where that lies: ours, those of plugins and of installed packages."""
    return {name: one.value for name, one in plugins.of("method").items()} | METHODS


def available_modules() -> dict[str, Any]:
    """Return every module by name, as its class or where that lies: ours, those of plugins and of installed packages."""
    return {name: one.value for name, one in plugins.of("module").items()} | MODULES


def method_class(name: str) -> type[Method[Any]]:
    """Return the class of a method, or refuse the name and offer the nearest.

    Raises:
        ArdbenchError: there is none of that name, or the plugin or package that has it cannot be loaded.
    """
    found: type[Method[Any]] = _loaded("method", name, available(), METHODS, ("roles", "Config", "step"))
    if outside(found):
        _check_class(found)
    return found


def module_class(name: str) -> type[Module[Any]]:
    """Return the class of a module, or refuse the name and offer the nearest.

    Raises:
        ArdbenchError: there is none of that name, or the plugin or package that has it cannot be loaded.
    """
    found: type[Module[Any]] = _loaded("module", name, available_modules(), MODULES, ("needs", "Config", "refusal"))
    return found


def _loaded(kind: str, name: str, known: Mapping[str, Any], ours: Mapping[str, str], has: Sequence[str]) -> Any:
    if name not in known:
        raise plugins.unknown(kind, name, known)
    return resolve_name(ours[name]) if name in ours else plugins.load(kind, name, known[name], has)


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
