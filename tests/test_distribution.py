"""One run in two processes is the run of one: real processes, as torchrun starts them, in float64."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from cli_call import call
from forks import free_port, together
from small import in_double
from test_engine import loop_of, rows, weights
from test_extra import extra_images
from test_methods import OURS
from test_places import fake_in_files
from torch import Tensor, nn

from ardbench import processes
from ardbench.cli import STOPPED
from ardbench.data.load import load
from ardbench.engine.checkpoints import load_state
from ardbench.engine.distribution import average_statistics, synchronise
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.processes import joined
from ardbench.runs import Run

ROOT = Path(__file__).parents[1]
CASES = [(name, "none") for name in OURS] + [
    (name, "global") for name in ("adr", "crdnd", "iad-i", "kdiga", "peeraid", "rslad")
]
CASES += [("iad-i+fair+igdm+awp", "global"), ("adaad+igdm+fair+sam-like", "none"), ("crdnd+igdm+awp", "none")]
CASES += [("rslad", f"none, {more}") for more in ("host", "files", "extra", "resized", "n-fgsm", "nuat")]
CASES += [("dgad", "none, released")]
"""Methods, and what stands at the place of BatchNorm: nothing, or one over the global batch; and where images come from,
or by what kind of attack."""
SETS = {
    ("iad-i", "global"): {
        "method__forwards_before": ["x_adv", "x_adv", "x"],
        "method__forwards": ["x_adv", "x_adv", "x", "x"],
    },
    ("dgad", "none, released"): {"method__bracket": "released", "method__counted": "released"},
    ("adr", "global"): {"method__base": "trades", "method__one_forward": True},
    ("rslad", "none, host"): {"data__place": "host"},
    ("rslad", "none, files"): {"data__place": "files"},
    ("rslad", "none, resized"): {"data__augment": "resized-crop-flip"},
    ("rslad", "none, extra"): {"data__extra_share": 0.6, "data__place": "host"},
    ("rslad", "none, n-fgsm"): {"attack__kind": "n-fgsm", "attack__steps": 1},
    ("rslad", "none, nuat"): {"attack__kind": "nuat", "attack__steps": 1},
}
"""As released: forwards whose logits nobody needs move the statistics of all processes."""
UNEVEN = {"data__batch": 51, "schedule__epochs": 2, "diagnostics": True, "precision__cache_gb": 0}
"""25 rows and 26, and 23 each in the last batch; two epochs, since CRDND uses the counts of the one before."""
TRAIN = ("train", "pgd-at-digits", "--student", "resnet8-tiny", "--runs", "runs", "--epochs")
TYPED = ((*TRAIN, "1"), (*TRAIN, "1"), (*TRAIN, "90", "--time-limit", "1s"))
"""Command lines of both processes, one after the other."""
PROGRAM = """
import sys
from pathlib import Path
from test_distribution import as_one_of_two

as_one_of_two(Path(sys.argv[1]))
"""


def loop(name: str, norm: str, folder: Path, stop: Any = lambda: False, **sets: Any) -> Loop:
    """Return a loop of tiny float64 networks on the fake data set."""
    original = small.network

    def network(seed: int, model: str = "resnet8-tiny") -> nn.Module:
        net = original(seed, model)
        if norm == "global":
            return synchronise(net) if seed < 10 else net  # the others are teachers
        for path, module in list(net.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                net.set_submodule(path, nn.Identity())
        return net

    if norm.endswith("extra"):
        sets = {"data__extra": f"npz:{extra_images(folder.parent, labels=False)}"} | sets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "network", network)
        fake_in_files(patch, folder.parent / "files")
        return loop_of(name, folder, stop, torch.float64, **UNEVEN | SETS.get((name, norm), {}) | sets)


def trained(name: str, norm: str, folder: Path, **sets: Any) -> dict[str, Tensor]:
    """Return every weight of what the method trains, after two epochs."""
    made = loop(name, norm, folder, **sets)
    assert made.fit()
    return {f"{which}.{key}": t for which, net in made.trainables.items() for key, t in net.state_dict().items()}


def as_one_of_two(folder: Path) -> None:
    """Do what this module's tests look at, as one of the processes."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rank = int(os.environ["RANK"])
    with joined(), pytest.MonkeyPatch.context() as patch:
        said: dict[str, Any] = {"local": local_statistics()}
        in_double(patch)
        found = {(n, b): trained(n, b, folder / f"{n}-{b}") for n, b in CASES}
        torch.save(found, folder / f"{rank}.pt")
        count = itertools.count(1)
        stopped = loop("rslad", "global", folder / "parts", lambda: rank == 1 and next(count) >= 3)
        said["stopped"] = not stopped.fit()
        said["at"] = vars(stopped.at) | {"seconds": 0.0}
        said["resumed"] = loop("rslad", "global", folder / "parts").fit()
        handed = loop("crdnd", "none", folder / "handed", lambda: (handed.at.epoch, handed.at.step) >= (1, 2))
        assert not handed.fit()
        try:
            loop("rslad", "none", folder / "refused", data__batch=1)
        except ArdbenchError as error:
            said["refusal"] = str(error)
        ports = processes.once(lambda: [free_port() for _ in TYPED])
    said["typed"] = []
    os.chdir(folder)
    for port, words in zip(ports, TYPED, strict=True):  # who meets at the old port reads where the others were
        os.environ["MASTER_PORT"] = str(port)
        result = call(*words)
        said["typed"].append((result.exit_code, result.stdout, result.stderr))
    (folder / f"{rank}.json").write_text(json.dumps(said))


