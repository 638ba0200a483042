"""The options that several commands share, each with one meaning everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

import rich_click as click
from click.shell_completion import CompletionItem

from ardbench.engine.stopping import after
from ardbench.errors import ArdbenchError
from ardbench.verbs import FULL_TABLE

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

UNITS = {"s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[float]):
    """A length of time such as 90s, 9m, 1.5h or 1h30m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or refuse a text without a unit."""
        if isinstance(value, float):
            return value
        parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", value)
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
        if not parts or "".join(number + unit for number, unit in parts) != value or seconds <= 0:
            self.fail(f"{value!r} is no length of time: give a number and a unit, such as 90s, 9m or 1.5h.", param, ctx)
        return seconds


class Batch(click.ParamType["int | str"]):
    """A number of images at a time, or `auto`."""

    name = "batch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number or "auto", or refuse anything else."""
        text = str(value)
        if text != "auto" and not (text.isdecimal() and int(text)):
            self.fail(f"{text!r} is no batch: give a number of images from 1 on, or auto.", param, ctx)
        return text if text == "auto" else int(text)


class Radius(click.ParamType[float]):
    """A radius that may be written as a fraction, such as 8/255."""

    name = "radius"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or refuse what is none or is negative."""
        try:
            radius = float(Fraction(str(value)))
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{value!r} is neither a number nor a fraction such as 8/255.", param, ctx)
        if radius < 0:
            self.fail(f"{value!r} is negative: a radius is 0 or more, such as 8/255.", param, ctx)
        return radius


class Checkpoint(click.ParamType[str]):
    """A checkpoint of a run: last, best, averaged, epoch-N, or what a command takes besides."""

    name = "checkpoint"

    def __init__(self, *besides: str) -> None:
        self.besides = besides

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or refuse what is none."""
        from ardbench.runs import known_checkpoint

        try:
            return str(value) if value in self.besides else known_checkpoint(str(value))
        except ValueError as error:
            self.fail(f"{error}{''.join(f', or {word}' for word in self.besides)}.", param, ctx)


class Seeds(click.ParamType["tuple[int, ...]"]):
    """Seeds such as 0, 0,1,2 or 0..2."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the seeds, or refuse a text that names none."""
        from ardbench.recipes.values import several

        if isinstance(value, tuple):
            return value
        try:
            found = tuple(several(str(value)))
        except ArdbenchError as error:
            self.fail(str(error), param, ctx)
        if not all(type(seed) is int and seed >= 0 for seed in found):
            self.fail(f"{value!r} names no seeds: give whole numbers from 0 on, such as 0, 0,1,2 or 0..2.", param, ctx)
        return found


def _path(flag: str, text: str, default: Path | None = None, **words: Any) -> Decorator:
    kind = click.Path(file_okay=False, path_type=Path)
    shows = default is not None
    return click.option(flag, type=kind, default=default, show_default=shows, metavar="FOLDER", help=text, **words)


def _numbers(flag: str, what: str) -> Decorator:
    text = f"For a file whose code normalises pixels in [0, 1]: the {what}, one number or one a channel with commas between "
    text += "(1/255 is one; those of pixels up to 255 are divided by it), a data set's name, imagenet, half (0.5)."
    return click.option(flag, metavar="NUMBERS", help=text)


mean, std = _numbers("--mean", "mean that is subtracted"), _numbers("--std", "deviation that they are divided by")
device = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where to compute: auto takes CUDA if there is one, and the choice is always printed.",
)


def _data_root(**words: Any) -> Decorator:
    def lies(ctx: click.Context, param: click.Parameter, folder: Path | None) -> Path | None:
        from ardbench.data import lying_in

        ctx.with_resource(lying_in(folder))
        return folder

    text = "The folder of the data sets; without it, $ARDBENCH_DATA or else ./data."
    return _path("--data-root", text, callback=lies, is_eager=True, **words)


