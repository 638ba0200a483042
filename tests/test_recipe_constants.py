"""The constants of every built-in recipe against the papers and released code, written out here a second time."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from ardbench import methods
from ardbench.config import ONE_STEP, epoch_at
from ardbench.recipes import describe, recipe_names, resolve

RUNS = [n for name in recipe_names() for n in (name, *(f"{name}@{v}" for v in describe(name).get("variants", {})))]

LAST, TEST = ("last", "pgd10", 0), ("best-test", "pgd10", 0)
FORWARDS = {
    "trades": ["x", "x_adv", "x"], "mart": ["x", "x_adv"], "adaad": ["x", "x_adv"],
    "adaiad": ["x", "x_adv", "x"], "ard": ["x_adv", "x"],
    "iad-i": ["x_adv", "x_adv", "x", "x"], "peeraid": ["x_adv", "x_adv", "x"],
    "adaad@igdm": None, "adaad@igdm-exchanged": None, "trades@awp": None, "ard@n-fgsm": None, "ard@nuat": None,
    "lbgat@lbgat0": ["x_adv", "x"],
}  # fmt: skip
SWITCH = ("forwards", "forwards_before")
"""The student's forwards in train mode, as executed, where they are not those that the loss needs, in its order."""
STUDENTS = {
    "ciard": "mobilenetv2",
    "ciard@printed": "mobilenetv2",
    "akd2": "preactresnet18",
    "pgd-at@awp": "preactresnet18",
    "trades@awp": "wrn-34-10",
    "dgad@mobilenetv2": "mobilenetv2",
    "lbgat": "wrn-34-10",
    "lbgat@lbgat0": "wrn-34-10",
}
"""Other than a ResNet-18."""
OF_TINY = {"peeraid-tiny-imagenet@wrn": "wrn-34-10", "saad-tiny-imagenet": "preactresnet18",
           "saad-tiny-imagenet@printed": "preactresnet18"}  # fmt: skip
IAD_II = {"beta": 0.1, "begin": 40 / 200, "label": 0.25, "robust": 0.5, "clean": 0.25}
IAD_TRUST = {"beta": 0.1, "begin": 60 / 200}
AKD2 = {"label": 0.3, "robust": 0.6, "clean": 0.1, "temperature": 2}
AKD2_IAD = {"label": 0.25, "robust": 0.5, "clean": 0.25, "temperature": 1}
CRDND = {"balance": 0.2, "tau": 0.5, "compensation": "class", "domain": "logits", "inner": "margin"}
DARHT = {"distill_from": 50 / 200, "label_until": 118 / 200, "distance": "kl", "weighting": "confidence",
         "p_adv": 0.5, "drop_block": False}  # fmt: skip


def ard(temperature: float, scale: float) -> dict[str, Any]:
    return {"alpha": 1, "temperature": temperature, "scale": scale}


def iad_i(trust: bool) -> dict[str, Any]:
    return {"beta": 0.1, "begin": 60 / 200, "trust_teacher_term": trust}


def mtard(scale: float, **released: Any) -> dict[str, Any]:
    return {"scale": scale, "rate": 0.025, "milestones": [215 / 300, 260 / 300, 285 / 300], "power": 1, **released}


SOFTENED = {"temperature_rate": 0.001, "highest": 10}


def absld(scale: float, temperatures: str) -> dict[str, Any]:
    return {"alpha": 5 / 6, "scale": scale, "rate": 0.1, "milestones": [215 / 300, 260 / 300, 285 / 300], "lowest": 0.5,
            "highest": 5, "temperatures": temperatures}  # fmt: skip


def ciard(scale: float, fall: float) -> dict[str, Any]:
    return {"scale": scale, "temperature_rate": 0.001, "milestones": [215 / 300, 260 / 300, 285 / 300], "fall": fall,
            "highest": 10, "push_temperature": 5, "floor": 1e-7} | ({"clean_first": True} if fall == 0 else {})  # fmt: skip


