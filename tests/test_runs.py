"""The run directory: its name, its files after crashes and full disks, its lock, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import CPU, recipe

from ardbench.config import Recipe
from ardbench.engine.train import train
from ardbench.errors import ArdbenchError
from ardbench.recipes import resolve
from ardbench.runs import Run, Teacher, all_runs, read_json, remembered, sha256_of, write_atomic, write_json
from ardbench.teachers import of_run, resolve_teachers


def finished(root: Path, seed: int = 0, recipe: str = "pgd-at-digits", **changes: Any) -> Run:
    """Return a finished run whose weights are a few bytes that name it."""
    resolved = resolve(recipe, seed=seed, sets=changes)
    run = Run.place(root, resolved)
    run.create(resolved, (), {})
    for name in ("last", "best"):
        run.weights(name).write_bytes(f"{name} weights of {run.identity}".encode())
    write_json(run.path / "done", {"epochs": 1, "weights": {"last": sha256_of(run.weights("last"))}})
    return run


def in_another_process(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run Python code with `run` and `path` made of its first word."""
    head = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom ardbench.runs import *\n"
        "path = Path(sys.argv[1])\nrun = Run(path)\n"
    )
    command = [sys.executable, "-c", head + code, *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_runs_needs_no_torch(tmp_path: Path) -> None:
    done = in_another_process("assert 'torch' not in sys.modules", tmp_path)
    assert done.returncode == 0, done.stderr


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "number"), [("fsync", errno.ENOSPC), ("replace", errno.EIO), ("fsync", errno.EDQUOT)])
def test_what_cannot_be_written_leaves_what_was_there(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    write_atomic(path, b"old")

    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    said = "the disk is full" if number == errno.ENOSPC else os.strerror(number)
    with pytest.raises(ArdbenchError, match=f"Could not write {path}: {said}; what was there before is untouched"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArdbenchError, match="Could not write"):
        write_atomic(tmp_path / "file" / "last.state", b"")
    with pytest.raises(ArdbenchError, match="cannot be written"), Run(tmp_path / "file").lock():
        pass


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_process_killed_while_it_writes_leaves_what_was_there(call: str, tmp_path: Path) -> None:
    path = tmp_path / "last.state"
    write_atomic(path, b"old")
    code = f"os.{call} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\nwrite_atomic(path, b'new and longer')"
    assert in_another_process(code, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_what_a_live_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "last.state"
    code = "os.replace = lambda *a: (print('writing', flush=True), sys.stdin.read())\nwrite_atomic(path, b'theirs')"
    head = "import os, sys\nfrom pathlib import Path\nfrom ardbench.runs import *\npath = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", head + code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "writing\n"
        write_atomic(path, b"ours")
        assert sorted(file.read_bytes() for file in tmp_path.iterdir()) == [b"ours", b"theirs"]
        other.communicate("")
    write_atomic(path, b"ours")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1', "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[1]", "holds a list, but ardbench writes an object"),
        (None, "is missing"),
    ],
)
def test_json_that_is_none_is_refused_by_name(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArdbenchError, match=said) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


# Name and content -----------------------------------------------------------------------------------------------------


def test_a_run_is_named_by_recipe_data_student_seed_and_hash(tmp_path: Path) -> None:
    recipe = resolve("rslad-cifar10@printed", student="mobilenetv2", seed=3)
    teacher = Teacher("x", "robust", "id", "resnet18", "/w", "sha")
    name = Run.place(tmp_path, recipe, (teacher,)).path.name
    assert name == f"rslad-cifar10-printed-mobilenetv2-s3-{recipe.identity(['id'])[:8]}"
    moved = resolve("rslad-cifar10", dataset="cifar100")
    assert Run.place(tmp_path, moved).path.name == f"rslad-cifar10-cifar100-resnet18-s0-{moved.identity()[:8]}"
    assert Run.place(tmp_path, recipe).path != Run.place(tmp_path, recipe, (teacher,)).path


