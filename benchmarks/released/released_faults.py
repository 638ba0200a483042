"""Measure what the faults of released code change in a step: each as released and as meant, all else equal.

    python benchmarks/released/released_faults.py

`released_faults.toml` says which. A resnet8-tiny learns scikit-learn's digits for three epochs by the method as meant, from
teachers that have learnt for five; then one batch gives loss and gradient of both forms from the same weights, and five
optimizer steps the weights. All in float64, so that every processor finds the same. It writes results/released-faults.csv
and a page beside it, whose table stands in docs/methods.md too.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ardbench.config import Recipe
from ardbench.data.load import load
from ardbench.engine import networks
from ardbench.engine.device import hardware_name
from ardbench.engine.loop import Loop
from ardbench.engine.train import environment
from ardbench.methods import method_class
from ardbench.methods.base import Context
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run, write_atomic

CPU = torch.device("cpu")
RESULTS = Path(__file__).parents[2] / "results"
TAUGHT, LEARNT, STEPS = 5, 3, 5
"""Epochs of a teacher, epochs of the student before the fault is measured, and optimizer steps that are compared."""
TEACHERS = {"robust": "pgd-at-digits", "clean": "standard-digits"}


@dataclass(frozen=True)
class Fault:
    """A fault as released_faults.toml has it."""

    name: str
    code: str
    meaning: str
    on: str
    released: dict[str, Any]
    meant: dict[str, Any]
    recipe: str = ""
    sound: str = ""
    epoch: int = 10
    step: int = 0
    set: dict[str, Any] = field(default_factory=dict)

    def recipes(self) -> tuple[Recipe, Recipe]:
        """Return the recipe on digits as released and as meant."""
        released, meant = (
            resolve(self.on, sets={"precision.cache_gb": 0} | self.set | form) for form in (self.released, self.meant)
        )
        return released, meant

    def switch(self) -> str:
        """Return the fields in words, as released and as meant."""
        return ", ".join(f"`{name} = {_written(value)}` ({_written(meant)})" for name, value, meant in self.fields())

    def fields(self) -> list[tuple[str, Any, Any]]:
        """Return each field that differs by its path, `modules.NAME.FIELD` of a module, and its two values."""
        both = [dict(_flat(form)) for form in (self.released, self.meant)]
        names = {name: None for one in both for name in one if both[0].get(name) != both[1].get(name)}
        return [(name, both[0].get(name), both[1].get(name)) for name in names]


def _flat(sets: dict[str, Any]) -> list[tuple[str, Any]]:
    modules = [(f"modules.{m['name']}.{key}", value) for m in sets.get("modules", []) for key, value in m.items()]
    return [(key, value) for key, value in sets.items() if key != "modules"] + modules


def _written(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def faults() -> list[Fault]:
    """Return every fault, in the order of the file."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return [Fault(**one) for one in tomllib.loads(text)["fault"]]


def loop_of(recipe: Recipe) -> Loop:
    """Return the training of a student from scratch, in float64, by teachers that have learnt."""

    def build(model: str, purpose: str = "peer") -> nn.Module:
        return networks.fresh(model, "digits", recipe.data.normalise, 0, purpose, CPU).double()

    kind = method_class(recipe.method["name"])
    teachers = tuple(copy.deepcopy(taught(str(role))) for role in kind.roles)
    built = kind(Context(recipe, build(recipe.student, "student"), teachers, build))
    splits = load("digits", CPU, validation=recipe.data.validation)
    nowhere = Path(tempfile.gettempdir()) / "ardbench-faults-write-nothing"
    return Loop(Run(nowhere), recipe, built, splits, lambda: False, Progress())


def train(loop: Loop, epoch: int, first: int, steps: int) -> None:
    """Make steps of an epoch from the `first` on, beyond its end those of the next."""
    for net in loop.trainables.values():
        net.train()
    for index in range(first, first + steps):
        later, place = divmod(index, len(loop.batches))
        batch = loop.batches.batch(epoch + later, place)
        loop._step(replace(batch, x=batch.x.double()), epoch + later, place)


def learn(loop: Loop, epochs: int) -> None:
    """Make whole epochs from the first on."""
    for epoch in range(epochs):
        loop.contract.begin_epoch(epoch)
        train(loop, epoch, 0, len(loop.batches))


@cache
def taught(role: str) -> nn.Module:
    """Return a teacher, frozen."""
    loop = loop_of(resolve(TEACHERS[role], sets={"schedule.epochs": TAUGHT}))
    learn(loop, TAUGHT)
    return loop.method.student.eval().requires_grad_(False)


@cache
def begun(recipe: str) -> Loop:
    """Return the training of a recipe, as JSON, after its first epochs."""
    loop = loop_of(Recipe.model_validate_json(recipe))
    learn(loop, LEARNT)
    return loop


