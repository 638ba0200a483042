"""Suites: order, names before training, states, and what a user can get wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import pytest

from ardbench.campaigns import cells
from ardbench.campaigns.cells import Cell, expected_checkpoints, plan, plan_table
from ardbench.campaigns.graph import unfinished
from ardbench.campaigns.suites import Suite, benchmarks_folder, load_suite, ordered, suite_names
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError
from ardbench.evaluation.verdicts import Verdicts, file_name
from ardbench.models import zoo
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher, sha256_of, write_json
from ardbench.teachers import locate

ROLES: dict[str, tuple[str | EllipsisType, ...]] = {
    "standard": (),
    "pgd-at": (),
    "rslad": ("robust",),
    "iad-ii": ("robust", "clean"),
    "darht": ("robust", "robust", ...),
}

HEAD = """
title = "A suite"
dataset = "digits"
protocols = ["clean", "pgd20"]
"""

CHAIN = (
    HEAD
    + """
seeds = [0, 1, 2]
checkpoints = ["best", "last", "averaged"]
[[runs]]
name = "baseline"
recipe = "standard"
evaluate = false
seeds = [4]
[[runs]]
name = "student"
recipe = "rslad"
student = "resnet8-tiny"
teachers = ["teacher"]
set = { "schedule.epochs" = 8, threat.eps = "4/255" }
[[runs]]
name = "teacher"
recipe = "pgd-at"
"""
)


def build_recipe(
    name: str, *, dataset: str | None, student: str | None, seed: int | None, sets: Mapping[str, Any]
) -> Recipe:
    """Stand in for `ardbench.recipes.resolve`: the recipe's name is its method's."""
    return Recipe.model_validate(
        {
            "name": name,
            "title": name,
            "family": "level",
            "student": student or "resnet8",
            "seed": seed or 0,
            "data": {"name": dataset, "validation": 100, "augment": "none", "batch": 64},
            "threat": {"norm": "linf", "eps": sets.get("threat.eps", "8/255")},
            "evaluation": {"norm": "linf", "eps": "8/255"},
            "attack": {"steps": 10, "step_size": "2/255", "start": "uniform", "bn": "eval"},
            "optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4},
            "schedule": {"epochs": sets.get("schedule.epochs", 4), "kind": "constant"},
            "selection": {"by": "best-val", "protocol": "pgd20"},
            "method": {"name": name},
        }
    )


@pytest.fixture
def suite_file(tmp_path: Path) -> Any:
    """Return a function that writes a suite's text to a file and returns its path."""

    def written(text: str) -> str:
        path = tmp_path / "suite.toml"
        path.write_text(text)
        return str(path)

    return written


def planned(suite: Suite, root: Path) -> list[Cell]:
    return plan(suite, root, build_recipe, lambda name: ROLES[name])


def absent(source: str, role: str) -> Teacher:
    """Return a network of the zoo as it is planned with while its file is not there."""
    return Teacher(source, role, source, zoo.entry(source).model, "nowhere", "")


def train(cell: Cell, content: bytes = b"weights", finished: bool = True) -> None:
    """Make the directory that training the cell would make."""
    cell.run.create(cell.recipe, cell.teachers, {})
    for checkpoint in expected_checkpoints(cell.recipe):
        cell.run.weights(checkpoint).write_bytes(content + checkpoint.encode())
    if finished:
        weights = {name: sha256_of(cell.run.weights(name)) for name in cell.run.checkpoints}
        write_json(
            cell.run.path / "done", {"epochs": 4, "seconds": 1.0, "device": "cpu", "images": 1, "weights": weights}
        )


def measure(cell: Cell, checkpoint: str, name: str, version: int = 1, eps: float = 8 / 255, weights: str = "") -> None:
    """Write an evaluation of one image."""
    key = {"weights": weights or sha256_of(cell.run.weights(checkpoint))}
    verdicts = Verdicts(name, version, {"norm": "linf", "eps": eps}, [1], [1], [0], 1.0, 1, 0, 1, key=key)
    verdicts.save(cell.run.path / "eval" / checkpoint / file_name(name))