def test_a_teacher_is_recorded_as_it_was(tmp_path: Path) -> None:
    teacher = Teacher("x", "robust", "id", "resnet18", "/w", "sha")
    recipe = resolve("rslad-digits")
    run = Run.place(tmp_path, recipe, (teacher,))
    run.create(recipe, (teacher,), {"torch": "2"})
    again = Run.open(run.path)
    assert again.teachers == (teacher,)
    assert again.recipe == recipe
    assert again.identity == recipe.identity(["id"])
    assert read_json(run.path / "env.json") == {"torch": "2"}


def test_creating_a_run_twice_changes_nothing(tmp_path: Path) -> None:
    run = finished(tmp_path)
    before = (run.path / "config.json").read_bytes(), (run.path / "env.json").read_bytes()
    Run(run.path).create(resolve("pgd-at-digits"), (), {"later": True})
    assert before == ((run.path / "config.json").read_bytes(), (run.path / "env.json").read_bytes())


def test_a_directory_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    with pytest.raises(ArdbenchError, match="belongs to another recipe"):
        run.create(resolve("pgd-at-digits", seed=5), (), {})
    with pytest.raises(ArdbenchError, match="not a run directory"):
        Run.open(tmp_path)


def test_a_recipe_that_is_no_longer_valid_is_refused_by_its_key(tmp_path: Path) -> None:
    run = finished(tmp_path)
    document = read_json(run.path / "config.json")
    document["recipe"]["attack"]["steps"] = -1
    write_json(run.path / "config.json", document)
    with pytest.raises(ArdbenchError, match=r"config\.json holds no valid recipe: attack\.steps: Input should be"):
        _ = Run.open(run.path).recipe


