"""Recipes: their layers, their hashes, and what is refused in a sentence."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ardbench import methods
from ardbench.config import Attack, Recipe, Schedule, epoch_at
from ardbench.errors import ArdbenchError
from ardbench.models import MODELS
from ardbench.recipes import describe, recipe_names, resolve


@pytest.mark.parametrize("name", recipe_names())
def test_every_built_in_recipe_resolves_and_survives_json(name: str) -> None:
    recipe = resolve(name)
    again = Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json"))))
    assert again == recipe
    assert again.identity() == recipe.identity()


def test_every_variant_resolves() -> None:
    assert resolve("rslad-cifar10@printed").method["scale"] == 1
    assert resolve("rslad-cifar10").method["scale"] == 0.1
    assert resolve("rslad-cifar10-level@short").schedule == Schedule(epochs=30, kind="onecycle", warmup=0.2)
    assert resolve("trades-digits@vit").student == "vit-micro"


def test_released_constants() -> None:
    """Against the specification, by hand."""
    rslad, iad, trades = resolve("rslad-cifar10"), resolve("iad-i-cifar10"), resolve("trades-cifar10")
    assert [epoch_at(m, 300) for m in rslad.schedule.milestones] == [215, 260, 285]
    assert (rslad.threat.eps, rslad.method["alpha"], rslad.optimizer.weight_decay) == (8 / 255, 5 / 6, 2e-4)
    assert rslad.attack == Attack(steps=10, step_size=2 / 255, start="normal", bn="eval")
    assert (epoch_at(iad.method["begin"], 200), iad.method["beta"], iad.attack.bn) == (60, 0.1, "train")
    assert [epoch_at(m, 200) for m in iad.schedule.milestones] == [100]
    assert (trades.threat.eps, trades.attack.step_size, trades.schedule.epochs, trades.method["beta"]) == (
        0.031,
        0.007,
        76,
        6,
    )
    assert trades.evaluation.eps == 8 / 255


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_of_epochs_is_that_epoch(pair: tuple[int, int]) -> None:
    epoch, epochs = pair
    schedule = Schedule.model_validate(
        {"epochs": epochs, "kind": "step", "milestones": [f"{epoch}/{epochs}"], "gamma": 0.1}
    )
    assert epoch_at(schedule.milestones[0], epochs) == epoch


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"atack.steps": 3}, "'atack': did you mean 'attack'"),
        ({"attack.step": 3}, "'step': did you mean 'steps'"),
        ({"method.alfa": 1}, "'alfa': did you mean 'alpha'"),
        ({"method.alpha": 2}, "less than or equal to 1"),
        ({"threat.eps": "8/0"}, "'8/0' is neither a number nor a fraction such as '8/255'"),
        ({"threat.eps": "nan"}, "eps"),
        ({"attack.bn": "test"}, "'eval' or 'train'"),
        ({"student": "resnet19"}, "did you mean 'resnet18'"),
        ({"data.name": "cifar11"}, "did you mean 'cifar10"),
        ({"selection.protocol": "pgd21"}, "did you mean 'pgd2"),
        ({"data.validation": 5000}, "1437"),
        ({"data.validation": 0}, "best-val"),
        ({"data.augment": "crop-flip"}, "mirror"),
        ({"attack": None}, "attack"),
        ({"schedule.milestones": ["1/2"]}, "takes no milestones"),
        ({"average.kind": "ema"}, "decay"),
        ({"method.name": "rslda"}, "did you mean 'rslad'"),
    ],
)
def test_mistakes_are_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArdbenchError) as refused:
        resolve("rslad-digits", sets=changes)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_are_found_or_refused() -> None:
    assert resolve("rslad", dataset="digits").name == "rslad-digits"
    for name, dataset, said in [
        ("rslad", None, "add --dataset with one of cifar10, cifar100, digits"),
        ("rslad", "svnh", "did you mean 'svhn'"),
        ("rslad-cifar", None, "did you mean 'rslad-cifar10'"),
        ("rslad-digits@prited", None, "variant"),
        ("none/such.toml", None, "no recipe file"),
    ]:
        with pytest.raises(ArdbenchError, match=said):
            resolve(name, dataset=dataset)


def test_a_file_extends_another_and_a_cycle_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "rslad-digits"\ntitle = "mine"\nattack.steps = 3\n')
    mine = resolve(str(tmp_path / "mine.toml"), sets=["method.scale=1/2", "optimizer.lr=0.05", "student=resnet8"])
    assert (mine.name, mine.title, mine.attack and mine.attack.steps) == ("mine", "mine", 3)
    assert (mine.method["scale"], mine.optimizer.lr, mine.student) == (0.5, 0.05, "resnet8")
    (tmp_path / "a.toml").write_text('extends = "b"\n')
    (tmp_path / "b.toml").write_text('extends = "a"\n')
    with pytest.raises(ArdbenchError, match="extends itself"):
        resolve(str(tmp_path / "a.toml"))


def test_the_hash_follows_the_science_alone() -> None:
    base = resolve("rslad-digits")
    identity = base.identity(["a", "b"])
    assert base.model_copy(update={"title": "other", "name": "other", "family": "own"}).identity(["a", "b"]) == identity
    assert base.identity(["b", "a"]) != identity
    for changes in ({"seed": 1}, {"method.scale": 2}, {"evaluation.eps": 0.2}, {"precision.attack": "bf16"}):
        assert resolve("rslad-digits", sets=changes).identity(["a", "b"]) != identity


VARIANTS = [(name, variant) for name in recipe_names() for variant in describe(name).get("variants", {})]

BASE = """
title = "a recipe of one's own"
family = "own"
student = "resnet8"
data = { name = "fake", validation = 0, augment = "none", batch = 8 }
threat = { norm = "linf", eps = "8/255" }
evaluation = { norm = "l2", eps = 0.5 }
optimizer = { lr = 0.1, momentum = 0.9, weight_decay = 0 }
schedule = { kind = "step", epochs = 4, milestones = ["1/2"], gamma = 0.1 }
selection = { by = "last", protocol = "pgd10" }
attack = { steps = 1, step_size = "2/255", start = "none", bn = "eval" }
method = { name = "trades", beta = 6 }
"""


def written(folder: Path, **recipes: str) -> Path:
    """Write recipe files; return the first one's path."""
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(recipes))}.toml"


