"""What a plan costs: counted steps beside passes counted by hand, protocols beside what they really call, and rates."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from small import CPU, recipe
from torch import Tensor, nn

from ardbench import methods
from ardbench.attacks.objectives import label_loss
from ardbench.campaigns.cells import Cell
from ardbench.config import Recipe, Threat, WeightPerturbation
from ardbench.data.batches import Split, TrainBatches
from ardbench.data.load import load
from ardbench.engine.device import describe, hardware_name
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.evaluation.cost import ROBUST, flop, forwards
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.verdicts import Verdicts, file_name
from ardbench.losses import cross_entropy
from ardbench.methods.base import Method, Step
from ardbench.planning import trial
from ardbench.planning.counting import StepCounter
from ardbench.planning.estimate import estimate, images_per_epoch
from ardbench.planning.forecast import Seconds, Watch, makespan, predict
from ardbench.planning.rates import read_table
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher, write_json

F, T, MOBILE = 1.111, 13.32, 0.182
"""GFLOP of one forward on CIFAR-10: ResNet-18, WRN-34-10, and MobileNetV2, whose depthwise weights torch over-counts."""
COUNTER = StepCounter()
"""One for all tests: it counts each kind of step once."""


def taught(*models: str) -> list[Teacher]:
    return [Teacher("planned", "robust", "identity", model, "absent", "") for model in models]


def on_cifar10(student: str = "resnet18", epochs: int = 200, **section: Any) -> Recipe:
    """Return a recipe with ten attack steps and another [method] section."""
    made = resolve("pgd-at-cifar10", student=student, sets={"schedule.epochs": epochs, "attack.steps": 10})
    return made.model_copy(update={"method": section})


def perturbed(made: Recipe, **section: Any) -> Recipe:
    return made.model_copy(update={"weight_perturbation": WeightPerturbation(**section)})


def test_what_is_laid_over_a_method_is_counted() -> None:
    plain = on_cifar10(name="pgd-at")
    more = gflop(perturbed(plain, gamma=0.01)) - gflop(plain)
    assert more == pytest.approx(3 * F, rel=0.03)  # a forward and a backward; the attack is made once
    assert gflop(perturbed(plain, gamma=0.01, begin=0.5)) == pytest.approx(gflop(plain) + more / 2)
    base = on_cifar10(name="rslad", alpha=1, scale=1)
    igdm = base.model_copy(update={"modules": ({"name": "igdm", "alpha": 1},)})
    assert gflop(igdm, "wrn-34-10") - gflop(base, "wrn-34-10") == pytest.approx(3 * F + 2 * T, rel=0.02)
    both = gflop(perturbed(igdm, gamma=0.01), "wrn-34-10") - gflop(igdm, "wrn-34-10")
    assert both == pytest.approx(3 * 3 * F, rel=0.03)  # no teacher is asked again
    assert gflop(base.model_copy(update={"modules": ({"name": "fair"},)}), "wrn-34-10") == gflop(base, "wrn-34-10")


def gflop(made: Recipe, *teachers: str, epochs: range = range(200)) -> float:
    return COUNTER.flop(made, taught(*teachers), epochs) / 1e9


@pytest.mark.parametrize(
    ("section", "teachers", "passes"),
    [
        ({"name": "standard"}, 0, 3 * F),
        ({"name": "pgd-at"}, 0, 25.5),  # 2 F a step of the search, 3 F outside
        ({"name": "kdiga", "alpha": 0.5, "temperature": 1, "scale": 1, "alignment": 1}, 1, 6 * F + 2 * T),
        ({"name": "trades", "beta": 6}, 0, 27 * F),
        ({"name": "trades", "beta": 6, "forwards": ["x", "x_adv", "x"]}, 0, 28 * F),  # one whose logits weigh nothing
        ({"name": "adaad", "alpha": 0.9, "scale": 1}, 1, 26 * F + 22 * T),  # the search goes through the teacher
        ({"name": "adaiad", "alpha": 1, "temperature": 30, "beta": 0.1, "begin": 0}, 1, 26 * F + 21 * T),
        ({"name": "iad-i", "beta": 0.1, "begin": 0, "trust_teacher_term": True}, 1, 55.5),
        ({"name": "ard", "alpha": 1, "temperature": 30, "scale": 1, "forwards": ["x_adv", "x"]}, 1, 24 * F + T),
    ],
)
def test_a_step_costs_its_passes(section: dict[str, Any], teachers: int, passes: float) -> None:
    made = on_cifar10(**section)
    assert gflop(made, *["wrn-34-10"] * teachers) == pytest.approx(passes, rel=0.02)


@pytest.mark.parametrize(("kind", "passes"), [("n-fgsm", 8 * F + T), ("nuat", 9 * F + T)])
def test_an_attack_of_one_step_costs_one_and_s_of_x_where_its_norm_asks_it(kind: str, passes: float) -> None:
    made = resolve("rslad-cifar10", sets={"attack.kind": kind})
    assert gflop(made, "wrn-34-10") == pytest.approx(passes, rel=0.01)


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
    return Cell("cell", Run.place(root, made), made, (), state, tuple((*pair, None) for pair in missing))


def begin(cell: Cell, epochs: int, seconds: float = 2.0, device: str = describe(CPU)) -> None:
    """Make the directory of a run that has finished some epochs."""
    cell.run.create(cell.recipe, (), {"device": device.split()[0], "device_name": device})
    row = {"images": images_per_epoch(cell.recipe), "seconds": seconds}
    text = "".join(f"{json.dumps({'epoch': epoch, **row})}\n" for epoch in range(epochs))
    (cell.run.path / "metrics.jsonl").write_text(text)


def of_one(cell: Cell, root: Path, tflops: float | None = None) -> Any:
    return estimate([cell], root, CPU, tflops, root / "speed")[0]


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
    last = planned(tmp_path, selection__by="last", data__validation=0)
    assert of_one(last, tmp_path).evaluated == 2 * 64  # once, at the end


def test_a_rate_is_the_runs_own_or_that_of_its_like_or_of_all(tmp_path: Path) -> None:
    cell = planned(tmp_path)
    assert of_one(cell, tmp_path).rate is None
    assert of_one(cell, tmp_path).hours is None
    epoch = of_one(cell, tmp_path).training / 8
    begin(planned(tmp_path, "pgd-at", seed=9), 1, seconds=1e-3, device="cuda (NVIDIA H200)")
    assert of_one(cell, tmp_path).rate is None, "another device tells nothing"
    begin(planned(tmp_path, "pgd-at", seed=1), 1, seconds=1.0)
    one = of_one(planned(tmp_path, "pgd-at", seed=2), tmp_path)
    assert of_one(cell, tmp_path).rate == pytest.approx(one.training / 8)
    assert of_one(cell, tmp_path).source == "reached by the same student"
    assert of_one(planned(tmp_path, student="resnet8"), tmp_path).source == "reached by all runs on images of this size"
    for seed, seconds in ((1, 4.0), (2, 2.0), (3, 1.0)):
        begin(planned(tmp_path, seed=seed), 2, seconds)
    assert of_one(cell, tmp_path).rate == pytest.approx(epoch / 2)
    final = of_one(cell, tmp_path).evaluation / epoch  # in epochs: what is measured when the training is over
    assert of_one(cell, tmp_path).hours == pytest.approx((8 + final) * 2 / 3600) and 0 < final < 2
    begin(cell, 1, 8.0)
    own = of_one(planned(tmp_path, state="partial"), tmp_path)
    assert own.rate == pytest.approx(epoch / 8)
    assert own.hours == pytest.approx((7 + final) * 8 / 3600)


def test_a_run_in_another_precision_tells_the_rate_only_where_no_other_does(tmp_path: Path) -> None:
    both = {"precision__attack": "bf16", "precision__outer": "bf16"}
    begin(planned(tmp_path, "pgd-at", seed=1, **both), 1, seconds=1.0)
    found = of_one(planned(tmp_path, "pgd-at", seed=2), tmp_path)
    assert found.source == "reached by the same student in another precision"
    assert (
        of_one(planned(tmp_path, "pgd-at", seed=2, **both), tmp_path).source == "reached by the same method and student"
    )
    begin(planned(tmp_path, seed=3), 1, seconds=4.0)
    found = of_one(planned(tmp_path, "pgd-at", seed=2), tmp_path)
    assert found.source == "reached by the same student"
    assert found.rate == pytest.approx(of_one(planned(tmp_path, seed=4), tmp_path).training / 8 / 4.0)


def test_epochs_beside_other_work_do_not_tell_the_rate(tmp_path: Path) -> None:
    cell = planned(tmp_path)
    epoch = of_one(cell, tmp_path).training / 8
    begin(cell, 3, 2.0)
    lines = (cell.run.path / "metrics.jsonl").read_text().splitlines()
    slow = json.loads(lines[0]) | {"seconds": 2000.0}
    (cell.run.path / "metrics.jsonl").write_text("\n".join([json.dumps(slow), *lines[1:]]) + "\n")
    assert of_one(planned(tmp_path, state="partial"), tmp_path).rate == pytest.approx(epoch / 2)


def test_images_of_one_size_never_price_another(tmp_path: Path) -> None:
    """Runs and evaluations on 8 x 8 pixels tell nothing of 32 x 32, for the same method and student."""
    small = planned(tmp_path, seed=1)
    begin(small, 1, seconds=1e9)
    measure(small, "pgd20", 1e9)
    on_large = {"data__name": "cifar10", "data__train_images": None}
    large = planned(tmp_path, missing=(("last", "pgd20"),), **on_large)
    found = of_one(large, tmp_path)
    assert (found.rate, found.hours, found.evaluation_rate) == (None, None, None)
    begin(planned(tmp_path, seed=2, **on_large), 1, seconds=10.0)
    found = of_one(large, tmp_path)
    assert (
        found.rate == pytest.approx(found.training / 8 / 10)
        and found.source == "reached by the same method and student"
    )
    assert found.evaluation_rate is None, (
        "the evaluation on 8 x 8 pixels, of the same protocol and student, says nothing"
    )


def test_a_trial_reaches_what_its_steps_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps that take 0.5 s after a first of 8 s, a batch of images with their counted FLOP each half second."""
    made = recipe("pgd-at", data__validation=0, selection__by="last")
    taken = itertools.chain([8.0], itertools.repeat(0.5))

    def timed(loop: Loop, epoch: int) -> bool:
        for _ in range(4):
            loop.at.images += 50
            loop.at.seconds += next(taken)
            if loop.stop():
                return False
        return True

    monkeypatch.setattr(Loop, "_epoch", timed)
    cost = StepCounter().flop(made, (), range(1))
    assert trial.training(made, (), CPU, seconds=0) == pytest.approx(50 * cost / 0.5)