def dgad(scale: float, bracket: str) -> dict[str, Any]:
    return {"scale": scale, "beta": 1, "bracket": bracket}


COUNTED = {"counted": "released"}


def kdiga(scale: float) -> dict[str, Any]:
    return {"alpha": 0.5, "temperature": 1, "scale": scale, "alignment": 1000}


def saad(alpha: float, extra: bool) -> dict[str, Any]:
    return {"weight": 5, "alpha": alpha, "beta": 0, "reach": 1, "order": 1, "extra_forward": extra}


def adr(temperature: list[float], mixing: list[float], base: str = "pgd-at") -> dict[str, Any]:
    return {"base": base, "beta": 6, "temperature": temperature, "mixing": mixing}


TOGETHER = {"one_forward": True}
AWP_OF_ADR = {"adr-cifar10": 0.005, "adr-cifar100": 0.005, "adr-tiny-imagenet": 0.001}


def peeraid(g2: float, l1: float, l2: float, l3: float, t: float, peer: str = "resnet18") -> dict[str, Any]:
    """Return the method section for gamma_2, lambda_1 to lambda_3 as weights of means over the batch; gamma_1 is 1."""
    return {"peer": peer, "peer_label": 1, "peer_imitation": g2, "label": l1, "imitation": l2, "consistency": l3,
            "temperature": t, "detach_peer_target": False}  # fmt: skip


# eps, step size, start, BatchNorm mode of the attack
UNIFORM = (8 / 255, 2 / 255, "uniform", "eval")
NORMAL = (8 / 255, 2 / 255, "normal", "eval")
TRAIN = (8 / 255, 2 / 255, "uniform", "train")
WIDE, SIGNS = ((8 / 255, 8 / 255, start, "eval") for start in ("wide", "signs"))
WIDER = (0.031, 0.007, "normal", "eval")
# Epochs, and the first epoch (from 0) of each lower rate
ONCE, TWICE, THRICE = (200, [100]), (200, [100, 150]), (300, [215, 260, 285])
# As executed: these scripts count epochs from 1
IAD_TEACHER, PEERAID, MART = (200, [99, 149]), (300, [214, 259, 284]), (120, [74, 89, 99])
NO = ("none", 0)  # average
ONE_OF_TINY = ((80, [40, 60]), 0.1, 5e-4, 128, TRAIN, TEST, ("ema", 0))