def refusal(name: str | Path, sets: Sequence[str] = (), **changes: Any) -> str:
    """Return the one sentence with which a recipe is refused."""
    with pytest.raises(ArdbenchError) as caught:
        resolve(str(name), sets=sets, **changes)
    said = str(caught.value)
    assert "\n" not in said and len(said.replace(f"{Path(name).parent}/", "")) < 400, said
    return said


@pytest.mark.parametrize("name", recipe_names())
def test_every_built_in_recipe_resolves_to_what_its_name_says(name: str) -> None:
    recipe = resolve(name)
    assert recipe.name == name
    assert name in (f"{recipe.method['name']}-{recipe.data.name}", f"{recipe.method['name']}-{recipe.data.name}-level")
    assert recipe.family == ("level" if name.endswith(("-level", "-digits")) else recipe.family)
    assert recipe.student in MODELS
    assert recipe.attack is not None or not methods.method_class(recipe.method["name"]).attacks


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=lambda part: part)
def test_every_variant_resolves_and_changes_the_science(name: str, variant: str) -> None:
    varied = resolve(f"{name}@{variant}")
    assert varied.name == f"{name}@{variant}"
    assert varied.identity() != resolve(name).identity()


def test_recipes_are_resolved_without_torch() -> None:
    code = (
        "import sys\nfrom ardbench.recipes import describe, recipe_names, resolve\n"
        "for name in recipe_names():\n"
        "    for text in (name, *(f'{name}@{v}' for v in describe(name).get('variants', {}))): resolve(text)\n"
        "assert recipe_names() and not {'torch', 'torchvision', 'timm'} & set(sys.modules), 'torch was loaded'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recipe_moves_to_another_data_set_student_seed_and_length() -> None:
    moved = resolve("rslad-cifar10", dataset="cifar100", student="mobilenetv2", seed=3, epochs=30)
    assert (moved.data.name, moved.student, moved.seed, moved.schedule.epochs) == ("cifar100", "mobilenetv2", 3, 30)
    plain = resolve("rslad-cifar10")
    assert moved.schedule.milestones == plain.schedule.milestones
    assert moved.model_copy(update={"data": plain.data, "student": plain.student, "seed": 0, "schedule": plain.schedule,
                                    "name": plain.name}) == plain  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "value"),
    [
        ("attack.steps=7", "attack.steps", 7),
        ("attack.steps = 7", "attack.steps", 7),
        ("threat.eps=8/255", "threat.eps", 8 / 255),
        ('threat.eps="4/255"', "threat.eps", 4 / 255),
        ("threat.eps=0.031", "threat.eps", 0.031),
        ("optimizer.nesterov=false", "optimizer.nesterov", False),
        ("student=resnet18", "student", "resnet18"),
        ('student="resnet18"', "student", "resnet18"),
        ("data.augment=none", "data.augment", "none"),
        ("precision.attack=bf16", "precision.attack", "bf16"),
        ("method.alpha=1/3", "method.alpha", 1 / 3),
        ('average={kind = "ema", decay = 0.9}', "average.decay", 0.9),
        ('schedule={kind = "step", epochs = 4, milestones = ["1/2", 0.75], gamma = 0.1}', "schedule.milestones",
         (0.5, 0.75)),
    ],
)  # fmt: skip
def test_set_reads_toml_fractions_and_bare_words(text: str, where: str, value: object) -> None:
    found: Any = resolve("rslad-digits", sets=[text]).model_dump()
    for part in where.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


