"""The options that say where the runs of `ardbench reproduce` and `sweep` work."""

from __future__ import annotations

import rich_click as click

from ardbench.cli import options
from ardbench.verbs.engines import RETRIES

chosen = options.together(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where runs work: on this machine, or on a Ray cluster whose nodes share the folders of runs and data.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        help="How many runs at once; without it one for each CUDA device, as many as there are cores on the CPU, and on "
        "Ray as many as there is room for.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="With --engine ray: the cluster's head; without it $RAY_ADDRESS, else the cluster of this machine, else Ray is "
        "started on this machine alone.",
    ),
    click.option(
        "--gpus-per-run",
        type=click.FloatRange(min=0, max=1),
        help="With --engine ray: the GPU that a run takes, such as 0.5 where two small ones share it; without it 1 where "
        "the cluster has GPUs, and 0 with --device cpu.",
    ),
    click.option(
        "--cpus-per-run",
        type=click.IntRange(min=1),
        help="With --engine ray: the cores that a run takes; without it 1.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        help=f"With --engine ray: how often a run goes on from what it saved after its worker or node was lost; without it "
        f"{RETRIES}.",
    ),
)
