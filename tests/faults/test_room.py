"""A full disk, a limit on the size of files, a folder that cannot be written: a sentence, and nothing is harmed."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from campaign import COUNTS, content, evaluation, facts, full, mounted, refused, run_in, training
from cli_call import call

from ardbench.runs import sha256_of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a run that this process trained and measured while nothing happened, and its facts."""
    runs = tmp_path_factory.mktemp("undisturbed")
    for words in (training, evaluation):
        assert call(*words(runs)).exit_code == 0
    return runs, facts(run_in(runs))


@full(25, short=3)
def test_a_full_disk_is_refused_and_with_room_it_goes_on(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, times: int
) -> None:
    """The file system grows from too little for anything to enough for everything, and the same commands are typed."""
    whole = sum(4096 * (1 + path.stat().st_size // 4096) for path in undisturbed[0].rglob("*") if path.is_file())
    with mounted(tmp_path / "runs", "-t", "tmpfs", "-o", "size=4k", "tmpfs") as runs:
        for step in range(1, times + 1):
            room = 4 * whole if step == times else step * whole // times
            run(["mount", "-o", f"remount,size={room}", str(runs)], check=True)
            filled(runs, last=step == times)
        assert facts(run_in(runs)) == undisturbed[1]


def filled(runs: Path, last: bool) -> None:
    """Train and measure as far as there is room."""
    for words in (training, evaluation):
        before = intact(runs)
        done = call(*words(runs))
        if done.exit_code == 0:
            continue
        assert not last, done
        said = refused(done)
        assert "the disk is full; what was there before is untouched" in said or "No space left on device" in said
        assert not list(runs.rglob("*.partial"))
        assert before <= intact(runs)
        COUNTS["refused: full disk"] += 1
        return


def intact(runs: Path) -> set[Path]:
    """Return the files of a run, each of which must be whole."""
    files = {path for path in runs.rglob("*") if path.is_file()}
    for path in files:
        content(path)
    return files


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let this process write no larger file: a write beyond fails with EFBIG, as with a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_be_so_large_is_refused(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    state = (run_in(undisturbed[0]) / "last.state").stat().st_size
    for size in (2000, state - 1):
        with no_file_larger_than(size):
            said = refused(call(*training(tmp_path)))
        assert said.endswith(": File too large; what was there before is untouched."), said
        assert not list(tmp_path.rglob("*.partial"))
        COUNTS["refused: file too large"] += 1
    for words in (training, evaluation):
        assert call(*words(tmp_path)).exit_code == 0
    assert facts(run_in(tmp_path)) == undisturbed[1]


def test_a_folder_that_is_read_only_is_refused(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A bind mount, since root may write where the mode forbids it."""
    runs = tmp_path / "runs"
    with mounted(runs, "--bind", str(undisturbed[0])):
        run(["mount", "-o", "remount,ro,bind", str(runs)], check=True)
        before = {path: sha256_of(path) for path in runs.rglob("*") if path.is_file()}
        assert "Already done" in call(*training(runs)).stdout
        assert call("report", run_in(runs)).exit_code == 0
        for words in ([*training(runs), "--seed", "1"], [*evaluation(runs), "--seed", "1"]):
            assert re.search("Read-only file system|cannot be written", refused(call(*words)))
            COUNTS["refused: read-only folder"] += 1
        assert before == {path: sha256_of(path) for path in runs.rglob("*") if path.is_file()}
