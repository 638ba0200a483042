"""The loop: resumed runs equal undisturbed ones, what is broken is refused, what was good is kept."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import CPU, batch, in_double, method, network, recipe
from test_methods import OURS
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ardbench.config import Recipe, Schedule
from ardbench.data.load import extra_of, load
from ardbench.draws import derive, seed_operations
from ardbench.engine import stopping as stops
from ardbench.engine.averaging import Trailing
from ardbench.engine.checkpoints import load_state, load_weights, save_state
from ardbench.engine.ledger import Ledger
from ardbench.engine.loop import Loop
from ardbench.engine.schedules import factor
from ardbench.engine.train import environment
from ardbench.errors import ArdbenchError
from ardbench.evaluation.measure import evaluate
from ardbench.methods.base import Step
from ardbench.progress import Progress
from ardbench.runs import Run

SHORT = {"schedule__epochs": 3, "selection__every": 1}


def loop_of(name: str, folder: Path, stop: Any = lambda: False, to: Any = torch.float32, **sets: Any) -> Loop:
    wanted = recipe(name, **SHORT | sets)
    held = wanted.data
    splits = load("fake", CPU, validation=held.validation, train_images=held.train_images, place=held.place)
    splits = replace(splits, extra=extra_of(wanted.data, CPU))
    folder.mkdir(exist_ok=True, parents=True)
    return Loop(Run(folder), wanted, method(wanted, to=to), splits, stop, Progress())


def rows(folder: Path) -> list[dict[str, float]]:
    timed = {"seconds", "images_per_second", "peak_memory"}
    return [{k: v for k, v in row.items() if k not in timed} for row in Run(folder).metrics]


def weights(folder: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    return load_weights(folder / f"{checkpoint}.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", OURS)
def test_a_resumed_run_equals_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "a" / "run", tmp_path / "b" / "run"
    undisturbed = loop_of(name, whole)
    assert undisturbed.fit()
    steps, stopped = len(undisturbed.batches), []
    for asked in (
        2,
        steps - 1,
        1,
        steps + 2,
        3,
    ):  # the first epoch, as it is measured, its end; the second's attack; the third
        count = itertools.count(1)
        assert not loop_of(name, parts, lambda count=count, asked=asked: next(count) >= asked).fit()
        at = load_state(parts / "last.state")["at"]
        stopped.append((at["epoch"], at["step"]))
    assert stopped == [(0, 2), (0, steps), (1, 0), (1, steps), (2, 2)]
    assert loop_of(name, parts).fit()
    assert rows(whole) == rows(parts)
    assert len(rows(whole)) == 3
    for checkpoint in ("last", "best"):
        assert equal(weights(whole, checkpoint), weights(parts, checkpoint))
        assert (whole / f"{checkpoint}.safetensors").read_bytes() == (parts / f"{checkpoint}.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_a_run_stopped_while_it_is_measured_averages_once(kind: str, tmp_path: Path) -> None:
    sets = {"average__kind": kind, "average__start": "1/3"} | ({"average__decay": 0.9} if kind == "ema" else {})
    whole, parts = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert loop_of("pgd-at", whole, **sets).fit()
    count = itertools.count(1)
    assert not loop_of("pgd-at", parts, lambda: next(count) >= 14, **sets).fit()
    at = load_state(parts / "last.state")["at"]
    assert (at["epoch"], at["step"]) == (1, 5)
    assert loop_of("pgd-at", parts, **sets).fit()
    assert equal(weights(whole, "averaged"), weights(parts, "averaged")) and rows(whole) == rows(parts)


def test_without_validation_images_the_last_epoch_alone_is_measured_on_test_images(tmp_path: Path) -> None:
    loop = loop_of("pgd-at", tmp_path, selection__by="last", data__validation=0)
    assert loop.fit()
    *before, last = rows(tmp_path)
    assert not any(key.startswith(("val_", "test_")) for row in before for key in row)
    assert last.keys().isdisjoint(("val_clean", "val_robust"))
    net, split, threat = loop.method.student, loop.splits.test, loop.recipe.evaluation
    for key, name in (("test_clean", "clean"), ("test_robust", loop.recipe.selection.protocol)):
        assert last[key] == evaluate(net, split, name, threat, batch=500).accuracy
    assert loop.at.best_epoch == -1 and not (tmp_path / "best.safetensors").exists()


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

    def closing(epoch: int) -> bool:
        if kind == "swa" and epoch >= 1:
            seen.append(student.head.weight.detach().clone())
        return close(epoch)

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


def test_a_moving_average_is_the_one_of_torch_to_the_bit() -> None:
    net = network(0)
    ours, torchs = Trailing(net, 0.9), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(4):
        net(torch.rand(16, 3, 8, 8))  # moves the buffers
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()) * 1.05, net.parameters())
        ours.update_parameters(net)
        torchs.update_parameters(net)
        found, expected = ours.state_dict(), torchs.state_dict()
        assert list(found) == list(expected) and int(found["n_averaged"]) == step + 1
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_operations_draw_what_they_draw_after_torchs_own_seed() -> None:
    torch.manual_seed(derive(3, "operations", 1, 2))
    expected = torch.rand(5)
    seed_operations(CPU, 3, "operations", 1, 2)
    assert torch.equal(torch.rand(5), expected)


def test_a_network_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda net, **_: (compiled.append(net), lambda x: net(x))[1])
    wanted = recipe("trades", precision__compile=True)
    built = method(wanted)
    for step in range(2):
        built.step(batch(wanted, step), 0)
    assert compiled.count(built.student) == 1


def test_nan_stops_with_epoch_batch_and_terms_and_keeps_the_last_state(tmp_path: Path) -> None:
    loop = loop_of("rslad", tmp_path)
    step = loop.method.step

    def poisoned(batch: Any, epoch: int) -> Step:
        made = step(batch, epoch)
        return Step(made.loss * float("nan"), made.logs) if (epoch, batch.draws.step) == (1, 2) else made

    loop.method.step = poisoned  # type: ignore[method-assign]
    with pytest.raises(ArdbenchError, match=r"epoch 2, batch 3 \(loss = nan, kl_adv = .*, kl_clean = "):
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


def test_metrics_rows_tell_the_learning_rate_of_the_last_step(tmp_path: Path) -> None:
    gamma = {"kind": "step", "epochs": 3, "milestones": [0.5], "gamma": 0.1, "warmup": 0}
    loop_of(
        "pgd-at", tmp_path, optimizer__lr=0.5, **{f"schedule__{name}": value for name, value in gamma.items()}
    ).fit()
    rates = [row["learning_rate"] for row in Run(tmp_path).metrics]
    assert rates == pytest.approx([0.5, 0.5, 0.05])  # 1.5 epochs are nearest to 2


def test_clip_bounds_the_gradient(tmp_path: Path) -> None:
    clipped = loop_of("pgd-at", tmp_path, optimizer__clip=1e-3, optimizer__momentum=0, optimizer__nesterov=False,
                      optimizer__weight_decay=0, schedule__kind="constant", schedule__warmup=0)  # fmt: skip
    before = nn.utils.parameters_to_vector(clipped.method.student.parameters()).detach().clone()
    clipped._step(clipped.batches.batch(0, 0), 0, 0)
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
            assert factor(ours, 300, epoch * 7 + inside, 7) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for epoch in range(30):
        assert factor(schedule(epochs=30, kind="cosine"), 30, epoch * 7, 7) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        optimizer.step()
        cosine.step()


def test_the_first_epoch_may_have_a_rate_of_its_own() -> None:
    ours = schedule(epochs=4, kind="step", milestones=["1/2"], gamma=0.1, first=0.2)
    assert [factor(ours, 4, step, 2) for step in range(8)] == pytest.approx([0.2, 0.2, 1, 1, 0.1, 0.1, 0.1, 0.1])
    usual = schedule(epochs=4, kind="step", milestones=["1/2"], gamma=0.1)
    assert "first" not in usual.model_dump() and "first" in ours.model_dump()  # runs from before keep their names


def test_onecycle_rises_falls_and_is_never_zero() -> None:
    ours = schedule(epochs=10, kind="onecycle", warmup="1/5")
    values = [factor(ours, 10, step, 10) for step in range(100)]
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


def test_a_killed_save_costs_the_steps_since_the_one_before(tmp_path: Path) -> None:
    """SIGKILL while the second state is being renamed: the first is whole, and the run ends as if nothing had happened."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_engine as t