def measure(cell: Cell, protocol: str, seconds: float, device: str = "cpu", n: int = 64) -> None:
    """Write an evaluation of a run's last checkpoint that took so long."""
    zeros, threat = [0] * n, {"norm": "linf", "eps": 0.1}
    told = Verdicts(protocol, 1, threat, zeros, zeros, zeros, seconds, 64, 0, 64, environment={"device": device})
    told.save(cell.run.path / "eval" / "last" / file_name(protocol, None if n == 64 else n))


def test_evaluation_has_the_rate_that_earlier_evaluations_reached(tmp_path: Path) -> None:
    cell = planned(tmp_path, state="done", missing=(("last", "pgd20"), ("last", "clean")))
    begin(planned(tmp_path, seed=1), 1)
    assert of_one(cell, tmp_path).evaluation_rate is None
    assert of_one(cell, tmp_path).seconds == (0, of_one(cell, tmp_path).flop / of_one(cell, tmp_path).rate)
    measure(planned(tmp_path, seed=1), "pgd20", 9.0, "NVIDIA H200")
    assert of_one(cell, tmp_path).evaluation_rate is None, "another device tells nothing"
    measure(planned(tmp_path, seed=1), "pgd20", 8.0)
    pgd20, clean = (flop(name, 64, "resnet8-tiny", "fake") for name in ("pgd20", "clean"))
    assert of_one(cell, tmp_path).evaluation_rate == pytest.approx(pgd20 / 8)  # clean has the rate of all there is
    begin(planned(tmp_path, seed=2), 1)
    measure(planned(tmp_path, seed=2), "clean", 0.0)  # taken over from the same network
    measure(planned(tmp_path, seed=2), "pgd20", 2.0, n=32)
    assert of_one(cell, tmp_path).evaluation_rate == pytest.approx(pgd20 * 1.5 / 10)
    measure(planned(tmp_path, seed=1), "clean", 3.0)
    assert of_one(cell, tmp_path).seconds == pytest.approx((0, 10 / 1.5 + 3))
    assert of_one(cell, tmp_path).evaluation == pytest.approx(pgd20 + clean)