def test_files_of_recipes_and_teachers_are_those_beside_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "suite", tmp_path / "here"
    for folder, epochs in ((beside, 3), (here, 5)):
        (folder / "parts").mkdir(parents=True)
        text = (
            f'extends = "pgd-at-digits"\n[schedule]\nepochs = {epochs}\n[variants.long]\nschedule = {{ epochs = 9 }}\n'
        )
        (folder / "own.toml").write_text(text)
        (folder / "parts" / "weights#1.pt").write_bytes(folder.name.encode())
    (here / "only.toml").write_text('extends = "pgd-at-digits"\n[schedule]\nepochs = 6\n')
    named = {"a": "own.toml", "b": "own.toml@long", "c": "only.toml", "d": "pgd-at-digits", "e": str(here / "own.toml")}
    runs = "".join(f'[[runs]]\nname = "{name}"\nrecipe = "{recipe}"\n' for name, recipe in named.items())
    given = ["parts/weights#1.pt:resnet8-tiny", "zoo:none", "a", "elsewhere/w.pt:resnet18", "x/" * 3000]
    (beside / "mine.toml").write_text(
        f"{HEAD}{runs}[[runs]]\nname = 's'\nrecipe = 'rslad-digits'\nteachers = {given}\n"
    )
    (beside / "zoo").mkdir()  # of no concern to the zoo
    monkeypatch.chdir(here)
    for path in (beside / "mine.toml", Path("..") / "suite" / "mine.toml"):
        *cells, student = load_suite(str(path)).runs
        recipes = [resolve(run.recipe, dataset="digits") for run in cells]
        assert [recipe.schedule.epochs for recipe in recipes[:3]] == [3, 9, 6] and recipes[4].schedule.epochs == 5
        assert recipes[0].name == "own" and cells[3].recipe == "pgd-at-digits"
        assert student.teachers == (str(path.parent / given[0]), *given[1:])


def test_teachers_come_first_once_and_students_at_every_seed(suite_file: Any, tmp_path: Path) -> None:
    cells = planned(load_suite(suite_file(CHAIN)), tmp_path)
    assert [(cell.name, cell.recipe.seed) for cell in cells] == [
        ("baseline", 4), ("teacher", 0), ("student", 0), ("student", 1), ("student", 2),
    ]  # fmt: skip
    assert cells[2].recipe.schedule.epochs == 8
    assert cells[2].recipe.threat.eps == 4 / 255


def test_a_suite_is_worked_in_its_order_and_a_teacher_comes_no_earlier_than_its_student_needs(suite_file: Any) -> None:
    """A suite lists first what is wanted first: a later student's teachers wait, though nothing teaches them."""
    runs = [("b", ["a"]), ("c", []), ("e", ["d"]), ("d", ["b"]), ("g", []), ("h", ["a", "g"])]
    text = HEAD + "".join(
        f'[[runs]]\nname = "{name}"\nrecipe = "x"\nteachers = {of}\n' for name, of in [*runs, ("a", [])]
    )
    assert [run.name for run in ordered(load_suite(suite_file(text)))] == ["a", "b", "c", "d", "e", "g", "h"]
    for suite in map(load_suite, suite_names()):
        assert ordered(suite) == list(suite.runs), f"{suite.name} lists a run before its teacher"


def test_a_student_has_a_name_before_its_teacher_is_trained(suite_file: Any, tmp_path: Path) -> None:
    suite = load_suite(suite_file(CHAIN))
    before = planned(suite, tmp_path)
    teacher, student = before[1], before[2]
    identity = f"{teacher.recipe.identity()}@best"
    assert student.teachers == (
        Teacher("teacher", "robust", identity, "resnet8", str(teacher.run.weights("best")), ""),
    )
    assert student.run.path.name.endswith(student.recipe.identity([identity])[:8])
    train(teacher)
    after = planned(suite, tmp_path)
    assert [cell.run.path for cell in after] == [cell.run.path for cell in before]
    assert after[2].teachers[0].sha256 == sha256_of(teacher.run.weights("best"))
    typed = locate(str(teacher.run.path))  # the same student by `ardbench distill --teacher DIRECTORY`
    assert Run.place(tmp_path, student.recipe, [typed]).path == student.run.path


