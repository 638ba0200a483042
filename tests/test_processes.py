"""Several processes give the verdicts of one: real ones, as torchrun starts them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attacked
import pytest
from attacked import KEY, LINF, data, trained
from cli_call import call
from forks import together
from safetensors.torch import load_file

from ardbench import processes
from ardbench.engine import device
from ardbench.errors import ArdbenchError
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.verdicts import Verdicts, load_verdicts

PROTOCOLS = ("aa:square,apgd-ce", "pgd10")
PROGRAM = """
import gc, json, sys, weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_processes import measured

from ardbench.errors import ArdbenchError
from ardbench import processes
from ardbench.evaluation import autoattack
from ardbench.evaluation.batch_size import fitting

tensors = []

def crowded(item):
    batch = torch.zeros(4)
    tensors.append(weakref.ref(batch))
    try:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    except torch.OutOfMemoryError:
        raise torch.OutOfMemoryError("Still out of memory.") from None

def refused(item):
    if item == 3:
        raise ArdbenchError(f"{item} is refused")
    return item * item

torch.set_num_threads(1)
torch.set_flush_denormal(True)
store = Path(sys.argv[1])
with processes.joined():
    rank = dist.get_rank()
    said = {
        "square": processes.share(range(5), lambda item: (item * item, dist.get_rank())),
        "once": processes.once(dist.get_rank),
        "anybody": [processes.anybody(lambda: rank == asked) for asked in (1, 2)],
        "first": processes.is_first(),
    }
    try:
        processes.share(range(5), refused)
    except ArdbenchError as error:
        said["refusal"] = str(error)
    gc.disable()
    said["fits"] = fitting(lambda: processes.share(range(2), crowded))
    said["held"] = [tensor() is not None for tensor in tensors]
    gc.enable()
    stops = iter([False, False] + [rank == 1] * 99)
    said["paused"] = measured(store / "stopped", stop=lambda: next(stops))
    said["verdicts"] = measured(store / "stopped") + measured(store / "through")
(store / f"{rank}.json").write_text(json.dumps(said))
"""


def measured(store: Path, **more: Any) -> list[list[int]] | str:
    """Return the predictions of both protocols, or what the evaluation said when it was stopped."""
    from ardbench.evaluation.verdicts import Paused

    with pytest.MonkeyPatch.context() as patch:
        attacked.shorten(patch)
        how: dict[str, Any] = {"batch": 7, "store": store, "key": KEY, "keep_adversarial": True, **more}
        try:
            return [evaluate(trained(10), data(60, 10, seed=2), name, LINF, **how).predictions for name in PROTOCOLS]
        except Paused as paused:
            return str(paused)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two processes have written what they heard and measured."""
    folder = tmp_path_factory.mktemp("two")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    together(2, str(program), str(folder))
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_hears_every_answer_in_order(two: Path, rank: int) -> None:
    said = json.loads((two / f"{rank}.json").read_text())
    assert said["square"] == [[0, 0], [1, 1], [4, 0], [9, 1], [16, 0]]
    assert said["once"] == 0 and said["anybody"] == [True, False]
    assert said["first"] == (rank == 0)
    assert said["refusal"] == "3 is refused"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_batch_that_did_not_fit_is_free_when_its_half_is_tried(two: Path, rank: int) -> None:
    said = json.loads((two / f"{rank}.json").read_text())
    assert said["fits"] is None and said["held"] == [False]


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "weights.pt", "--model", "resnet8-tiny", "--dataset", "digits"),
        ("train", "pgd-at-digits", "--runs", "runs"),
    ],
    ids=lambda words: words[0],
)
def test_no_device_is_named_before_each_process_has_its_own(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def named(_: Any) -> str:
        heard.append("named")
        raise ArdbenchError("enough")

    heard: list[str] = []
    monkeypatch.setattr(processes, "joined", lambda: heard.append("joined") or nullcontext())
    monkeypatch.setattr(device, "describe", named)
    monkeypatch.chdir(tmp_path)
    Path("weights.pt").write_bytes(b"not read yet")
    assert "enough" in call(*words, "--device", "cpu").stderr
    assert heard == ["joined", "named"]


def test_two_processes_give_the_verdicts_of_one_also_when_stopped_in_between(two: Path, tmp_path: Path) -> None:
    expected = measured(tmp_path)
    for rank in (0, 1):
        said = json.loads((two / f"{rank}.json").read_text())
        assert "aa-square+apgd-ce.state.json is kept; the same command continues there" in said["paused"]
        assert said["verdicts"] == [*expected, *expected]
    for stem in ("aa-square+apgd-ce", "pgd10"):
        one, other, third = (load_verdicts(folder / f"{stem}.json") for folder in places(two, tmp_path))
        assert decisive(one) == decisive(other) == decisive(third)
        assert 0 < one.accuracy < 1 - one.taken["clean"] / one.n
        first, *rest = (
            load_file(folder / f"{stem}.adversarial.safetensors")["x_adv"] for folder in places(two, tmp_path)
        )
        assert all(first.equal(images) for images in rest)
    left = {path.name for path in (two / "stopped").iterdir()}
    assert left == {path.name for path in tmp_path.iterdir()}


def places(two: Path, one: Path) -> tuple[Path, Path, Path]:
    return one, two / "stopped", two / "through"


def decisive(verdicts: Verdicts) -> tuple[Any, ...]:
    return verdicts.predictions, verdicts.taken, verdicts.notes, verdicts.key


def test_one_process_alone_works_itself_and_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes.joined():
        assert (processes.size(), processes.is_first()) == (1, True)
        assert processes.share([1, 2, 3], lambda item: -item) == [-1, -2, -3]
    with pytest.raises(ArdbenchError, match="refused"):
        processes.once(refuse)


def refuse() -> None:
    raise ArdbenchError("refused")
