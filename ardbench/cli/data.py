"""`ardbench data`: fetch, check and count a data set."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.listeners.drawn import table
from ardbench.listeners.screen import shown


@click.command()
@click.argument("name")
@options.size
@options.test_share
@options.data_root
@click.option("--no-download", is_flag=True, help="Refuse an absent file in place of fetching it.")
@options.quiet
@options.as_json
def data(
    name: str, size: int | None, test_share: float | None, data_root: Path | None, no_download: bool, quiet: bool, as_json: bool
) -> None:  # fmt: skip
    """Fetch a data set where it is absent, check every file of it, and tell what it holds.

    NAME is one of `ardbench list datasets`, or your own images: folder:PATH, with a folder of pictures for each class in
    train/ and in test/ (or val/), or class folders alone with --test-share; npz:FILE, with arrays `image` and `label`, or
    train_images, train_labels, test_images, test_labels as in MedMNIST's files, or x_train, y_train, x_test, y_test.
    tiny-imagenet is read from its archive, or from a folder tiny-imagenet-200 as people keep it: one folder too deep, or with
    the validation images sorted into folders of their classes.
    """
    from ardbench.data import info, own

    name = own.named(name, size=size, test_share=test_share) or name
    info(name)  # refuses an unknown name before torch is loaded
    from ardbench.data.verify import describe

    output = Output(as_json)
    with output.working(), shown(quiet) as progress:
        found = describe(name, data_root, not no_download, progress)
    shape = "x".join(map(str, found["shape"]))
    output.line(f"{found['title']}: {len(found['classes'])} classes, {shape}, {found['root'] or 'embedded'}")
    for file in found["files"]:
        output.line("  " + "  ".join(str(said) for said in file.values() if said is not None))
    numbers = ["images", "fewest of a class", "most of a class"]
    if own.is_own(name):
        output.line(
            f"mean {found['mean']}, deviation {found['std']}; test images that are training images too: {found['twins']}"
        )
        rows = [
            (label, *(found["classes_of"][half][label] for half in ("train", "test"))) for label in found["classes"]
        ]
        output.show(table(["class", "train", "test"], rows, ["train", "test"]))
    halves = [(half, *found[half].values()) for half in ("train", "test")]
    output.show(table(["split", *numbers], halves, numbers))
    output.document(found)