from pathlib import Path
t.torch.set_num_threads(1)
t.torch.set_flush_denormal(True)
replace, saves = os.replace, []
def killing(source, target):
    saves.append(target) if str(target).endswith("last.state") else None
    os.kill(os.getpid(), signal.SIGKILL) if len(saves) == 2 else replace(source, target)
os.replace = killing
t.loop_of("trades", Path(sys.argv[1])).fit()
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed")], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert load_state(tmp_path / "killed" / "last.state")["at"]["epoch"] == 1
    assert len(rows(tmp_path / "killed")) == 2  # the row of epoch 1 was there before its state, and is written again
    assert loop_of("trades", tmp_path / "killed").fit() and loop_of("trades", tmp_path / "whole").fit()
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    for checkpoint in ("last", "best"):
        assert equal(weights(tmp_path / "killed", checkpoint), weights(tmp_path / "whole", checkpoint))


@pytest.mark.parametrize(
    "sets",
    [
        {"average__kind": "swa", "average__start": "1/3"},
        {"average__kind": "ema", "average__decay": 0.9, "optimizer__clip": 0.5},
        {"optimizer__kind": "adamw", "optimizer__nesterov": False, "optimizer__lr": 1e-3, "student": "vit-micro"},
        {"attack__bn": "train", "attack__start": "normal", "precision__attack": "bf16", "data__drop_last": True},
        {"precision__channels_last": False, "precision__fold_bn": False, "attack__restarts": 2, "threat__norm": "l2"},
    ],
    ids=["swa", "ema", "adamw", "train-bn", "plain"],
)
def test_every_way_to_train_resumes_bit_for_bit(sets: dict[str, Any], tmp_path: Path) -> None:
    whole, parts = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert loop_of("pgd-at", whole, **sets).fit()
    count = itertools.count(1)
    assert not loop_of("pgd-at", parts, lambda: next(count) >= 7, **sets).fit()
    assert loop_of("pgd-at", parts, **sets).fit()
    assert rows(whole) == rows(parts)
    assert (
        Run(whole).checkpoints == Run(parts).checkpoints == ["last", "best", *["averaged"] * ("average__kind" in sets)]
    )
    for checkpoint in Run(whole).checkpoints:
        assert equal(weights(whole, checkpoint), weights(parts, checkpoint))


