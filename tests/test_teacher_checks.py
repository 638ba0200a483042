"""Teachers are looked at before they teach: what is measured, on what, what is warned of, and when it is kept."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from cli_call import call
from safetensors.torch import load_file, save_file
from small import recipe

from ardbench.data.load import load
from ardbench.engine import networks
from ardbench.engine.teacher_checks import SEARCH, _affordable, _typed
from ardbench.engine.train import train
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.trust import LIMITS
from ardbench.models.cost import cost
from ardbench.planning.counting import StepCounter
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run
from ardbench.teachers import locate

CPU = torch.device("cpu")
FLAGS = ("--device", "cpu", "--epochs", "1", "--set", "attack.steps=1", "--set", "data.train_images=200")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that learnt digits."""
    torch.set_num_threads(1)
    words = ("--epochs", "8", "--device", "cpu", "--runs", str(tmp_path_factory.mktemp("teachers")))
    return Path(call("train", "standard-digits", *words).stdout.splitlines()[0])


class Heard(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def about_teachers(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(("Teacher ", "Warning, teacher"))]


def test_a_right_teacher_is_measured_told_and_kept(teacher: Path, tmp_path: Path) -> None:
    words = ("distill", "rslad-digits", "--teacher", str(teacher), *FLAGS, "--runs", str(tmp_path))
    done = call(*words)
    run = Run.open(Path(done.stdout.splitlines()[0]))
    (kept,) = run.teachers_checked or []
    told = done.stdout + done.stderr
    assert about_teachers(told) == [f"Teacher {teacher} (robust): {kept.said}."]
    validation = load("digits", CPU, validation=150, train_images=200).validation
    assert validation is not None and kept.n == LIMITS.teachers.least
    net = networks.of_teacher(locate(str(teacher)), "digits", CPU)
    for name, share in kept.accuracies.items():
        assert evaluate(net, validation, name, run.recipe.evaluation, batch=100, n=kept.n).accuracy == share
    assert set(kept.accuracies) == {"clean", "pgd10"} and kept.accuracies["clean"] > 0.9 > kept.accuracies["pgd10"]
    assert {one.check: one.level for one in kept.findings} == {"clean": "ok", "running-statistics": "ok"}
    assert kept.said in " ".join(call("show", str(run.path)).stdout.split())
    # at a resume it is neither measured again nor told
    (run.path / "done").unlink()
    before = (run.path / "teachers.json").read_bytes()
    again = call(*words)
    assert not about_teachers(again.stdout + again.stderr) and (run.path / "teachers.json").read_bytes() == before


@pytest.mark.parametrize("wrong", ["labels", "normalisation"])
def test_a_wrong_teacher_is_warned_of_and_teaches(teacher: Path, tmp_path: Path, wrong: str) -> None:
    state = load_file(teacher / "last.safetensors")
    if wrong == "labels":
        state = {name: part.roll(1, 0) if name.startswith("head") else part for name, part in state.items()}
    else:
        state = dict(state)
    save_file(state, tmp_path / "wrong.safetensors")
    seen = "" if wrong == "labels" else "+mean=0.3+std=0.35"
    source = f"{tmp_path / 'wrong.safetensors'}:resnet8-tiny{seen}"
    done = call(
        "distill", "rslad-digits", "--teacher", source, *FLAGS, "--set", "data.validation=0", "--set",
        "selection.by=last", "--runs", str(tmp_path), "--quiet",
    )  # fmt: skip
    run = Run.open(Path(done.stdout.splitlines()[0]))
    (kept,) = run.teachers_checked or []
    assert run.done is not None and kept.images == "training images"
    levels = {one.check: one.level for one in kept.findings}
    assert levels["clean" if wrong == "labels" else "running-statistics"] == "warning"
    assert levels["running-statistics"] == ("ok" if wrong == "labels" else "warning")
    if wrong == "labels":
        assert kept.accuracies["clean"] < 0.05
    warnings = about_teachers(done.stderr)  # with --quiet nothing else
    assert len(warnings) == len(kept.warnings) > 0
    file = tmp_path / "wrong.safetensors"
    typed = f"ardbench eval {file} --model resnet8-tiny --dataset digits"
    typed += "" if wrong == "labels" else " --mean 0.3 --std 0.35"
    assert all(line.endswith(typed) for line in warnings)
    assert all(f"ardbench identify {file} --dataset digits" in line for line in warnings)
    call("eval", str(run.path), "--protocol", "clean", "--device", "cpu")
    report = call("report", str(run.path)).stdout
    check, _, reason = kept.warnings[0].partition(": ")
    assert f"Trust checks, warning, teacher (robust), {check}: {run.path.name} (last): {reason}" in report
    (run.path / "teachers.json").write_text(json.dumps({"teachers": [{}]}))
    assert "teachers.json holds no checks of teachers" in call("show", str(run.path)).stderr


def test_what_is_typed_to_look_at_a_teacher_measures_that_teacher(teacher: Path, tmp_path: Path) -> None:
    state = load_file(teacher / "last.safetensors")
    torch.save({"ema": state, "model": {name: part + 1 for name, part in state.items()}}, tmp_path / "two.pt")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')  # of a hub: no run
    file = locate(f"{tmp_path}/two.pt#ema:resnet8-tiny+mean=0+std=1")
    words = f"{tmp_path}/two.pt --model resnet8-tiny --dataset digits --part ema --mean 0 --std 1"
    assert _typed(file, "digits").endswith(f"ardbench eval {words}")
    assert f"ardbench identify {tmp_path}/two.pt --dataset digits --part ema " in _typed(file, "digits")
    assert _typed(locate(str(teacher)), "digits").endswith(f"ardbench eval {teacher} --checkpoint last")
    out = tmp_path / "export"
    call("export", str(teacher), "--out", str(out))
    assert _typed(locate(str(out)), "digits").endswith(f"ardbench eval {out}")
    for one in (file, locate(str(teacher)), locate(str(out))):
        typed = shlex.split(_typed(one, "digits").partition("To look at it: ")[2])[1:]
        done = call(*typed, "--protocol", "clean", "--device", "cpu", "--runs", str(tmp_path / "runs"), "--json")
        (row,) = json.loads(done.stdout)["results"]
        assert done.exit_code == 0 and row["accuracy"] > 0.9


def test_a_run_that_gets_no_time_measures_its_teachers_and_trains_one_batch(teacher: Path, tmp_path: Path) -> None:
    wanted, taught = recipe("rslad", data__name="digits", data__augment="crop"), [locate(str(teacher))]
    run = Run.place(tmp_path, wanted, taught)
    assert not train(wanted, taught, run, CPU, deadline=0.0, progress=Heard())
    assert run.teachers_checked is not None and (run.path / "last.state").exists()


def test_warnings_of_teachers_remain_where_all_else_is_silent(teacher: Path, tmp_path: Path) -> None:
    state = load_file(teacher / "last.safetensors")
    state = {name: part.roll(1, 0) if name.startswith("head") else part for name, part in state.items()}
    save_file(state, tmp_path / "wrong.safetensors")
    source = f"{tmp_path / 'wrong.safetensors'}:resnet8-tiny"
    done = call("distill", "rslad-digits", "--teacher", source, *FLAGS, "--runs", str(tmp_path), "--quiet")
    device, *warnings = done.stderr.splitlines()
    assert device.startswith("Device: ") and warnings
    assert all(line.startswith(f"Warning, teacher {source}: clean: ") for line in warnings)


@pytest.mark.parametrize(("student", "model"), [("resnet18", "wrn-34-10"), ("mobilenetv2", "resnet18")])
def test_what_is_measured_is_a_share_of_an_epoch(student: str, model: str) -> None:
    wanted = resolve("rslad-cifar10", student=student)
    info = load("fake", CPU).train.info
    net = networks.fresh(model, "cifar10", False, 0, "teacher", CPU)
    split = load("fake", CPU).train
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    label = torch.zeros(50_000, dtype=torch.int64)
    train_split = type(split)(image.expand(50_000, -1, -1, -1), label, label, info)
    n = _affordable(wanted, [net], train_split, 10_000)
    teacher = locate(f"{__file__}:{model}")
    epoch = 50_000 * StepCounter().flop(wanted, [teacher], range(1))
    forward = 2 * cost(model, net.info).macs
    spent = n * (1 + 1 + 1 + SEARCH * 10) * forward
    assert LIMITS.teachers.least < n <= LIMITS.teachers.most
    assert spent / epoch == pytest.approx(LIMITS.teachers.share, rel=0.05) or n == LIMITS.teachers.most
    assert _affordable(wanted, [net], train_split, 30) == 30