def handed(kept: Loop, recipe: Recipe) -> Loop:
    """Return the training of another form of a recipe, where this one stands."""
    loop = loop_of(recipe)
    for name, net in loop.trainables.items():
        net.load_state_dict(kept.trainables[name].state_dict())
        momentum = copy.deepcopy(kept.optimizers[name].state_dict()["state"])
        loop.optimizers[name].load_state_dict(loop.optimizers[name].state_dict() | {"state": momentum})
    if loop.averaged is not None and kept.averaged is not None:
        loop.averaged.load_state_dict(kept.averaged.state_dict())
    for part, other in zip(loop.method.parts, kept.method.parts, strict=True):
        part.load_state({name: tensor.clone() for name, tensor in other.state().items()})
    return loop


@dataclass(frozen=True)
class Outcome:
    """Loss and gradient of one step, and by how much the student's weights have moved after `STEPS`."""

    loss: float
    gradient: Tensor
    moved: Tensor


def outcome(loop: Loop, fault: Fault) -> Outcome:
    """Return what steps from here on make of the student."""
    parameters = list(loop.method.student.parameters())
    before, gradients = _flattened(parameters), list[Tensor]()
    loop.optimizers["student"].register_step_pre_hook(
        lambda *_: gradients.append(_flattened([p.grad for p in parameters if p.grad is not None]))
    )
    loop.contract.begin_epoch(fault.epoch)
    train(loop, fault.epoch, fault.step, 1)
    loss = loop.ledger.means()["loss"]
    train(loop, fault.epoch, fault.step + 1, STEPS - 1)
    return Outcome(loss, gradients[0], _flattened(parameters) - before)


def _flattened(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.detach().flatten() for one in tensors])


def measured(fault: Fault) -> dict[str, Any]:
    """Return the row of a fault: what is as released, less what is as meant, as shares of the latter."""
    recipes = fault.recipes()
    kept = begun(recipes[1].model_dump_json())
    ours, theirs = (outcome(handed(kept, recipe), fault) for recipe in reversed(recipes))
    return {
        "fault": fault.name,
        "switch": fault.switch(),
        "recipe": fault.recipe,
        "loss_meant": ours.loss,
        "loss_released": theirs.loss,
        "loss_change": theirs.loss / ours.loss - 1,
        "gradient_distance": float((theirs.gradient - ours.gradient).norm() / ours.gradient.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(theirs.gradient, ours.gradient, dim=0)),
        "weights_distance": float((theirs.moved - ours.moved).norm() / ours.moved.norm()),
    }


def table(rows: pd.DataFrame) -> str:
    """Return the Markdown table of measured rows."""
    known = {fault.name: fault for fault in faults()}
    lines = []
    for row in rows.to_dict("records"):
        fault = known[row["fault"]]
        holds = f"`{fault.recipe}`" if fault.recipe else "none"
        moved = [_percent(row[f"{what}_distance"]) for what in ("gradient", "weights")]
        words = [f"`{fault.name}`", fault.code, fault.meaning, fault.switch(), holds]
        lines.append([*words, _percent(row["loss_change"], "+"), *moved])
    heads = ["fault", "the code", "as meant", "switch: released (meant)", "held by", "loss", "gradient", "five steps"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)) + "\n"


def _percent(share: float, sign: str = "") -> str:
    """Return a share in percent to two digits, and 0 where it is exactly that or rounding."""
    percent = 100 * share
    return "0" if abs(percent) < 1e-9 else f"{percent:{sign}.2g} %" if abs(percent) < 100 else f"{percent:{sign}.0f} %"


def page(rows: pd.DataFrame) -> str:
    """Return the Markdown page of measured rows."""
    last = rows.iloc[-1]
    about = (
        f"By `benchmarks/released/released_faults.py` at {last['git_sha'][:12]}, torch {last['torch']}, {last['device_name']}, "
        "float64. What the columns are says [docs/methods.md](../docs/methods.md#faults-of-released-code)."
    )
    return f"# Faults of released code, measured\n\n{about}\n\n{table(rows)}"


def main(arguments: list[str] | None = None) -> None:
    """Measure every fault, and write the table and its page."""
    parser = argparse.ArgumentParser(description="Measure what faults of released code change in a step.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    where = environment(CPU)
    facts = {name: where[name] for name in ("torch", "git_sha", "git_dirty")} | {"device_name": hardware_name(CPU)}
    found = []
    for fault in faults():
        found.append(measured(fault) | facts)
        numbers = (found[-1][name] for name in ("loss_change", "gradient_distance", "weights_distance"))
        print(fault.name, *(f"{number:.3g}" for number in numbers), flush=True)
    rows = pd.DataFrame(found)
    write_atomic(given.out / "released-faults.csv", rows.to_csv(index=False).encode())
    write_atomic(given.out / "released-faults.md", page(rows).encode())


if __name__ == "__main__":
    main()
