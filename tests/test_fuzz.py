"""Damaged files of every kind that is read: each is read or refused in one sentence, in bounded time and memory.

An input is a function of its reader and number, so `run(READERS["recipe"](folder), "recipe", 17)` is the same one again.
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damaged import READERS, SHARES, run, saved, stop, whole_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import toml
from test_reports import make_run, recipe, verdict

from ardbench.campaigns.suites import Suite, load_suite
from ardbench.config import Recipe
from ardbench.data import tiny_imagenet
from ardbench.engine.checkpoints import load_state, load_weights
from ardbench.errors import ArdbenchError
from ardbench.evaluation.verdicts import Verdicts
from ardbench.models.files import read_state
from ardbench.recipes import describe, resolve
from ardbench.runs import Run
from ardbench.written import Epoch

MEMORY = 2 * 2**20
"""KiB that the process may grow by over all inputs of a reader: no small file becomes large."""
DEPTH = pytest.mark.parametrize(
    "examples", [67, pytest.param(700, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids="{}".format
)
WORDS = (
    st.sampled_from([*Recipe.model_fields, *Epoch.model_fields, *Suite.model_fields, *Verdicts.__annotations__])
    | st.text()
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def searched(
    files: st.SearchStrategy[Any], examples: int, read_one: Callable[[Any], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Read what hypothesis makes; a refusal is as good as a result."""
    counts: Counter[str] = Counter()

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(files)
    def search(made: Any) -> None:
        try:
            read_one(made)
        except ArdbenchError:
            counts["refused"] += 1
        else:
            counts["read"] += 1

    search()
    with capsys.disabled():
        print(f"\nhypothesis: {counts.total()} inputs, {counts['read']} read, {counts['refused']} refused")
    assert counts.total() >= examples


@DEPTH
def test_any_document_in_a_run_is_read_or_refused(
    examples: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(tmp_path, recipe())
    verdict(made, "clean", 6)
    names = ("config.json", "env.json", "metrics.jsonl", "done", "eval/last/clean.json", "eval/last/trust.json")

    def read_one(given: tuple[str, Any, dict[str, Any]]) -> None:
        name, key, document = given
        path = made.path / name
        before = path.read_bytes() if path.exists() else None
        whole = json.loads(before) if before and key is not None else {}
        path.write_text(json.dumps(whole | document))
        try:
            whole_run(Run(made.path), tmp_path, 0.04)
        finally:
            path.unlink() if before is None else path.write_bytes(before)

    files = st.tuples(st.sampled_from(names), st.none() | st.just(True), st.dictionaries(WORDS, DOCUMENTS, max_size=3))
    searched(files, examples, read_one, capsys)


@DEPTH
def test_any_recipe_and_suite_is_read_or_refused(
    examples: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = tmp_path / "own.toml", describe("rslad-digits")

    def read_one(given: tuple[bool, dict[str, Any] | str]) -> None:
        over, document = given
        text = document if isinstance(document, str) else toml((whole if over else {}) | document)
        path.write_bytes(text.encode(errors="surrogatepass"))
        (resolve if over else load_suite)(str(path))

    searched(
        st.tuples(st.booleans(), st.dictionaries(WORDS, DOCUMENTS, max_size=3) | st.text()), examples, read_one, capsys
    )


@DEPTH
def test_any_bytes_are_read_or_refused(examples: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("last.state", "last.safetensors", "net.pt", "net.safetensors")
    starts = (b"", b"PK\3\4", b"\x80\2", b"\x08\0\0\0\0\0\0\0{", saved({"w": 1})[:200])

    def read_one(given: tuple[str, bytes, bytes]) -> None:
        name, start, rest = given
        path = tmp_path / name
        path.write_bytes(start + rest + hashlib.sha256(start + rest).digest() * (name == "last.state"))
        {"last.state": load_state, "last.safetensors": load_weights}.get(name, read_state)(path)

    searched(
        st.tuples(st.sampled_from(files), st.sampled_from(starts), st.binary(max_size=300)), examples, read_one, capsys
    )


@pytest.mark.parametrize(
    "total", [1_800, pytest.param(98_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids="{}".format
)
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(
    name: str, total: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", tiny_imagenet.ARCHIVE)  # what a reader sets is set back
    before = signal.signal(signal.SIGALRM, stop)
    read_one, began, grown = (
        READERS[name](tmp_path),
        time.monotonic(),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    count = total * SHARES[name] // 100
    try:
        found = {number: run(read_one, name, number) for number in range(count)}
    finally:
        signal.signal(signal.SIGALRM, before)
    counts = Counter(what if what in ("read", "refused") else "faults" for what in found.values())
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{name}: {count} inputs, {counts['read']} read, {counts['refused']} refused, "
              f"{counts['faults']} faults, {seconds:.0f} s")  # fmt: skip
    faults = [f"{name} {number}: {what}" for number, what in found.items() if what not in ("read", "refused")]
    assert not faults, "\n".join(faults[:20])
    assert counts["refused"] > count / 10 and counts["read"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < MEMORY
