"""How a campaign is shown while it is under way: the table, its file, and `reproduce --status` in another shell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from cli_call import call
from rich.console import Console
from test_cli_reproduce import suite_file

from ardbench.campaigns.board import Board, Row, Scribe, board_file
from ardbench.campaigns.cells import Cell, planned
from ardbench.campaigns.graph import Event, _Relay
from ardbench.listeners.campaign import listening, shown


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    """The plan of a teacher and two students."""
    return planned(str(suite_file(tmp_path)), tmp_path / "runs")[1]


def lines(board: Board, now: float) -> list[str]:
    """Return the table as a wide terminal shows it, without rules and with single blanks."""
    screen = Console(file=io.StringIO(), width=200)
    screen.print(shown(board, now))
    assert isinstance(screen.file, io.StringIO)
    return [" ".join(line.split()) for line in screen.file.getvalue().splitlines() if line.strip(" ─")]


def test_the_table_at_three_moments(cells: list[Cell]) -> None:
    scribe = Scribe("tiny", cells)
    board = scribe.board
    board.began = 1000.0
    scribe.hear(Event(0, "started", node="first"))
    scribe.hear(Event(0, "task", "epoch 2/4", 0, 600))
    scribe.hear(Event(0, "update", done=100, total=600, at=70.0))  # by the clock of its node
    scribe.hear(Event(0, "update", done=300, total=600, at=72.0, numbers={"loss": 1.25}))
    assert lines(board, 1002) == [
        "tiny: 3 runs, 1 at work, 2 waiting, 0 min 02 s",
        "run state epoch images images/s left node numbers",
        "robust s0 training 2/4 300/600 100 0 min 15 s first loss 1.25",  # 300 of this epoch and 2 more, 100 a second
        "student s0 waiting",
        "student s1 waiting",
    ]
    scribe.hear(Event(0, "retried", "first was lost", node="first"))
    scribe.hear(Event(1, "started", node="second"))
    assert lines(board, 1003) == [
        "tiny: 3 runs, 1 at work, 1 waiting, 1 retried, 0 min 03 s",
        "run state epoch images images/s left node",
        "student s0 begins second",
        "robust s0 retried 2/4 first",
        "student s1 waiting",
    ]
    scribe.hear(Event(0, "started", node="second"))
    scribe.hear(Event(0, "task", "pgd20", 0, 500))
    scribe.hear(Event(0, "update", done=0, total=500, at=1000.0))
    scribe.hear(Event(0, "update", done=250, total=500, at=5000.0))
    scribe.hear(Event(1, "failed", "no"))
    scribe.hear(Event(2, "finished"))
    assert lines(board, 5000) == [
        "tiny: 3 runs, 1 at work, 1 done, 1 refused, 1 h 06 min",
        "run state epoch images images/s left node",
        "robust s0 pgd20 2/4 250/500 0 1 h 06 min second",
        "student s0 refused second",
        "student s1 done",
    ]


def test_status_prints_what_another_process_works_on(cells: list[Cell], tmp_path: Path) -> None:
    words = ["reproduce", tmp_path / "tiny.toml", "--runs", tmp_path / "runs", "--status"]
    none = call(*words)
    assert none.exit_code == 2 and f"No campaign of {tmp_path}/tiny.toml is under way in {tmp_path}/runs" in none.stderr
    with listening("tiny", cells, tmp_path / "runs", quiet=True) as hear:
        hear(Event(0, "started", node="first"))
        path = board_file("tiny", tmp_path / "runs")
        before = json.loads(path.read_text())
        until = time.monotonic() + 20
        while json.loads(path.read_text()) == before and time.monotonic() < until:
            time.sleep(0.05)
        told = call(*words)
        assert told.exit_code == 0
        table = [line.split() for line in told.stdout.splitlines()]
        assert ["robust", "s0", "begins", "first"] in table and ["student", "s1", "waiting"] in table
        assert told.stdout.splitlines()[-1].endswith("s ago.") and told.stdout.startswith("tiny: 3 runs, 1 at work")
        code = (
            "import sys\nsys.modules['torch'] = sys.modules['ray'] = None\nfrom ardbench.cli import ardbench\n"
            f"ardbench.main({[str(word) for word in words]!r}, standalone_mode=False)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "at work" in done.stdout, done.stderr
    assert not path.exists() and not list((tmp_path / "runs").iterdir())


def test_quiet_campaigns_print_warnings_alone(cells: list[Cell], tmp_path: Path) -> None:
    screen = io.StringIO()
    with redirect_stderr(screen), listening("tiny", cells, tmp_path / "runs", quiet=True) as hear:
        relay = _Relay(0, hear)
        hear(Event(0, "started"))
        relay.note("a note")
        relay.warn("Warning, teacher: at chance")
    assert screen.getvalue() == "robust s0: Warning, teacher: at chance\n"


def test_a_board_that_nobody_writes_any_more_is_called_so(tmp_path: Path) -> None:
    suite_file(tmp_path)
    board = Board("tiny", [Row("robust s0", "training", "1/4")], began=1.0, written=time.time() - 600)
    (tmp_path / "runs").mkdir()
    board_file("tiny", tmp_path / "runs").write_text(json.dumps(vars(board) | {"rows": [vars(board.rows[0])]}))
    told = call("reproduce", tmp_path / "tiny.toml", "--runs", tmp_path / "runs", "--status").stdout
    assert "Told 10 min ago. Nobody works on it any more: type its command again." in told


def test_a_terminal_shows_the_live_table_and_lines_above_it(cells: list[Cell], tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    with redirect_stderr(screen), listening("tiny", cells, tmp_path / "runs", quiet=False) as hear:
        hear(Event(0, "started", node="first"))
        hear(Event(0, "retried", "first was lost [bold]"))
    drawn = screen.getvalue()
    assert "robust s0: first was lost [bold]" in drawn and "tiny: 3 runs, 2 waiting, 1 retried" in drawn
    assert "\x1b[" in drawn, "nothing was drawn again"


def test_elsewhere_a_line_tells_of_a_retry(
    cells: list[Cell], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening("tiny", cells, tmp_path / "runs", quiet=False) as hear:
        for event in (
            Event(0, "started", node="first"),
            Event(0, "retried", "first was lost (NodeDiedError): goes on", node="first"),
            Event(0, "started", node="second"),
            Event(1, "stopped"),  # it had not begun
        ):
            hear(event)
    assert capsys.readouterr().err.splitlines() == [
        "robust s0: started on first",
        "robust s0: first was lost (NodeDiedError): goes on",
        "robust s0: started on second",
    ]
