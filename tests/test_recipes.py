"""Recipes, their layers and their hashes; teachers as typed; what a run directory refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ardbench.config import Attack, Recipe, Schedule, epoch_at
from ardbench.errors import ArdbenchError
from ardbench.recipes import recipe_names, resolve
from ardbench.runs import Run, Teacher, sha256_of, write_json
from ardbench.teachers import planned, resolve_teachers


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
        ("rslad", None, "add --dataset with one of cifar10, digits"),
        ("rslad", "svhn", "no recipe for svhn"),
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


def test_a_recipe_is_resolved_without_torch() -> None:
    code = "import sys\nfrom ardbench.recipes import *\nresolve('iad-ii-cifar10')\nassert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_hash_follows_the_science_alone() -> None:
    base = resolve("rslad-digits")
    identity = base.identity(["a", "b"])
    assert base.model_copy(update={"title": "other", "name": "other", "family": "own"}).identity(["a", "b"]) == identity
    assert base.identity(["b", "a"]) != identity
    for changes in ({"seed": 1}, {"method.scale": 2}, {"evaluation.eps": 0.2}, {"precision.attack": "bf16"}):
        assert resolve("rslad-digits", sets=changes).identity(["a", "b"]) != identity


# Runs and teachers ----------------------------------------------------------------------------------------------------


def finished(root: Path, seed: int = 0) -> Run:
    recipe = resolve("pgd-at-digits", seed=seed)
    run = Run.place(root, recipe)
    run.create(recipe, (), {})
    for name in ("last", "best"):
        run.weights(name).write_bytes(b"weights of " + name.encode())
    write_json(run.path / "done", {"weights": {"last": sha256_of(run.weights("last"))}})
    return run


def test_teachers_go_to_their_roles(tmp_path: Path) -> None:
    a, b = finished(tmp_path), finished(tmp_path, seed=1)
    roles = ("robust", "clean")
    by_order = resolve_teachers([str(a.path), str(b.path)], "iad-ii", roles)
    by_role = resolve_teachers([f"clean={b.path}", f"robust={a.path}"], "iad-ii", roles)
    mixed = resolve_teachers([f"clean={b.path}", str(a.path)], "iad-ii", roles)
    assert by_order == by_role == mixed
    assert [t.role for t in by_order] == ["robust", "clean"]
    assert by_order[0].identity == f"{a.identity}@best"
    assert by_order[0].sha256 == sha256_of(a.weights("best"))
    more = resolve_teachers([str(a.path), f"{b.path}@last"], "darht", ("robust", ...))
    assert [t.role for t in more] == ["robust", "robust"]
    assert more[1].identity == f"{b.identity}@last"
    recipe = resolve("pgd-at-digits")
    assert planned(a, recipe, a.identity, "robust").identity == by_order[0].identity


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], r"wants 1 teacher \(robust\), but 0 were given"),
        (["RUN", "RUN"], "but 2 were given"),
        (["clean=RUN"], "no role is called 'clean'"),
        (["nowhere"], "is no run directory: give a run directory or FILE:ARCH"),
        (["FILE"], "give .*:ARCH"),
        (["FILE:resnet19"], "did you mean 'resnet18'"),
        (["none.pt:resnet18"], "there is no file none.pt"),
        (["UNFINISHED"], "is not finished"),
        (["RUN@averaged"], "choose one of last, best"),
    ],
)
def test_wrong_teachers_are_one_sentence(texts: list[str], said: str, tmp_path: Path) -> None:
    file, unfinished = tmp_path / "w.pt", finished(tmp_path, seed=2)
    file.write_bytes(b"x")
    (unfinished.path / "done").unlink()
    names = {"RUN": str(finished(tmp_path).path), "FILE": str(file), "UNFINISHED": str(unfinished.path)}
    given = [text.replace("UNFINISHED", names["UNFINISHED"]).replace("FILE", names["FILE"]) for text in texts]
    given = [text.replace("RUN", names["RUN"]) for text in given]
    with pytest.raises(ArdbenchError, match=said):
        resolve_teachers(given, "rslad", ("robust",))


def test_a_directory_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    with pytest.raises(ArdbenchError, match="belongs to another recipe"):
        run.create(resolve("pgd-at-digits", seed=5), (), {})
    with pytest.raises(ArdbenchError, match="not a run directory"):
        Run.open(tmp_path)


def test_a_student_of_a_retrained_teacher_is_stale(tmp_path: Path) -> None:
    teacher = finished(tmp_path)
    taught = resolve_teachers([str(teacher.path)], "rslad", ("robust",))
    recipe = resolve("rslad-digits")
    student = Run.place(tmp_path, recipe, taught)
    student.create(recipe, taught, {})
    assert not student.stale
    teacher.weights("best").write_bytes(b"other weights")
    assert student.stale
    assert Run.place(tmp_path, recipe, taught).path == student.path


@given(st.text(max_size=30))
def test_numbers_are_read_or_refused(text: str) -> None:
    try:
        Attack.model_validate({"steps": 1, "step_size": text, "start": "none", "bn": "eval"})
    except ValidationError:
        return
    assert Fraction(text.replace(" ", "")) > 0


def test_teacher_is_recorded_as_it_was(tmp_path: Path) -> None:
    teacher = Teacher("x", "robust", "id", "resnet18", "w", "sha")
    recipe = resolve("rslad-digits")
    run = Run.place(tmp_path, recipe, (teacher,))
    run.create(recipe, (teacher,), {"torch": "2"})
    again = Run.open(run.path)
    assert again.teachers == (teacher,)
    assert again.recipe == recipe
    assert again.identity == recipe.identity(["id"])