def local_statistics() -> list[float]:
    """Return running statistics of which each process had its own, weighted 1 to 3."""
    norm = nn.BatchNorm2d(2)
    rank = processes.rank()
    norm.running_mean, norm.running_var = torch.tensor([rank, 4.0]), torch.tensor([1.0, 8.0 * rank])
    average_statistics((0.25, 0.75)[rank], [nn.Sequential(nn.ReLU(), norm)])
    return [*norm.running_mean.tolist(), *norm.running_var.tolist()]


def torchrun(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run two processes to their end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*start, *map(str, words)], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two processes have trained."""
    folder = tmp_path_factory.mktemp("two")
    extra_images(folder, labels=False)  # not by two processes at once
    with pytest.MonkeyPatch.context() as patch:
        fake_in_files(patch, folder / "files")
        load("fake", small.CPU, place="files")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    together(2, str(program), str(folder))
    return folder


@pytest.fixture(scope="module")
def of_two(two: Path) -> Sequence[dict[tuple[str, str], dict[str, Tensor]]]:
    """Return what each process had at the end."""
    return [torch.load(two / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_two_processes_train_the_network_of_one(
    name: str, norm: str, two: Path, of_two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_double(monkeypatch)
    alone = trained(name, norm, tmp_path / "one")
    first, other = (found[name, norm] for found in of_two)
    assert alone.keys() == first.keys() == other.keys()
    for key, tensor in alone.items():
        assert torch.equal(first[key], other[key]), key
        assert torch.allclose(first[key].double(), tensor.double(), rtol=0, atol=1e-6), key
    together, by_one = rows(two / f"{name}-{norm}"), rows(tmp_path / "one")
    assert flat(together) == pytest.approx(flat(by_one), abs=1e-6)


def flat(document: Any) -> list[float | None]:
    """Return every number of a document, in order."""
    if isinstance(document, dict | list):
        values = document.values() if isinstance(document, dict) else document
        return [number for value in values for number in flat(value)]
    return [document]


@pytest.mark.parametrize("rank", [0, 1])
def test_any_process_stops_all_and_they_go_on_to_the_same_weights(two: Path, rank: int) -> None:
    said = json.loads((two / f"{rank}.json").read_text())
    assert (said["stopped"], said["resumed"]) == (True, True)
    assert (said["at"]["epoch"], said["at"]["step"], said["at"]["images"]) == (0, 3, 153)
    whole, parts = (weights(two / name, "last") for name in ("rslad-global", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_run_of_two_processes_goes_on_in_one(
    two: Path, of_two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_double(monkeypatch)
    shutil.copytree(two / "handed", tmp_path / "handed")
    state = load_state(tmp_path / "handed" / "last.state")
    assert state["method"]["seen"].sum() == 102  # two global batches of the second epoch
    assert loop("crdnd", "none", tmp_path / "handed").fit()
    expected = of_two[0]["crdnd", "none"]
    for key, tensor in weights(tmp_path / "handed", "last").items():
        assert torch.allclose(tensor, expected[f"student.{key}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_local_statistics_are_averaged_by_the_shares_of_the_batch(two: Path, rank: int) -> None:
    assert json.loads((two / f"{rank}.json").read_text())["local"] == [0.75, 4.0, 1.0, 6.0]


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_that_leave_a_process_without_an_example_are_refused(two: Path, rank: int) -> None:
    said = json.loads((two / f"{rank}.json").read_text())
    assert "A batch of 1 examples cannot be shared by 2 processes" in said["refusal"]


def test_synchronised_statistics_belong_to_the_name_of_a_run_only_when_they_are_off() -> None:
    usual, local = small.recipe("trades"), small.recipe("trades", sync_bn=False)
    assert "sync_bn" not in usual.model_dump_json(exclude={"sync_bn"})
    assert usual.identity() != local.identity()
    assert usual.identity() == small.recipe("trades", sync_bn=True).identity()


@pytest.mark.parametrize("words", [["reproduce", "digits"], ["transfer", "a", "b"], ["list", "recipes"]])
def test_commands_that_cannot_be_shared_say_so(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = call(*words)
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: {words[0]} works in one process, and torchrun started several: type it without torchrun.\n"
    )


def test_torchrun_trains_one_run_and_says_it_once(tmp_path: Path) -> None:
    done = torchrun("-m", "--", "ardbench", *TRAIN, "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Finished: 1 epochs") == 1 and done.stdout.count("Next: ardbench eval") == 1
    assert len(re.findall("Device: cpu.*, 2 processes", done.stderr)) == 1
    (path,) = (tmp_path / "runs").iterdir()
    run = Run.open(path)
    assert run.done is not None and json.loads((path / "env.json").read_text())["processes"] == 2
    (row,) = run.metrics
    assert row["images"] == run.done["images"] > 1000  # every process's


def test_a_command_that_is_typed_again_by_two_is_done_or_says_once_how_to_go_on(two: Path) -> None:
    first, other = (json.loads((two / f"{rank}.json").read_text())["typed"] for rank in (0, 1))
    assert [code for code, _, _ in first] == [code for code, _, _ in other] == [0, 0, STOPPED]
    assert all((out, err) == ("", "") for _, out, err in other)
    (_, trained, _), (_, again, _), (_, stopped, _) = first
    assert trained.count("Finished: 1 epochs") == again.count("Already done") == 1
    typed = shlex.join(["ardbench", *TYPED[2]])
    assert stopped.count(f"type the same command again: torchrun --nproc-per-node 2 -m -- {typed}\n") == 1
