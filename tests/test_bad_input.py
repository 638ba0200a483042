"""Every wrong command line is refused with one sentence, and leaves everything as it was."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_call import call
from wrong_lines import TENSORS, TORCH_FREE, world

SMALL = ["--dataset", "fake", "--epochs", "1", "--device", "cpu", "--quiet"]
SETS = ["data.train_images=64", "data.validation=20", "attack.steps=1", "selection.protocol=fgsm"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all lines are typed."""
    made, root = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("world")
    sets = [word for change in SETS for word in ("--set", change)]
    run = Path(call("train", "pgd-at-digits", *SMALL, *sets, "--runs", made).stdout.splitlines()[0])
    words = ["--protocol", "clean", "--checkpoint", "last", "--device", "cpu", "--quiet"]
    assert call("eval", run, *words).exit_code == 0
    world(root, run)
    return root


def lying_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return everything below a folder, with size and time of writing; a folder's own time tells what came and went."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("line", "sentence"), TORCH_FREE + TENSORS, ids=[ascii(line[:60]) for line, _ in TORCH_FREE + TENSORS]
)
def test_a_wrong_line_is_refused_with_one_sentence(
    line: str, sentence: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    before = lying_in(here / "runs"), set(here.iterdir()), lying_in(here / "run")
    result = call(*shlex.split(line))
    assert result.exit_code == 2, result.output
    *about, refusal = result.stderr.splitlines()
    assert refusal.startswith("Error: ") and sentence in refusal, refusal
    if (line, sentence) in TORCH_FREE:
        assert not about and not result.stdout
    assert before == (lying_in(here / "runs"), set(here.iterdir()), lying_in(here / "run")), "something was left"


def test_what_needs_no_tensor_loads_no_torch(here: Path) -> None:
    program = (
        "import shlex, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from click.testing import CliRunner\nfrom ardbench.cli import ardbench\nfrom wrong_lines import TORCH_FREE\n"
        "for name in ('torch', 'torchvision', 'timm'):\n"
        "    sys.modules[name] = None  # whoever imports it is told that there is none\n"
        "for line, _ in TORCH_FREE:\n"
        "    result = CliRunner().invoke(ardbench, shlex.split(line))\n"
        "    if result.exit_code != 2 or not isinstance(result.exception, SystemExit):\n"
        "        print(ascii(line), repr(result.exception))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "train pgd-at-digits --runs runs", "train pgd-at-digits --tensorboard runs", "train pgd-at-digits --log-file runs/log",
        "transfer run net.safetensors:resnet8-tiny --runs runs", "transfer run net.safetensors:resnet8-tiny --out runs",
        "reproduce digits --runs runs", "reproduce digits --out runs",
    ],
)  # fmt: skip
def test_a_folder_without_write_permission_is_refused_before_the_work(
    line: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    # asked in place of tried, since who runs the tests may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK or Path(path).name != "runs")
    before = lying_in(here)
    result = call(*shlex.split(line))
    option = next(word for word in line.split() if word.startswith("--"))
    assert result.exit_code == 2 and not result.stdout
    assert result.stderr.startswith(f"Error: {option} runs") and "cannot be written" in result.stderr
    assert lying_in(here) == before


def test_a_run_that_is_named_twice_is_reported_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    once, twice = (call("report", *names).stdout for names in (["run"], ["run", "./run"]))
    assert once == twice and "clean" in once


def test_a_recipe_with_a_byte_order_mark_is_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    marked, plain = (
        json.loads(call("show", name, "--json").stdout)["recipe"] for name in ("marked.toml", "pgd-at-digits")
    )
    assert marked | {"name": plain["name"]} == plain


def test_every_command_is_in_the_table() -> None:
    from ardbench.cli import COMMANDS

    assert COMMANDS.keys() <= {shlex.split(line)[0] for line, _ in TORCH_FREE}
    assert len({line for line, _ in TORCH_FREE + TENSORS}) == len(TORCH_FREE + TENSORS)
