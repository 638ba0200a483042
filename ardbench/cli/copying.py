"""The options `--from` and `--keep` of `ardbench reproduce`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ardbench.cli import options

chosen = options.together(
    click.option(
        "--from",
        "beside",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FOLDER",
        help="Take runs that are further in this folder than under --runs, such as committed ones; may be repeated.",
    ),
    click.option(
        "--keep",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Leave every finished run there as it can be committed: without trainer state and folders of this machine.",
    ),
    click.option(
        "--unfinished",
        is_flag=True,
        help="With --keep: those that are not finished as well, with their trainer state, to go on on another machine.",
    ),
)
