"""What a plan costs: counted steps beside passes counted by hand, protocols beside what they really call, and rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import CPU, recipe
from torch import Tensor, nn

from ardbench import methods
from ardbench.attacks.objectives import label_loss
from ardbench.config import Recipe, Threat
from ardbench.data.batches import Split, TrainBatches
from ardbench.data.load import load
from ardbench.engine.counting import StepCounter
from ardbench.engine.device import describe
from ardbench.engine.estimate import ROBUST, estimate, forwards, images_per_epoch
from ardbench.errors import ArdbenchError
from ardbench.evaluation.measure import evaluate
from ardbench.losses import cross_entropy
from ardbench.methods.base import Method, Step
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher, write_json
from ardbench.suites import Cell

F, T, MOBILE = 1.111, 13.32, 0.182
"""GFLOP of one forward on CIFAR-10: ResNet-18, WRN-34-10, and MobileNetV2, whose depthwise weights torch over-counts."""


def taught(*models: str) -> list[Teacher]:
    return [Teacher("planned", "robust", "identity", model, "absent", "") for model in models]


def on_cifar10(student: str = "resnet18", epochs: int = 200, **section: Any) -> Recipe:
    """Return a recipe with ten attack steps and another [method] section."""
    made = resolve("pgd-at-cifar10", student=student, sets={"schedule.epochs": epochs, "attack.steps": 10})
    return made.model_copy(update={"method": section})


def gflop(made: Recipe, *teachers: str, epochs: range = range(200)) -> float:
    return StepCounter().flop(made, taught(*teachers), epochs) / 1e9


@pytest.mark.parametrize(
    ("section", "teachers", "passes"),
    [
        ({"name": "standard"}, 0, 3 * F),
        ({"name": "pgd-at"}, 0, 25.5),  # 2 F a step of the search, 3 F outside
        ({"name": "trades", "beta": 6}, 0, 27 * F),
        ({"name": "adaad", "alpha": 0.9, "scale": 1}, 1, 26 * F + 22 * T),  # the search goes through the teacher
        ({"name": "iad-i", "beta": 0.1, "begin": 0, "trust_teacher_term": True}, 1, 55.5),
    ],
)
def test_a_step_costs_its_passes(section: dict[str, Any], teachers: int, passes: float) -> None:
    made = on_cifar10(**section)
    assert gflop(made, *["wrn-34-10"] * teachers) == pytest.approx(passes, rel=0.02)


def test_a_released_recipe_costs_its_passes() -> None:
    made = resolve("rslad-cifar10", student="resnet18")
    assert gflop(made, "wrn-34-10", epochs=range(made.schedule.epochs)) == pytest.approx(42.2, rel=0.02)


def test_a_peer_is_counted_forwards_and_backwards() -> None:
    weights = dict.fromkeys(("peer_label", "peer_imitation", "label", "imitation", "consistency", "temperature"), 1)
    made = on_cifar10(name="peeraid", peer="mobilenetv2", detach_peer_target=False, **weights)
    assert gflop(made) == pytest.approx(26 * F + 4 * MOBILE, rel=0.02)


def test_depthwise_weights_cost_what_their_forward_costs() -> None:
    assert gflop(on_cifar10("mobilenetv2", name="standard")) == pytest.approx(3 * MOBILE, rel=0.02)


def test_a_teacher_costs_as_much_as_the_size_that_it_sees() -> None:
    made = on_cifar10(name="ard", alpha=1, temperature=1, scale=1)
    small, large = gflop(made, "resnet18@32"), gflop(made, "resnet18@64")
    assert large - small == pytest.approx(3 * F, rel=0.02)  # four times the pixels


def test_phases_and_coins_are_weighed() -> None:
    """No teacher in the first quarter; half of the batches are attacked. Of a half-trained run the rest is meant."""
    settings = {"distance": "kl", "weighting": "uniform", "p_adv": 0.5, "drop_block": False}
    made = on_cifar10(name="darht", distill_from=0.25, label_until=0.75, **settings)
    assert gflop(made, "wrn-34-10", "wrn-34-10") == pytest.approx((3 + 0.5 * 20) * F + 0.75 * 2 * T, rel=0.005)
    later = gflop(made, "wrn-34-10", "wrn-34-10", epochs=range(50, 200))
    assert later == pytest.approx((3 + 0.5 * 20) * F + 2 * T, rel=0.005)


class Sparring(Method[Any]):
    """A method of another package: one batch in four is attacked, half of those through either teacher."""

    roles = ("robust", "robust")

    def step(self, batch: Any, epoch: int) -> Step:
        if not batch.draws.coin("attack", 0.25):
            return Step(cross_entropy(self.logits(batch.x), batch.y).mean())
        x = self.maximise(label_loss, batch, aux=(batch.y,))
        teacher = self.ask(x, int(epoch >= self.epoch_of(0.5)))
        return Step((self.logits(x) - teacher).square().mean())


class Peeking(Method[Any]):
    """A method that looks at a value."""

    def step(self, batch: Any, epoch: int) -> Step:
        loss = cross_entropy(self.logits(batch.x), batch.y).mean()
        return Step(loss * loss.item())


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "sparring", "test_estimate:Sparring")
    monkeypatch.setitem(methods.METHODS, "peeking", "test_estimate:Peeking")


def test_a_method_of_another_package_is_counted(others: None) -> None:
    made = on_cifar10(name="sparring")
    expected = (3 + 0.25 * 20) * F + 0.25 * 0.5 * (T + F)
    assert gflop(made, "wrn-34-10", "resnet18") == pytest.approx(expected, rel=0.02)


def test_a_method_that_looks_at_values_is_refused_in_words(others: None) -> None:
    with pytest.raises(
        ArdbenchError, match="step of the method peeking cannot be counted: it does not run on the meta"
    ):
        gflop(on_cifar10(name="peeking"))


# Protocols and images -------------------------------------------------------------------------------------------------


class Steadfast(nn.Module):
    """A linear network that counts its forwards and the gradients that come back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(192, 10), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.layer(x.flatten(1))
        if logits.requires_grad:
            logits.register_hook(self.back)
        return logits

    def back(self, gradient: Tensor) -> None:
        self.calls += 1