def cifar(k: int) -> dict[str, tuple[Any, ...]]:
    """Return what the CIFAR recipe of a method, or METHOD@VARIANT, holds; k classes.

    Schedule, learning rate, weight decay, batch, attack, selection and average with the first epoch of each, method.
    """
    batch, by_set = {10: (128, 1), 100: (256, 10)}[k]
    cooled, cooled_with_awp = {10: ([2.5, 2], [2.5, 1.5]), 100: ([1.5, 1], [2, 1])}[k]
    late, held = ("best-test", "pgd20-trades", 214), ("best-val", "pgd20", 0)
    return {
        "standard": (TWICE, 0.1, 5e-4, 128, UNIFORM, LAST, NO, {}),
        "pgd-at": (IAD_TEACHER, 0.1, 2e-4, 128, UNIFORM, LAST, NO, {}),
        "pgd-at@awp": (TWICE, 0.1, 5e-4, 128, TRAIN, TEST, NO, {}),
        "trades@awp": (TWICE, 0.1, 5e-4, 128, NORMAL, LAST, NO, {"beta": 6}),
        "pgd-at@iad": (IAD_TEACHER, 0.1, 2e-4, 128, UNIFORM, TEST, NO, {}),
        "trades": ((76, [74]), 0.1, 2e-4, 128, WIDER, LAST, NO, {"beta": 6}),
        "hat": ((50, []), 0.21, 5e-4, 128, NORMAL, LAST, NO, {"beta": 2.5, "gamma": 0.5, "reach": 2}),
        "lbgat": ((100, [75, 90]), 0.1, 2e-4, 128, WIDER, LAST, NO, {"peer": "resnet18", "beta": 6}),
        "lbgat@lbgat0": ((100, [75, 90]), 0.1, 2e-4, 128, WIDER, LAST, NO, {"peer": "resnet18", "beta": 0}),
        "mtard": (THRICE, 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 215), NO, mtard(0.1, offset=1e-5)),
        "mtard@fair": (THRICE, 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 215), NO,
                       mtard(0.1, offset=1e-5, clean_target="robust")),
        "mtard@printed": (THRICE, 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 215), NO, mtard(1)),
        "b-mtard": (THRICE, 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 215), NO,
                    mtard(1 / k, offset=1e-5) | SOFTENED),
        "b-mtard@printed": (THRICE, 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 215), NO, mtard(1) | SOFTENED),
        "absld": (THRICE, 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 0), NO, absld(1 / k, "released")),
        "absld@printed": (THRICE, 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 0), NO, absld(1, "separate")),
        "kdiga": ((150, [50, 100]), 0.1, 2e-4, 128, UNIFORM, LAST, NO, kdiga(1 / k)),
        "kdiga@printed": ((150, [50, 100]), 0.1, 2e-4, 128, UNIFORM, LAST, NO, kdiga(1)),
        "saad": (TWICE, 0.1, 2e-4, 128, NORMAL, LAST, ("swa", 94), saad(by_set, True)),
        "saad@printed": (TWICE, 0.1, 5e-4, 128, NORMAL, LAST, ("swa", 94), saad(by_set, False)),
        "adr": (TWICE, 0.1, 5e-4, 128, TRAIN, TEST, ("ema", 0), adr(cooled, [0.7, 0.95])),
        "adr@trades": (TWICE, 0.1, 5e-4, 128, (*NORMAL[:3], "train"), TEST, ("ema", 0),
                       TOGETHER | adr(cooled, [0.7, 0.95], "trades")),
        "adr@awp": (TWICE, 0.1, 5e-4, 128, TRAIN, TEST, ("ema", 0), adr(cooled_with_awp, [0.7, 0.85])),
        "ciard": ((300, []), 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 0), NO, ciard(1 / k, 0)),
        "ciard@printed": ((300, []), 0.1, 2e-4, 128, NORMAL, ("best-test", "pgd20-trades", 0), NO, ciard(1, 0.1)),
        "mart": (MART, 0.01, 3.5e-3, 128, WIDER, LAST, NO, {"beta": 5, "boost": "released"}),
        "mart@printed": (MART, 0.01, 3.5e-3, 128, WIDER, LAST, NO, {"beta": 5, "boost": "exact"}),
        "ard": (ONCE, 0.1, 2e-4, batch, TRAIN, LAST, NO, ard(30, 1 / k)),
        "ard@printed": (ONCE, 0.1, 2e-4, batch, TRAIN, LAST, NO, ard(30, 1)),
        "ard@igdm": (TWICE, 0.1, 2e-4, 128, UNIFORM, LAST, NO, ard(1, 1)),
        "ard@fair": (ONCE, 0.1, 2e-4, 128, TRAIN, LAST, NO, ard(30, 1 / k)),
        "ard@intended": (TWICE, 0.1, 2e-4, batch, TRAIN, LAST, NO, ard(30, 1 / k)),
        "ard@n-fgsm": ((200, []), 0.1, 5e-4, 128, WIDE, LAST, NO, ard(1, 1)),
        "ard@nuat": ((200, []), 0.1, 5e-4, 128, SIGNS, LAST, NO, ard(1, 1)),
        "ard@iad": (ONCE, 0.1, 2e-4, 128, TRAIN, TEST, NO, ard(1, 1)),
        "akd2": ((200, [50, 150]), 0.1, 5e-4, 128, TRAIN, held, ("swa", 55), AKD2),
        "akd2@iad": (ONCE, 0.1, 2e-4, 128, TRAIN, TEST, NO, AKD2_IAD),
        "adaad": (TWICE, 0.1, 5e-4, 128, NORMAL, TEST, NO, {"alpha": 1, "scale": {10: 0.1, 100: 1}[k]}),
        "adaad@igdm": (TWICE, 0.1, 2e-4, 128, NORMAL, LAST, NO, {"alpha": 1, "scale": 1}),
        "adaad@igdm-exchanged": (TWICE, 0.1, 2e-4, 128, (2 / 255, 8 / 255, "normal", "eval"), LAST, NO,
                                 {"alpha": 1, "scale": 1}),
        "adaiad@igdm": (TWICE, 0.1, 2e-4, 128, NORMAL, LAST, NO, {"alpha": 1, "temperature": 30} | IAD_TRUST),
        "adaiad": (TWICE, 0.1, 5e-4, 128, NORMAL, TEST, NO, {"alpha": 1, "temperature": 30} | IAD_TRUST),
        "dgad": (TWICE, 0.1, 5e-4, 128, NORMAL, TEST, NO, dgad(1, "meant") | COUNTED),
        "dgad@printed": (TWICE, 0.1, 5e-4, 128, NORMAL, TEST, NO, dgad(1, "meant")),
        "dgad@mobilenetv2": (TWICE, 0.1, 5e-4, 128, NORMAL, TEST, NO, dgad(0.5, "released") | COUNTED),
        "rslad": (THRICE, 0.1, 2e-4, 128, NORMAL, late, NO, {"alpha": 5 / 6, "scale": 0.1}),
        "rslad@igdm": ((200, [140, 172, 190]), 0.1, 2e-4, 128, NORMAL, ("last", "pgd20-trades", 0), NO,
                       {"alpha": 5 / 6, "scale": 0.1}),
        "rslad@fair": (THRICE, 0.1, 2e-4, 128, NORMAL, late, NO, {"alpha": 5 / 6, "scale": 1 / k}),
        "rslad@printed": (THRICE, 0.1, 2e-4, 128, NORMAL, late, NO, {"alpha": 5 / 6, "scale": 1}),
        "iad-i": (ONCE, 0.1, 2e-4, 128, TRAIN, TEST, NO, iad_i(False)),
        "iad-i@printed": (ONCE, 0.1, 2e-4, 128, TRAIN, TEST, NO, iad_i(True)),
        "iad-i@igdm": (TWICE, 0.1, 2e-4, 128, TRAIN, LAST, NO, iad_i(False)),
        "iad-i@fair": (ONCE, 0.1, 2e-4, 128, TRAIN, TEST, NO, iad_i(False)),
        "iad-i@intended": (TWICE, 0.1, 2e-4, 128, TRAIN, TEST, NO, iad_i(False)),
        "iad-ii": (ONCE, 0.1, 2e-4, 128, TRAIN, TEST, NO, IAD_II),
        "iad-ii@intended": (TWICE, 0.1, 2e-4, 128, TRAIN, TEST, NO, IAD_II),
        "peeraid": (PEERAID, 0.1, 2e-4, 128, NORMAL, TEST, ("swa", 214), peeraid(0.01, 0, 1 / k, 1 / k, 5)),
        "crdnd": ((300, []), 0.1, 2e-4, 128, NORMAL, LAST, NO, CRDND),
    }  # fmt: skip


