"""Processes that are ended at any moment, and moved: the same command goes on, and nothing of it is to be seen afterwards."""

from __future__ import annotations

import signal
from pathlib import Path

from campaign import (
    AA,
    COUNTS,
    PGD,
    Undisturbed,
    at_work,
    besieged,
    blows,
    ended,
    evaluation,
    facts,
    full,
    refused,
    run_in,
    training,
)
from cli_call import call
from forks import Forked

from ardbench.evaluation.verdicts import file_name
from ardbench.runs import Run


@full(65, short=4)
def test_a_training_that_was_ended_anywhere_goes_on(undisturbed: Undisturbed, tmp_path: Path, times: int) -> None:
    planned = blows(times, undisturbed.training / 3, writes=25, seed=1)
    for place in besieged(tmp_path, Path.mkdir, training, lambda _: "training", planned):
        assert facts(run_in(place)) == undisturbed.trained


@full(60, short=4)
def test_an_evaluation_that_was_ended_anywhere_goes_on(undisturbed: Undisturbed, tmp_path: Path, times: int) -> None:
    def phase(place: Path) -> str:
        there = list(run_in(place).glob(f"eval/*/{file_name(PGD, 24)}"))
        return f"evaluation under {AA if there else PGD}"

    planned = blows(times, undisturbed.evaluating, writes=12, seed=3)
    for place in besieged(tmp_path, undisturbed.copy, evaluation, phase, planned):
        assert facts(run_in(place)) == undisturbed.measured


def test_of_two_processes_on_one_run_the_second_is_refused_at_once(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The first is halted while the second tries."""
    first = at_work(Forked(*training(tmp_path)))
    while not (tmp_path.glob("*/lock") and any(Run(lock.parent).held for lock in tmp_path.glob("*/lock"))):
        assert first.code is None
    first.send(signal.SIGSTOP)
    assert "is being written by another process: wait for it or stop it." in refused(call(*training(tmp_path)))
    first.send(signal.SIGCONT)
    assert ended(first).code == 0
    assert facts(run_in(tmp_path)) == undisturbed.trained
    first = at_work(Forked(*evaluation(tmp_path)))
    while not list(tmp_path.glob("*/eval/*/*.lock")):
        assert first.code is None
    first.send(signal.SIGSTOP)
    assert "is being measured by another process: wait for it or stop it." in refused(call(*evaluation(tmp_path)))
    first.send(signal.SIGCONT)
    assert ended(first).code == 0
    assert facts(run_in(tmp_path)) == undisturbed.measured
    COUNTS["second processes refused"] += 2