def test_another_teacher_gives_another_student(suite_file: Any, tmp_path: Path) -> None:
    one = planned(load_suite(suite_file(CHAIN)), tmp_path)
    other = planned(
        load_suite(suite_file(CHAIN.replace('recipe = "pgd-at"', 'recipe = "pgd-at"\nseeds = [7]'))), tmp_path
    )
    assert other[1].recipe.seed == 7
    assert one[2].run.path != other[2].run.path


def test_states_and_missing_evaluations(suite_file: Any, tmp_path: Path) -> None:
    suite = load_suite(suite_file(CHAIN))
    cells = planned(suite, tmp_path)
    assert {cell.state for cell in cells} == {"missing"}
    assert cells[0].missing == ()  # evaluate = false
    assert cells[1].missing == (
        ("best", "clean", None),
        ("best", "pgd20", None),
        ("last", "clean", None),
        ("last", "pgd20", None),
    )  # no average
    train(cells[1])
    train(planned(suite, tmp_path)[2])
    train(planned(suite, tmp_path)[3], finished=False)
    measure(cells[1], "best", "pgd20")
    write_json(cells[1].run.path / "eval" / "last" / "pgd20.state.json", {})
    cells = planned(suite, tmp_path)
    assert [cell.state for cell in cells] == ["missing", "done", "done", "partial", "missing"]
    assert cells[1].missing == (("best", "clean", None), ("last", "clean", None), ("last", "pgd20", None))
    (cells[3].run.path / "metrics.jsonl").write_text(json.dumps({"epoch": 0}) + "\n")
    rows = plan_table(cells)
    assert rows[1]["missing evaluations"] == "best: clean; last: clean, pgd20"
    assert [row["epochs"] for row in rows] == ["4", "4", "8", "1/8", "8"]
    assert [row["recipe"] for row in rows] == ["standard", "pgd-at", "rslad", "rslad", "rslad"]


def test_an_evaluation_that_no_longer_holds_is_missing(suite_file: Any, tmp_path: Path) -> None:
    suite = load_suite(suite_file(CHAIN.replace('["best", "last", "averaged"]', '["last"]')))
    teacher = planned(suite, tmp_path)[1]
    train(teacher)
    cases: list[tuple[dict[str, Any], tuple[tuple[str, str, None], ...]]] = [
        ({}, ()),
        ({"version": 2}, (("last", "pgd20", None),)),
        ({"eps": 4 / 255}, (("last", "pgd20", None),)),
        ({"weights": "0" * 64}, (("last", "pgd20", None),)),
    ]
    for changes, missing in cases:
        measure(teacher, "last", "clean", eps=changes.get("eps", 8 / 255))  # without an attack the threat is no matter
        measure(teacher, "last", "pgd20", **changes)
        assert planned(suite, tmp_path)[1].missing == missing


def test_each_protocol_has_its_own_number_of_images(suite_file: Any, tmp_path: Path) -> None:
    counted = 'checkpoints = ["last"]\nn = { pgd20 = 100 }'
    suite = load_suite(suite_file(CHAIN.replace('checkpoints = ["best", "last", "averaged"]', counted)))
    cell = planned(suite, tmp_path)[1]
    assert cell.missing == (("last", "clean", None), ("last", "pgd20", 100))
    train(cell)
    measure(cell, "last", "clean")
    measure(cell, "last", "pgd20")
    folder = cell.run.path / "eval" / "last"
    assert planned(suite, tmp_path)[1].missing == (("last", "pgd20", 100),)  # all images are other images than 100
    (folder / "pgd20.json").rename(folder / "pgd20-n100.json")
    assert planned(suite, tmp_path)[1].missing == ()