def test_the_last_set_wins_and_wins_over_options_and_variants() -> None:
    assert resolve("rslad-digits", sets=["seed=1", "seed=2"], seed=5).seed == 2
    assert resolve("rslad-cifar10@printed").method["scale"] == 1
    assert resolve("rslad-cifar10@printed", sets=["method.scale=0.5"]).method["scale"] == 0.5
    assert (
        resolve("rslad-digits", sets={"method.scale": 0.5}).method
        == resolve("rslad-digits", sets=["method.scale=0.5"]).method
    )


def test_what_the_caller_gave_stays_as_it_was() -> None:
    changes = {"modules": [{"name": "igdm", "alpha": 2}], "modules.igdm.alpha": 3}
    changes |= {"average": {"kind": "ema", "decay": 0.9}, "average.decay": 0.5}
    given = copy.deepcopy(changes)
    found = [resolve("rslad-digits", sets=changes) for _ in range(2)]
    assert changes == given
    assert [(one.modules[0]["alpha"], one.average.decay) for one in found] == [(3, 0.5), (3, 0.5)]


def test_variants_merge_by_section_and_replace_a_section_of_another_kind(tmp_path: Path) -> None:
    variants = """
    [variants.longer]
    schedule.epochs = 8
    [variants.cosine]
    schedule = { kind = "cosine", epochs = 2 }
    [variants.madry]
    method = { name = "pgd-at" }
    """
    path = written(tmp_path, own=BASE + variants)
    plain, longer, cosine, madry = (resolve(f"{path}{v}") for v in ("", "@longer", "@cosine", "@madry"))
    assert longer.schedule == plain.schedule.model_copy(update={"epochs": 8})
    assert cosine.schedule.model_dump(exclude_defaults=True) == {"kind": "cosine", "epochs": 2}  # no milestones left
    assert madry.method == {"name": "pgd-at"}  # no beta left
    assert [recipe.name for recipe in (plain, longer)] == ["own", "own@longer"]


def test_extends_is_a_chain_in_which_the_nearest_wins(tmp_path: Path) -> None:
    middle = 'extends = "base"\nname = "inherited by nobody"\nseed = 1\ndata.batch = 16\n[variants.x]\nseed = 9\n'
    path = written(tmp_path, top='extends = "middle"\nseed = 2\n', middle=middle, base=BASE)
    top = resolve(str(path))
    assert (top.name, top.seed, top.data.batch, top.student) == ("top", 2, 16, "resnet8")
    assert resolve(f"{path}@x").seed == 9  # a recipe inherits variants too, laid over it
    built_in = written(tmp_path, mine='extends = "rslad-digits"\nmethod.scale = 0.5\n')
    mine, theirs = resolve(str(built_in)), resolve("rslad-digits")
    assert mine.method == theirs.method | {"scale": 0.5} and mine.attack == theirs.attack


def test_a_recipe_that_extends_itself_is_refused_with_the_circle(tmp_path: Path) -> None:
    path = written(tmp_path, a='extends = "b"', b='extends = "c"', c='extends = "a"')
    said = refusal(path)
    assert "extends itself" in said and said.count("a.toml") == 3
    assert "extends must be the name of one recipe" in refusal(written(tmp_path, d='extends = ["a"]'))
    assert (
        refusal(written(tmp_path, e='extends = "rslad-digit"'))
        == "Unknown recipe 'rslad-digit': did you mean 'rslad-digits'?"
    )


