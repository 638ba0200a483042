"""Protocols: how a number is measured, as versioned data. Torch-free."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ardbench.config import Attack, Positive, Section, Threat
from ardbench.errors import ArdbenchError, unknown

ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
"""The attacks of AutoAttack that a custom protocol may name."""


class Clean(Section):
    """The images as they are."""

    name: str
    version: Annotated[int, Field(ge=1)]
    kind: Literal["clean"]

    def settings(self, threat: Threat) -> dict[str, Any]:
        """Return what is recorded beside the verdicts: nothing is searched."""
        return {}


class Pgd(Section):
    """Projected gradient ascent; step_size and reference_eps in pixel units."""

    name: str
    version: Annotated[int, Field(ge=1)]
    kind: Literal["pgd"]
    objective: Literal["ce", "margin"]
    steps: Annotated[int, Field(ge=1)]
    step_size: Positive
    """The step size at `reference_eps`."""
    reference_eps: Positive
    start: Literal["uniform", "normal", "none"]
    restarts: Annotated[int, Field(ge=1)]

    def attack(self, threat: Threat) -> Attack:
        """Return one restart of the search under a threat of eps > 0; the step size grows and shrinks with eps."""
        step_size = self.step_size * (threat.eps / self.reference_eps)
        return Attack(steps=self.steps, step_size=step_size, start=self.start, bn="eval")

    def settings(self, threat: Threat) -> dict[str, Any]:
        """Return what is recorded beside the verdicts: the search as it was run under this threat."""
        step_size = self.step_size * (threat.eps / self.reference_eps)
        kept = self.model_dump(mode="json", include={"objective", "steps", "start", "restarts"})
        return kept | {"step_size": step_size}


class AutoAttack(Section):
    """The authors' ensemble: attacks in their order, configured as one of the package's versions."""

    name: str
    version: Annotated[int, Field(ge=1)]
    kind: Literal["autoattack"]
    configured: Literal["standard", "plus", "rand"]
    attacks: Annotated[tuple[str, ...], Field(min_length=1)]

    def settings(self, threat: Threat) -> dict[str, Any]:
        """Return what is recorded beside the verdicts."""
        return self.model_dump(mode="json", include={"configured", "attacks"})


Protocol = Clean | Pgd | AutoAttack


def _read() -> dict[str, Protocol]:
    text = (resources.files("ardbench.evaluation") / "protocols.toml").read_text(encoding="utf-8")
    adapter: TypeAdapter[Protocol] = TypeAdapter(Annotated[Protocol, Field(discriminator="kind")])
    return {name: adapter.validate_python({"name": name, **table}) for name, table in tomllib.loads(text).items()}


PROTOCOLS = _read()


def protocol(name: str) -> Protocol:
    """Return a protocol by name, or a custom list such as `aa:apgd-ce,square`.

    A custom list runs these attacks in this order, each configured as in AutoAttack's standard version.

    Raises:
        ArdbenchError: no such protocol, no such attack, an attack named twice.
    """
    if not name.startswith("aa:"):
        if name not in PROTOCOLS:
            raise unknown("protocol", name, PROTOCOLS)
        return PROTOCOLS[name]
    attacks = tuple(name.removeprefix("aa:").split(","))
    for attack in attacks:
        if attack not in ATTACKS:
            raise unknown(f"attack in protocol {name!r}:", attack, ATTACKS)
        if attacks.count(attack) > 1:
            raise ArdbenchError(f"Protocol {name!r} names {attack} twice: name every attack once.")
    version = PROTOCOLS["aa"].version
    return AutoAttack(name=name, version=version, kind="autoattack", configured="standard", attacks=attacks)