def named(method: str, dataset: str) -> str:
    """Return the recipe of METHOD, or METHOD@VARIANT, for a data set."""
    name, at, variant = method.partition("@")
    return f"{name}-{dataset}{at}{variant}"


RELEASED = {
    **{named(method, "cifar10"): row for method, row in cifar(10).items()},
    **{named(method, "cifar100"): row for method, row in cifar(100).items()},
    "adaad-cifar10@printed": (TWICE, 0.1, 5e-4, 128, NORMAL, TEST, NO, {"alpha": 1, "scale": 1}),
    "darht-cifar100": (
        (200, [116, 161, 186]), 0.1, 5e-4, 256, (0.031, 0.003, "normal", "eval"), ("best-test", "pgd20", 0), NO, DARHT
    ),
    "saad-tiny-imagenet": (TWICE, 0.1, 2e-4, 128, NORMAL, LAST, ("swa", 94), saad(10, True)),
    "saad-tiny-imagenet@printed": (TWICE, 0.1, 5e-4, 128, NORMAL, LAST, ("swa", 94), saad(10, False)),
    "adr-tiny-imagenet": (*ONE_OF_TINY, adr([2, 1.5], [0.5, 0.9])),
    "adr-tiny-imagenet@trades": (
        *ONE_OF_TINY[:4], (*NORMAL[:3], "train"), *ONE_OF_TINY[5:], TOGETHER | adr([2, 1.5], [0.5, 0.9], "trades")
    ),
    "adr-tiny-imagenet@awp": (*ONE_OF_TINY, adr([2, 1.5], [0.3, 0.9])),
    "peeraid-tiny-imagenet": (
        IAD_TEACHER, 0.1, 2e-4, 128, NORMAL, TEST, ("swa", 99), peeraid(0.5, 0.035, 0.175, 0.1, 1)
    ),
    "peeraid-tiny-imagenet@wrn": (
        (100, [49, 79]), 0.1, 2e-4, 128, NORMAL, TEST, ("swa", 49), peeraid(0.5, 0.035, 0.175, 0.1, 1, "wrn-34-10")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [run for run in RUNS if not run.partition("@")[0].endswith(("-level", "-digits"))])
def test_released_recipes_hold_the_constants_of_their_papers_and_scripts(name: str) -> None:
    recipe = resolve(name)
    schedule, attack = recipe.schedule, recipe.attack
    assert attack is not None

    def epoch(share: float) -> int:
        return epoch_at(share, schedule.epochs)

    found = (
        (schedule.epochs, [epoch(share) for share in schedule.milestones]),
        recipe.optimizer.lr,
        recipe.optimizer.weight_decay,
        recipe.data.batch,
        (recipe.threat.eps, attack.step_size, attack.start, attack.bn),
        (recipe.selection.by, recipe.selection.protocol, epoch(recipe.selection.start)),
        (recipe.average.kind, epoch(recipe.average.start)),
        {key: value for key, value in recipe.method.items() if key not in ("name", *SWITCH)},
    )
    assert found == RELEASED[name]
    method = recipe.method["name"]
    written = "@".join(filter(None, (method, name.partition("@")[2])))
    order = FORWARDS.get(written, FORWARDS.get(method))
    executed = {"forwards": order} if order else {}
    executed |= {"forwards_before": ["x_adv", "x_adv", "x"]} if method == "iad-i" else {}
    assert {key: recipe.method[key] for key in SWITCH if key in recipe.method} == executed
    once = attack.kind in ONE_STEP
    assert attack.kind == (name.partition("@")[2] if once else "pgd")
    assert schedule.kind == (
        "onecycle" if once else {"crdnd": "cosine", "ciard": "cosine", "hat": "onecycle"}.get(method, "step")
    )
    assert schedule.warmup == (0.25 if method == "hat" or once else 0)
    assert schedule.first == (0.2 if method == "lbgat" else 1)
    assert (schedule.gamma or 0.1, recipe.optimizer.momentum, recipe.optimizer.kind) == (0.1, 0.9, "sgd")
    assert (attack.steps, attack.restarts, recipe.selection.every) == (1 if once else 10, 1, 1)
    akd2 = name in ("akd2-cifar10", "akd2-cifar100")
    assert (recipe.data.validation, recipe.data.augment) == (5000 * akd2, "crop-flip")
    assert recipe.data.drop_last is name.startswith("crdnd")
    own = {"norm": "linf", "eps": 0.031} if name == "darht-cifar100" else None
    assert (recipe.selection.threat and recipe.selection.threat.model_dump()) == own
    assert recipe.optimizer.nesterov is (written in ("ard@fair", "rslad@fair", "hat"))
    assert recipe.student == STUDENTS.get(written, OF_TINY.get(name, "resnet18"))
    assert recipe.data.normalise is (STUDENTS.get(written) == "preactresnet18")
    own_rates = {"begin": 50 / 300, "damping": 0.01, "kind": "cosine"}
    assert [one.schedule.model_dump(include=set(own_rates)) for one in recipe.trainables.values()] == (
        [own_rates] if method == "ciard" else []
    )
    assert (schedule.begin, schedule.damping) == ((0.5, 0.01) if method == "ciard" else (0, 0))
    assert recipe.title.endswith(f" ({name.partition('@')[2]})" if "@" in name else "")


FAIR = {"name": "fair", "exponent": 2, "lowest": 5 / 6, "highest": 5 / 2, "offset": 1e-5}
AWP = {"pgd-at": ("awp", 0.01, 0), "trades": ("awp", 0.005, 9)}
"""Variant, gamma, and the first epoch (from 0) of 200."""


def igdm(method: str, dataset: str, released: bool) -> dict[str, Any]:
    """Return the section of IGDM: the second release's alpha by data set, the first's over ARD, and a ramp of 200 epochs."""
    alpha = 1 if dataset == "cifar10" else 20 if (method, released) == ("ard", True) else 10
    ramp = 200 if released else None
    return {"name": "igdm", "alpha": alpha, "beta": 1, "gamma": 1, "ramp_epochs": ramp, "extra_forwards": False}


@pytest.mark.parametrize("name", [run for run in RUNS if "digits" not in run])
def test_modules_and_weight_perturbation_have_the_constants_of_their_code_and_stand_in_variants_of_their_names(
    name: str,
) -> None:
    recipe, (base, _, variant) = resolve(name), name.partition("@")
    released = not base.endswith("-level")
    fair = FAIR | ({"offset": 0} if base in ("rslad-cifar10", "rslad-cifar100") else {})
    laid = {"igdm": igdm(recipe.method["name"], recipe.data.name, released), "fair": fair}
    wanted = [laid[name] for name in [variant.removesuffix("-exchanged")] if name in laid]
    assert list(recipe.modules) == wanted
    perturbed = recipe.weight_perturbation
    found = perturbed and (perturbed.variant, perturbed.gamma, epoch_at(perturbed.begin, 200))
    own = (
        ("sam-like", AWP_OF_ADR[base.removesuffix("-level")], 0)
        if base.startswith("adr")
        else AWP.get(recipe.method["name"])
    )
    assert found == (own if variant == "awp" else None)


def test_a_level_variant_with_a_module_is_the_level_recipe_otherwise() -> None:
    laid = [run for run in RUNS if run.partition("@")[2] in ("igdm", "fair", "awp") and "-level@" in run]
    laid = [run for run in laid if not run.startswith("adr")]  # with AWP it anneals to other values
    assert len(laid) == 3 * (5 + 3 + 2)
    for name in laid:
        base, own = resolve(name.partition("@")[0]), resolve(name)
        same = {"modules": base.modules, "weight_perturbation": None, "name": base.name, "title": base.title}
        assert own.model_copy(update=same) == base


@pytest.mark.parametrize(
    ("name", "models"),
    [("peeraid-cifar10", 86), ("peeraid-tiny-imagenet", 101), ("peeraid-tiny-imagenet@wrn", 51)],
)
def test_an_average_takes_as_many_models_as_the_script(name: str, models: int) -> None:
    recipe = resolve(name)
    assert recipe.schedule.epochs - epoch_at(recipe.average.start, recipe.schedule.epochs) == models


def test_every_released_recipe_is_in_the_table() -> None:
    assert set(RELEASED) <= set(RUNS)


@pytest.mark.parametrize("student", ["resnet18", "mobilenetv2"])
@pytest.mark.parametrize("name", [run for run in RUNS if "-cifar" in run])
def test_cifar_recipes_take_either_student_and_are_measured_in_the_same_ball(name: str, student: str) -> None:
    recipe = resolve(name, student=student)
    assert recipe.student == student
    assert (recipe.evaluation.norm, recipe.evaluation.eps, recipe.threat.norm) == ("linf", 8 / 255, "linf")


@pytest.mark.parametrize("dataset", ["digits", "cifar10-level", "cifar100-level", "tiny-imagenet-level"])
def test_level_recipes_differ_in_their_loss_alone(dataset: str) -> None:
    """drop_last is of CRDND's loss, the moving average of ADR's; no epoch of ordinary training is robust."""
    tables = {method: resolve(f"{method}-{dataset}").model_dump() for method in methods.METHODS}
    for method, table in tables.items():
        assert table["data"].pop("drop_last") is (method == "crdnd")
        assert table["selection"].pop("by") == ("last" if method == "standard" else "best-val")
        assert (table.pop("average")["kind"] == "ema") is methods.method_class(method).averages
        assert bool(table.pop("trainables", None)) is (method == "ciard")
        section = table.pop("method")
        assert section["name"] == method and not set(SWITCH) & set(section)
        for key in ("name", "title"):
            del table[key]
        if dataset == "digits":
            del table["attack"]["start"], table["attack"]["bn"]
        assert table == tables["standard"], method


def test_level_recipes_are_the_same_on_every_data_set_but_for_weights_by_data_set() -> None:
    for method in methods.METHODS:
        first, *others = (resolve(f"{method}-{d}-level").model_dump() for d in ("cifar10", "cifar100", "tiny-imagenet"))
        assert (first["data"]["validation"], first["data"]["batch"], first["schedule"]["epochs"]) == (1000, 128, 200)
        for other in others:
            other["data"]["name"] = first["data"]["name"]
            own = ("name", "title", *["method"] * (method in ("peeraid", "saad", "adr")))
            assert {k: v for k, v in other.items() if k not in own} == {k: v for k, v in first.items() if k not in own}


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny-imagenet"])
@pytest.mark.parametrize("method", methods.METHODS)
def test_level_recipes_hold_the_equation_as_printed(method: str, dataset: str) -> None:
    candidates = (f"{method}-{d}{v}" for d in (dataset, "cifar10", "cifar100") for v in ("@printed", ""))
    printed = next(name for name in candidates if name in RELEASED)
    assert resolve(f"{method}-{dataset}-level").method == {"name": method, **RELEASED[printed][-1]}


def test_short_is_thirty_epochs_of_every_level_recipe() -> None:
    for name in recipe_names():
        if name.endswith("-level"):
            short = resolve(f"{name}@short")
            shape = {"epochs": 30, "kind": "onecycle", "milestones": (), "gamma": None, "warmup": 0.2}
            assert short.schedule.model_dump() == shape
            changed = {"schedule": short.schedule, "name": short.name, "title": f"{resolve(name).title} (short)"}
            assert short == resolve(name).model_copy(update=changed)


def test_every_section_with_a_constant_names_a_source() -> None:
    """Shared parts say theirs at the top; a variant is a switch whose base line has the source."""
    for name in recipe_names():
        text = (files("ardbench.recipes") / f"{name}.toml").read_text(encoding="utf-8")
        for block in text.split("\n\n"):
            constants = [line for line in block.splitlines() if " = " in line and not line.startswith(("name", "kind"))]
            if block.startswith("[") and not block.startswith("[variants") and constants:
                assert "# " in block, f"{name}: {block}"