data_root = _data_root()
facts_root = _data_root(expose_value=False)
"""The same for commands that only ask what a data set is: one of torchvision's is read for that."""
runs = _path("--runs", "The folder in which run directories lie.", Path("runs"))
deadline = click.option(
    "--time-limit",
    "deadline",
    type=Duration(),
    metavar="TIME",
    # from here on and not from when torch is loaded, which may take longer than the limit
    callback=lambda ctx, param, seconds: after(seconds),
    help="Save and stop so long after the start, such as 90s, 9m or 1.5h; the same command goes on later (exit code 3).",
)
quiet = click.option(
    "--quiet", is_flag=True, help="Print no progress; results, warnings, refusals and the device remain."
)
log_file = click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append what happens to this file, one JSON object a line: time, event, run, epoch, numbers.",
)
tensorboard = click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Draw every epoch in this folder for `tensorboard --logdir FOLDER`; wants pip install 'ardbench[tensorboard]'.",
)
wandb = click.option(
    "--wandb",
    metavar="PROJECT",
    help="Follow every epoch in this project of Weights & Biases; wants pip install 'ardbench[wandb]'.",
)
mlflow = click.option(
    "--mlflow",
    metavar="URI",
    help="Follow every epoch by MLflow at this URI, such as sqlite:///mlflow.db; wants pip install 'ardbench[mlflow]'.",
)
out = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the tables are written; without it in tables/ below --runs.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and everything else on stderr."
)
sets = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change one value of the recipe, such as attack.steps=7; may be repeated, and has the last word.",
)
fast = click.option(
    "--fast",
    is_flag=True,
    help="Attack and train in bf16 (weights and losses stay fp32): about twice as fast where the device computes in it, "
    "and another run than without. On CUDA attacks are also replayed as one launch, which changes no number.",
)
teachers = click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="[ROLE=]SOURCE",
    help="A run directory, RUN@CHECKPOINT (last, best, averaged or epoch-N), an exported folder, FILE:ARCH such as "
    "wrn.pt:wrn-34-10, FILE#PART:ARCH of a file with several networks, FILE:ARCH+mean=NUMBERS+std=NUMBERS of one whose code "
    "normalises pixels, zoo:NAME of `ardbench list teachers`, or robustbench:NAME; once for each teacher.",
)
init = click.option(
    "--init",
    metavar="RUN|FILE[:ARCH]",
    help="Begin with the weights of a run, an exported folder or a file instead of fresh ones; where it has another number of "
    "classes, the head is drawn anew.",
)
extend = click.option(
    "--extend",
    metavar="RUN",
    help="In place of RECIPE: go on with a finished run until it has --epochs epochs in all, as a run of its own.",
)
dataset = click.option(
    "--dataset",
    metavar="NAME",
    help="Use this data set in place of the recipe's: a name of `ardbench list datasets`, or your own images as folder:PATH or "
    "npz:FILE, with options behind a ?, such as folder:pets?size=64.",
)
size = click.option(
    "--size",
    type=click.IntRange(min=4),
    metavar="PIXELS",
    help="Of your own images: resize the shorter side to this and cut out the middle; the same as ?size= behind the name.",
)
test_share = click.option(
    "--test-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Of your own images, where nothing says which are for the test: this much of each class; the same as ?test_share=.",
)
student = click.option(
    "--student",
    metavar="MODEL",
    help="Train this architecture in place of the recipe's student: one of `ardbench list models`, timm:NAME or "
    "torchvision:NAME, with options as in 'timm:resnet18?stem=small'.",
)
seed = click.option("--seed", type=click.IntRange(min=0), help="The seed of every random draw; the recipe's is 0.")
seeds = click.option(
    "--seed",
    "seeds",
    type=Seeds(),
    multiple=True,
    metavar="SEED",
    help="The seed of every random draw, the recipe's is 0; 0,1,2 or 0..2 trains a run of each, one after the other.",
)
keep_every = click.option(
    "--keep-every",
    type=click.IntRange(min=1),
    metavar="EPOCHS",
    help="Keep the weights after every so many epochs as checkpoints epoch-N; the training is the same.",
)
dry_run = click.option(
    "--dry-run",
    is_flag=True,
    help="Print what is missing in images, PFLOP and hours here, and do nothing; where no earlier run tells the hours, ten "
    "seconds of work are tried.",
)
epochs = click.option(
    "--epochs", type=click.IntRange(min=1), help="Train this long; milestones and phases are shares, so they scale."
)


