"""Students that begin with trained weights, and runs that go on: by hand, and to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from safetensors.torch import load_file

import ardbench
from ardbench.campaigns.copies import bring
from ardbench.config import Recipe
from ardbench.data.load import load
from ardbench.engine import networks
from ardbench.engine.loop import Loop
from ardbench.engine.schedules import factor
from ardbench.engine.train import build_method
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.recipes.differences import differing
from ardbench.runs import Run, sha256_of
from ardbench.starts import STATE, extended
from ardbench.verbs.training import prepared

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {
    "data.train_images": 96, "data.batch": 32, "attack.steps": 1, "selection.protocol": "clean", "data.validation": 32,
}  # fmt: skip


class Heard(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(folder: Path) -> Run:
    words = {"student": "resnet8-tiny", "epochs": 2, "runs": folder, "progress": Progress()}
    averaged = {"average.kind": "ema", "average.decay": 0.9}
    return ardbench.train("pgd-at", dataset="fake", set=SHORT | averaged, **words)


def started(recipe: Recipe, heard: Progress | None = None) -> dict[str, torch.Tensor]:
    return build_method(recipe, (), CPU, heard).student.state_dict()


def wanted(init: Any, dataset: str = "fake", **sets: Any) -> Recipe:
    changes = SHORT | {key.replace("__", "."): value for key, value in sets.items()}
    recipe = resolve(
        "pgd-at", dataset=dataset, student="resnet8-tiny", epochs=1, sets=changes | {"start.source": str(init)}
    )
    return prepared(recipe, (), "nowhere").recipe


def test_the_student_begins_with_the_weights(first: Run) -> None:
    weights, heard = load_file(first.weights("last")), Heard()
    recipe = wanted(f"{first.path}@last")
    found = started(recipe, heard)
    assert all(torch.equal(found[key], weights[key]) for key in weights) and found.keys() == weights.keys()
    assert heard.notes == [f"The student begins with the weights of {first.path}@last."]
    assert recipe.start and recipe.start.identity == sha256_of(first.weights("last"))
    file = first.weights("last")
    same = [wanted(name) for name in (file, f"{file}:resnet8-tiny", f"{first.path}@last")]
    assert len({one.identity() for one in same}) == 1, "the weights name the run, not the place where they lie"
    assert wanted(f"{first.path}@best").identity() != same[0].identity() or first.twin("last")
    assert resolve("pgd-at-digits").identity() == resolve("pgd-at-digits").model_copy(update={"start": None}).identity()


@pytest.mark.parametrize("of_run", [True, False])
def test_a_head_of_another_size_is_drawn_anew(
    first: Run, of_run: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from ardbench import data

    few = replace(data.info("fake"), name="few", num_classes=4)
    monkeypatch.setitem(data.DATASETS, "few", few)
    torch.save(load_file(first.weights("last")), tmp_path / "old.pt")
    source, heard = f"{first.path}@last" if of_run else f"{tmp_path / 'old.pt'}:resnet8-tiny", Heard()
    found, weights = started(wanted(source, "few"), heard), load_file(first.weights("last"))
    fresh = networks.fresh("resnet8-tiny", "few", False, 0, "student", CPU).state_dict()
    for key in found:
        assert torch.equal(found[key], (fresh if key.startswith("head.") else weights)[key]), key
    assert found["head.weight"].shape[0] == 4
    assert heard.notes == [
        f"The student begins with the weights of {source}, but for its head, which is drawn anew: there are 10 classes there "
        "and 4 in few."
    ]


def test_what_does_not_fit_is_one_sentence(first: Run) -> None:
    for make, said in [
        (lambda: wanted(first.path, student="resnet8"), "is a resnet8-tiny, and the student is a resnet8"),
        (lambda: started(wanted(first.path, data__normalise=True)), "give --set data.normalise=false"),
        (lambda: started(wanted(first.path, "digits", selection__every=1)), "sees images of 3 channels"),
        (lambda: wanted(first.path, start__identity="0" * 64), "is not what the recipe was made with (00000000"),
    ]:
        with pytest.raises(ArdbenchError) as refused:
            make()
        assert said in str(refused.value)


def test_pretrained_weights_of_a_library_come_in(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("mobilenetv3_small_050", num_classes=1000).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.items()}}, tmp_path / "imagenet.pth")
    heard = Heard()
    student, file = "timm:mobilenetv3_small_050", tmp_path / "imagenet.pth"
    for normalise in (True, False):  # the file does not say
        found = started(wanted(file, student=student, data__normalise=normalise), heard)
        body = {f"body.{key}": value for key, value in theirs.items() if not key.startswith("classifier.")}
        assert (
            all(torch.equal(found[key], value) for key, value in body.items()) and found["head.weight"].shape[0] == 10
        )
    assert any("there are 1000 classes there and 10 in fake" in note for note in heard.notes)


def stopped_after(recipe: Recipe, run: Run, batches: int | None) -> bool:
    """Train until so many batches are made, in a loop of its own."""
    run.create(recipe, (), {})
    made = [0]

    def stop() -> bool:
        made[0] += 1
        return batches is not None and made[0] >= batches

    splits = load("fake", CPU, validation=32, train_images=96)
    return Loop(run, recipe, build_method(recipe, (), CPU), splits, stop, Progress()).fit()


@pytest.mark.parametrize("kind", ["init", "extend"])
def test_it_resumes_to_the_bit(kind: str, first: Run, tmp_path: Path) -> None:
    recipe = wanted(first.path, schedule__epochs=4) if kind == "init" else extended(str(first.path), 4)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    assert stopped_after(recipe, whole, None)
    for _ in range(20):
        if stopped_after(recipe, parts, 2):
            break
    for name in whole.checkpoints:
        a, b = load_file(whole.weights(name)), load_file(parts.weights(name))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
    assert [row["loss"] for row in whole.metrics] == [row["loss"] for row in parts.metrics]


def test_an_extension_goes_on_by_the_rates_of_the_longer_run(first: Run, tmp_path: Path) -> None:
    recipe, seen = extended(str(first.path), 4), []
    run = Run(tmp_path / "longer")
    run.create(recipe, (), {})
    splits = load("fake", CPU, validation=32, train_images=96)
    loop = Loop(run, recipe, build_method(recipe, (), CPU), splits, lambda: len(seen) > 1, Progress())
    assert loop.averaged is not None
    loop._resume()
    last = load_file(first.weights("last"))
    assert loop.at.epoch == 2 and loop.rows == first.metrics
    assert all(torch.equal(value, last[key]) for key, value in loop.method.student.state_dict().items())
    momentum = {p: s["momentum_buffer"].clone() for p, s in loop.optimizers["student"].state.items()}
    before = {p: p.detach().clone() for p in momentum}
    grads: dict[Any, torch.Tensor] = {}
    for p in momentum:
        p.register_post_accumulate_grad_hook(lambda p: grads.update({p: p.grad.detach().clone()}))
    loop._step(loop.batches.batch(2, 0), 2, 0)
    rate = 0.1 * (1 - 6.5 / 12) / (1 - 0.2)  # step 6 of 12, of one cycle with a fifth of warmup
    assert rate == pytest.approx(0.1 * factor(recipe.schedule, recipe.schedule.epochs, 6, 3))
    for p, buffer in momentum.items():
        moved = 0.9 * buffer.double() + grads[p].double() + 5e-4 * before[p].double()
        torch.testing.assert_close(p.detach().double(), before[p].double() - rate * moved, rtol=1e-5, atol=1e-7)


def test_a_run_knows_its_parent(first: Run, folder: Path) -> None:
    longer = ardbench.train(extend=first, epochs=3, runs=folder, progress=Progress())
    start = longer.config["recipe"]["start"]
    assert start == {"kind": "extend", "source": str(first.path), "identity": first.identity}
    assert longer.path != first.path and longer.done and longer.done["epochs"] == 3
    assert longer.metrics[:2] == first.metrics and len(longer.metrics) == 3
    again = call("train", "--extend", first.path, "--epochs", 3, "--runs", folder)
    assert "Already done" in again.output and str(longer.path) in again.output
    fresh = ardbench.train("pgd-at", dataset="fake", student="resnet8-tiny", init=first, epochs=1, set=SHORT, runs=folder,
                           progress=Progress())  # fmt: skip
    assert fresh.config["recipe"]["start"]["source"] == str(first.path) and fresh.done


def test_what_cannot_go_on_is_one_sentence(first: Run, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArdbenchError, match="has 2 epochs: give how many it shall have in all, such as --epochs 4"):
        extended(str(first.path), 2)
    import shutil

    copy = tmp_path / first.path.name
    shutil.copytree(first.path, copy)
    (copy / STATE).unlink()
    with pytest.raises(ArdbenchError, match=f"has no {STATE}.*--init"):
        extended(str(copy), 4)
    (copy / "done").unlink()
    with pytest.raises(ArdbenchError, match="is not finished"):
        extended(str(copy), 4)
    with pytest.raises(ArdbenchError, match="keeps its recipe: give epochs alone, without seed"):
        ardbench.train(extend=first, epochs=4, seed=1, runs=folder)
    refused = call("distill", "--extend", first.path, "--epochs", 4, "--runs", folder)
    assert (
        refused.exit_code == 2 and f"type `ardbench train --extend {first.path} --epochs 4` instead" in refused.output
    )


def test_no_folder_of_the_machine_leaves_it(first: Run, tmp_path: Path) -> None:
    words = {"student": "resnet8-tiny", "epochs": 1, "set": SHORT, "runs": tmp_path / "runs", "progress": Progress()}
    run = ardbench.train("pgd-at", dataset="fake", init=first.path.resolve(), **words)
    assert bring(run, Run(tmp_path / "kept" / run.path.name)) > 0
    assert call("export", run.path, "--out", tmp_path / "out").exit_code == 0
    for place in (tmp_path / "kept" / run.path.name, tmp_path / "out"):
        told = json.loads((place / "config.json").read_text())
        assert told["recipe"]["start"]["source"] == first.path.name and str(tmp_path) not in json.dumps(told)
    assert Run(tmp_path / "kept" / run.path.name).recipe.identity() == run.identity
    usual = resolve("pgd-at", dataset="fake")
    assert differing([usual, usual.model_copy(update={"start": run.recipe.start})]) == [
        "usual start",
        f"start {first.path}",
    ]