def test_the_first_seed_of_everything_comes_first(suite_file: Any, tmp_path: Path) -> None:
    runs = 'seeds = [5, 3]\n[[runs]]\nname = "a"\nrecipe = "pgd-at"\n[[runs]]\nname = "b"\nrecipe = "standard"\n'
    cells = planned(load_suite(suite_file(HEAD + runs)), tmp_path)
    worked = [(cells[index].name, cells[index].recipe.seed) for index in unfinished(cells)]
    assert worked == [("a", 5), ("b", 5), ("a", 3), ("b", 3)]


def test_a_retrained_teacher_makes_its_students_stale(suite_file: Any, tmp_path: Path) -> None:
    suite = load_suite(suite_file(CHAIN))
    train(planned(suite, tmp_path)[1])
    for index in (2, 3):
        train(planned(suite, tmp_path)[index], finished=index == 2)
    planned(suite, tmp_path)[1].run.weights("best").write_bytes(b"other")
    cells = planned(suite, tmp_path)
    assert [cell.state for cell in cells] == ["missing", "done", "stale", "stale", "missing"]
    assert plan_table(cells)[2]["state"] == f"stale: move or delete {cells[2].run.path} to retrain"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("evaluate = false", "evalute = false"), "runs.0.evalute: 'evalute': did you mean 'evaluate'?"),
        (('title = "A suite"', 'titel = "A suite"'), "'titel': did you mean 'title'?"),
        (('teachers = ["teacher"]', 'teachers = ["techer"]'), "'techer': did you mean 'teacher'?"),
        (('name = "baseline"', 'name = "teacher"'), "two runs are called 'teacher': rename one of them"),
        (('title = "A suite"', ""), "In suite suite: title is missing"),
        (('title = "A suite"', 'title = "A suite"\nn = { aa = 5 }'), "n names 'aa', and the protocols are clean, pgd20"),
        (('title = "A suite"', 'title = "A suite"\nbatch = 0'), "In suite suite: batch = 0"),
        (("seeds = [0, 1, 2]", "seeds = []"), "In suite suite: seeds = []"),
        (('["clean", "pgd20"]', '["clean", "pgd2O"]'), "pgd20"),
        (('"best", "last", "averaged"', '"final"'), "In suite suite: checkpoints.0 = 'final'"),
        (('title = "A suite"', "title = A suite"), "is not valid TOML"),
        (('recipe = "pgd-at"', 'recipe = "pgd-at"\nteachers = ["student"]'), "circle (student -> teacher -> student)"),
        (('recipe = "pgd-at"', 'recipe = "pgd-at"\nteachers = ["teacher"]'), "circle (teacher -> teacher)"),
    ],
)  # fmt: skip
def test_a_wrong_suite_is_refused_in_one_sentence(suite_file: Any, change: tuple[str, str], said: str) -> None:
    assert change[0] in CHAIN
    with pytest.raises(ArdbenchError) as refusal:
        load_suite(suite_file(CHAIN.replace(*change, 1)))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_network_that_its_library_has_not_is_refused_with_the_plan(suite_file: Any, tmp_path: Path) -> None:
    for student, said in (
        ("timm:resnt18", "Unknown network of timm 'resnt18': did you mean 'resnet18'?"),
        ("torchvision:resnet81?stem=small", "Unknown network of torchvision 'resnet81': did you mean 'resnet18'?"),
    ):
        run = f'[[runs]]\nname = "odd"\nrecipe = "pgd-at-digits"\nstudent = "{student}"\n'
        with pytest.raises(ArdbenchError, match=re.escape(said)):
            cells.planned(suite_file(HEAD + run), tmp_path)


