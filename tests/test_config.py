"""The sections of a recipe: numbers, shares, what fits what, and the hash that names a run."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ardbench.config import Attack, Average, Data, Optimizer, Recipe, Schedule, Threat, epoch_at
from ardbench.recipes import resolve

OPTIMIZER = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
ATTACK = {"steps": 10, "step_size": "2/255", "start": "uniform", "bn": "eval"}
DATA = {"name": "digits", "validation": 0, "augment": "none", "batch": 1}


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_fraction_is_its_quotient_to_the_last_bit(above: int, below: int) -> None:
    assert Threat(norm="l2", eps=f"{above}/{below}").eps == above / below
    assert Threat(norm="l2", eps=f" {above} / {below} ").eps == above / below


@pytest.mark.parametrize(("text", "value"), [("0.031", 0.031), ("1e-3", 1e-3), ("2", 2.0), (2, 2.0), (0.5, 0.5)])
def test_numbers_may_be_written_in_any_usual_way(text: object, value: float) -> None:
    assert Threat(norm="l2", eps=text).eps == value


@pytest.mark.parametrize(
    "text", ["8/0", "eight", "", "8/255/2", "nan", "inf", "1e400", float("nan"), float("inf"), None]
)
def test_what_is_no_finite_number_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match=r"eps\n"):
        Threat(norm="linf", eps=text)


@pytest.mark.parametrize(
    ("section", "good", "key", "refused"),
    [
        (Threat, {"norm": "linf", "eps": 0}, "eps", -0.1),
        (Threat, {"norm": "linf", "eps": 0}, "norm", "l1"),
        (Data, DATA, "validation", -1),
        (Data, DATA, "batch", 0),
        (Data, DATA, "train_images", 0),
        (Data, DATA, "augment", "flip"),
        (Attack, ATTACK, "steps", -1),
        (Attack, ATTACK, "step_size", 0),
        (Attack, ATTACK, "restarts", 0),
        (Attack, ATTACK, "start", "random"),
        (Optimizer, OPTIMIZER, "lr", 0),
        (Optimizer, OPTIMIZER, "momentum", 1),
        (Optimizer, OPTIMIZER, "weight_decay", -1e-4),
        (Optimizer, OPTIMIZER, "clip", 0),
        (Schedule, {"epochs": 1, "kind": "constant"}, "epochs", 0),
        (Schedule, {"epochs": 9, "kind": "step", "milestones": ["1/3"], "gamma": 0.1}, "milestones", ["4/3"]),
        (Schedule, {"epochs": 9, "kind": "step", "milestones": ["1/3"], "gamma": 0.1}, "gamma", 1.5),
        (Average, {"kind": "ema", "decay": 0.9}, "decay", 1),
    ],
)
def test_out_of_range_is_refused_and_its_bound_allowed(
    section: type[BaseModel], good: dict[str, Any], key: str, refused: Any
) -> None:
    section.model_validate(good)
    with pytest.raises(ValidationError) as caught:
        section.model_validate(good | {key: refused})
    assert caught.value.errors()[0]["loc"][0] == key


@pytest.mark.parametrize("section", [Data, Attack, Optimizer])
def test_unknown_keys_are_refused_and_values_never_change(section: type[BaseModel]) -> None:
    good = {Data: DATA, Attack: ATTACK, Optimizer: OPTIMIZER}[section]
    with pytest.raises(ValidationError, match="Extra inputs"):
        section.model_validate(good | {"nonsense": 1})
    made = section.model_validate(good)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, next(iter(good)), next(iter(good.values())))


@pytest.mark.parametrize(
    ("section", "fields", "sentence"),
    [
        (Schedule, {"epochs": 9, "kind": "step"}, "needs milestones and gamma"),
        (Schedule, {"epochs": 9, "kind": "step", "milestones": [0.5]}, "needs milestones and gamma"),
        (Schedule, {"epochs": 9, "kind": "cosine", "gamma": 0.1}, "takes no milestones and no gamma"),
        (Schedule, {"epochs": 9, "kind": "cosine", "warmup": 0.1}, "takes no warmup"),
        (Schedule, {"epochs": 9, "kind": "cosine", "first": 0.1}, "takes no rate of its own for the first epoch"),
        (Schedule, {"epochs": 9, "kind": "step", "milestones": [0.7, 0.5], "gamma": 0.1}, "must rise"),
        (Average, {"kind": "ema"}, "decay is needed"),
        (Average, {"kind": "swa", "decay": 0.9}, "decay is needed"),
        (Optimizer, OPTIMIZER | {"kind": "adamw", "nesterov": True}, "takes no nesterov"),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(
    section: type[BaseModel], fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        section.model_validate(fields)


@given(st.fractions(0, 1, max_denominator=400), st.integers(1, 400))
def test_a_share_of_another_length_is_the_nearest_epoch(share: Fraction, epochs: int) -> None:
    epoch = epoch_at(float(share), epochs)
    assert abs(epoch - share * epochs) <= Fraction(1, 2) + Fraction(1, 10**9)
    assert epoch_at(float(share), epochs) <= epoch_at(min(float(share) + 0.1, 1.0), epochs)


def test_shares_scale_with_the_run() -> None:
    full, short = (resolve("rslad-cifar10", epochs=epochs).schedule for epochs in (300, 30))
    assert [epoch_at(share, 300) for share in full.milestones] == [215, 260, 285]
    assert [epoch_at(share, 30) for share in short.milestones] == [22, 26, 28]  # 21.5, 26 and 28.5, ties to even


def identity(teachers: tuple[str, ...] = (), **sets: Any) -> str:
    return resolve("rslad-digits", sets={key.replace("__", "."): value for key, value in sets.items()}).identity(
        teachers
    )


@pytest.mark.parametrize(
    "described",
    [
        {"name": "another"},
        {"title": "another"},
        {"family": "own"},
        {"diagnostics": True},
        {"average__kind": "none"},  # what is said and what is meant anyway are one
        {"method__alpha": 5 / 6},
    ],
)
def test_descriptions_and_spellings_do_not_change_the_identity(described: dict[str, Any]) -> None:
    assert identity(**described) == identity()
    assert identity(threat__eps="1/4") == identity(threat__eps=0.25) == identity(threat__eps=" 2 / 8 ")


SCIENCE: list[dict[str, Any]] = [
    {"student": "resnet8"},
    {"seed": 1},
    {"data__batch": 64},
    {"data__validation": 100},
    {"data__train_images": 500},
    {"threat__eps": "8/255"},
    {"threat__norm": "l2"},
    {"evaluation__eps": "8/255"},
    {"attack__steps": 7},
    {"attack__bn_update": False},
    {"optimizer__lr": 0.1},
    {"optimizer__clip": 1},
    {"schedule__epochs": 21},
    {"selection__by": "last"},
    {"average__kind": "swa"},
    {"precision__attack": "bf16"},
    {"precision__fold_bn": False},
    {"method__alpha": 0.8},
    {"method__scale": 0.1},
]


def test_every_value_of_science_changes_the_identity() -> None:
    assert len({identity(), *(identity(**change) for change in SCIENCE)}) == len(SCIENCE) + 1


def test_teachers_and_their_order_are_part_of_the_identity() -> None:
    assert len({identity(teachers) for teachers in ((), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",))}) == 6


def test_selection_and_average_look_at_the_whole_recipe() -> None:
    recipe = resolve("pgd-at-digits").model_dump(mode="json")
    recipe["data"]["validation"] = 0
    with pytest.raises(ValidationError, match=r"needs data\.validation > 0"):
        Recipe.model_validate(recipe)
    recipe["selection"]["by"] = "last"
    Recipe.model_validate(recipe)
    for start, fine in ((0.97, True), (0.98, False), (1.0, False)):  # 20 epochs: 19.4 is the last, 19.6 is none
        recipe["average"] = {"kind": "swa", "start": start}
        if fine:
            Recipe.model_validate(recipe)
        else:
            with pytest.raises(ValidationError, match="leaves none of 20 epochs"):
                Recipe.model_validate(recipe)


def test_a_method_must_be_named() -> None:
    recipe = resolve("pgd-at-digits").model_dump(mode="json")
    for section in ({}, {"name": 3}):
        with pytest.raises(ValidationError, match="needs a name"):
            Recipe.model_validate(recipe | {"method": section})
