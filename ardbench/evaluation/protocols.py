"""Protocols: how a number is measured, as versioned data, ours and the user's own. Torch-free."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from ardbench.config import Attack, NonNegative, Positive, Section, Threat
from ardbench.errors import ArdbenchError, unknown
from ardbench.untrusted import read_toml

PackageAttack = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
ATTACKS: tuple[str, ...] = get_args(PackageAttack)
"""The attacks of AutoAttack that a custom protocol may name."""
FILE = ".toml:"
"""What stands between a file of the user's and the name of a protocol in it."""
OWN_NAME = re.compile(r"(?!aa-|trust-|.*-n\d+$)[a-z0-9][a-z0-9-]*")
"""What a user's protocol may be called: its files must not look like those of others."""
TAKEN = ("trust", "weighted", "worst", "worst-class", "nsd", "nrr", "overfitting", "minus-aa", "aa-estimated")
"""Names of files and columns that are no protocols."""
FAST = "-fast"
"""Ends the name of an AutoAttack protocol whose attacks run in bf16: aa-fast, aa-fast:apgd-ce,square."""
CLASSES_NEEDED = {"apgd-t": 4, "apgd-dlr": 3}
"""The DLR losses compare with the third (targeted: fourth) largest logit."""


class Rules(Section):
    """What all protocols have."""

    name: str
    version: Annotated[int, Field(ge=1)]

    def under(self, threat: Threat) -> Threat:
        """Return the threat that is measured where `threat` is asked for."""
        return threat

    def check_surrogate(self, given: bool) -> None:
        """Refuse a protocol that searches on another network where none is given."""


class Clean(Rules):
    """The images as they are."""

    kind: Literal["clean"]

    def settings(self, threat: Threat) -> dict[str, Any]:
        """Return what is recorded beside the verdicts: nothing is searched."""
        return {}


class Pgd(Rules):
    """Projected gradient ascent; step_size and reference_eps in pixel units."""

    kind: Literal["pgd"]
    objective: Literal["ce", "margin"]
    steps: Annotated[int, Field(ge=1)]
    step_size: Positive
    """The step size at `reference_eps`."""
    reference_eps: Positive
    start: Literal["uniform", "normal", "none"]
    restarts: Annotated[int, Field(ge=1)]
    momentum: NonNegative = 0.0
    """Of the gradients, each of L1 norm 1."""
    scale: Positive = 1.0
    """What the logits are multiplied by while the attack searches."""
    surrogate: bool = False
    """Whether it searches on another network, to be named where it is measured."""
    threat: Threat | None = None
    """In place of the one that is asked for."""

    def under(self, threat: Threat) -> Threat:
        """Return the protocol's own threat, or else the one that is asked for."""
        return self.threat or threat

    def check_surrogate(self, given: bool) -> None:
        """Refuse a protocol that searches on another network where none is given."""
        if self.surrogate and not given:
            raise ArdbenchError(
                f"Protocol {self.name!r} is crafted on another network: measure it with `ardbench eval`, and name that "
                "network with --surrogate SOURCE."
            )

    def attack(self, threat: Threat) -> Attack:
        """Return one restart of the search under a threat of eps > 0; the step size grows and shrinks with eps."""
        step_size = self.step_size * (threat.eps / self.reference_eps)
        return Attack(steps=self.steps, step_size=step_size, start=self.start, bn="eval")

    def settings(self, threat: Threat) -> dict[str, Any]:
        """Return what is recorded beside the verdicts: the search as it was run under this threat."""
        step_size = self.step_size * (threat.eps / self.reference_eps)
        others = {"name", "version", "kind", "step_size", "reference_eps", "threat"}
        kept = self.model_dump(mode="json", exclude=others, exclude_defaults=True)
        return kept | {"step_size": step_size}


class AutoAttack(Rules):
    """The authors' ensemble: attacks in their order, configured as one of the package's versions."""

    kind: Literal["autoattack"]
    configured: Literal["standard", "plus", "rand"]
    attacks: Annotated[tuple[PackageAttack, ...], Field(min_length=1)]
    fast: bool = False
    """Whether the attacks see a bf16 form of the network; every success is confirmed in fp32 all the same."""

    @field_validator("attacks")
    @classmethod
    def _names_each_once(cls, attacks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(attacks)) < len(attacks):
            raise ValueError("an attack is named twice")
        return attacks

    def undefined(self, classes: int) -> tuple[str, ...]:
        """Return those of its attacks whose loss needs more classes than there are."""
        return tuple(name for name in self.attacks if CLASSES_NEEDED.get(name, 2) > classes)

    def defined(self, classes: int) -> AutoAttack:
        """Return the protocol without `undefined` attacks, unless somebody has named each of them: `aa:apgd-t,square`."""
        if self.name.removesuffix(FAST) not in PROTOCOLS:
            return self
        undefined = self.undefined(classes)
        return self.model_copy(update={"attacks": tuple(name for name in self.attacks if name not in undefined)})

    def settings(self, threat: Threat) -> dict[str, Any]:
        """Return what is recorded beside the verdicts."""
        kept = self.model_dump(mode="json", include={"configured", "attacks"})
        return kept | ({"fast": True} if self.fast else {})