def test_metrics_are_read_line_by_line_and_a_broken_line_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.metrics == []
    rows = [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 0.25}]
    (tmp_path / "metrics.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    assert run.metrics == rows
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n{"epo')
    with pytest.raises(ArdbenchError, match=r"metrics\.jsonl has a line that is not JSON"):
        _ = run.metrics


def test_runs_and_checkpoints_are_those_that_exist(tmp_path: Path) -> None:
    assert all_runs(tmp_path / "nowhere") == []
    runs = [finished(tmp_path, seed) for seed in (1, 0)]
    (tmp_path / "not a run").mkdir()
    assert all_runs(tmp_path) == sorted(runs, key=lambda run: run.path.name)
    assert runs[0].checkpoints == ["last", "best"]
    runs[0].weights("best").unlink()
    assert runs[0].checkpoints == ["last"]
    assert runs[0].done == {"epochs": 1, "weights": {"last": sha256_of(runs[0].weights("last"))}}
    assert runs[0].twin("last") is None
    for best, twins in ((5, ("last", "best", None)), (4, (None, None, None)), (-1, (None, None, None))):
        write_json(runs[0].path / "done", {"epochs": 6, "best_epoch": best})
        assert tuple(map(runs[0].twin, ("best", "last", "averaged"))) == twins
    (runs[0].path / "done").unlink()
    assert runs[0].done is None


def test_a_student_of_a_retrained_teacher_is_stale_and_of_a_moved_one_is_not_judged(tmp_path: Path) -> None:
    teacher = finished(tmp_path)
    taught = resolve_teachers([str(teacher.path)], "rslad", ("robust",))
    recipe = resolve("rslad-digits")
    student = Run.place(tmp_path, recipe, taught)
    student.create(recipe, taught, {})
    assert not student.stale
    teacher.weights("last").write_bytes(b"not what was learnt from")
    assert not student.stale
    kept = teacher.weights("best").read_bytes()
    teacher.weights("best").write_bytes(b"other weights")
    assert student.stale
    assert Run.place(tmp_path, recipe, taught).path == student.path
    teacher.weights("best").unlink()
    assert not student.stale
    teacher.weights("best").write_bytes(kept)
    assert not student.stale


# The lock -------------------------------------------------------------------------------------------------------------


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    run, code = Run(tmp_path / "run"), "with run.lock(): print('held')"
    with run.lock():
        refused = in_another_process(code, run.path)
        assert refused.returncode and "is being written by another process" in refused.stderr
        with pytest.raises(ArdbenchError, match="is being written by another process"), Run(run.path).lock():
            pass
    assert in_another_process(code, run.path).stdout == "held\n"


def test_the_lock_is_free_after_an_exception_and_after_a_kill(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(OSError, match=r"^of the work itself$"), run.lock():
        raise OSError("of the work itself")
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    killed = in_another_process("with run.lock(): os.kill(os.getpid(), signal.SIGKILL)", run.path)
    assert killed.returncode == -signal.SIGKILL
    with run.lock():
        pass


# From the front door, with a teacher on disk ----------------------------------------------------------------------------


def own(method: str, **sets: Any) -> Recipe:
    return recipe(method, **{"schedule__epochs": 3, "selection__every": 1, "data__train_images": 100} | sets)


def trained(
    wanted: Recipe, root: Path, teachers: tuple[Teacher, ...] = (), deadline: float | None = None
) -> Run | None:
    """Train a run by the front door; return it, or None where it was stopped before its end."""
    run = Run.place(root, wanted, teachers)
    return run if train(wanted, teachers, run, CPU, deadline=deadline) else None


def test_train_goes_from_teachers_to_a_done_marker_and_stops_and_goes_on(tmp_path: Path) -> None:
    """With a time limit of nothing each call makes one step (2 of 3 epochs) or measures one epoch; it comes to the same."""
    teacher = trained(own("pgd-at", schedule__epochs=1), tmp_path)
    assert teacher is not None
    taught = (of_run(teacher, "robust"),)
    whole = trained(own("rslad"), tmp_path / "whole", taught)
    calls = 1
    while (parts := trained(own("rslad"), tmp_path / "parts", taught, deadline=0)) is None:
        calls += 1
    assert calls == 6 + 3
    assert whole is not None and whole.done is not None and parts.done is not None
    assert whole.done["weights"] == {name: sha256_of(parts.weights(name)) for name in ("last", "best")}
    timed = {"seconds": 0, "images_per_second": 0, "peak_memory": 0}
    assert [row | timed for row in whole.metrics] == [row | timed for row in parts.metrics]
    assert whole.done["images"] == parts.done["images"] == 300
    assert Run.open(whole.path).recipe == own("rslad") and Run.open(whole.path).teachers == taught
    before = {path: path.read_bytes() for path in whole.path.iterdir()}
    assert trained(own("rslad"), tmp_path / "whole", taught) == whole
    assert before == {path: path.read_bytes() for path in whole.path.iterdir()}


def test_two_seeds_are_two_runs_and_one_seed_is_one(tmp_path: Path) -> None:
    a, b, c = (
        trained(own("standard", seed=seed, schedule__epochs=1), tmp_path / folder)
        for seed, folder in ((0, "a"), (0, "b"), (1, "a"))
    )
    assert a and b and c
    assert a.path.name == b.path.name != c.path.name
    assert sha256_of(a.weights("last")) == sha256_of(b.weights("last"))
    assert sha256_of(a.weights("last")) != sha256_of(c.weights("last"))


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    (run.path / ".last.state.123.partial").write_bytes(b"half")
    with run.lock():
        assert [path.name for path in run.path.iterdir()] == ["lock"]


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_data_set_is_named_once_and_never_mistaken_for_another(tmp_path: Path) -> None:
    assert Run.place(tmp_path, resolve("rslad-digits")).path.name.startswith("rslad-digits-resnet8-tiny-s0-")
    other = resolve("rslad-digits", sets={"name": "rslad-cifar100-like", "data.name": "cifar10"})
    assert Run.place(tmp_path, other).path.name.startswith("rslad-cifar100-like-cifar10-resnet8-tiny-s0-")


def test_each_version_of_a_file_is_read_once_unless_it_is_of_this_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads = tmp_path / "file", list[Path]()
    reader = remembered(lambda asked: reads.append(asked) or asked.read_text())
    for text in ("one", "two"):  # as long, in the same moment, at the same place
        path.write_text(text)
        assert reader(path) == text
    reader(path)
    assert len(reads) == 3
    monkeypatch.setattr("ardbench.runs.MOMENT", 0)
    assert [reader(path), reader(path)] == ["two", "two"] and len(reads) == 4
    write_atomic(path, b"other")
    assert [reader(path), reader(path)] == ["other", "other"] and len(reads) == 5
