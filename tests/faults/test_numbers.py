"""A gradient that is not a number, and memory that does not suffice: what was good is kept, and what was halved is marked."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attacked import shorten
from campaign import COUNTS, facts, full, refused, run_in, training
from cli_call import call
from torch import Tensor

from ardbench.engine.checkpoints import load_state
from ardbench.evaluation.verdicts import file_name
from ardbench.methods.base import Step
from ardbench.methods.pgd_at import PGDAT
from ardbench.models.network import Network

EPOCHS = 6
STEPS = 5 * EPOCHS


def short(runs: Path) -> list[str]:
    """Return the words of a short training."""
    return [*training(runs), "--epochs", str(EPOCHS)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run to which nothing happened."""
    runs = tmp_path_factory.mktemp("numbers")
    assert call(*short(runs)).exit_code == 0
    return runs


def at_step(number: int, change: Callable[[Step], Step]) -> Callable[..., Step]:
    """Return a training step of which the result is changed the `number`-th time, from 0."""
    plain, calls = PGDAT.step, [0]

    def step(self: Any, *given: Any) -> Step:
        made = plain(self, *given)
        calls[0] += 1
        return change(made) if calls[0] == number + 1 else made

    return step


def without_a_number(made: Step) -> Step:
    """Let the gradients of a step's loss be not a number."""
    made.loss.register_hook(lambda gradient: gradient * math.nan)
    return made


def without_room(made: Step) -> Step:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@full(20, short=2)
def test_a_gradient_that_is_no_number_stops_the_training_and_nothing_of_it_is_kept(
    trained: Path, tmp_path: Path, times: int
) -> None:
    dice = random.Random(6)
    for number in range(times):
        said = stopped(tmp_path / str(number), dice.randrange(STEPS), without_a_number)
        assert "is not finite" in said and "the last good checkpoint is kept; lower optimizer.lr" in said
        assert call(*short(tmp_path / str(number))).exit_code == 0
        assert facts(run_in(tmp_path / str(number))) == facts(run_in(trained))
        COUNTS["stopped: a gradient that is no number"] += 1


@full(10, short=1)
def test_a_training_without_memory_stops_and_goes_on_with_more(trained: Path, tmp_path: Path, times: int) -> None:
    dice = random.Random(7)
    for number in range(times):
        at = dice.randrange(STEPS)
        said = stopped(tmp_path / str(number), at, without_room)
        assert f"Out of device memory in epoch {at // 5 + 1}: what was saved is kept;" in said
        assert said.endswith("or train another run with a data.batch under 32.")
        assert call(*short(tmp_path / str(number))).exit_code == 0
        assert facts(run_in(tmp_path / str(number))) == facts(run_in(trained))
        COUNTS["stopped: no memory in training"] += 1


def stopped(runs: Path, at: int, change: Callable[[Step], Step]) -> str:
    """Train until the changed step stops it, and return the sentence; the state, if there is one, is of whole numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGDAT, "step", at_step(at, change))
        said = refused(call(*short(runs)))
    states = list(runs.glob("*/last.state"))
    assert len(states) == (at >= 5)
    for path in states:
        state = load_state(path)
        assert state["at"]["epoch"] in (at // 5, (at - 1) // 5)
        assert all(tensor.isfinite().all() for net in state["nets"].values() for tensor in net.values())
    return said


class Room:
    """The memory of a device, which holds so many images at a time, and less from some forward on."""

    def __init__(self, patch: pytest.MonkeyPatch, images: int, after: int = 0) -> None:
        self.images, self.after, self.forwards = images, after, 0
        plain = Network.forward

        def forward(net: Network, x: Tensor) -> Tensor:
            self.forwards += 1
            if self.forwards > self.after and len(x) > self.images:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return plain(net, x)

        patch.setattr(Network, "forward", forward)


def measured(run: Path, protocol: str, batch: int, *words: object) -> dict[str, Any]:
    """Measure the last checkpoint on 24 images and return what the file of verdicts says."""
    line = ("eval", run, "--protocol", protocol, "--checkpoint", "last", "--n", 24, "--batch", batch, "--device", "cpu")
    assert call(*line, *words).exit_code == 0
    (path,) = run.glob(f"eval*/**/{file_name(protocol, 24)}")
    return dict(json.loads(path.read_text()))


def copied(trained: Path, place: Path) -> Path:
    """Copy the trained run."""
    return Path(shutil.copytree(run_in(trained), place))


def test_pgd_without_memory_is_measured_with_the_batch_that_fits(trained: Path, tmp_path: Path) -> None:
    """24 images at a time do not fit, nor do 12: the verdicts are those of --batch 6."""
    with pytest.MonkeyPatch.context() as patch:
        Room(patch, images=6)
        got = measured(copied(trained, tmp_path / "a"), "pgd20", 500)
    wanted = measured(copied(trained, tmp_path / "b"), "pgd20", 6)
    assert got["notes"] == ["Measured with batch 6, since 24 did not fit in memory; the batch decides the noise."]
    assert got | {"notes": [], "seconds": 0} == wanted | {"seconds": 0}
    assert got["batch"] == 6
    COUNTS["batch halved: pgd20"] += 1


@pytest.mark.parametrize(("eps", "share"), [("0.12", 0.1), ("0.01", 0.6)])
def test_autoattack_without_memory_keeps_what_is_done_and_says_from_where_on_it_halved(
    trained: Path, tmp_path: Path, eps: str, share: float
) -> None:
    protocol, run, whole = "aa:apgd-ce,apgd-t", copied(trained, tmp_path / "run"), copied(trained, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        counted = Room(patch, images=10**6)
        wanted = measured(whole, protocol, 4, "--keep-adversarial", "--eps", eps)
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        Room(patch, images=2, after=int(share * counted.forwards))
        got = measured(run, protocol, 4, "--keep-adversarial", "--eps", eps)
    (note,) = got["notes"]
    found = re.fullmatch(r"From point (\d+) of (.*) on with batch 2, since 4 did not fit in memory; the batch .*", note)
    assert found is not None, note
    before = ["clean", "apgd-ce"][: 1 + (found[2] == "apgd-t")]
    assert [got["taken"][name] for name in before] == [wanted["taken"][name] for name in before]
    assert (got["batch"], wanted["batch"]) == (2, 4) and got["key"] == wanted["key"]
    assert eps != "0.12" or note in call("report", run).stdout  # tables are of the run's own threat
    assert facts(run).keys() == facts(whole).keys()
    COUNTS[f"batch halved: {found[2]}"] += 1


def test_without_memory_for_one_image_there_is_a_sentence(trained: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Room(patch, images=0)
        line = ("eval", copied(trained, tmp_path / "run"), "--protocol", "pgd20", "--device", "cpu")
        assert "Out of device memory in pgd20 with one image at a time: free the device" in refused(call(*line))
