"""Runs that differ in a few values of one recipe: `vary` of a suite, and the suite that `ardbench sweep` makes. Torch-free."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench.errors import ArdbenchError
from ardbench.methods import method_class
from ardbench.models import zoo
from ardbench.recipes import resolve
from ardbench.recipes.toml import written as in_toml
from ardbench.recipes.values import MOST, several
from ardbench.teachers import default_checkpoint, resolve_teachers

if TYPE_CHECKING:
    from ardbench.campaigns.suites import SuiteRun

Values = dict[str, list[Any]]
SHORT = {"epochs": "schedule.epochs"}
"""What `--over` takes besides keys of a recipe."""


def varied_runs(run: SuiteRun) -> list[SuiteRun]:
    """Return a run for each choice of one of each of its varied values, NAME@KEY=VALUE,...; itself where none varies.

    Raises:
        ArdbenchError: they are more than `MOST`.
    """
    if not run.vary:
        return [run]
    count = math.prod(map(len, run.vary.values()))
    if count > MOST:
        raise ArdbenchError(f"Run {run.name!r} varies into {count:,} runs: give values for at most {MOST:,}.")
    keys = [key for key in run.vary if key != "seed"]
    seeds, short = run.vary.get("seed", run.seeds), shortened(keys)
    found = []
    for values in product(*(run.vary[key] for key in keys)):
        words = ",".join(f"{short[key]}={written(value)}" for key, value in zip(keys, values, strict=True))
        vary = {key: (value,) for key, value in zip(keys, values, strict=True)}
        name = f"{run.name}@{words}" if words else run.name
        found.append(run.model_copy(update={"name": name, "vary": vary, "seeds": seeds}))
    return found


def chosen(run: SuiteRun) -> dict[str, Any]:
    """Return the values by which one of `varied_runs` differs from the others."""
    return {key: values[0] for key, values in run.vary.items()}


def shortened(keys: Sequence[str]) -> dict[str, str]:
    """Return dotted keys by their last part where no two share it."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


def written(value: Any) -> str:
    """Return a varied value as it stands in names and tables."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def over(texts: Sequence[str], taken: Sequence[str] = ()) -> Values:
    """Return what `--over KEY=VALUE,VALUE` names, by key.

    Args:
        texts: as typed.
        taken: keys that something else gives a value.

    Raises:
        ArdbenchError: another form, or a key that is given twice.
    """
    found: Values = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not (key and equals and values):
            raise ArdbenchError(
                f"--over {text!r} is not of the form KEY=VALUE,VALUE, such as --over optimizer.lr=0.05,0.1 or seed=0..2."
            )
        key = SHORT.get(key, key)
        if key in found or key in taken:
            raise ArdbenchError(
                f"--over {key}: it is given a value elsewhere too: give all of its values in one --over."
            )
        found[key] = several(values)
    return found


def sweep_suite(
    recipe: str, texts: Sequence[str], typed: Sequence[str], *, dataset: str | None, student: str | None,
    given: Mapping[str, Any], measured: Mapping[str, Any],
) -> tuple[str, str]:  # fmt: skip
    """Return the name of the suite that a sweep is, and its file.

    Args:
        recipe, dataset, student: as `ardbench.recipes.resolve` takes them.
        texts: what stands after each --over.
        typed: teachers, as `resolve_teachers` takes them.
        given: changes of every run.
        measured: protocols, checkpoints (none: the selected one) and n of the suite.

    Raises:
        ArdbenchError: the first run of the sweep is refused, or a value is given twice.
    """
    values = over(texts, [*given, *(["student"] if student else []), *(["data.name"] if dataset else [])])
    first = dict(given) | {key: several[0] for key, several in values.items()}
    found = resolve(recipe, dataset=dataset, student=student, sets=first)
    method = found.method["name"]
    taught = resolve_teachers(typed, method, method_class(method).roles, found)
    decides = (recipe, dataset, student, given, values, [teacher.identity for teacher in taught])
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    words = [recipe.rpartition("/")[2].replace(".toml", "")[:40], *shortened(list(values)).values()]
    name = f"sweep-{re.sub(r'[^A-Za-z0-9._@-]+', '-', '-'.join(words))[:80]}-{digest[:8]}"
    suite = {"name": name, "title": f"{recipe} over {', '.join(texts)}"} | dict(measured)
    suite["checkpoints"] = measured["checkpoints"] or [default_checkpoint(found)]
    run = {
        "name": method,
        "recipe": str(Path(recipe).absolute()) if ".toml" in recipe else recipe,
        "dataset": dataset,
        "student": student,
        "teachers": [t.source if t.source.startswith(zoo.PREFIX) else str(Path(t.source).absolute()) for t in taught],
        "set": given,
        "vary": values,
    }
    return name, f"{_lines(suite)}\n[[runs]]\n{_lines(run)}"


def _lines(section: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {in_toml(value)}\n" for key, value in section.items() if value is not None)
