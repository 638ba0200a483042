"""The command line: a group whose commands are loaded when they are called for, and what becomes of their refusals.

Exit codes: 0 finished, 1 not verified, 2 refused (one sentence on stderr), 3 stopped before the end and saved, 130
interrupted at once.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from pkgutil import resolve_name
from typing import Any, NoReturn

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from ardbench import __version__
from ardbench.errors import ArdbenchError, printable, unknown
from ardbench.faults import SHOW

COMMANDS = {
    "train": "ardbench.cli.train:train",
    "distill": "ardbench.cli.distill:distill",
    "sweep": "ardbench.cli.sweep:sweep",
    "eval": "ardbench.cli.evaluate:evaluate",
    "identify": "ardbench.cli.identify:identify",
    "compare": "ardbench.cli.compare:compare",
    "transfer": "ardbench.cli.transfer:transfer",
    "report": "ardbench.cli.report:report",
    "reproduce": "ardbench.cli.reproduce:reproduce",
    "export": "ardbench.cli.export:export",
    "verify": "ardbench.cli.verify:verify",
    "status": "ardbench.cli.status:status",
    "list": "ardbench.cli.listing:listing",
    "show": "ardbench.cli.show:show",
    "diff": "ardbench.cli.diff:diff",
    "data": "ardbench.cli.data:data",
    "doctor": "ardbench.cli.doctor:doctor",
    "new": "ardbench.cli.new:new",
    "check": "ardbench.cli.check:check",
    "completion": "ardbench.cli.completion:completion",
}
"""Name -> where the command lies; nothing is imported before it is asked for."""

SHARED = ("train", "distill", "eval")
"""The commands whose work several processes can do together, as torchrun starts them."""

DISAGREED = 1
"""The exit code of what was looked at once more and is otherwise."""
STOPPED = 3
"""The exit code of work that was stopped before its end, and saved."""


class Commands(click.RichGroup):
    """A group that loads a command when it is called, and prints every refusal as one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; an unknown word is refused with the nearest one."""
        if cmd_name not in COMMANDS:
            if cmd_name.startswith("-") or ctx.resilient_parsing:
                return None
            raise unknown("command", cmd_name, COMMANDS)
        command: click.Command = resolve_name(COMMANDS[cmd_name])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a line; several processes would do each other's work where they cannot share it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name not in SHARED and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ArdbenchError(f"{name} works in one process, and torchrun started several: type it without torchrun.")
        if command is not None and not ctx.resilient_parsing:
            _tell_of_doubles(command, ctx, rest)
        return name, command, rest

    def main(self, args: list[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command line and exit; the words themselves are kept, so that "type it again" can quote them."""
        words = sys.argv[1:] if args is None else list(args)
        extra |= {"standalone_mode": False, "obj": shlex.join(["ardbench", *words])}
        try:
            _check_words(words)
            code = super().main(words, prog_name or "ardbench", **extra)
        except (ArdbenchError, click.ClickException) as error:
            sys.exit(_refuse(error))
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted: what was saved before stays, and the same command goes on from there.", err=True)
            sys.exit(130)
        except OSError as error:
            if error.filename is None:
                raise
            sys.exit(_refuse(ArdbenchError(f"{error.filename}: {error.strerror}: give a path that can be used.")))
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's own class, without loading torch for it
                raise
            sys.exit(_refuse(ArdbenchError("The device is out of memory: free it, or give a smaller batch.")))
        sys.exit(code if isinstance(code, int) else 0)


def _check_words(words: list[str]) -> None:
    """Refuse an empty word: as a path it would mean the folder at hand, and elsewhere nothing."""
    empty = next((i for i, word in enumerate(words) if not word or re.fullmatch("--[a-z-]+=", word)), None)
    if empty is not None:
        where = words[empty].rstrip("=") or (words[empty - 1] if empty else "ardbench")
        raise ArdbenchError(f"Nothing stands after {where}, as with a variable that is not set: give a value there.")


def _tell_of_doubles(command: click.Command, ctx: click.Context, words: list[str]) -> None:
    """Say which options are typed twice and hold one value, since the first is lost."""
    order = command.make_parser(click.Context(command, parent=ctx)).parse_args(list(words))[2]
    for option in dict.fromkeys(order):
        if isinstance(option, click.Option) and not (option.multiple or option.is_flag) and order.count(option) > 1:
            click.echo(f"{option.opts[-1]} is typed {order.count(option)} times: the last one counts.", err=True)


def _refuse(error: Exception) -> int:
    """Print a refusal as one sentence, or the help where a group was called with nothing, and return the exit code."""
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.message)
        return 2
    if os.environ.get(SHOW) and (behind := error.__cause__):
        click.echo("".join(traceback.format_exception(behind)), err=True)
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    click.echo(f"Error: {printable(' '.join(text.split()))}", err=True)
    return 2


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "--version", prog_name="ardbench", message="%(prog)s %(version)s")
@click.command_panel("Train", commands=["train", "distill", "sweep"])
@click.command_panel(
    "Measure and compare",
    commands=["eval", "identify", "compare", "transfer", "report", "reproduce", "export", "verify"],
)
@click.command_panel(
    "Look up", commands=["status", "list", "show", "diff", "new", "check", "data", "doctor", "completion"]
)
@click.option(
    "--plugin",
    "plugins",
    type=click.Path(dir_okay=False),
    multiple=True,
    metavar="FILE.py",
    help="Run this file and take its METHODS, MODULES, MODELS, DATASETS and RECIPES; may be repeated. Also $ARDBENCH_PLUGINS.",
)
def ardbench(plugins: tuple[str, ...]) -> None:
    """Train robust teachers, distill small students from them, and measure both under the same attacks.

    Exit codes: 0 finished, 1 not verified, 2 refused with one sentence, 3 stopped before the end and saved (type the same
    command again to go on), 130 interrupted at once.
    """
    if plugins:
        from ardbench.plugins import use

        use(plugins)
