"""The verbs give what the commands give: the same runs, files and refusals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_call import call

import ardbench
from ardbench.progress import Progress
from ardbench.runs import Run

SMALL = {"data.train_images": 200, "data.batch": 50, "selection.by": "last"}
WORDS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]


def trained(folder: Path, **words: Any) -> Run:
    return ardbench.train(
        "pgd-at-digits", student="resnet8-tiny", epochs=2, set=SMALL, runs=folder, progress=Progress(), **words
    )


def files(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.glob("*.safetensors")} | {
        "config": (run.path / "config.json").read_bytes()
    }


def test_importing_ardbench_loads_no_torch_and_its_names_are_known() -> None:
    code = "import ardbench, sys; assert 'torch' not in sys.modules; assert {'train', 'distill', 'load'} <= set(dir(ardbench))"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = ardbench.trian  # type: ignore[attr-defined]


def test_train_and_distill_make_the_runs_of_the_commands(tmp_path: Path) -> None:
    teacher = trained(tmp_path / "api")
    words = ["train", "pgd-at-digits", "--student", "resnet8-tiny", "--epochs", "2", "--device", "cpu", *WORDS]
    assert call(*words, "--runs", tmp_path / "cli").exit_code == 0
    typed = Run.open(tmp_path / "cli" / teacher.path.name)
    assert files(teacher) == files(typed)
    student = ardbench.distill(
        Path("rslad-digits"), teachers=teacher, epochs=1, set=SMALL | {"method.alpha": 0.9}, runs=tmp_path / "api",
        progress=Progress(),
    )  # fmt: skip
    again = ["distill", "rslad-digits", "--teacher", typed.path, "--epochs", "1", "--device", "cpu", *WORDS]
    assert call(*again, "--set", "method.alpha=0.9", "--runs", tmp_path / "cli").exit_code == 0
    other = Run.open(tmp_path / "cli" / student.path.name)
    assert (student.path / "last.safetensors").read_bytes() == (other.path / "last.safetensors").read_bytes()
    assert student.done is not None and student.teachers[0].identity == other.teachers[0].identity


def test_what_is_done_is_not_done_again_and_time_runs_out_without_an_error(tmp_path: Path) -> None:
    assert trained(tmp_path, time_limit=1e-6).done is None
    run = trained(tmp_path)
    before = (run.path / "done").stat().st_mtime_ns
    assert trained(tmp_path) == run and (run.path / "done").stat().st_mtime_ns == before


def test_an_interrupt_saves_and_the_same_call_goes_on(tmp_path: Path) -> None:
    class Interrupter(Progress):
        def row(self, metrics: dict[str, Any]) -> None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="is saved"):
        ardbench.train(
            "pgd-at-digits", student="resnet8-tiny", epochs=2, set=SMALL, runs=tmp_path, progress=Interrupter()
        )
    assert files(trained(tmp_path)) == files(trained(tmp_path / "undisturbed"))


@pytest.mark.parametrize(
    ("verb", "recipe", "said"),
    [
        ("train", "rslad-digits", "rslad learns from teachers"),
        ("distill", "pgd-at-digits", "pgd-at takes no teacher"),
        ("distill", "rslad-digits", "rslad wants 1 teacher"),
        ("train", "pgd-at-digit", "Unknown recipe"),
    ],
)
def test_refusals_are_the_sentences_of_the_commands(tmp_path: Path, verb: str, recipe: str, said: str) -> None:
    with pytest.raises(ardbench.ArdbenchError) as refusal:
        getattr(ardbench, verb)(recipe, runs=tmp_path)
    assert said in str(refusal.value)
    typed = call(verb, recipe, "--runs", tmp_path)
    assert typed.exit_code == 2 and str(refusal.value) in typed.stderr
