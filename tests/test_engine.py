"""The loop: resumed runs equal undisturbed ones, what is broken is refused, what was good is kept."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small import CPU, method, network, recipe
from test_methods import OURS, SHAPES
from torch import nn

from ardbench.config import Recipe, Schedule
from ardbench.data.load import load
from ardbench.engine.checkpoints import load_state, load_weights, save_state
from ardbench.engine.loop import Loop
from ardbench.engine.schedules import factor
from ardbench.errors import ArdbenchError
from ardbench.methods.base import Step
from ardbench.progress import Progress
from ardbench.runs import Run, write_atomic

SHORT = {"schedule__epochs": 3, "selection__every": 1}


def loop_of(name: str, folder: Path, stop: Any = lambda: False, **sets: Any) -> Loop:
    wanted = recipe(name if name in OURS else "pgd-at", **SHORT, **sets)
    splits = load("fake", CPU, validation=wanted.data.validation)
    folder.mkdir(exist_ok=True, parents=True)
    return Loop(Run(folder), wanted, method(wanted, SHAPES.get(name)), splits, stop, Progress())


def rows(folder: Path) -> list[dict[str, float]]:
    timed = {"seconds", "images_per_second", "peak_memory"}
    return [{k: v for k, v in row.items() if k not in timed} for row in Run(folder).metrics]


def weights(folder: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    return load_weights(folder / f"{checkpoint}.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", [*OURS, *SHAPES])
def test_a_resumed_run_equals_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert loop_of(name, whole).fit()
    for after in (2, 3, 5):  # in the middle of an epoch, at its end, and again: five steps an epoch
        count = itertools.count(1)
        assert not loop_of(name, parts, lambda count=count, after=after: next(count) >= after).fit()
    assert loop_of(name, parts).fit()
    assert rows(whole) == rows(parts)
    assert len(rows(whole)) == 3
    for checkpoint in ("last", "best"):
        assert equal(weights(whole, checkpoint), weights(parts, checkpoint))
        assert (whole / f"{checkpoint}.safetensors").read_bytes() == (parts / f"{checkpoint}.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_averages_are_what_they_say(kind: str, tmp_path: Path) -> None:
    decay = {"average__decay": 0.9} if kind == "ema" else {}
    loop = loop_of("pgd-at", tmp_path, average__kind=kind, average__start="1/3", **decay)
    seen: list[torch.Tensor] = []
    student = loop.method.student
    inner, close = loop._step, loop._close

    def step(batch: Any, epoch: int, index: int) -> None:
        inner(batch, epoch, index)
        if kind == "ema" and epoch >= 1:
            seen.append(student.head.weight.detach().clone())

    def closing(epoch: int) -> None:
        if kind == "swa" and epoch >= 1:
            seen.append(student.head.weight.detach().clone())
        close(epoch)

    loop._step, loop._close = step, closing  # type: ignore[method-assign]
    loop.fit()
    if kind == "swa":
        expected = torch.stack(seen).mean(0)
    else:
        expected = seen[0]
        for weight in seen[1:]:
            expected = 0.9 * expected + 0.1 * weight
    found = weights(tmp_path, "averaged")
    assert torch.allclose(found["head.weight"], expected, atol=1e-6)
    assert not torch.equal(found["bn1.running_mean"], weights(tmp_path, "last")["bn1.running_mean"])


def test_nan_stops_with_epoch_batch_and_terms_and_keeps_the_last_state(tmp_path: Path) -> None:
    loop = loop_of("rslad", tmp_path)
    step = loop.method.step

    def poisoned(batch: Any, epoch: int) -> Step:
        made = step(batch, epoch)
        return Step(made.loss * float("nan"), made.logs) if (epoch, batch.draws.step) == (1, 2) else made

    loop.method.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(ArdbenchError, match=r"epoch 1, batch 2 \(loss = nan, kl_adv = .*, kl_clean = "):
        loop.fit()
    assert load_state(tmp_path / "last.state")["at"]["epoch"] == 1
    assert loop_of("rslad", tmp_path).fit()  # and it goes on from there


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.state"
    save_state(path, {"a": torch.ones(3)})
    content = path.read_bytes()
    for broken in (content[:-1], content[:100], b"", content[:50] + bytes([content[50] ^ 1]) + content[51:]):
        path.write_bytes(broken)
        with pytest.raises(ArdbenchError, match="damaged"):
            load_state(path)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.state"
    save_state(path, {"a": torch.ones(3)})
    content = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArdbenchError, match="the disk is full"):
        save_state(path, {"a": torch.zeros(3)})
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_kill_9_in_the_middle_of_a_save_loses_nothing(call: str, tmp_path: Path) -> None:
    path = tmp_path / "last.state"
    write_atomic(path, b"good")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom ardbench.runs import write_atomic\n"
        f"os.{call} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(Path(sys.argv[1]), b'new and longer')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"good"


def test_a_second_process_cannot_write_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    code = "import sys\nfrom pathlib import Path\nfrom ardbench.runs import Run\nwith Run(Path(sys.argv[1])).lock(): pass\n"
    words = [sys.executable, "-c", code, str(run.path)]
    with run.lock():
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert "is being written by another process" in done.stderr
    subprocess.run(words, check=True)


def test_metrics_rows_tell_cost_and_validation(tmp_path: Path) -> None:
    loop_of("trades", tmp_path).fit()
    for epoch, row in enumerate(Run(tmp_path).metrics):
        assert row["epoch"] == epoch
        assert row["images"] == 224
        assert {
            "loss",
            "natural",
            "robust",
            "val_clean",
            "val_robust",
            "images_per_second",
            "peak_memory",
        } <= row.keys()
        assert abs(row["loss"] - row["natural"] - 6 * row["robust"]) < 1e-5
    json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])


def test_clip_bounds_the_gradient(tmp_path: Path) -> None:
    clipped = loop_of("pgd-at", tmp_path, optimizer__clip=1e-3, optimizer__momentum=0, optimizer__nesterov=False,
                      optimizer__weight_decay=0, schedule__kind="constant", schedule__warmup=0)  # fmt: skip
    before = nn.utils.parameters_to_vector(clipped.method.student.parameters()).detach().clone()
    clipped._step(clipped._batch(0, 0), 0, 0)
    after = nn.utils.parameters_to_vector(clipped.method.student.parameters()).detach()
    assert torch.allclose((after - before).norm(), torch.tensor(0.2 * 1e-3), rtol=1e-2)


def schedule(**fields: Any) -> Schedule:
    return Schedule.model_validate(fields)


def test_step_and_cosine_are_torchs_at_the_epochs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [215, 260, 285], 0.1)
    ours = schedule(epochs=300, kind="step", milestones=["215/300", "260/300", "285/300"], gamma=0.1)
    for epoch in range(300):
        for inside in (0, 6):
            assert factor(ours, epoch * 7 + inside, 7) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for epoch in range(30):
        assert factor(schedule(epochs=30, kind="cosine"), epoch * 7, 7) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        optimizer.step()
        cosine.step()


def test_onecycle_rises_falls_and_is_never_zero() -> None:
    ours = schedule(epochs=10, kind="onecycle", warmup="1/5")
    values = [factor(ours, step, 10) for step in range(100)]
    peak = values.index(max(values))
    assert peak in (19, 20)
    assert values[:20] == sorted(values[:20])
    assert values[20:] == sorted(values[20:], reverse=True)
    assert 0 < min(values) < 0.03
    assert max(values) > 0.99


def test_the_same_seed_gives_the_same_student_and_another_another(tmp_path: Path) -> None:
    from ardbench.engine.networks import fresh

    a, b, c = (fresh("resnet8-tiny", "digits", False, seed, "student", CPU) for seed in (0, 0, 1))
    state = torch.random.get_rng_state()
    fresh("resnet8-tiny", "digits", False, 3, "student", CPU)
    assert torch.equal(state, torch.random.get_rng_state())
    assert equal(a.state_dict(), b.state_dict())
    assert not equal(a.state_dict(), c.state_dict())


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    loop_of("pgd-at", tmp_path).fit()
    other: Recipe = recipe("pgd-at", **SHORT)
    splits = load("fake", CPU, validation=32)
    built = method(other, model="resnet8")
    with pytest.raises(ArdbenchError, match="does not fit this run"):
        Loop(Run(tmp_path), other, built, splits, lambda: False, Progress()).fit()


def test_network_is_deterministic() -> None:
    assert equal(network(3).state_dict(), network(3).state_dict())