HEAD = "name,model,method,variant,tflops,dataset"


def write_table(root: Path, *rows: str, head: str = HEAD) -> Path:
    path = root / "speed" / "cpu.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([head, *rows, ""]))
    return path


def test_a_table_tells_the_rate_where_no_run_does_and_the_nearest_rows_of_it(tmp_path: Path) -> None:
    here, cell = hardware_name(CPU), planned(tmp_path)
    rows: list[str] = []
    for row, expected in (
        ("another device,resnet8-tiny,standard,fp32,9", (None, "")),
        (f"{here},resnet8-tiny,standard,fp32,", (None, "")),
        (f"{here},resnet18,standard,fp32,7", (None, "")),  # another student
        (f"{here},resnet8-tiny,pgd-at,bf16,8", (8, "by the speed table, same student")),
        (f"{here},resnet8-tiny,pgd-at,fp32,1", (1, "by the speed table, same student and precision")),
        (f"{here},resnet8-tiny,rslad,fp32,2", (1.5, "by the speed table, same student and precision")),
        (f"{here},resnet8-tiny,standard,fp32,5", (5, "by the speed table, same student, method and precision")),
    ):
        rows.append(f"{row},fake")
        write_table(tmp_path, *rows)
        found = of_one(cell, tmp_path)
        assert (found.rate and found.rate / 1e12, found.source) == expected
    assert found.hours == pytest.approx(found.flop / 5e12 / 3600)
    mixed = {"precision__attack": "bf16", "precision__outer": "fp32"}
    assert of_one(planned(tmp_path, **mixed), tmp_path).source == "by the speed table, same student"
    begin(planned(tmp_path, "pgd-at", seed=1), 1)
    assert of_one(cell, tmp_path).source == "reached by the same student"