@pytest.mark.parametrize(
    ("recipe", "teachers", "said"),
    [
        ("rslad", [], "Run 'odd': the method rslad wants 1 (robust) as teachers, but 0 are named."),
        ("standard", ["a"], "the method standard wants none as teachers, but 1 are named."),
        ("darht", ["a"], "the method darht wants 2 or more (robust, robust) as teachers, but 1 are named."),
        ("rslad", ["zoo:Gowal2020"], "teacher 'zoo:Gowal2020' is no run of the suite"),
    ],
)
def test_teachers_must_fit_the_method(
    suite_file: Any, tmp_path: Path, recipe: str, teachers: list[str], said: str
) -> None:
    runs = (
        f'[[runs]]\nname = "a"\nrecipe = "pgd-at"\n[[runs]]\nname = "odd"\nrecipe = "{recipe}"\nteachers = {teachers}\n'
    )
    with pytest.raises(ArdbenchError) as refusal:
        planned(load_suite(suite_file(HEAD + runs)), tmp_path)
    assert said in str(refusal.value)


def test_more_teachers_of_the_last_role_and_outside_ones(suite_file: Any, tmp_path: Path) -> None:
    runs = '[[runs]]\nname = "a"\nrecipe = "pgd-at"\n[[runs]]\nname = "s"\nrecipe = "darht"\n'
    runs += 'teachers = ["zoo:x", "a", "b.pt:wrn"]\n'

    def outside(source: str, role: str) -> Teacher:
        return Teacher(source, role, f"sha of {source}", "wrn", "somewhere", "abc")

    cells = plan(load_suite(suite_file(HEAD + runs)), tmp_path, build_recipe, lambda name: ROLES[name], outside)
    assert [(teacher.source, teacher.role) for teacher in cells[1].teachers] == [
        ("zoo:x", "robust"), ("a", "robust"), ("b.pt:wrn", "robust"),
    ]  # fmt: skip
    identities = ["sha of zoo:x", f"{cells[0].recipe.identity()}@best", "sha of b.pt:wrn"]
    assert cells[1].run.path.name.endswith(cells[1].recipe.identity(identities)[:8])


def test_the_same_run_under_two_names_is_refused(suite_file: Any, tmp_path: Path) -> None:
    runs = '[[runs]]\nname = "a"\nrecipe = "pgd-at"\n[[runs]]\nname = "b"\nrecipe = "pgd-at"\n'
    with pytest.raises(ArdbenchError, match="'a' and 'b' are the same run"):
        planned(load_suite(suite_file(HEAD + runs)), tmp_path)


def test_a_recipe_makes_the_checkpoints_that_it_selects() -> None:
    recipe = build_recipe("pgd-at", dataset="digits", student=None, seed=0, sets={})
    last = recipe.model_copy(update={"selection": recipe.selection.model_copy(update={"by": "last"})})
    assert (expected_checkpoints(recipe), expected_checkpoints(last)) == (("last", "best"), ("last",))


@pytest.mark.parametrize("name", suite_names())
def test_every_built_in_suite_is_valid(tmp_path: Path, name: str) -> None:
    from ardbench.recipes import resolve

    suite = load_suite(name)
    cells = plan(suite, tmp_path, resolve, outside=absent)
    assert {cell.name for cell in cells} == {run.name for run in suite.runs}
    recipes = {run.name: run.recipe for run in suite.runs}
    taught_on = {cell.name: cell.recipe.data.name for cell in cells}
    for cell in cells:
        dataset = resolve(recipes[cell.name]).data.name  # a built-in suite bends no recipe to other data
        sources = [teacher.source for teacher in cell.teachers]
        theirs = {taught_on[one] if one in taught_on else zoo.entry(one).dataset for one in sources}
        assert {cell.recipe.data.name, *theirs} == {dataset}
        assert cell.recipe.family == "level" or not name.endswith("-level")


def test_the_digits_suites_compare_every_method() -> None:
    from ardbench.methods import available

    runs = {name: [run.recipe for run in load_suite(name).runs] for name in ("digits", "digits-all")}
    five = {f"{method}-digits" for method in ("iad-i", "iad-ii", "rslad", "peeraid", "crdnd", "darht", "pgd-at")}
    assert five < set(runs["digits"]) < set(runs["digits-all"])
    assert {recipe.partition("-digits")[0] for recipe in runs["digits-all"]} >= set(available())


