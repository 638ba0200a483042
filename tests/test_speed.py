"""The reference of the speed benchmark: the same work as ours, so that a ratio of seconds is one of the same thing."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from small import CPU
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import reference_losses
import report
import sides
import tables
import training
from reference import Script, attack

from ardbench.attacks.form import frozen
from ardbench.attacks.pgd import input_gradient
from ardbench.data.batches import Batch
from ardbench.engine import device as devices
from ardbench.engine import networks
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.methods.base import Step
from ardbench.planning.counting import StepCounter
from ardbench.runs import Run

TINY = ["--model", "resnet8-tiny", "--teacher", "resnet8-tiny", "--batch", "8", "--repeats", "1"]

PASSES = {
    "pgd-at": (33, 23),  # naive and lean
    "trades": (39, 28),  # reference file, and clean logits hoisted; one of two forwards at x for the statistics alone
    "hat": (40, 31),  # T + 39 F, and clean logits hoisted
    "lbgat": (39, 30),  # 36 F + 3 P, and clean logits hoisted
    "mtard": (28, 28),  # 2 T + 26 F
    "kdiga": (9, 8),  # 3 T + 6 F, and 2 T + 6 F
    "saad": (33, 31),  # 4 T + 29 F, and 4 T + 27 F, of which 1 F for the statistics alone
    "adr": (24, 24),  # E + 23 F
    "b-mtard": (28, 28),  # as MTARD
    "absld": (27, 27),  # as RSLAD
    "mart": (26, 26),
    "pgd-at@awp": (36, 26),  # the base's search, and the outer pass twice
    "trades@awp": (42, 33),  # likewise; clean logits hoisted
    "rslad": (27, 27),  # T + 26 F
    "rslad@igdm": (35, 32),  # 3 T + 32 F, and 3 T + 29 F
    "ard": (27, 25),  # x for the statistics alone
    "akd2": (25, 25),
    "adaad": (48, 45),  # 26 F + 22 T, and x for the statistics alone
    "adaiad": (50, 48),  # 29 F + 21 T, and 27 F + 21 T, of which 1 F for the statistics alone
    "dgad": (48, 48),  # 26 F + 22 T
    "iad-i": (32, 30),  # 2 T + 30 F, and 2 T + 28 F, of which 2 F for the statistics alone
    "iad-ii": (32, 28),
    "peeraid": (33, 31),  # 29 F + 4 P, and 27 F + 4 P, of which 1 F for the statistics alone
    "crdnd": (28, 28),
    "darht": (25, 25),
}
"""Method -> forwards that a step of the reference and one of ours are worth: counted by hand, F, T and P being one network.

A gradient to the input costs one forward, one to input and parameters two.
"""


class Products(TorchDispatchMode):
    """Adds up the FLOP of convolutions and products, each gradient of them included."""

    flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flop += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.fixture(autouse=True)
def _small_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "HEAP", 1)  # nothing is timed here, and to touch three gigabytes takes seconds


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    return sides.synthetic(CPU)


@pytest.fixture(scope="module")
def counter() -> StepCounter:
    """One for all tests: it counts each kind of step once."""
    return StepCounter()


def pair(method: str, data: tuple[Any, Any], to: torch.dtype = torch.float32) -> tuple[Script, Loop, Batch]:
    """Return both sides with equal weights, and a batch."""
    options, (images, splits) = training.parse(TINY), data
    with pytest.MonkeyPatch.context() as patch:
        fresh = networks.fresh
        patch.setattr(networks, "fresh", lambda *words: fresh(*words).to(to))
        script, loop = sides.script_of(method, options, images, CPU), sides.loop_of(method, "fp32", options, splits)
    nets = (script.student, *([script.peer] if script.peer else []))
    for net, learning in zip(nets, loop.trainables.values(), strict=True):
        net.to(to).load_state_dict(learning.to(to).state_dict())  # with what the method has added
    if loop.averaged is not None:
        loop.averaged.to(to)
    batch = loop.batches.batch(sides.epoch_of(loop.recipe), 0)
    return script, loop, replace(batch, x=batch.x.to(to))


def distance(a: Tensor, b: Tensor) -> float:
    """Return the length of a - b in lengths of b."""
    return ((a - b).norm() / b.norm()).item()


def gradient(net: nn.Module) -> Tensor:
    """Return the gradient of all parameters as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