Protocol = Clean | Pgd | AutoAttack

_TABLE: TypeAdapter[Protocol] = TypeAdapter(Annotated[Protocol, Field(discriminator="kind")])


def _read() -> dict[str, Protocol]:
    text = (resources.files("ardbench.evaluation") / "protocols.toml").read_text(encoding="utf-8")
    return {name: _TABLE.validate_python({"name": name, **table}) for name, table in tomllib.loads(text).items()}


PROTOCOLS = _read()


def protocol(name: str) -> Protocol:
    """Return a protocol that recipes and suites may name: one by name, or a custom list such as `aa:apgd-ce,square`.

    A custom list runs these attacks in this order, each configured as in AutoAttack's standard version.

    Raises:
        ArdbenchError: no such protocol, no such attack, an attack named twice, or one that only `ardbench eval` can take.
    """
    if FILE in name:
        raise ArdbenchError(
            f"Protocol {name!r} is in a file of its own: measure it with `ardbench eval --protocol {name}`."
        )
    rules = asked(name)
    rules.check_surrogate(False)
    return rules


def asked(name: str) -> Protocol:
    """Return a protocol that is asked for on the command line: as in `protocol`, or FILE.toml:NAME from a user's file.

    Raises:
        ArdbenchError: no such protocol, attack or file, an attack named twice, or an entry that does not hold.
    """
    if FILE in name:
        file, _, own = name.rpartition(":")
        return _of_file(Path(file), own)
    ensemble, colon, listed = name.partition(":")
    if ensemble.endswith(FAST):
        plain = asked(ensemble.removesuffix(FAST) + colon + listed)
        if not isinstance(plain, AutoAttack):
            raise ArdbenchError(
                f"There is no protocol {name!r}, since only AutoAttack has a fast form: give {plain.name}."
            )
        return fast_form(plain)
    if not name.startswith("aa:"):
        if "," in name:
            each = " ".join(f"--protocol {one.strip()}" for one in name.split(","))
            raise ArdbenchError(f"Unknown protocol {name!r}: name each by itself, {each}.")
        if name not in PROTOCOLS:
            raise unknown("protocol", name, PROTOCOLS)
        return PROTOCOLS[name]
    attacks = tuple(name.removeprefix("aa:").split(","))
    for attack in attacks:
        if attack not in ATTACKS:
            raise unknown(f"attack in protocol {name!r}:", attack, ATTACKS)
        if attacks.count(attack) > 1:
            raise ArdbenchError(f"Protocol {name!r} names {attack} twice: name every attack once.")
    return AutoAttack.model_validate(dict(PROTOCOLS["aa"]) | {"name": name, "attacks": attacks})


def fast_form(rules: AutoAttack) -> AutoAttack:
    """Return an AutoAttack protocol with its attacks in bf16: aa-fast, aa-fast:apgd-ce,square."""
    ensemble, colon, attacks = rules.name.partition(":")
    name = rules.name if rules.fast else f"{ensemble}{FAST}{colon}{attacks}"
    return rules.model_copy(update={"name": name, "fast": True})


def _of_file(path: Path, name: str) -> Protocol:
    """Return a protocol of the user's; its name becomes that of a file and a column."""
    try:
        tables = read_toml(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ArdbenchError(f"Protocols {path} cannot be read as TOML ({error}): give FILE.toml:NAME.") from None
    if name not in tables:
        raise unknown(f"protocol in {path}:", name, tables)
    if name in {*PROTOCOLS, *TAKEN} or not OWN_NAME.fullmatch(name):
        raise ArdbenchError(
            f"Protocol {name!r} in {path} cannot be called so: take a name of small letters, digits and hyphens that is "
            "no other file's or column's, such as my-pgd40."
        )
    given = tables[name] if isinstance(tables[name], Mapping) else {}
    try:
        return _TABLE.validate_python({**given, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        said = first["msg"].removeprefix("Value error, ")
        if first["type"].startswith("union_tag"):
            said = "it needs a kind, which is clean, pgd or autoattack"
        raise ArdbenchError(
            f"Protocol {name!r} in {path}{where and f', {where}'}: {said[0].lower()}{said[1:]}."
        ) from None
