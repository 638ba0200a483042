"""The run that nothing happened to, and the campaign's counts at the end."""

from __future__ import annotations

from typing import Any

import pytest
from campaign import COUNTS, PROTOCOLS, Undisturbed, evaluation, facts, run_in, training, typed


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Train and measure the campaign's run once."""
    runs = tmp_path_factory.mktemp("undisturbed")
    done = typed(*training(runs))
    assert done.code == 0, done
    made = Undisturbed(runs, facts(run_in(runs)), {}, {"training": done.worked})
    for phase in PROTOCOLS:
        place = tmp_path_factory.mktemp(phase)
        made.copy(place)
        done = typed(*evaluation(phase)(place))
        assert done.code == 0, done
        made.measured[phase] = facts(run_in(place))
        made.seconds[phase] = done.worked
    return made


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what happened, by kind."""
    if COUNTS:
        terminalreporter.section("the campaign's counts")
        for what, number in sorted(COUNTS.items()):
            terminalreporter.write_line(f"{number:5} {what}")
