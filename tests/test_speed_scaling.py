"""The scaling benchmark: a star of points, each measured in the engine's own steps, and what is made of the rows."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small import CPU

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))

import scaling
import scaling_report
from scaling import Options, Point
from scaling_report import Measured, Row

from ardbench import data
from ardbench.models.cost import cost
from ardbench.planning.counting import StepCounter

TINY = ["--model", "resnet8-tiny", "--batch", "8", "--steps", "1", "--images", "20", "--precision", "fp32"]
TINY += ["--repeats", "2", "--axis-batch", "4", "--axis-steps", "0,1", "--axis-model", "none", "--axis-images", "40"]


def options(*more: str) -> Options:
    return scaling.parse([*TINY, *more])


def test_digits_are_a_base_of_their_own_in_the_precision_of_its_suite() -> None:
    asked = scaling.parse(["--dataset", "digits"])
    models = ("resnet8-tiny", "resnet8", "vit-micro")
    assert asked.points == tuple(Point(model, 128, 10, 1437, "digits") for model in models)
    assert asked.precision == "fp32"
    recipe = scaling.recipe_of(asked.points[0], "fp32")
    assert (recipe.data.name, recipe.student, recipe.attack.steps) == ("digits", "resnet8-tiny", 10)
    loop = scaling.loop_of(replace(asked.points[2], images=128), "fp32", Path("unused"), CPU)
    assert loop.batches.split.images.shape == (128, 1, 8, 8)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_point_differs_from_the_base_in_exactly_one_axis(device: str) -> None:
    points = scaling.parse(["--device", device]).points
    assert points[0] == scaling.BASE and len(set(points)) == len(points)
    changed = [[a for a, v in asdict(point).items() if v != asdict(scaling.BASE)[a]] for point in points[1:]]
    assert all(len(names) == 1 for names in changed) and {names[0] for names in changed} == set(scaling_report.AXES)
    recipes = [scaling.recipe_of(point, "bf16").model_dump() for point in points]
    fields = {"model": ["student"], "batch": ["data"], "steps": ["attack"], "images": []}
    for (axis,), recipe in zip(changed, recipes[1:], strict=True):
        assert [name for name in recipe if recipe[name] != recipes[0][name]] == fields[axis]


def test_the_axes_and_the_base_are_those_that_were_asked_for() -> None:
    base = Point("resnet8-tiny", 8, 1, 20)
    around = (replace(base, batch=4), replace(base, steps=0), replace(base, images=40))
    assert options().points == (base, *around)
    assert options("--alone").points == (base,)


def test_a_point_is_the_engines_steps_over_so_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    point, seen, closed = Point("resnet8-tiny", 8, 2, 20), [], []

    class Watched(scaling.Loop):
        def _step(self, batch: torch.Tensor, epoch: int, index: int) -> None:
            seen.append((epoch, index, tuple(batch.x.shape)))
            super()._step(batch, epoch, index)

        def _close(self, epoch: int) -> None:
            closed.append(epoch)
            super()._close(epoch)
            assert (self.run.path / "last.state").exists()

    monkeypatch.setattr(scaling, "Loop", Watched)
    monkeypatch.setattr(scaling, "SAMPLED", {"cpu": 3})  # more than the two whole batches of an epoch
    taken = scaling.measure_here(point, options(), CPU)
    assert [shape for *_, shape in seen] == [(8, 3, 32, 32)] * 9  # a round to warm up, and two samples
    assert [at[:2] for at in seen] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (4, 1), (5, 0)]
    assert closed == [1, 3]  # between the rounds
    assert min(taken.seconds, taken.processor_seconds, taken.overhead_seconds) > 0
    assert taken.peak_mb >= 0


def test_flop_of_the_steps_are_those_of_pgd_and_a_training_step() -> None:
    info = data.info("cifar10")
    forward = 2 * cost("resnet8-tiny", info).macs
    counted = [StepCounter().flop(scaling.recipe_of(p, "fp32"), (), range(1)) for p in options().points[::2]]
    assert counted[0] - counted[1] == pytest.approx(2 * forward, rel=0.01)  # base with PGD-1, and without
    assert counted[1] == pytest.approx(3 * forward, rel=0.1)  # the first layer's input needs no gradient


def test_rows_follow_from_what_was_measured() -> None:
    row = Row.here(CPU, "fp32", "resnet20", 50, 10, 1000, "cifar10")
    row.measured(Measured(2.0, 3.0, 0.5, 123.4), 4e9, 5)
    assert (row.images_per_second, row.gflop_per_image, row.tflops, row.peak_mb) == (25, 4, 0.1, 123)
    assert row.epoch_seconds == 1000 / 25 + 0.5


def test_a_row_that_is_there_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured: list[Point] = []

    def fake(point: Point, options: Options) -> Measured | None:
        measured.append(point)
        return None if point.batch == 4 else Measured(0.1 * point.batch, 0.1, 0.01, 100 + point.images)

    monkeypatch.setattr(scaling, "measure_alone", fake)
    first, out = options().points, ["--out", str(tmp_path)]
    scaling.measure(options(*out), CPU)
    assert measured == list(first)
    scaling.measure(options(*out, "--axis-model", "resnet8"), CPU)
    again = [first[1], replace(first[0], model="resnet8")]
    assert sorted(measured[4:], key=str) == sorted(again, key=str)  # what did not fit is tried again
    scaling.measure(options(*out, "--again", "--axis-batch", "none"), CPU)
    assert len(measured) == 9
    scaling.measure(options("--out", str(tmp_path / "late"), "--time-limit", "-1"), CPU)
    assert len(measured) == 9 and not (tmp_path / "late").exists()

    rows = scaling_report.open_table(tmp_path / "scaling-cpu.csv").rows()
    drawn = {
        axis: [[row[axis] for row in line] for line in scaling_report.lines(rows, axis)] for axis in scaling_report.AXES
    }
    assert drawn == {
        "batch": [],
        "steps": [["0", "1"]],
        "images": [["20", "40"]],
        "model": [["resnet8-tiny", "resnet8"]],
    }
    page = (tmp_path / "scaling-cpu.md").read_text(encoding="utf-8")
    assert (
        "## By PGD steps\n\ncifar10, resnet8-tiny, batch 8, 20 images, fp32; " in page
        and "## By batch size" not in page
    )


def test_the_figure_has_a_column_for_each_axis_and_is_the_same_from_the_same_rows(tmp_path: Path) -> None:
    table = scaling_report.open_table(tmp_path / "scaling-cpu.csv")
    for point in scaling.parse([]).points:
        row = Row.here(CPU, "fp32", **asdict(point))
        seconds = 0.01 * point.batch * (25 if point.model == "resnet18" else 1)  # images/s from 4 to 100: logarithmic
        row.measured(Measured(seconds, 0.1, 0.01, 100.0), 1e8, 5)
        table.write(row)
    paths = scaling_report.draw(table.rows(), tmp_path / "one")
    assert [path.name for path in paths] == ["one.png", "one.svg", "one.pdf"]
    again = scaling_report.draw(table.rows(), tmp_path / "two")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    svg = paths[1].read_text(encoding="utf-8")
    assert all(f"<!-- {words} -->" in svg for words in scaling_report.AXES.values())
    assert "<!-- not measured -->" not in svg and "<!-- 50 -->" in svg and "mathdefault" not in svg


def test_the_child_measures_the_point_that_it_was_given_and_a_killed_one_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, point = [], Point("resnet8", 4, 3, 30)

    def run(words: list[str], **how: object) -> SimpleNamespace:
        calls.append(scaling.parse(words[2:]))
        out = 'round 0\n{"seconds": 1, "processor_seconds": 2, "overhead_seconds": 3, "peak_mb": 4}\n'
        return SimpleNamespace(returncode=code, stdout=out, check_returncode=lambda: None)

    monkeypatch.setattr(scaling.subprocess, "run", run)
    code = 0
    assert scaling.measure_alone(point, options()) == Measured(1, 2, 3, 4)
    assert calls[0].points == (point,) and calls[0].alone and (calls[0].precision, calls[0].repeats) == ("fp32", 2)
    code = scaling.KILLED
    assert scaling.measure_alone(point, options()) is None


@pytest.mark.slow
def test_memory_grows_with_the_batch() -> None:
    small, large = (scaling.measure_alone(Point("resnet8", batch, 1, 512), options()) for batch in (8, 256))
    assert small is not None and large is not None and large.peak_mb > small.peak_mb + 50


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--axis-model", "resnet9"], "Unknown model 'resnet9': did you mean"),
        (["--axis-batch", "64", "--images", "32"], "32 images hold no batch of 128"),
        (["--axis-batch", "64,x"], "x is no whole number from 1 on"),
        (["--axis-steps", "-1"], "-1 is no whole number from 0 on"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        scaling.parse(given)
    assert refused.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("has", [True, False])
def test_bf16_is_taken_where_the_processor_has_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "computes_bf16", lambda device: has)
    assert scaling.parse([]).precision == ("bf16" if has else "fp32")
