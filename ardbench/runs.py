"""The run directory: where it lies, who may write it, and what it says. Torch-free, so that tables need no framework."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, TypeAdapter, ValidationError

from ardbench import plugins, written
from ardbench.config import Recipe
from ardbench.errors import ArdbenchError, whole
from ardbench.untrusted import TEXT_LIMIT, Line, parse_json, read_bytes

CHECKPOINTS = ("last", "best", "averaged")
EPOCH = re.compile(r"epoch-([1-9][0-9]{0,8})")
"""The checkpoint after so many epochs, which `keep_every` keeps."""
EXPORT = "ardbench-export-1"
"""What config.json of an exported network calls itself."""
EXPORTS_ARE_FOR = "measure it with `ardbench eval`, compare it, or teach by it"
PARTIAL = ".partial"
"""Ends the name of a file that is being written; one that a killed process left is removed when the same file is written
again, or by the next that holds the run's lock."""

LOOK = 0.2
"""Seconds for which a lock is waited for: who only looks at whether it is held has it for a moment."""
MOMENT = 2_000_000_000
"""Nanoseconds within which a file may be written twice without looking different."""
Read = TypeVar("Read")


def is_checkpoint(name: str) -> bool:
    """Return whether a run can have a checkpoint of this name."""
    return name in CHECKPOINTS or EPOCH.fullmatch(name) is not None


def known_checkpoint(name: str) -> str:
    """Return the name of a checkpoint, or refuse it with a ValueError."""
    if not is_checkpoint(name):
        raise ValueError(f"{name!r} is no checkpoint: give last, best, averaged, or epoch-N such as epoch-10")
    return name


def as_file_name(text: str) -> str:
    """Return a name such as timm:resnet18?stem=small as a part of a file's name: timm-resnet18-stem-small."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text)[:80].strip("-")


def checkpoint_order(names: Iterable[str]) -> list[str]:
    """Return checkpoints as they are reported: best, last, averaged, and then by epoch."""
    first = ("best", "last", "averaged")
    return sorted(
        set(names),
        key=lambda name: (first.index(name), 0) if name in first else (len(first), int(name[len("epoch-") :])),
    )


def write_atomic(path: Path, content: bytes) -> None:
    """Write `path` so that a reader, a crash or a full disk sees the old content or the new one, never a part.

    Raises:
        ArdbenchError: the disk is full or the folder cannot be written; the old content is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            _claim(file)
            _remove_abandoned(path)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)  # before it is let go of
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        known = {errno.ENOSPC: "the disk is full", errno.EEXIST: f"{path.parent} is no folder"}
        reason = known.get(error.errno or 0, error.strerror)
        raise ArdbenchError(f"Could not write {path}: {reason}; what was there before is untouched.") from error


