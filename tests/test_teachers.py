"""What is typed after --teacher: which role it takes, what it names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_runs import finished

from ardbench import data, models
from ardbench.engine import networks
from ardbench.engine.checkpoints import save_weights
from ardbench.errors import ArdbenchError
from ardbench.recipes import resolve
from ardbench.runs import Run, read_json, sha256_of, write_json
from ardbench.teachers import default_checkpoint, locate, of_run, planned, resolve_teachers

CPU = torch.device("cpu")


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
        (
            ["nowhere"],
            r"is no run directory: give a run directory, an exported folder, FILE:ARCH, zoo:NAME or",
        ),
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


def refusal(texts: list[str], method: str, roles: tuple[object, ...]) -> str:
    with pytest.raises(ArdbenchError) as caught:
        resolve_teachers(texts, method, roles)  # type: ignore[arg-type]
    return str(caught.value)


def test_too_few_and_too_many_say_what_is_wanted(tmp_path: Path) -> None:
    run = str(finished(tmp_path).path)
    assert refusal([run], "pgd-at", ()) == "pgd-at wants no teacher, but 1 was given with --teacher."
    both = "iad-ii wants 2 teachers (robust, clean)"
    assert refusal([run], "iad-ii", ("robust", "clean")) == f"{both}, but 1 was given with --teacher."
    assert refusal([run] * 3, "iad-ii", ("robust", "clean")) == f"{both}, but 3 were given with --teacher."
    twice = [f"clean={run}", f"clean={run}"]
    assert refusal(twice, "iad-ii", ("robust", "clean")) == f"{both}, but more than that is given for the role 'clean'."
    assert refusal([f"robst={run}", run], "iad-ii", ("robust", "clean")).endswith(
        "no role is called 'robst', nor is there a file of that name."
    )
    assert refusal([], "m", ("robust", ...)) == (
        "m wants at least 1 teacher (robust), but 0 were given with --teacher."
    )


def test_more_teachers_take_the_last_role_in_the_order_given(tmp_path: Path) -> None:
    a, b, c = (str(finished(tmp_path, seed).path) for seed in range(3))
    many = resolve_teachers([a, f"clean={b}", c], "m", ("clean", "robust", ...))
    assert [(t.role, t.source) for t in many] == [("clean", b), ("robust", a), ("robust", c)]
    assert [t.source for t in resolve_teachers([c, a, b], "m", ("robust", ...))] == [c, a, b]


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(tmp_path)
    run.path.rename(tmp_path / "lr=0.1")
    monkeypatch.chdir(tmp_path)
    for text in ("lr=0.1", str(tmp_path / "lr=0.1"), "robust=lr=0.1"):
        (found,) = resolve_teachers([text], "rslad", ("robust",))
        assert found.sha256 == sha256_of(tmp_path / "lr=0.1" / "best.safetensors")


def test_a_run_stands_for_its_selected_checkpoint_unless_another_is_named(tmp_path: Path) -> None:
    selected = finished(tmp_path)
    last = finished(tmp_path, recipe="trades-digits", **{"selection.by": "last"})
    assert [default_checkpoint(run.recipe) for run in (selected, last)] == ["best", "last"]
    assert locate(str(selected.path)).identity == f"{selected.identity}@best"
    assert locate(f"{selected.path}@last").weights == str(selected.weights("last").resolve())
    assert locate(str(last.path)).identity == f"{last.identity}@last"
    last.weights("best").unlink()
    with pytest.raises(ArdbenchError, match="has no checkpoint 'best': choose one of last"):
        of_run(last, "robust", "best")


def test_a_planned_teacher_has_the_identity_that_it_will_have(tmp_path: Path) -> None:
    recipe = resolve("pgd-at-digits")
    run = Run.place(tmp_path, recipe)
    before = planned(run, recipe, recipe.identity(), "robust")
    finished(tmp_path)
    after = of_run(run, "robust")
    assert (before.identity, before.role, before.model, before.weights) == (
        after.identity, after.role, after.model, after.weights
    )  # fmt: skip
    assert (before.sha256, after.sha256) == ("", sha256_of(run.weights("best")))


# The network of a teacher ---------------------------------------------------------------------------------------------


def trained(root: Path, dataset: str = "fake") -> tuple[Run, torch.nn.Module]:
    """Return a finished run with the weights of a real network, and the network."""
    recipe = resolve("pgd-at-digits", dataset=dataset, sets={"data.validation": 10, "data.augment": "none"})
    run, net = Run.place(root, recipe), networks.fresh(recipe.student, dataset, False, 3, "student", CPU)
    run.create(recipe, (), {})
    for checkpoint in ("last", "best"):
        save_weights(run.weights(checkpoint), net, {})
    write_json(run.path / "done", {"epochs": 1})
    return run, net


def test_a_run_and_a_file_give_the_same_network_in_eval_mode(tmp_path: Path) -> None:
    run, net = trained(tmp_path)
    state = tmp_path / "teacher.pt"
    torch.save(net.state_dict(), state)
    x = torch.rand(4, 3, 8, 8)
    for source in (str(run.path), f"{run.path}@last", f"{state}:resnet8-tiny"):
        found = networks.of_teacher(locate(source), "fake", CPU)
        assert not any(module.training for module in found.modules())
        assert torch.equal(found(x), net.eval()(x))


def test_a_file_is_named_by_its_content_and_a_run_by_its_recipe(tmp_path: Path) -> None:
    run, net = trained(tmp_path)
    file = tmp_path / "teacher.pt"
    torch.save(net.state_dict(), file)
    taught = locate(f"{file}:resnet8-tiny")
    assert taught.identity == taught.sha256 == sha256_of(file)
    assert locate(str(run.path)).identity == f"{run.identity}@best"


def test_a_teacher_of_other_images_or_classes_is_refused(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    with pytest.raises(
        ArdbenchError, match=r"was trained on fake \(10 classes of 3x8x8\), but .* digits has 10 classes of 1"
    ):
        networks.of_teacher(locate(str(run.path)), "digits", CPU)
    with pytest.raises(ArdbenchError, match="cifar100 has 100 classes of 3x32x32: give a teacher of cifar100"):
        networks.of_teacher(locate(str(run.path)), "cifar100", CPU)
    torch.save(models.build("resnet8", data.info("cifar100")).state_dict(), tmp_path / "foreign.pt")
    with pytest.raises(ArdbenchError, match="has 100 classes, the data set cifar10 has 10"):
        networks.of_teacher(locate(f"{tmp_path / 'foreign.pt'}:resnet8"), "cifar10", CPU)


def test_a_run_on_images_of_another_size_is_wrapped(tmp_path: Path) -> None:
    run, net = trained(tmp_path)
    x = torch.rand(2, 3, 32, 32)
    found = networks.of_teacher(locate(str(run.path)), "cifar10", CPU)
    middle = x.view(2, 3, 8, 4, 8, 4)[:, :, :, 1:3, :, 1:3].mean(
        (3, 5)
    )  # without antialiasing: the four nearest of 4x4
    torch.testing.assert_close(found(x), net.eval()(middle))


def test_a_teacher_that_changes_after_it_was_named_is_refused(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    taught = locate(str(run.path))
    save_weights(run.weights("best"), networks.fresh("resnet8-tiny", "fake", False, 4, "student", CPU), {})
    with pytest.raises(ArdbenchError, match="have just changed"):
        networks.of_teacher(taught, "fake", CPU)


def test_a_damaged_or_unfinished_teacher_is_refused(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    content = run.weights("best").read_bytes()
    run.weights("best").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArdbenchError, match="is not a complete safetensors file"):
        networks.of_teacher(locate(str(run.path)), "fake", CPU)
    assert read_json(run.path / "done") == {"epochs": 1}
    (run.path / "done").unlink()
    with pytest.raises(ArdbenchError, match="is not finished: type its command again"):
        locate(str(run.path))
