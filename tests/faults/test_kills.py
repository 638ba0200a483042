"""Processes that are killed or asked to stop at any moment: the same command goes on, and nothing of it is to be seen."""

from __future__ import annotations

import random
import signal
from functools import partial
from pathlib import Path

import pytest
from campaign import (
    COUNTS,
    PROTOCOLS,
    Undisturbed,
    besieged,
    evaluation,
    facts,
    full,
    killed,
    killed_saving,
    run_in,
    struck,
    training,
    typed,
)


@full(30, short=2)
def test_training_killed_at_random_moments(undisturbed: Undisturbed, tmp_path: Path, times: int) -> None:
    strike = partial(killed, undisturbed.seconds["training"], random.Random(1))
    for place in besieged(tmp_path, "training", Path.mkdir, training, strike, times):
        assert facts(run_in(place)) == undisturbed.facts


@full(25, short=2)
def test_training_killed_while_it_saves(undisturbed: Undisturbed, tmp_path: Path, times: int) -> None:
    strike = partial(killed_saving, random.Random(2), 9)
    for place in besieged(tmp_path, "saving in training", Path.mkdir, training, strike, times):
        assert facts(run_in(place)) == undisturbed.facts


@pytest.mark.parametrize("phase", PROTOCOLS)
@full(12, short=1)
def test_evaluation_killed_at_random_moments(undisturbed: Undisturbed, tmp_path: Path, phase: str, times: int) -> None:
    strike = partial(killed, undisturbed.seconds[phase], random.Random(3))
    words = evaluation(phase)
    for place in besieged(tmp_path, f"evaluation, {phase}", undisturbed.copy, words, strike, times):
        assert facts(run_in(place)) == undisturbed.measured[phase]


@pytest.mark.parametrize(("phase", "most"), [("pgd", 4), ("aa", 12)])
@full(11, short=1)
def test_evaluation_killed_while_it_saves(
    undisturbed: Undisturbed, tmp_path: Path, phase: str, most: int, times: int
) -> None:
    strike = partial(killed_saving, random.Random(4), most)
    words = evaluation(phase)
    for place in besieged(tmp_path, f"saving in evaluation, {phase}", undisturbed.copy, words, strike, times):
        assert facts(run_in(place)) == undisturbed.measured[phase]


@full(10, short=1)
def test_a_training_asked_to_stop_saves_and_goes_on(undisturbed: Undisturbed, tmp_path: Path, times: int) -> None:
    dice, stops = random.Random(5), 0
    while stops < times:
        done = struck(signal.SIGTERM, undisturbed.seconds["training"], dice, *training(tmp_path))
        if done.code == 3:
            stops += 1
            COUNTS["stopped: SIGTERM in training"] += 1
            assert done.out.splitlines()[-1].startswith("To go on, type the same command again: ardbench train"), done
            assert (run_in(tmp_path) / "last.state").exists()
        else:
            assert done.code in (0, -signal.SIGTERM), done  # it was over, but for what is printed
            assert facts(run_in(tmp_path)) == undisturbed.facts
            tmp_path = tmp_path / "again"
            tmp_path.mkdir()
    assert typed(*training(tmp_path)).code == 0
    assert facts(run_in(tmp_path)) == undisturbed.facts