@pytest.mark.parametrize("name", ["clean", "fgsm", "pgd20", "aa:apgd-ce,apgd-dlr", "aa:fab", "aa"])
def test_a_protocol_costs_what_it_calls_on_an_image_that_stands(name: str) -> None:
    net, test = Steadfast().eval(), load("fake", CPU).test
    split = Split(test.images[:1], net(test.pixels(slice(0, 1))).argmax(1), test.index[:1], test.info)
    net.calls = 0
    evaluate(net, split, name, Threat(norm="linf", eps=1e-6), batch=1)
    expected = forwards(name, 10)
    if name.startswith("aa"):
        expected = 1 + (expected - 1) / ROBUST
    assert net.calls == pytest.approx(expected, rel=0.01, abs=4 if name[:2] != "aa" else 10)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("train_images", [None, 120, 224])
def test_an_epoch_shows_as_many_images_as_the_loop_does(train_images: int | None, drop_last: bool) -> None:
    made = recipe("standard", data__train_images=train_images, data__drop_last=drop_last)
    split = load("fake", CPU, validation=32, train_images=train_images).train
    batches = TrainBatches(split, "none", made.data.batch, drop_last, 0)
    assert images_per_epoch(made) == sum(len(batches.batch(0, step).y) for step in range(len(batches)))


# Cells and rates ------------------------------------------------------------------------------------------------------


def planned(root: Path, method: str = "standard", state: Any = "missing", missing: Any = (), **sets: Any) -> Cell:
    made = recipe(method, **{"schedule__epochs": 8, "selection__by": "last", "data__validation": 0} | sets)
    return Cell("cell", Run.place(root, made), made, (), state, missing)