def _claim(partial: BinaryIO) -> None:
    """Hold a file as long as it is open and its process lives; a file system without locks lets it be."""
    with suppress(OSError):
        fcntl.flock(partial, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that died left of writing `path`: nobody holds it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        with suppress(OSError), left.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document atomically."""
    write_atomic(path, (whole(json.dumps(document, indent=2, ensure_ascii=False)) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or refuse the file by name."""
    try:
        document = parse_json(read_bytes(path, TEXT_LIMIT))
    except FileNotFoundError:
        raise ArdbenchError(f"{path} is missing: {path.parent} is not a complete run directory.") from None
    except (OSError, ValueError) as error:
        raise ArdbenchError(f"{path} cannot be read as JSON ({error}); delete or restore it.") from None
    if not isinstance(document, dict):
        raise ArdbenchError(f"{path} holds a {type(document).__name__}, but ardbench writes an object there.")
    return document


def check_makeable(flag: str, folder: Path) -> None:
    """Refuse a folder that is not there and cannot be made, or cannot be written, before there is something to write."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ArdbenchError(f"{flag} {folder} cannot be written: give a folder that can.")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(read: Callable[[Path], Read]) -> Callable[[Path], Read]:
    """Return a reader of files that reads each version once: a report asks for the same facts of a run several times.

    What changed a moment ago is read as often as it is asked for, since its next version might look the same.
    """
    known: dict[str, tuple[tuple[int, ...], Read]] = {}

    def reader(path: Path) -> Read:
        name, told = str(path), path.stat()
        if time.time_ns() - told.st_ctime_ns < MOMENT:
            return read(path)
        version = (told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
        if name not in known or known[name][0] != version:
            known[name] = version, read(path)
        return known[name][1]

    return reader


known_sha256 = remembered(sha256_of)


def checked(kind: TypeAdapter[Any], value: object, path: Path, holds: str, mend: str) -> Any:
    """Return what `value`, read from a file, is as one of `kind`.

    Raises:
        ArdbenchError: it is none: "PATH holds no HOLDS (where: what): MEND."
    """
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100] or "the whole"
        raise ArdbenchError(f"{path} holds no {holds} ({where}: {first['msg'].lower()}): {mend}.") from None


@dataclass(frozen=True)
class Teacher:
    """A teacher as a run records it.

    Args:
        source: what the user typed, for people.
        role: "robust" or "clean".
        identity: what enters the student's hash: a run's identity, or the sha256 of a file's weights.
        model: the architecture.
        weights: the file; empty for an object of Python.
        sha256: of the weights; a run whose teacher's weights have changed since is stale. Empty while untrained.
        part: of a file that holds several networks; empty where it holds one.
        seen: the input normalisation that was typed, +mean=...+std=...; empty where none was.
    """

    source: Line
    role: Line
    identity: Line
    model: Line
    weights: str
    sha256: str
    part: Line = ""
    seen: Line = ""


class _Config(BaseModel):
    identity: str
    teachers: tuple[Teacher, ...] = ()


_CONFIG, _DONE, _EPOCH = TypeAdapter(_Config), TypeAdapter(written.Done), TypeAdapter(written.Epoch)
_ENVIRONMENT, _TEACHERS = TypeAdapter(written.Environment), TypeAdapter(written.TeachersChecked)


@dataclass(frozen=True)
class Run:
    """A run directory that exists or is about to."""

    path: Path

    @classmethod
    def place(cls, root: Path, recipe: Recipe, teachers: Sequence[Teacher] = ()) -> Run:
        """Return where the run of this recipe, seed and teachers lies under `root`, whether it exists or not."""
        identity = recipe.identity([teacher.identity for teacher in teachers])
        name, dataset, student = recipe.name.replace("@", "-"), *map(as_file_name, (recipe.data.called, recipe.student))
        named = name if f"-{dataset}-" in f"-{name}-" else f"{name}-{dataset}"
        return cls(root / f"{named}-{student}-s{recipe.seed}-{identity[:8]}")

    @classmethod
    def open(cls, path: Path) -> Run:
        """Return the run at `path`, or refuse a folder that is none."""
        if not (path / "config.json").is_file():
            raise ArdbenchError(f"{path} is not a run directory (no config.json in it): give a folder under runs/.")
        return cls(path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What `create` recorded."""
        if not self.path.name.isprintable():
            raise ArdbenchError(f"{self.path} has a name that cannot be printed: give the folder another.")
        for folder in (found for depth in ("eval*", "eval*/*", "eval-other/*/*") for found in self.path.glob(depth)):
            if folder.is_symlink() and folder.is_dir():
                raise ArdbenchError(f"{folder} leads out of the run: put the folder itself in the place of the link.")
        path = self.path / "config.json"
        document = read_json(path)
        if document.get("format") == EXPORT:
            raise ArdbenchError(f"{self.path} is an exported network and no run: {EXPORTS_ARE_FOR}.")
        mend = "restore it, or delete the run" if "recipe" in document else "give a folder under runs/"
        checked(_CONFIG, document, path, "configuration of a run", mend)
        return document

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        try:
            recipe = Recipe.model_validate(self.config.get("recipe"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArdbenchError(
                f"{self.path / 'config.json'} holds no valid recipe: {where}: {first['msg']}."
            ) from None
        if recipe.outside:
            plugins.expect(recipe.outside, str(self.path), self.environment.get("outside", {}))
        return recipe

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """The teachers, in the order of the method's roles; one that lies beside the run is named from their folder."""
        told = _CONFIG.validate_python(self.config).teachers
        return tuple(
            replace(teacher, weights=str(self.path.parent / teacher.weights)) if teacher.weights else teacher
            for teacher in told
        )

    @property
    def identity(self) -> str:
        """The hash that names the run."""
        return str(self.config["identity"])

    @property
    def done(self) -> dict[str, Any] | None:
        """The done marker, or None while the run is unfinished."""
        try:
            return _known_done(self.path / "done")
        except (FileNotFoundError, NotADirectoryError):
            return None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per finished epoch."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            lines = read_bytes(path, TEXT_LIMIT).splitlines()
            rows = [parse_json(line) for line in lines if line.strip()]
        except (OSError, ValueError) as error:
            raise ArdbenchError(f"{path} has a line that is not JSON ({error}); delete that line.") from None
        for row in rows:
            checked(_EPOCH, row, path, "row of metrics in one of its lines", "delete that line")
        return rows

    @property
    def environment(self) -> dict[str, Any]:
        """What env.json says of the training, or nothing where there is none."""
        path = self.path / "env.json"
        return told_environment(read_json(path), path) if path.exists() else {}

    @property
    def teachers_checked(self) -> list[written.TeacherChecked] | None:
        """What the teachers were found to know before they taught, in their order, or None where they were not asked."""
        path = self.path / "teachers.json"
        if not path.exists():
            return None
        known: written.TeachersChecked = checked(_TEACHERS, read_json(path), path, "checks of teachers", "delete it")
        return known.teachers

    def weights(self, checkpoint: str) -> Path:
        """Return the file of a checkpoint's weights: last, best, averaged or epoch-N."""
        return self.path / f"{checkpoint}.safetensors"

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints that exist, in reporting order."""
        kept = {path.stem for path in self.path.glob("epoch-*.safetensors") if EPOCH.fullmatch(path.stem)}
        return [name for name in CHECKPOINTS if self.weights(name).exists()] + checkpoint_order(kept)

    def intact(self, checkpoint: str) -> Path:
        """Return the file of a checkpoint's weights, if a finished run still has it as it was.

        Raises:
            ArdbenchError: it is gone, damaged or replaced.
        """
        path, finished_with = self.weights(checkpoint), (self.done or {}).get("weights", {}).get(checkpoint)
        if checkpoint not in self.checkpoints:
            raise self.without(checkpoint)
        if finished_with is not None and sha256_of(path) != finished_with:
            raise ArdbenchError(
                f"{path} has changed since the run was finished (its checksum does not match): restore it, or delete the "
                "run and train it again."
            )
        return path

    def without(self, checkpoint: str) -> ArdbenchError:
        """Return the refusal of a checkpoint that does not exist."""
        there = f"choose one of {', '.join(self.checkpoints)}" if self.checkpoints else "its weights are gone"
        return ArdbenchError(f"{self.path} has no checkpoint {checkpoint!r}: {there}.")

    def twin(self, checkpoint: str) -> str | None:
        """Return the checkpoint that holds the same network: of best and last the other, if the last epoch was the best."""
        done = self.done or {}
        same = "best_epoch" in done and done["best_epoch"] + 1 == done["epochs"]
        return {"best": "last", "last": "best"}.get(checkpoint) if same else None

    @property
    def stale(self) -> bool:
        """Whether a teacher's weights are no longer those that this run learnt from (moved teachers are not judged)."""
        return any(
            os.path.isfile(teacher.weights) and known_sha256(Path(teacher.weights)) != teacher.sha256
            for teacher in self.teachers
        )

    def create(self, recipe: Recipe, teachers: Sequence[Teacher], environment: Mapping[str, Any]) -> None:
        """Make the directory, or check that the one that is there is this run's.

        Raises:
            ArdbenchError: the directory belongs to another recipe.
        """
        identity = recipe.identity([teacher.identity for teacher in teachers])
        if (self.path / "config.json").exists():
            if self.config.get("identity") != identity:
                raise ArdbenchError(
                    f"{self.path} belongs to another recipe, seed or teacher: move it away or give another --runs folder."
                )
            return
        document = {
            "identity": identity,
            "recipe": recipe.model_dump(mode="json"),
            "teachers": [vars(teacher) for teacher in teachers],
        }
        write_json(self.path / "env.json", environment)
        write_json(self.path / "config.json", document)

    @property
    def held(self) -> bool:
        """Whether a live process holds the run for writing, as far as this machine can tell."""
        path = self.path / "lock"
        try:
            with open(
                os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb"
            ) as file:  # a pipe in its place would be waited for
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise ArdbenchError(f"{path} cannot be looked at: {error.strerror}.") from None
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; the lock of a process that died is free, and a directory without a run is removed.

        Raises:
            ArdbenchError: another process holds it, or it cannot be written.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(self.path / "lock", timeout=LOOK))
            except Timeout:
                raise ArdbenchError(
                    f"{self.path} is being written by another process: wait for it or stop it."
                ) from None
            except OSError as error:
                raise ArdbenchError(
                    f"{self.path} cannot be written: {error.strerror}: give a folder that can with --runs."
                ) from error
            try:
                for left in self.path.glob(f".*{PARTIAL}"):
                    left.unlink()
                yield
            finally:
                if not (self.path / "config.json").exists():
                    self._remove_unused()

    def _remove_unused(self) -> None:
        """Remove a directory in which there is nothing but the lock that is held."""
        if {path.name for path in self.path.iterdir()} <= {"lock"}:
            (self.path / "lock").unlink(missing_ok=True)
            self.path.rmdir()


def told_environment(document: object, path: Path) -> dict[str, Any]:
    """Return versions, device and command of a training or a measurement, as a file says them."""
    return _said(checked(_ENVIRONMENT, document, path, "environment", "restore or delete it"))


@remembered
def _known_done(path: Path) -> dict[str, Any]:
    return _said(checked(_DONE, read_json(path), path, "done marker", "delete it and type the run's command again"))


def _said(document: written.Written) -> dict[str, Any]:
    return document.model_dump(exclude_unset=True)


def all_runs(root: Path) -> list[Run]:
    """Return the runs below `root`, by name."""
    if not root.is_dir():
        return []
    return [Run(path.parent) for path in sorted(root.glob("*/config.json"))]
