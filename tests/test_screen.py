"""What a person sees on a terminal of 80 columns while long work is done."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stderr

import pytest
from rich.console import Console

from ardbench.listeners import say
from ardbench.listeners.screen import Bars, bars, shown

TERMS = {"loss": 1.234, "cross_entropy": 0.8812, "feature_distance": 0.0123, "consistency": 1.1}


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal, over bytes as a real one is."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True)

    def isatty(self) -> bool:
        return True

    def getvalue(self) -> str:
        """Return what was written."""
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def lines_of(written: str) -> list[str]:
    """Return what stays on a terminal that moves up, erases lines and goes back to their beginning as it is told."""
    lines, row = [""], 0
    for found in re.finditer(r"\x1b\[(\d*)([A-Za-z])|\x1b\[\?\d+[hl]|\x1b\[[\d;]*m|\r|(\n)|([^\x1b\r\n]+)", written):
        count, command, new, text = found.groups()
        row += 1 if new else -int(count) if command == "A" else 0
        lines += [""] * (row - len(lines) + 1)
        if command == "K":
            lines[row] = ""
        if text:
            lines[row] += text
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize("images", [1437, 50_000])
def test_a_bar_with_four_terms_keeps_count_and_time_and_whole_numbers(images: int) -> None:
    with redirect_stderr(Terminal()), bars() as display:
        listener = Bars(display)
        listener.task("epoch 102/200", images)
        listener.update(images // 2, **TERMS)
        whole, epoch = Console(width=80).render_lines(display.get_renderable(), pad=False)
        told = ["".join(part.text for part in line).strip() for line in (whole, epoch)]
    assert f"{images // 2}/{images}" in told[1] and "--:--" in told[1] and f"/{200 * images}" in told[0]
    assert told[1].endswith("loss 1.234") or told[1].endswith("loss 1.234 · cross entropy 0.8812")
    assert all(len(line) <= 80 and "…" not in line for line in told)


def test_a_wide_terminal_shows_every_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with redirect_stderr(Terminal()), bars() as display:
        listener = Bars(display)
        listener.task("pgd20", 1000)
        listener.update(500, **TERMS)
        (line,) = Console(width=160).render_lines(display.get_renderable(), pad=False)
    assert "".join(part.text for part in line).strip().endswith("feature distance 0.0123 · consistency 1.1")


def test_each_finished_epoch_and_attack_leaves_one_line_above_the_bars() -> None:
    screen = Terminal()
    with redirect_stderr(screen), shown(quiet=False) as listener:
        for epoch in (1, 2):
            listener.task(f"epoch {epoch}/2", 64)
            listener.update(64, **TERMS)
            listener.row({"epoch": epoch - 1, "loss": 1.234, "val_clean": 0.5, "val_robust": 0.25})
        listener.task("square (4/4)", 360)
        listener.update(360, robust=0.25)
    left = [re.sub(r"in \d+\.\d s", "in T", line) for line in lines_of(screen.getvalue())]
    assert left == [
        "epoch 1/2: 64/64 images in T · val clean 0.5 · val robust 0.25 · loss 1.234",
        "epoch 2/2: 64/64 images in T · val clean 0.5 · val robust 0.25 · loss 1.234",
        "square (4/4): 360/360 images in T · robust 0.25",
    ]


def test_words_beside_a_bar_stand_on_lines_of_their_own() -> None:
    screen = Terminal()
    with redirect_stderr(screen), shown(quiet=False) as listener:
        listener.task("square (4/4)", 360)
        listener.update(0, robust=0.31, forwards=5004)
        say("Batch: 256")
        listener.note("A note.")
        print("A library's warning.", file=sys.stderr)
    left = lines_of(screen.getvalue())
    assert left[:3] == ["Batch: 256", "A note.", "A library's warning."]


def test_without_a_terminal_an_epoch_is_one_line_with_its_accuracies(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=False) as listener:
        listener.task("epoch 1/1", 64)
        listener.update(64, loss=1.5)
        listener.row({"epoch": 0, "loss": 1.5, "test_clean": 0.5, "test_robust": 0.25})
    told = capsys.readouterr().err
    assert told.startswith("epoch 1/1: 64/64 images in ")
    assert told.endswith(" s · test clean 0.5 · test robust 0.25 · loss 1.5\n")