def test_the_scaling_table_tells_as_well_and_larger_images_nothing(tmp_path: Path) -> None:
    here, cell = hardware_name(CPU), planned(tmp_path)  # images of 8 x 8
    head = "device,name,precision,model,batch,steps,images,dataset,tflops"
    large = [f"cpu,{here},fp32,resnet8-tiny,128,10,50000,cifar10,{rate}" for rate in (3, 5, 7)]
    small = [f"cpu,{here},bf16,resnet8-tiny,128,10,1437,digits,0.2"]
    found = []
    for rows in (large, large + small):
        write_table(tmp_path, *rows, head=head).rename(tmp_path / "speed" / "scaling-cpu.csv")
        of_large = planned(tmp_path, data__name="cifar10", data__train_images=None)
        found.append(
            [(row.rate and row.rate / 1e12, row.source) for row in (of_one(cell, tmp_path), of_one(of_large, tmp_path))]
        )
    on_large = (5, "by the speed table, same student and precision")
    assert found == [[(None, ""), on_large], [(0.2, "by the speed table, same student"), on_large]]
    write_table(tmp_path, f"{here},resnet8-tiny,rslad,fp32,9", head="name,model,method,variant,tflops")
    assert of_one(cell, tmp_path).rate == 0.2e12, "the table of methods is of images as large as CIFAR-10's"
    assert of_one(of_large, tmp_path).rate == 6e12


