"""Checkpoints that are cut short or of which a bit has turned: never used, always told by name in one sentence."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from campaign import COUNTS, EVALUATE, TRAIN, facts, full, refused, run_in, training
from cli_call import call


@dataclass(frozen=True)
class World:
    """Runs to be damaged.

    Args:
        finished: trained and measured.
        unfinished: all epochs are trained, and nothing has been made of that yet.
        copy: the weights of a run in a file elsewhere.
        spare: a folder for what must not come to be.
    """

    finished: Path
    unfinished: Path
    copy: Path
    spare: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Train a run, measure it cheaply, and make the others of it."""
    root = tmp_path_factory.mktemp("world")
    assert call(*training(root / "finished"), "--epochs", "3").exit_code == 0
    run = run_in(root / "finished")
    assert call("eval", run, "--protocol", "fgsm", "--device", "cpu").exit_code == 0
    shutil.copytree(root / "finished", root / "unfinished")
    for name in ("done", "last.safetensors"):
        (run_in(root / "unfinished") / name).unlink()
    shutil.copy(run / "best.safetensors", root / "copy.safetensors")
    return World(run, run_in(root / "unfinished"), root / "copy.safetensors", root / "spare")


def again(run: Path) -> list[object]:
    """Return the words of the training that made a run."""
    return [*TRAIN, "--epochs", "3", "--runs", run.parent]


def taught(source: object, spare: Path) -> list[object]:
    """Return words that train a student of `source`."""
    return ["distill", "rslad-digits", *TRAIN[2:], "--teacher", source, "--runs", spare]


USES: tuple[tuple[str, Callable[[World], tuple[Path, list[object]]]], ...] = (
    ("last.state by a training that goes on", lambda w: (w.unfinished / "last.state", again(w.unfinished))),
    ("best.safetensors by a training that goes on", lambda w: (w.unfinished / "best.safetensors", again(w.unfinished))),
    ("last.safetensors by a training that is done", lambda w: (w.finished / "last.safetensors", again(w.finished))),
    ("last.safetensors by eval", lambda w: (w.finished / "last.safetensors", ["eval", w.finished, *EVALUATE])),
    (
        "best.safetensors by eval",
        lambda w: (w.finished / "best.safetensors", ["eval", w.finished, "--protocol", "fgsm", "--device", "cpu"]),
    ),
    ("best.safetensors by distill", lambda w: (w.finished / "best.safetensors", taught(w.finished, w.spare))),
    (
        "best.safetensors by export",
        lambda w: (w.finished / "best.safetensors", ["export", w.finished, "--out", w.spare]),
    ),
    ("a copied file by distill", lambda w: (w.copy, taught(f"{w.copy}:resnet8-tiny", w.spare))),
    (
        "a copied file by eval",
        lambda w: (w.copy, ["eval", w.copy, "--model", "resnet8-tiny", "--dataset", "digits", "--out", w.spare]),
    ),
)
"""Who reads which file of a run, and how."""


def damaged(content: bytes, dice: random.Random) -> tuple[str, bytes]:
    """Return what happened to a file, and what is left of it."""
    place = dice.randrange(len(content))
    if dice.random() < 0.5:
        return "cut short", content[:place]
    turned = content[place] ^ 1 << dice.randrange(8)
    return "a bit turned", content[:place] + bytes([turned]) + content[place + 1 :]


@full(200, short=20)
def test_damage_is_always_told_and_never_used(world: World, times: int) -> None:
    dice, before = random.Random(times), (facts(world.finished), facts(world.unfinished))
    for number in range(times):
        name, use = USES[number % len(USES)]
        path, words = use(world)
        whole = path.read_bytes()
        what, content = damaged(whole, dice)
        path.write_bytes(content)
        try:
            assert str(path) in refused(call(*words)), (name, what, number)
        finally:
            path.write_bytes(whole)
        COUNTS[f"damage told: {name}, {what}"] += 1
        assert not world.spare.exists() or not list(world.spare.iterdir())
        assert before == (facts(world.finished), facts(world.unfinished))