def begin(cell: Cell, epochs: int, seconds: float = 2.0, device: str = describe(CPU)) -> None:
    """Make the directory of a run that has finished some epochs."""
    cell.run.create(cell.recipe, (), {"device": device.split()[0], "device_name": device})
    row = {"images": images_per_epoch(cell.recipe), "seconds": seconds}
    (cell.run.path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n" * epochs)


def of_one(cell: Cell, root: Path, tflops: float | None = None) -> Any:
    return estimate([cell], root, CPU, tflops)[0]


def test_a_partial_run_costs_the_rest_and_a_finished_one_its_evaluations(tmp_path: Path) -> None:
    cell = planned(tmp_path)
    whole = of_one(cell, tmp_path)
    begin(cell, 5)
    rest = of_one(planned(tmp_path, state="partial"), tmp_path)
    assert (whole.trained, rest.trained) == (8 * 256, 3 * 256)
    assert rest.training == pytest.approx(whole.training * 3 / 8)
    assert of_one(planned(tmp_path, state="done"), tmp_path).flop == 0
    done = of_one(planned(tmp_path, state="done", missing=(("last", "pgd20"), ("last", "clean"))), tmp_path)
    one = whole.training / whole.trained / 3  # a forward: the first layer asks for no gradient to x
    assert (done.trained, done.evaluated) == (0, 2 * 64)
    assert done.evaluation == pytest.approx(64 * 42 * one, rel=0.1)


def test_selection_costs_what_it_classifies_at_the_ends_of_epochs(tmp_path: Path) -> None:
    sets = {"selection__by": "best-test", "selection__start": 0.5, "selection__every": 3, "selection__protocol": "fgsm"}
    assert of_one(planned(tmp_path, **sets), tmp_path).evaluated == 2 * 2 * 64  # after epochs 6 and 8, clean and fgsm
    sets = {"selection__by": "best-val", "selection__every": 1, "data__validation": 32}
    assert of_one(planned(tmp_path, **sets), tmp_path).evaluated == 8 * 2 * 32


def test_a_rate_is_the_runs_own_or_that_of_its_like_or_of_all(tmp_path: Path) -> None:
    cell = planned(tmp_path)
    assert of_one(cell, tmp_path).rate is None
    assert of_one(cell, tmp_path).hours is None
    epoch = of_one(cell, tmp_path).training / 8
    begin(planned(tmp_path, "pgd-at", seed=9), 1, seconds=1e-3, device="cuda (NVIDIA H200)")
    assert of_one(cell, tmp_path).rate is None, "another device tells nothing"
    other = planned(tmp_path, "pgd-at", seed=1)
    begin(other, 1, seconds=1.0)
    one = of_one(planned(tmp_path, "pgd-at", seed=2), tmp_path)
    assert of_one(cell, tmp_path).rate == pytest.approx(one.training / 8)
    assert of_one(cell, tmp_path).source == "reached by all runs there"
    for seed, seconds in ((1, 4.0), (2, 2.0), (3, 1.0)):
        begin(planned(tmp_path, seed=seed), 2, seconds)
    assert of_one(cell, tmp_path).rate == pytest.approx(epoch / 2)
    assert of_one(cell, tmp_path).hours == pytest.approx(8 * 2 / 3600)
    begin(cell, 1, 8.0)
    own = of_one(planned(tmp_path, state="partial"), tmp_path)
    assert own.rate == pytest.approx(epoch / 8)
    assert own.hours == pytest.approx(7 * 8 / 3600)


def test_a_given_rate_is_believed(tmp_path: Path) -> None:
    cell = planned(tmp_path)
    begin(cell, 1)
    row = of_one(cell, tmp_path, 50.0)
    assert row.hours == pytest.approx(row.flop / (50 * 1e12) / 3600)


def test_a_run_whose_method_is_gone_tells_nothing(tmp_path: Path) -> None:
    cell = planned(tmp_path)
    begin(cell, 1)
    document = json.loads((cell.run.path / "config.json").read_text())
    document["recipe"]["method"]["name"] = "gone"
    write_json(cell.run.path / "config.json", document)
    assert of_one(cell, tmp_path).rate is None