def test_a_table_of_before_tflops_tells_nothing(tmp_path: Path) -> None:
    assert read_table(write_table(tmp_path, "n,resnet18,rslad,fp32", head="name,model,method,variant"), "n") == []
    assert read_table(tmp_path / "absent.csv", "n") == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("n,resnet18,rslad,fp32,fast,fake", "could not convert string to float: 'fast'"),
        ("n,resnet18,rslad,fp32,-1,fake", "tflops is -1, which no device reaches"),
        ("n,resnet18,rslad,fp32,nan,fake", "tflops is nan, which no device reaches"),
        ("n,resnet18,rslad,fp32,1,mnist", "Unknown data set 'mnist'"),
        ("n,resnet18,rslad", "longer or shorter than the head"),
        ("n,resnet18,rslad,fp32,1,fake,2", "longer or shorter than the head"),
    ],
)
def test_a_damaged_table_is_refused_by_file_and_line(tmp_path: Path, row: str, said: str) -> None:
    write_table(tmp_path, "n,resnet18,rslad,fp32,1,fake", row)
    with pytest.raises(ArdbenchError, match=rf"cpu\.csv, line 3: .*{said}"):
        of_one(planned(tmp_path), tmp_path)


def test_a_table_without_a_column_or_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path, "n,1", head="name,tflops")
    with pytest.raises(ArdbenchError, match=r"cpu\.csv, line 2: there is no column 'method'"):
        read_table(path, "n")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArdbenchError, match=r"cpu\.csv cannot be read as a speed table"):
        read_table(path, "n")


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


# Forecasts ------------------------------------------------------------------------------------------------------------


def test_the_last_cell_is_done_when_the_campaigns_order_says(tmp_path: Path) -> None:
    """A teacher, its two students, and a run that learns from nobody, each 3 s of training and 2 s of evaluation."""
    teacher = planned(tmp_path, missing=(("last", "clean"),))
    taught = [Teacher("teacher", "robust", "identity", "resnet8-tiny", str(teacher.run.weights("last")), "")]
    students = [
        Cell("student", Run.place(tmp_path, made, taught), made, tuple(taught), "missing", (("last", "clean", None),))
        for made in (recipe("rslad", seed=seed) for seed in range(2))
    ]
    cells = [teacher, *students, planned(tmp_path, seed=1, missing=(("last", "clean"),))]
    each = [(3.0, 2.0)] * 4
    assert makespan(cells, each, 1) == 4 * 5
    assert makespan(cells, each, 2) == 10  # teacher and loner, then both students
    assert makespan(cells, each, 4) == 3 + 5  # students begin when the teacher is trained, not when it is measured
    done = Cell(teacher.name, teacher.run, teacher.recipe, (), "done", ())
    assert makespan([done, *cells[1:]], each, 3) == 5


def test_a_plan_is_predicted_and_a_watch_tells_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no speed table
    pairs = (("last", "clean"), ("last", "pgd20"))
    cells = [
        planned(tmp_path, state="partial", missing=pairs),
        planned(tmp_path, seed=1, state="done", missing=pairs[:1]),
    ]
    assert predict(cells, tmp_path, CPU, 1) is None
    for cell in cells:
        begin(cell, 6, seconds=4.0)
    measure(cells[1], "pgd20", 5.0)
    measure(cells[1], "clean", 1.0)
    final = (
        1 + 22 * 6 / 43
    )  # at the end of the training: clean, and PGD-10's 22 forwards at the rate of all that was measured
    assert predict(cells, tmp_path, CPU, 2) == Seconds(*map(pytest.approx, (14 + final, 8, 7 + final)))
    watch = Watch(cells)
    begin(cells[0], 8, seconds=5.0)
    measure(cells[0], "clean", 0.5)
    measure(cells[0], "pgd20", 3.0)
    told = watch.read()
    assert (told.training, told.evaluation) == (8 * 5 - 6 * 4, 0.5 + 3 + 1) and told.wall > 0