def stepped(loop: Loop, batch: Batch) -> Step:
    """Return a step of ours with what goes with the method, its gradients in place."""
    with loop.backward(batch, sides.epoch_of(loop.recipe), 1.0) as step:
        return step


@pytest.mark.parametrize("method", sorted(reference_losses.METHODS))
def test_same_objective_loss_and_gradient_as_ours_at_the_same_adversarial_examples(
    method: str, data: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, loop, batch = pair(method, data, torch.float64)
    if method == "crdnd":  # as in a later epoch
        script.kept["accuracy"] = loop.method.accuracy = torch.rand(2, 10).double()
    noise = torch.empty_like(batch.x).uniform_(-8 / 255, 8 / 255)
    x_adv, upward = (batch.x + noise).clamp(0, 1), []
    mode = script.recipe.attack.bn

    def theirs(script: Script, x: Tensor, loss_at: Any, start: Tensor | None = None) -> Tensor:
        assert torch.equal(x, batch.x)
        script.student.train(mode == "train")
        point = x_adv.clone().requires_grad_()
        upward.append(torch.autograd.grad(loss_at(point), point)[0])
        script.student.train()
        return x_adv

    def ours(objective: Any, net: Any, x: Tensor, aux: tuple[Tensor, ...], target: Any, **words: Any) -> Tensor:
        with frozen(net, mode):
            with torch.no_grad():
                aux = (*aux, target(net, x)) if target else aux
            upward.append(input_gradient(objective, net, x_adv, aux))
        return x_adv

    monkeypatch.setattr(reference_losses, "attack", theirs)
    monkeypatch.setattr(loop.method, "_maximiser", ours)
    expected = script.loss(script, batch.x, batch.y)
    actual = stepped(loop, batch).loss
    assert distance(actual, expected) < 1e-10
    towards = [up / up.norm() for up in upward]  # only signs are followed, so a scale does not matter
    assert len(towards) == 2 * loop.method.attacks and (not towards or distance(*towards) < 1e-10)

    expected.backward()
    nets = (script.student, *([script.peer] if script.peer else []))
    for net, learning in zip(nets, loop.trainables.values(), strict=True):
        assert distance(gradient(learning), gradient(net)) < 1e-10


@pytest.mark.parametrize("method", sorted(PASSES))
def test_a_step_costs_the_passes_that_the_scripts_were_counted_to_make(method: str, data: tuple[Any, Any]) -> None:
    script, loop, batch = pair(method, data)
    with Products() as forward, torch.no_grad():
        script.student(batch.x)
    with Products() as theirs:
        script.loss(script, batch.x, batch.y).backward()
    with Products() as ours:
        stepped(loop, batch)
    counted = tuple(round(side.flop / forward.flop) for side in (theirs, ours))
    assert counted == PASSES[method]  # the first layer's input has no gradient: a tenth of a forward less an outer pass


def test_a_script_of_awp_steps_at_perturbed_weights_and_takes_the_perturbation_back(data: tuple[Any, Any]) -> None:
    script, _, batch = pair("pgd-at@awp", data, torch.float64)
    script.loss(script, batch.x, batch.y)
    sizes = [step.norm() / (weight - step).norm() for weight, step in script.moved]
    assert torch.stack(sizes).tolist() == pytest.approx([0.01] * len(sizes)) and len(sizes) > 8
    script.move(-1)
    script.moved.clear()
    before = [parameter.clone() for parameter in script.student.parameters()]
    for group in script.optimizers[0].param_groups:
        group["lr"] = 0
    script.student.float()
    script.step()
    assert not script.moved
    for parameter, was in zip(script.student.parameters(), before, strict=True):
        assert torch.allclose(parameter, was.float(), rtol=1e-5, atol=1e-7)


def test_both_ways_to_differentiate_find_the_same_examples(data: tuple[Any, Any]) -> None:
    script, _, batch = pair("pgd-at", data, torch.float64)
    found = []
    for script.gradient in ("backward", "grad"):
        x_adv = attack(script, batch.x, lambda x: cross_entropy(script.student(x), batch.y), batch.x)
        assert (x_adv - batch.x).abs().max() == pytest.approx(8 / 255, abs=1e-6)
        found.append(x_adv)
    assert torch.equal(*found)


def test_a_script_is_let_go_of_with_its_workers_at_once(data: tuple[Any, Any]) -> None:
    script = replace(sides.script_of("pgd-at", training.parse(TINY), data[0], CPU), workers=2)
    next(script._batches)
    assert len(multiprocessing.active_children()) == 2
    gone, began = weakref.ref(script), time.perf_counter()
    gc.disable()
    try:
        del script
        assert gone() is None, "only the collector of cycles would find it"
    finally:
        gc.enable()
    assert not multiprocessing.active_children() and time.perf_counter() - began < 4  # 10 s where it is collected


def test_attacks_are_measured_as_graphs_where_they_are_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    cuda = torch.device("cuda")
    for device, method, measured in (
        ("cuda", "rslad", True),
        ("cuda", "ard", True),
        ("cuda", "standard", False),
        ("cpu", "rslad", False),
    ):
        options = training.parse([*TINY, "--device", device])
        assert ("graph" in options.variants) == (device == "cuda")
        assert (sides.obstacle(method, "graph", options, torch.device(device)) == "") == measured
    recipes = {variant: sides.recipe_of("rslad", variant, options).precision for variant in ("bf16", "graph")}
    assert recipes["graph"] == recipes["bf16"].model_copy(update={"cuda_graph": True})
    assert sides.obstacle("rslad", "bf16", options, cuda) == ""
    options = training.parse([*TINY, "--variants", "graph"])
    assert not training.missing("rslad", options, CPU)
    assert "rslad: graph left out: only CUDA records attacks" in capsys.readouterr().out


def test_a_row_that_is_there_is_not_measured_again(
    data: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = []
    monkeypatch.setattr(training, "synthetic", lambda device: data)
    monkeypatch.setattr(training, "peak_of", lambda method, side, options, device: measured.append(side) or 1.0)
    for variants in ("fp32", "fp32,bf16", "fp32"):
        monkeypatch.setattr(
            sys, "argv", ["", *TINY, "--methods", "peeraid", "--out", str(tmp_path), "--variants", variants]
        )
        training.main()
    assert measured == ["reference", "fp32", "reference", "bf16"]
    rows = report.open_table(tmp_path / "cpu.csv").rows()
    assert [(row["method"], row["variant"], row["teacher"], row["batch"]) for row in rows] == [
        ("peeraid", "fp32", "resnet8-tiny", "8"),
        ("peeraid", "bf16", "resnet8-tiny", "8"),
    ]
    assert (tmp_path / "cpu.md").read_text(encoding="utf-8").count("| peeraid |") == 2


def test_no_row_is_begun_after_the_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    works = [("a", 1.0), ("b", 3.0)]
    assert list(tables.paced(works, None)) == ["a", "b"]
    assert list(tables.paced(works, 0)) == []
    assert "2 of 2 are left to the next call" in capsys.readouterr().out


def test_the_rest_takes_as_long_as_its_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables.time, "monotonic", itertools.count(0, 60).__next__)
    assert list(tables.paced([("a", 1.0), ("b", 3.0)], None)) == ["a", "b"]
    assert "1 of 2 done, about 3.0 min left" in capsys.readouterr().out


@pytest.mark.parametrize("method", sorted(PASSES))
def test_the_flop_of_a_row_are_those_of_its_step(method: str, data: tuple[Any, Any], counter: StepCounter) -> None:
    _, loop, batch = pair(method, data)
    counted = sides.flop_of(method, "fp32", training.parse(TINY), counter)
    with Products() as made:
        stepped(loop, batch)
    assert counted * len(batch.y) == pytest.approx(made.flop, rel=1e-4)  # CRDND's relations grow with the batch


@pytest.mark.parametrize("method", sides.CACHED)
def test_a_warm_step_is_saved_the_teacher_at_its_views_and_a_cold_one_is_not(
    method: str, data: tuple[Any, Any], counter: StepCounter
) -> None:
    options, made = training.parse(TINY), {}
    for variant in ("bf16", "cold", "warm"):
        runner = sides.ours(method, variant, options, data[1])
        for _ in range(2):
            runner.prepare()
            with Products() as counted:
                runner.step()
        made[variant] = counted.flop
    flop = {variant: options.batch * sides.flop_of(method, variant, options, counter) for variant in made}
    assert made["bf16"] == pytest.approx(flop["bf16"], rel=1e-4)
    assert made["warm"] == pytest.approx(flop["warm"], rel=1e-4) and flop["warm"] < flop["bf16"]
    assert made["cold"] >= made["bf16"]  # misses may be padded


@pytest.mark.parametrize("method", sorted(PASSES))
def test_the_cache_is_measured_where_a_step_asks_a_teacher_about_clean_views(
    method: str,
    data: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    _, loop, batch = pair(method, data)
    asked = []
    monkeypatch.setattr(
        loop.method,
        "teacher_logits",
        lambda batch, teacher=0: asked.append(teacher) or loop.method.ask(batch.x, teacher),
    )
    loop.method.step(batch, sides.epoch_of(loop.recipe))
    options = training.parse([*TINY, "--variants", "warm,bf16", "--out", str(tmp_path)])
    assert list(training.missing(method, options, CPU)) == (["warm", "bf16"] if asked else ["bf16"])
    assert ("warm left out" in capsys.readouterr().out) == (not asked)


def test_a_row_tells_what_it_makes_of_the_device(tmp_path: Path) -> None:
    row = report.Row.here(CPU, "resnet18", "", 100, "pgd-at", "bf16", False, "backward")
    row.measured([tables.Seconds(2, 4)], [tables.Seconds(6, 12)], 1, 2, 1)
    row.counted(30e9, 6e12)  # 100 images in 2 s are 1.5 TFLOP/s
    table = report.open_table(tmp_path / "cpu.csv")
    table.write(row)
    (line,) = report.page(table.rows()).splitlines()[-1:]
    assert line.split(" | ")[6:10] == ["50.0", "30", "1.5", "25 %"]


def test_a_page_lists_methods_in_one_order_whenever_they_were_measured(tmp_path: Path) -> None:
    table = report.open_table(tmp_path / "cpu.csv")
    for method in ("darht", "pgd-at", "rslad"):
        row = report.Row.here(CPU, "resnet18", "", 100, method, "bf16", False, "grad")
        row.measured([tables.Seconds(2, 4)], [tables.Seconds(6, 12)], 1, 2, 1)
        row.counted(30e9, 6e12)
        table.write(row)
    lines = report.page(table.rows()).splitlines()[-3:]
    assert [line.split(" | ")[0] for line in lines] == ["| pgd-at", "| rslad", "| darht"]


# What the device reaches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_matrix_rate_is_the_flop_of_the_best_kernel_by_its_seconds(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.time, "perf_counter", itertools.count().__next__)  # so that each takes a second
    with FlopCounterMode(display=False) as counter:
        rate = devices.matrix_rate(CPU, dtype)
    flop = {str(name): by for name, by in counter.get_flop_counts()["Global"].items()}
    assert rate == max(flop["aten.mm"], flop["aten.convolution"]) / 2  # warm, and timed once


def trained(root: Path, *words: str) -> tuple[Run, str]:
    """Train two epochs; return the run and the line about its speed."""
    small = ["--dataset", "fake", "--epochs", "2", "--set", "data.train_images=64", "--set", "data.validation=20"]
    small += ["--set", "attack.steps=1", "--set", "selection.protocol=fgsm", "--device", "cpu", "--runs", str(root)]
    result = call("train", "pgd-at-digits", *small, *words)
    assert result.exit_code == 0
    return Run(Path(result.stdout.splitlines()[0])), "".join(re.findall(r"Speed: .*\n", result.stdout))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_finished_run_says_what_it_made_of_the_device(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(devices, "matrix_rate", lambda device, dtype: asked.append((device, dtype)) or 1e12)
    run, line = trained(tmp_path, "--set", f"precision.attack={precision}")
    images, seconds = (sum(row[name] for row in run.metrics) for name in ("images", "seconds"))
    tflops = images / seconds * StepCounter().flop(run.recipe, (), range(2)) / 1e12
    share = f"{tflops:.3g} TFLOP/s, {100 * tflops:.0f} % of what this device reaches in {precision} products"
    assert line == f"Speed: {images / seconds:,.1f} images/s, {share}.\n"
    assert asked == [(CPU, training.DTYPES[precision])]
    assert trained(tmp_path, "--set", f"precision.attack={precision}")[1] == "", "nothing was trained"


def test_a_finished_run_needs_no_memory_for_its_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(devices, "matrix_rate", full)
    run, line = trained(tmp_path)
    assert run.done is not None and re.fullmatch(r"Speed: [\d,.]+ images/s, [\d.e-]+ TFLOP/s\.\n", line)


def test_a_run_whose_step_cannot_be_counted_tells_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise ArdbenchError("looks at a value")

    monkeypatch.setattr(StepCounter, "flop", refuse)
    assert re.fullmatch(r"Speed: [\d,.]+ images/s\.\n", trained(tmp_path)[1])


# All at once on a GPU -------------------------------------------------------------------------------------------------


def test_without_cuda_all_gpu_measurements_are_refused_in_a_sentence(tmp_path: Path) -> None:
    script = Path(training.__file__).with_name("gpu.sh")
    hidden = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([script, tmp_path / "out"], env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        f"gpu.sh measures on CUDA, and '{sys.executable}' has no torch that sees a CUDA device"
    )
    assert not (tmp_path / "out").exists()


def test_all_gpu_measurements_name_the_packages_that_are_missing(tmp_path: Path) -> None:
    script = Path(training.__file__).with_name("gpu.sh")
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules |= {'rich_click': None, 'sklearn': None}\n")
    bare = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([script, tmp_path / "out"], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    lacks = f"gpu.sh needs packages that '{sys.executable}' does not have: rich-click scikit-learn. Install them"
    assert done.stderr.startswith(lacks) and not (tmp_path / "out").exists()
    checked = re.findall(r"[\w-]+", re.search(r"^packages=\(([^)]*)\)", script.read_text(), re.MULTILINE)[1])
    setup = (script.parents[2] / "setup.cfg").read_text().split("install_requires =")[1].split("\n\n")[0]
    assert set(re.findall(r"^ +([\w-]+)>=", setup, re.MULTILINE)) < set(checked)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: torch sees no device")
def test_rows_of_a_gpu_know_its_memory_and_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--device", "cuda", "--methods", "rslad", "--variants", "fp32,bf16", "--steps", "2", "--out"]
    monkeypatch.setattr(sys, "argv", ["", *TINY, *words, str(tmp_path)])
    training.main()
    rows = report.open_table(tmp_path / "cuda.csv").rows()
    assert [row["variant"] for row in rows] == ["fp32", "bf16"]
    for row in rows:
        assert 146 < float(row["peak_mb"]) < 300  # the images of ours alone are 146.5 MB
        assert 0 < float(row["reference_peak_mb"]) < 146
        assert 0 < float(row["utilisation"]) < 1
