"""The run that nothing happened to, and the campaign's counts at the end."""

from __future__ import annotations

import shutil
import time
from typing import Any

import pytest
from campaign import COUNTS, Undisturbed, at_work, ended, evaluation, facts, run_in, training
from forks import Forked


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Train and measure the campaign's run once."""
    runs, measured = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("measured")
    process, begun = at_work(Forked(*training(runs))), time.time()
    done = ended(process)
    assert done.code == 0, done
    trained = (run_in(runs) / "done").stat().st_mtime - begun
    shutil.copytree(runs, measured, dirs_exist_ok=True)
    process, begun = at_work(Forked(*evaluation(measured))), time.time()
    done = ended(process)
    assert done.code == 0, done
    return Undisturbed(runs, facts(run_in(runs)), facts(run_in(measured)), trained, time.time() - begun)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what happened, by kind."""
    if COUNTS:
        terminalreporter.section("the campaign's counts")
        for what, number in sorted(COUNTS.items()):
            terminalreporter.write_line(f"{number:5} {what}")
