"""Runs in the form that is committed: left in a folder by `reproduce --keep`, taken from there by `--from`. Torch-free.

A finished run is config.json, env.json, teachers.json, metrics.jsonl, its weights, its verdicts and findings, and `done`; of
an unfinished one `last.state` goes with it in place of `done`. Folders of the machine that wrote it are cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ardbench.data.extra import PREFIX, file_name
from ardbench.errors import ArdbenchError
from ardbench.evaluation import trust
from ardbench.evaluation.verdicts import load_verdicts
from ardbench.models.sealed import check_seal, ends_with_its_digest
from ardbench.runs import Run, is_checkpoint, read_json, write_atomic
from ardbench.untrusted import TEXT_LIMIT, WEIGHTS_LIMIT, read_bytes
from ardbench.written import without_folder

STATE = "last.state"


def standing(run: Run) -> tuple[int, int]:
    """Return how far a run is, to be compared: not there, begun with so many epochs, or finished."""
    if not (run.path / "config.json").is_file():
        return 0, 0
    if run.done is not None:
        return 2, 0
    return (1, len(run.metrics)) if (run.path / STATE).is_file() else (0, 0)


def differ(one: Run, other: Run) -> bool:
    """Return whether both are finished, and with other weights, as on two machines."""
    return bool(one.done and other.done) and one.done != other.done and _weights(one) != _weights(other)


def check(run: Run) -> None:
    """Check that a run is whole: its name in config.json, and the checksums of weights and state.

    Raises:
        ArdbenchError: it is not, in one sentence.
    """
    if run.recipe.identity([teacher.identity for teacher in run.teachers]) != run.identity:
        raise ArdbenchError(
            f"{run.path / 'config.json'} has changed since the run was made (its recipe and teachers have another hash): "
            "restore it, or take the run away."
        )
    for checkpoint in _weights(run) or run.checkpoints:
        check_seal(run.intact(checkpoint))
    state = run.path / STATE
    if run.done is None and state.is_file() and not ends_with_its_digest(read_bytes(state, WEIGHTS_LIMIT)):
        raise ArdbenchError(f"{state} is damaged (its checksum does not match): restore it or delete it.")


def bring(source: Run, target: Run, *, renew: bool = False) -> int:
    """Copy into `target` what it lacks of `source`, each file whole and the one that counts last; return how many files.

    Where the target is as far it gets verdicts alone, if both have the same weights; it is never set back.

    Args:
        source: finished, or with a trainer's state.
        target: of the same recipe, there or not.
        renew: whether verdicts that are there already are written again where they differ.

    Raises:
        ArdbenchError: the source is not whole, is another run, or the target cannot be written.
    """
    check(source)
    ahead = standing(source) > standing(target)
    if not ahead and (source.done is None or _weights(source) != _weights(target)):
        return 0
    if (target.path / "config.json").is_file() and target.identity != source.identity:
        raise ArdbenchError(f"{target.path} and {source.path} are two runs under one name: take one away.")
    written = 0
    for path in _files(source):
        there = target.path / path.relative_to(source.path)
        if not ahead and (path.parent == source.path or (there.exists() and not renew)):
            continue
        content = _content(path)
        if not there.is_file() or there.read_bytes() != content:
            write_atomic(there, content)
            written += 1
    if ahead and source.done is not None:
        (target.path / STATE).unlink(missing_ok=True)
    return written


def _weights(run: Run) -> dict[str, str]:
    """Return the sha256 of each checkpoint of a finished run."""
    return dict((run.done or {}).get("weights", {}))


def _files(run: Run) -> Iterator[Path]:
    """Yield the files of a run that are copied; the last one decides how far the copy is."""
    for name in ("config.json", "env.json", "teachers.json", "metrics.jsonl"):
        if (run.path / name).is_file():
            yield run.path / name
    yield from map(run.weights, run.checkpoints)
    yield from (path for path in sorted(run.path.glob("eval/*/*.json")) if not path.name.endswith(".state.json"))
    yield run.path / (STATE if run.done is None else "done")


def _content(path: Path) -> bytes:
    """Return what a copy of a file holds."""
    if path.name == "config.json":
        return _as_json(_portable(read_json(path)))
    if path.name == "env.json":
        told = read_json(path)
        return _as_json(told | {"argv": [without_folder(word) for word in told.get("argv", ())]})
    if path.name == "teachers.json":
        told = read_json(path)
        named = [one | {"source": without_folder(one["source"])} for one in told.get("teachers", ())]
        return _as_json(told | {"teachers": named})
    if path.parent.parent.name == "eval" and not trust.is_trust(path):
        return _as_json(load_verdicts(path).document())
    return read_bytes(path, WEIGHTS_LIMIT if path.suffix in (".safetensors", ".state") else TEXT_LIMIT)


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose teachers lie beside the run, RUN/CHECKPOINT.safetensors; of other files it has the names."""
    teachers = []
    for told in config.get("teachers", ()):
        weights = Path(told["weights"])
        of_run = is_checkpoint(told["identity"].rpartition("@")[2])
        beside = f"{weights.parent.name}/{weights.name}" if of_run else weights.name
        teachers.append(told | {"source": without_folder(told["source"]), "weights": beside})
    return config | {"recipe": portable(config["recipe"]), "teachers": teachers}


def portable(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as it is written, without folders of the machine: of files it has the names."""
    if extra := recipe["data"].get("extra"):
        recipe = recipe | {"data": recipe["data"] | {"extra": f"{PREFIX}{file_name(extra)}"}}
    if start := recipe.get("start"):
        recipe = recipe | {"start": start | {"source": without_folder(start["source"])}}
    return recipe


def _as_json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()
