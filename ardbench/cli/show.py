"""`ardbench show`: a recipe as it would run and where each value comes from, or what a run directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ardbench.cli import options
from ardbench.cli.output import Output
from ardbench.errors import ArdbenchError
from ardbench.listeners import say
from ardbench.listeners.drawn import table

if TYPE_CHECKING:
    from ardbench.runs import Run


@click.command()
@click.argument("what", metavar="RECIPE|RUN", shell_complete=options.complete_recipe)
@options.changes
@options.facts_root
@options.as_json
def show(
    what: str,
    student: str | None,
    dataset: str | None,
    seed: int | None,
    epochs: int | None,
    fast: bool,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show a recipe with every value resolved, or what a run directory holds.

    A recipe is printed as TOML that trains the same run when it is given back as a file; behind each value stands where
    it comes from: recipe (with what it extends), variant, command line, or default.
    """
    output = Output(as_json)
    if Path(what).is_dir():
        from ardbench.runs import Run

        if fast or sets or any(value is not None for value in (student, dataset, seed, epochs)):
            raise ArdbenchError(f"{what} is a run, whose recipe is what it is: give changes with the name of a recipe.")
        _show_run(Run.open(Path(what)), output)
        return
    from ardbench.recipes import flat, moved, resolve, toml
    from ardbench.recipes.origins import origins
    from ardbench.verbs.training import FAST

    sets = (*(FAST if fast else ()), *sets)
    recipe = resolve(what, dataset=dataset, student=student, seed=seed, epochs=epochs, sets=sets)
    given = {"student": student, "data.name": dataset, "seed": seed, "schedule.epochs": epochs}
    typed = {key for key, value in given.items() if value is not None}
    typed |= {text.partition("=")[0].strip() for text in sets}
    given_in, variants = origins(what, recipe.data.name, typed)
    tree = recipe.model_dump(mode="json", exclude_none=True)
    where = {key: given_in.get(key, "default") for key, _ in flat(tree)}
    if note := moved(what, recipe):
        say(note)
    output.line("\n".join([*toml.lines(tree, where), "", f"# variants: {', '.join(variants) or 'none'}"]))
    output.document({"recipe": recipe.model_dump(mode="json"), "from": where, "variants": variants})


def _show_run(run: Run, output: Output) -> None:
    """Print how a run stands, what it learnt from, and what was measured on it."""
    from ardbench.evaluation.trust import is_trust

    recipe, done = run.recipe, run.done
    state = "stale: a teacher has changed since" if run.stale else "done" if done else "unfinished"
    files = [path for path in run.path.glob("eval/*/*.json") if not path.name.endswith(".state.json")]
    stored = sorted(str(path.relative_to(run.path)) for path in files if not is_trust(path))
    facts = {
        "run": str(run.path),
        "identity": run.identity,
        "recipe": recipe.name,
        "method": recipe.composition,
        "dataset": recipe.data.name,
        "student": recipe.student,
        "seed": recipe.seed,
        "begins": f"{recipe.start.kind} {recipe.start.source}" if recipe.start else "with fresh weights",
        "state": state,
        "epochs": f"{len(run.metrics)}/{recipe.schedule.epochs}",
        "teachers": [f"{teacher.role}={teacher.source}" for teacher in run.teachers],
        "teachers know": [f"{teacher.role}: {teacher.said}" for teacher in run.teachers_checked or []],
        "checkpoints": run.checkpoints,
        "evaluations": stored,
    }
    words = {key: ", ".join(value) or "none" if isinstance(value, list) else value for key, value in facts.items()}
    output.show(table(["", "value"], list(words.items())))
    output.document(facts | {"config": run.config, "done": done, "metrics": run.metrics})