@pytest.mark.parametrize(
    ("name", "sets", "words"),
    [
        ("rsladd", [], ["recipe or method 'rsladd'", "did you mean 'rslad'?"]),
        ("rslad-digits@vitt", [], ["variant of rslad-digits 'vitt'"]),
        ("pgd-at-digits@vitt", [], ["did you mean 'vit'?"]),
        ("no/such.toml", [], ["There is no recipe file no/such.toml", "ardbench list recipes"]),
        ("rslad-digits", ["attack.stepz=3"], ["section attack: 'stepz'", "did you mean 'steps'?"]),
        ("rslad-digits", ["schedul.epochs=3"], ["'schedul'", "did you mean 'schedule'?"]),
        ("rslad-digits", ["method.alpa=1"], ["section method: 'alpa'", "did you mean 'alpha'?"]),
        ("rslad-digits", ["method.name=rslda"], ["method 'rslda'", "did you mean 'rslad'?"]),
        ("rslad-digits", ["method.name=trades"], ["beta is missing", "--set method.beta=VALUE"]),
        ("rslad-digits", ["student=resnet81"], ["model 'resnet81'", "did you mean 'resnet8'?"]),
        ("rslad-digits", ["data.name=digts"], ["data set 'digts'", "did you mean 'digits'?"]),
        ("rslad-digits", ["selection.protocol=pgd11"], ["protocol 'pgd11'", "did you mean 'pgd10'?"]),
        ("rslad-digits", ["attack.steps=-3"], ["attack.steps = -3", "greater than or equal to 0"]),
        ("rslad-digits", ["attack.steps=three"], ["attack.steps = 'three'", "integer"]),
        ("rslad-digits", ["attack.steps=2.5"], ["attack.steps = 2.5", "integer"]),
        ("rslad-digits", ["threat.eps=8/0"], ["threat.eps = '8/0'", "fraction such as '8/255'"]),
        ("rslad-digits", ["threat.norm=l3"], ["threat.norm = 'l3'", "'linf' or 'l2'"]),
        ("rslad-digits", ["optimizer.momentum=1"], ["optimizer.momentum = 1", "less than 1"]),
        ("rslad-digits", ["method.alpha=3"], ["section method: alpha = 3", "less than or equal to 1"]),
        ("rslad-digits", ["schedule.kind=step"], ["schedule: kind = 'step' needs milestones and gamma"]),
        ("rslad-digits", ["data.validation=0"], ["digits: selection.by = 'best-val' needs data.validation > 0"]),
        ("rslad-digits", ["data.augment=crop-flip"], ["mirrors images", "choose 'crop' or 'none'"]),
        ("rslad-digits", ["data.validation=1437"], ["1437 training images of digits"]),
        ("rslad-digits", ["attack.steps.x=3"], ["--set attack.steps.x", "steps is a value, not a section"]),
        ("rslad-digits", ["attack=3"], ["attack = 3", "valid dictionary"]),
        ("rslad-digits", ["attack.steps"], ["not of the form section.key=value"]),
        ("rslad-digits", ["=3"], ["not of the form section.key=value"]),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_that_helps(name: str, sets: list[str], words: list[str]) -> None:
    said = refusal(name, sets)
    assert all(word in said for word in words), said


def test_missing_sections_unread_files_and_a_missing_attack_are_named(tmp_path: Path) -> None:
    lines = BASE.splitlines(keepends=True)
    without = {key: "".join(line for line in lines if not line.startswith(key)) for key in ("student", "attack")}
    assert "student is missing" in refusal(written(tmp_path, a=without["student"]))
    said = refusal(written(tmp_path, b=without["attack"]))
    assert "trades attacks while it trains" in said and "needs an [attack] section" in said
    standard = written(tmp_path, clean=without["attack"].replace('"trades", beta = 6', '"standard"'))
    assert resolve(str(standard)).attack is None
    assert "is not valid TOML" in refusal(written(tmp_path, c="student = \n"))
    (tmp_path / "d.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refusal(tmp_path / "d.toml")
    (tmp_path / "e.toml").mkdir()
    assert "cannot be read" in refusal(tmp_path / "e.toml")


def test_shared_parts_are_not_recipes() -> None:
    parts = [Path(file.name).stem for file in files("ardbench.recipes").iterdir() if file.name.startswith("_")]
    assert {"_digits", "_cifar10"} <= set(parts) and not set(parts) & set(recipe_names())
    assert "did you mean" in refusal("_digits")


def test_describe_fills_in_what_a_recipe_extends() -> None:
    tree = describe("rslad-digits")
    raw = tomllib.loads((files("ardbench.recipes") / "_digits.toml").read_text(encoding="utf-8"))
    assert tree["data"] == raw["data"] and tree["attack"] == raw["attack"] | {"start": "normal"}
    assert "extends" not in tree


@given(st.text(max_size=30))
def test_numbers_are_read_or_refused(text: str) -> None:
    try:
        Attack.model_validate({"steps": 1, "step_size": text, "start": "none", "bn": "eval"})
    except ValidationError:
        return
    assert Fraction(text.replace(" ", "")) > 0
