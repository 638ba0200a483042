"""Mistakes in the code of a method from outside, each said in one sentence: of whom, where, and what is wanted. Torch-free."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ardbench.errors import ArdbenchError

SHOW = "ARDBENCH_TRACEBACK"
"""The environment variable with which the command line prints what lies behind a refusal."""
LONGEST = 300
"""Letters of an exception's first line that stand in a sentence."""
PASSED_ON = ("OutOfMemoryError",)
"""torch's own, by name; nobody's mistake."""


class Fault(ArdbenchError):
    """A mistake in a method's code; what was raised there, if anything, is its cause."""


def outside(kind: type) -> bool:
    """Return whether a method's class is none of ardbench's own: what these raise is ours to mend, and shows how."""
    return _package(kind) != "ardbench"


def _package(kind: Any) -> str:
    return str(kind.__module__).partition(".")[0]


def place(kind: Any, part: str = "") -> str:
    """Return where a class is written, or the part of it that its package has: "/home/a/method.py, line 12"."""
    owners = [one for one in getattr(kind, "__mro__", ()) if part in vars(one) and _package(one) == _package(kind)]
    thing = vars(owners[0])[part] if owners else kind
    try:
        return f"{inspect.getsourcefile(thing)}, line {inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return str(getattr(thing, "__module__", thing))


def raised(error: BaseException, package: str = "", otherwise: str = "") -> str:
    """Return what was raised and where, such as "ZeroDivisionError in /home/a/method.py, line 3: division by zero".

    Args:
        package: whose deepest line is told; any line if not given.
        otherwise: the place where there is no such line.
    """
    lines = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not package or frame.f_globals.get("__name__", "").partition(".")[0] == package
    ]
    said = str(error).strip().partition("\n")[0][:LONGEST]
    return f"{type(error).__name__} in {(lines or [otherwise])[-1]}" + (f": {said}" if said else "")


def behind(error: ArdbenchError) -> str:
    """Return the traceback of what a method's code raised, or nothing."""
    cause = error.__cause__ if isinstance(error, Fault) else None
    return "".join(traceback.format_exception(cause)) if cause else ""


def refused(kind: type, about: str, wanted: str, part: str = "step") -> Fault:
    """Return the refusal of what a method's code has or returns; `part` is the function of it that is to be changed."""
    return Fault(f"The method {getattr(kind, '__name__', kind)} {about} ({place(kind, part)}): {wanted}.")


@contextmanager
def blamed(kind: type, part: str = "step") -> Iterator[None]:
    """Turn what a method's code from outside raises into one sentence; `part` is the function that was called.

    Raises:
        Fault: with what was raised as its cause.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ArdbenchError) or type(error).__name__ in PASSED_ON or not outside(kind):
            raise
        what = raised(error, _package(kind), place(kind, part)).rstrip(".")
        raise Fault(
            f"The method {kind.__name__} failed with {what}{_hint(error, kind)}; what was saved before stays, and "
            f"{SHOW}=1 shows the traceback."
        ) from error


def _hint(error: Exception, kind: type) -> str:
    """Return what is most likely missing where a method without roles looks for a teacher."""
    lines = [frame.line or "" for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, IndexError) and not getattr(kind, "roles", ()) and any("teachers" in line for line in lines):
        return ' (its class names no teacher: give it one, such as roles = ("robust",))'
    return ""
