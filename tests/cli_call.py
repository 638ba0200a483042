"""Running a command line within the tests' own process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from ardbench.cli import ardbench


def call(*words: object) -> Result:
    """Run a command line in this process; a traceback is never an answer."""
    result = CliRunner().invoke(ardbench, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