def test_a_run_may_have_its_own_data_set(suite_file: Any, tmp_path: Path) -> None:
    runs = '[[runs]]\nname = "a"\nrecipe = "pgd-at"\n[[runs]]\nname = "b"\nrecipe = "pgd-at"\ndataset = "fake"\n'
    assert [cell.recipe.data.name for cell in planned(load_suite(suite_file(HEAD + runs)), tmp_path)] == [
        "digits", "fake",
    ]  # fmt: skip
    without = HEAD.replace('dataset = "digits"', "") + runs
    given: list[str | None] = []

    def resolve(name: str, *, dataset: str | None, **others: Any) -> Recipe:
        given.append(dataset)
        return build_recipe(name, dataset=dataset or "cifar10", **others)

    plan(load_suite(suite_file(without)), tmp_path, resolve, lambda name: ROLES[name])
    assert given == [None, "fake"]


def test_a_plan_says_which_outside_teachers_are_not_here_yet(suite_file: Any, tmp_path: Path) -> None:
    runs = '[[runs]]\nname = "a"\nrecipe = "pgd-at"\n'
    runs += "".join(
        f'[[runs]]\nname = "{name}"\nrecipe = "rslad"\nteachers = ["{teacher}"]\n'
        for name, teacher in (("one", "zoo:absent"), ("two", "a"), ("three", "b.pt:wrn"))
    )

    def outside(source: str, role: str) -> Teacher:
        return Teacher(source, role, source, "wrn", "somewhere", "" if source == "zoo:absent" else "abc")

    def states() -> list[str]:
        return [row["state"] for row in plan_table(cells())]

    def cells() -> list[Cell]:
        return plan(load_suite(suite_file(HEAD + runs)), tmp_path, build_recipe, lambda name: ROLES[name], outside)

    assert states() == ["missing", "missing, needs a file", "missing", "missing"]
    train(cells()[1])
    assert states()[1] == "done"


def test_names_are_near_and_files_are_found() -> None:
    assert (benchmarks_folder() / "suites" / "digits.toml").is_file()
    with pytest.raises(ArdbenchError, match="did you mean 'digits'"):
        load_suite("digit")
    with pytest.raises(ArdbenchError, match=r"nowhere\.toml cannot be read"):
        load_suite("nowhere.toml")


def test_plans_and_tables_need_no_torch() -> None:
    code = (
        "import sys, pathlib, ardbench.reports\n"
        "from ardbench.campaigns import cells, suites\n"
        "from ardbench.recipes import resolve\n"
        "cells.plan(suites.load_suite('digits'), pathlib.Path('nowhere'), resolve)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_is_found_by_its_plan(suite_file: Any, tmp_path: Path) -> None:
    cell = planned(load_suite(suite_file(CHAIN)), tmp_path)[1]
    train(cell)
    assert Run.open(cell.run.path).identity == cell.recipe.identity()


def test_a_suite_measures_a_subset_and_changes_every_run(suite_file: Any, tmp_path: Path) -> None:
    """n is of all runs but where it is the whole test set (digits: 360); a run's own changes go over the suite's."""
    runs = '[[runs]]\nname = "a"\nrecipe = "pgd-at-digits"\n'
    runs += '[[runs]]\nname = "b"\nrecipe = "pgd-at-digits"\nset = { schedule.epochs = 8 }\n'
    for n, expected in ((100, 100), (360, None)):
        head = f'title = "t"\ndataset = "digits"\nprotocols = ["clean"]\nn = {n}\nset = {{ schedule.epochs = 7 }}\n'
        cells = plan(load_suite(suite_file(head + runs)), tmp_path, resolve)
        assert [cell.missing for cell in cells] == 2 * [(("last", "clean", expected),)]
        assert [cell.recipe.schedule.epochs for cell in cells] == [7, 8]