def test_dropout_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Operations that draw from the global generator find it seeded by the step."""

    def dropping(folder: Path, stop: Any = lambda: False) -> Loop:
        loop = loop_of("standard", folder, stop)
        layer = loop.method.student.get_submodule("layer3")
        layer.register_forward_hook(lambda module, _, out: nn.functional.dropout(out, 0.3, module.training))
        return loop

    assert dropping(tmp_path / "whole").fit()
    count = itertools.count(1)
    assert not dropping(tmp_path / "parts", lambda: next(count) >= 3).fit()
    assert dropping(tmp_path / "parts").fit()
    assert equal(weights(tmp_path / "whole", "last"), weights(tmp_path / "parts", "last"))


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Return a list that receives the student's weights whenever a state is saved."""
    kept: list[dict[str, torch.Tensor]] = []

    def saving(path: Path, state: dict[str, Any]) -> None:
        kept.append({name: tensor.clone() for name, tensor in state["nets"]["student"].items()})
        save_state(path, state)

    monkeypatch.setattr("ardbench.engine.loop.save_state", saving)
    return kept


@pytest.mark.parametrize(("score", "best"), [("robust", 2), ("weighted", 3)])
def test_the_best_checkpoint_is_the_first_of_the_highest_accuracy(
    score: str, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The means with the clean accuracies are 0.3, 0.5, 0.4, 0.55, 0.5 and 0.55."""
    kept = recorded(monkeypatch)
    said, clean = iter([0.3, 0.1, 0.5, 0.2, 0.5, 0.4]), iter([0.3, 0.9, 0.3, 0.9, 0.5, 0.7])

    def scripted(net: nn.Module, split: Any, rules: Any, *args: Any, **keys: Any) -> Any:
        assert len(split) == 32
        return SimpleNamespace(notes=[], accuracy=next(clean if rules.name == "clean" else said))

    monkeypatch.setattr("ardbench.engine.loop.evaluate", scripted)
    loop = loop_of("standard", tmp_path, schedule__epochs=6, selection__score=score)
    assert loop.fit()
    assert equal(weights(tmp_path, "best"), kept[best]) and loop.at.best_epoch == best
    assert not equal(weights(tmp_path, "best"), weights(tmp_path, "last"))
    assert equal(weights(tmp_path, "last"), kept[5])
    assert [row["val_robust"] for row in rows(tmp_path)] == [0.3, 0.1, 0.5, 0.2, 0.5, 0.4]


@pytest.mark.parametrize(
    ("sets", "where", "due"),
    [
        ({"selection__every": 2, "selection__start": "1/2"}, "val", [5, 6]),
        ({"selection__every": 3}, "val", [2, 5, 6]),
        ({"selection__by": "best-test", "selection__start": 1}, "test", [6]),
        ({"selection__by": "last", "data__validation": 0}, "val", []),
    ],
)
def test_validation_comes_when_it_is_due_and_after_the_last_epoch(
    sets: dict[str, Any], where: str, due: list[int], tmp_path: Path
) -> None:
    assert loop_of("standard", tmp_path, **{"schedule__epochs": 7} | sets).fit()
    assert [row["epoch"] for row in rows(tmp_path) if f"{where}_robust" in row] == due
    assert Run(tmp_path).weights("best").exists() == (bool(due))


@pytest.mark.parametrize(("eps", "share"), [(0, 1), (1, 0)])
def test_selection_is_under_its_own_threat_where_it_has_one(eps: float, share: float, tmp_path: Path) -> None:
    """Nothing is searched within 0, and everything is found within 1."""
    assert loop_of("standard", tmp_path, selection__threat={"norm": "linf", "eps": eps}).fit()
    last = rows(tmp_path)[-1]
    assert last["val_robust"] == share * last["val_clean"] and last["val_clean"] > 0


def test_a_step_is_sgd_by_hand_with_the_rate_of_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of momentum, Nesterov and weight decay: v <- m v + g + d w, w <- w - rate (g + d w + m v)."""
    in_double(monkeypatch)
    sets = {"schedule__kind": "cosine", "schedule__warmup": 0, "optimizer__weight_decay": 0.01}
    loop = loop_of("standard", tmp_path, to=torch.float64, **sets)
    twin = copy.deepcopy(loop.method.student).train()
    loop.method.student.train()
    velocity = [torch.zeros_like(p) for p in twin.parameters()]
    for index in (0, 1):
        batch = loop.batches.batch(0, index)
        gradients = torch.autograd.grad(nn.functional.cross_entropy(twin(batch.x), batch.y), list(twin.parameters()))
        rate = 0.2 * 0.5 * (1 + math.cos(math.pi * index / 15))  # three epochs of five steps
        with torch.no_grad():
            for w, g, v in zip(twin.parameters(), gradients, velocity, strict=True):
                decayed = g + 0.01 * w
                v.mul_(0.9).add_(decayed)
                w.sub_(rate * (decayed + 0.9 * v))
        loop._step(batch, 0, index)
    for ours, theirs in zip(loop.method.student.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_averaged_network_has_its_statistics_from_augmented_training_data(tmp_path: Path) -> None:
    """Each BatchNorm's running mean is the plain mean, over one more epoch, of what the batches give it."""
    loop = loop_of("standard", tmp_path, average__kind="swa")
    assert loop.fit()
    found, net = weights(tmp_path, "averaged"), network(0)
    net.load_state_dict(found)
    norm, means = net.get_submodule("bn1"), list[torch.Tensor]()
    norm.register_forward_hook(lambda module, inputs, output: means.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        for index in range(len(loop.batches)):
            net.train()(loop.batches.batch(3, index).x)
    assert torch.allclose(found["bn1.running_mean"], torch.stack(means).mean(0), atol=1e-6)
    assert int(found["bn1.num_batches_tracked"]) == len(loop.batches)


# The ledger, and asking to stop -----------------------------------------------------------------------------------------


def step_of(loss: float, **logs: float) -> Step:
    return Step(torch.tensor(loss), {name: torch.tensor(value) for name, value in logs.items()})


def test_the_ledger_means_per_example_and_goes_on_from_its_state() -> None:
    whole, first, second = Ledger(), Ledger(), Ledger()
    steps = [(step_of(1.5, a=1e8), 128), (step_of(0.25, a=1.0), 128), (step_of(4.0, a=-1e8), 80)]
    for index, (step, images) in enumerate(steps):
        whole.add(step, index, images)
        (first if index == 0 else second).add(step, index, images)
        if index == 0:
            second.load_state(first.state(), CPU)
    expected = {"loss": (1.5 * 128 + 0.25 * 128 + 4 * 80) / 336, "a": (1e8 * 128 + 128 - 1e8 * 80) / 336}
    assert whole.means() == second.means() == pytest.approx(expected, rel=1e-14)
    assert Ledger().means() == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_ledger_names_the_first_bad_step_and_no_later_one(bad: float) -> None:
    ledger = Ledger()
    for index, step in enumerate([step_of(1, a=2), step_of(3, a=bad), step_of(math.nan, a=5), step_of(1, a=1)]):
        ledger.add(step, index, 4)
    with pytest.raises(ArdbenchError, match=rf"epoch 8, batch 2 \(loss = 3, a = {bad:g}\): the last good checkpoint"):
        ledger.check(7)
    Ledger().check(0)


def test_sigterm_ctrl_c_and_the_time_limit_ask_once_and_a_second_ctrl_c_insists() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with stops.stopping(None) as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    with stops.stopping(0) as stop:
        assert stop()
    with stops.stopping(stops.after(3600)) as stop:
        assert not stop()
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("changed", "counts"), [("results/table.md", False), ("ardbench/__init__.py", True), ("ardbench/new.py", True)]
)
def test_a_tree_is_changed_by_what_can_move_a_number(
    changed: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that a suite wrote a moment ago does not count, a file of the package that git does not know does."""
    for name in ("results/table.md", "ardbench/__init__.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr("ardbench.__file__", str(tmp_path / "ardbench" / "__init__.py"))
    assert environment(CPU)["git_dirty"] is False
    (tmp_path / changed).write_text("changed")
    assert environment(CPU)["git_dirty"] is counts
