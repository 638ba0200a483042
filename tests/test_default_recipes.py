"""Recipes of methods on data sets that nobody wrote one for, and drafts of recipes to edit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cli_call import call
from small import CPU, method

from ardbench import data, methods, plugins
from ardbench.data.load import load
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress
from ardbench.recipes import moved, recipe_names, resolve
from ardbench.runs import Run
from ardbench.verbs.drafting import draft

OURS = sorted(methods.METHODS)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of 2,151 images of 96 pixels in 120 classes; nobody looks at them."""
    monkeypatch.setitem(
        data.DATASETS,
        "birds",
        replace(data.info("cifar100"), name="birds", size=96, num_classes=120, train_images=2151),
    )
    return "birds"


def test_the_default_is_the_level_recipe_fitted_by_hand(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    svhn, level = resolve("trades", dataset="svhn"), resolve("trades-cifar10-level")
    assert (svhn.name, svhn.family, svhn.student, svhn.method) == ("trades-level", "level", "resnet18", level.method)
    assert (svhn.data.augment, svhn.data.validation, svhn.data.batch) == ("crop", 1000, 128)
    assert svhn.threat == svhn.evaluation == level.threat and svhn.attack == level.attack
    assert (svhn.schedule.kind, svhn.schedule.epochs, svhn.optimizer) == ("onecycle", 30, level.optimizer)
    birds = resolve("rslad", dataset=images)
    assert birds.student == "torchvision:resnet18" and birds.data.augment == "crop-flip"
    assert birds.threat.eps == birds.evaluation.eps == 4 / 255 and birds.attack and birds.attack.step_size == 1 / 255
    assert birds.data.validation == 215 and birds.data.drop_last is False and birds.schedule.epochs == 200
    assert (
        resolve("peeraid", dataset=images).method["imitation"] == resolve("peeraid-cifar100-level").method["imitation"]
    )
    monkeypatch.setitem(data.DATASETS, images, replace(data.info(images), train_images=2273, size=64))
    odd = resolve("peeraid", dataset=images)  # 2273 - 227 = 2046 = 16 * 128 - 2
    assert (odd.threat.eps, odd.student, odd.method["peer"]) == (8 / 255, "resnet18", "resnet18")
    monkeypatch.setitem(data.DATASETS, images, replace(data.info(images), train_images=2277))  # 2050 = 16 * 128 + 2
    assert not resolve("trades", dataset=images).data.drop_last
    monkeypatch.setitem(data.DATASETS, images, replace(data.info(images), train_images=2276))  # 2049 = 16 * 128 + 1
    assert resolve("trades", dataset=images).data.drop_last


def test_few_images_have_small_batches() -> None:
    fake = resolve("trades", dataset="fake")  # of 256 images
    assert (fake.data.validation, fake.data.batch, fake.schedule.epochs, fake.student) == (25, 23, 200, "resnet8-tiny")


def test_a_recipe_of_the_data_set_comes_before_the_default() -> None:
    assert resolve("trades", dataset="cifar10").name == "trades-cifar10"
    assert resolve("trades", dataset="digits").name == "trades-digits"
    assert resolve("trades", dataset="tiny-imagenet").name == "trades-tiny-imagenet-level"
    assert resolve("darht", dataset="cifar10").name == "darht-cifar10-level"
    assert resolve("peeraid", dataset="tiny-imagenet").name == "peeraid-tiny-imagenet"


def test_what_is_typed_has_the_last_word() -> None:
    changed = resolve("rslad", dataset="svhn", student="mobilenetv2", epochs=7, sets=["threat.eps=2/255"])
    assert (changed.student, changed.schedule.epochs, changed.threat.eps) == ("mobilenetv2", 7, 2 / 255)
    said = moved("rslad", changed)
    assert "with 7 epochs (73,257 training images), eps 2/255 (" in said and "student mobilenetv2;" in said
    short = resolve("trades@awp", dataset="svhn")
    assert short.name == "trades-level@awp" and short.weight_perturbation is not None


@pytest.mark.parametrize("dataset", sorted(data.DATASETS))
@pytest.mark.parametrize("name", OURS)
def test_every_method_has_a_recipe_for_every_data_set(name: str, dataset: str) -> None:
    recipe = resolve(name, dataset=dataset)
    assert (recipe.method["name"], recipe.data.name) == (name, dataset)
    default = not any(one in recipe_names() for one in (f"{name}-{dataset}", f"{name}-{dataset}-level"))
    assert default == (dataset in ("svhn", "fake")) == bool(moved(name, recipe))


@pytest.mark.parametrize("name", OURS)
def test_every_default_trains(name: str, tmp_path: Path) -> None:
    recipe = resolve(name, dataset="fake", epochs=1, sets={"data.train_images": 64, "data.batch": 32})
    splits = load("fake", CPU, validation=recipe.data.validation, train_images=64)
    run = Run.place(tmp_path, recipe)
    run.create(recipe, (), {})
    assert Loop(run, recipe, method(recipe), splits, lambda: False, Progress()).fit()
    assert run.metrics[0]["images"] == 64 and "val_robust" in run.metrics[0]


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("trades", "svhn"), ("rslad@short", "fake"), ("rslad-cifar10@igdm", None), ("trades-digits@vit", None)],
)
def test_a_draft_is_the_same_run(name: str, dataset: str | None, tmp_path: Path) -> None:
    recipe, text = draft(name, dataset, None)
    (tmp_path / "own.toml").write_text(text)
    again = resolve(str(tmp_path / "own.toml"))
    assert again.identity() == recipe.identity() and again.name == "own"
    if dataset:
        assert "# 8/255 up to 64 pixels, 4/255 above" in text and text.startswith("# The default of ")


def test_new_recipe_writes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = call("new", "recipe", "rslad", "--dataset", "svhn", "--student", "mobilenetv2")
    assert first.output.splitlines() == [
        "rslad-svhn.toml",
        "Next: ardbench distill rslad-svhn.toml --teacher robust=SOURCE",
    ]
    assert resolve("rslad-svhn.toml").identity() == resolve("rslad", dataset="svhn", student="mobilenetv2").identity()
    before = Path("rslad-svhn.toml").read_bytes()
    again = call("new", "recipe", "rslad", "--dataset", "svhn")
    assert again.exit_code == 2 and "is there already" in again.output
    assert Path("rslad-svhn.toml").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_bare_method_without_a_data_set_is_refused() -> None:
    with pytest.raises(ArdbenchError, match="add --dataset with one of cifar10, cifar100, digits, svhn, tiny-imagenet"):
        resolve("rslad")


def test_a_method_from_outside_has_its_own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "mine", "ardbench.methods.pgd_at:PGDAT")
    monkeypatch.setitem(methods.METHODS, "needy", "ardbench.methods.trades:TRADES")
    mine = resolve("mine", dataset="cifar10")
    assert (mine.name, mine.title, mine.method["name"]) == ("mine-level", "mine on cifar10, by default", "mine")
    assert mine.attack == resolve("pgd-at-cifar10-level").attack
    with pytest.raises(ArdbenchError, match=r"beta is missing; add it to the recipe or give --set method\.beta=VALUE"):
        resolve("needy", dataset="digits")
    assert resolve("needy", dataset="digits", sets=["method.beta=3"]).method["beta"] == 3
    monkeypatch.setenv(plugins.VARIABLE, str(Path(__file__).parents[1] / "examples" / "mine.py"))
    theirs = resolve("my-loss", dataset="digits")  # its only recipe is of another data set
    assert theirs.method["alpha"] == 5 / 6 and theirs.data.name == "digits" and theirs.student == "resnet8-tiny"
