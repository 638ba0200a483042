"""Faults of released code: their switches stand in the recipes as the table says, and change a step as it says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "released"))

import released_faults
from released_faults import Fault
from test_methods import bench

from ardbench.config import Recipe
from ardbench.engine.contract_checks import Bench, goes_on, learns, repeats, sees_no_values
from ardbench.methods import method_class
from ardbench.recipes import resolve

ROOT = Path(__file__).parents[1]
FAULTS = {fault.name: fault for fault in released_faults.faults()}
ROWS = pd.read_csv(ROOT / "results" / "released-faults.csv", keep_default_na=False).set_index("fault", drop=False)
STILL = [name for name in FAULTS if name.endswith(("-forwards", "saad-forward", "decay", "early"))]
"""Faults that leave a step's loss and gradient as they are: forwards that nobody learns from, and rates."""

UNMOVED = ["fair-rslad-offset", "ard-forwards", "iad-i-forwards"]
"""All weights are clamped; running statistics alone, where the attack does not read them."""


def value(recipe: Recipe, path: str) -> Any:
    """Return what a recipe holds at SECTION.FIELD or modules.NAME.FIELD, defaults included."""
    section, *rest = path.split(".")
    if section == "method":
        return getattr(method_class(recipe.method["name"]).Config.model_validate(recipe.method), rest[0])
    if section == "modules":
        return next(module for module in recipe.modules if module["name"] == rest[0])[rest[1]]
    return getattr(getattr(recipe, section), rest[0])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_recipes_hold_a_fault_as_released_and_as_meant(fault: Fault) -> None:
    forms, fields = fault.recipes(), [path for path, *_ in fault.fields()]
    assert fields and all(value(forms[0], path) != value(forms[1], path) for path in fields)
    for name, form in zip((fault.recipe, fault.sound), forms, strict=True):
        if name:
            assert [value(resolve(name), path) for path in fields] == [value(form, path) for path in fields], name


OWN = [FAULTS[name] for name in (
    "absld-temperatures", "fair-mtard-target", "mtard-logarithm", "b-mtard-logarithm", "dgad-bracket", "dgad-batch",
    "adr-one-forward", "ciard-order",
)]  # fmt: skip
"""Faults that are another way through a method."""


@pytest.mark.parametrize("check", [learns, repeats, sees_no_values, goes_on], ids=lambda check: check.__name__)
@pytest.mark.parametrize("fault", OWN, ids=lambda fault: fault.name)
def test_a_method_as_released_keeps_the_contract(fault: Fault, check: Callable[[Bench], None]) -> None:
    released = {path: value(fault.recipes()[0], path) for path, *_ in fault.fields()}
    sets = {path.replace(".", "__"): found for path, found in released.items()}
    name, _, variant = fault.on.partition("@")
    more = {"method__base": "trades"} if variant == "trades" else {}
    check(bench(name.removesuffix("-digits"), schedule__epochs=4, **sets | more))


def test_the_pages_hold_what_was_measured() -> None:
    assert list(ROWS["fault"]) == list(FAULTS)
    assert {row["fault"]: row["switch"] for row in ROWS.to_dict("records")} == {
        n: f.switch() for n, f in FAULTS.items()
    }
    assert (ROOT / "results" / "released-faults.md").read_text(encoding="utf-8") == released_faults.page(ROWS)
    assert released_faults.table(ROWS) in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert not ROWS["git_dirty"].astype(bool).any()


def test_each_fault_moves_what_its_kind_can_move() -> None:
    assert [row for row in ROWS["fault"] if ROWS.loc[row, "weights_distance"] == 0] == UNMOVED
    for row in ROWS.to_dict("records"):
        still = row["fault"] in STILL
        assert (abs(row["loss_change"]) < 1e-12) == (
            still or row["fault"] in (*UNMOVED, "peeraid-detach", "ciard-fall")
        )
        assert (row["gradient_distance"] < 1e-12) == (still or row["fault"] in (*UNMOVED, "ciard-fall"))
    assert ROWS.loc["element-mean", "loss_change"] == pytest.approx(-0.9)
    assert ROWS.loc["element-mean", "cosine"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["mart-logarithm", "mart-forwards"])
def test_a_fault_is_measured_as_it_was(name: str) -> None:
    found = released_faults.measured(FAULTS[name])
    for what in ("loss_meant", "loss_change", "gradient_distance", "cosine", "weights_distance"):
        assert found[what] == pytest.approx(ROWS.loc[name, what], rel=1e-4, abs=1e-12), what