def together(*options: Decorator) -> Decorator:
    """Return one decorator that applies several options, the first of them shown first."""
    return lambda function: reduce(lambda inner, option: option(inner), reversed(options), function)


protocols = click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    help="What to measure, such as pgd20, aa, aa:apgd-ce,square, or FILE.toml:NAME of your own; may be repeated. "
    f"Without it the full table: {', '.join(FULL_TABLE)}.",
)
surrogate = click.option(
    "--surrogate",
    metavar="SOURCE",
    help="The network on which transfer crafts its images: RUN, RUN@CHECKPOINT, an exported folder, FILE:ARCH, "
    "FILE:ARCH+mean=NUMBERS+std=NUMBERS, zoo:NAME or SUITE:NAME.",
)
checkpoints = click.option(
    "--checkpoint",
    "checkpoints",
    type=Checkpoint("all"),
    multiple=True,
    metavar="CHECKPOINT",
    help="Which checkpoint of a run: last, best, averaged, epoch-N of `--keep-every`, or all; may be repeated. Without it "
    "the selected one and the last.",
)
subset = click.option(
    "--n",
    type=click.IntRange(min=1),
    help="Measure a class-balanced subset of so many test images, always the same one.",
)
eps = click.option(
    "--eps", type=Radius(), metavar="EPS", help="The radius of the attacks in pixel units, such as 8/255."
)
norm = click.option(
    "--norm",
    type=click.Choice(["linf", "l2"]),
    help="The norm of the attacks; as with --eps, the run's own if not given.",
)
batch = click.option(
    "--batch",
    type=Batch(),
    default=500,
    show_default=True,
    help="Images at a time; it decides the noise of the attacks. auto: tried out once for this network and device, "
    "and remembered below --runs.",
)
attack_seed = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The seed of the attacks."
)
fast_attacks = click.option(
    "--fast",
    is_flag=True,
    help="Run AutoAttack's attacks in bf16, every success confirmed in fp32; measured as aa-fast, beside aa.",
)
keep_adversarial = click.option(
    "--keep-adversarial",
    is_flag=True,
    help="Keep the image that took each point, or else the clean one, in PROTOCOL.adversarial.safetensors.",
)
model = click.option(
    "--model",
    metavar="NAME",
    help="For a file: the architecture whose weights it holds, also timm:NAME or torchvision:NAME.",
)
measured_on = click.option("--dataset", metavar="NAME", help="For a file: the data set to measure on.")
part = click.option(
    "--part",
    default="",
    metavar="PART",
    help="For a file that holds several networks: which of them, such as ema or student.",
)
verdicts_out = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="For a file: where its verdicts are kept; without it a folder under --runs named after file and weights.",
)

again = click.option(
    "--again",
    is_flag=True,
    help="Attack once more with the next seed, kept in eval-other/, and say whether the accuracies agree (else exit code 1).",
)

evaluation = together(
    protocols, surrogate, checkpoints, subset, eps, norm, batch, attack_seed, again, fast_attacks, keep_adversarial
)
in_file = together(model, measured_on, part, mean, std)
of_file = together(in_file, verdicts_out)
changes = together(student, dataset, seed, epochs, fast, sets)
tracking = together(tensorboard, wandb, mlflow)
training = together(student, dataset, size, test_share, seeds, epochs, init, extend, fast, sets, keep_every, dry_run)
running = together(device, data_root, runs, deadline, quiet, log_file, as_json)


def complete_recipe(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the built-in recipes, and files where a path has been begun."""
    from ardbench.recipes import recipe_names

    found = [CompletionItem(name) for name in recipe_names() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_suite(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the built-in suites, and files where a path has been begun."""
    from ardbench.campaigns.suites import suite_names

    found = [CompletionItem(name) for name in suite_names() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


students = click.option(
    "--student", "students", multiple=True, metavar="NAME", help="Take networks of this architecture; may be repeated."
)
recipe_argument = click.argument("recipe", shell_complete=complete_recipe)
recipe_or_extend = click.argument("recipe", required=False, default="", shell_complete=complete_recipe)
