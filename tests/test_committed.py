"""What is committed below results/: runs of which every number can be checked by who has the checkout alone."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch
from cli_call import call
from safetensors.torch import load_file

import ardbench
from ardbench.evaluation.extended import extended
from ardbench.evaluation.verdicts import file_name, load_verdicts
from ardbench.models import zoo
from ardbench.plugins import use
from ardbench.runs import Run, all_runs

RESULTS = Path(__file__).parents[1] / "results"
RUNS = [run for folder in sorted(RESULTS.glob("*/runs")) for run in all_runs(folder)]
FINISHED = [run for run in RUNS if run.done is not None]
pytestmark = pytest.mark.skipif(not RUNS, reason="the runs are no part of the source distribution")


@pytest.fixture(autouse=True)
def _with_what_some_were_trained_by() -> None:
    use([RESULTS.parent / "benchmarks" / "findings" / "causes.py"])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.path.name)
def test_a_committed_run_is_what_it_says(run: Run) -> None:
    """Identity, checksums, epochs and counts; one under way is whole as far as it has come."""
    (told,) = ardbench.verify(run.path)
    assert told.state == ("verified" if run.done else "unfinished"), told.sentence


@pytest.mark.parametrize("run", FINISHED, ids=lambda run: run.path.name)
def test_a_finished_run_is_committed_without_what_only_training_wants(run: Run) -> None:
    files = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".state", ".lock", "lock", ".state.json"))]
    assert sum((run.path / name).stat().st_size for name in files) < 4 * 2**20


@pytest.mark.data
def test_a_committed_network_answers_again_as_its_verdicts_say(data_root: Path) -> None:
    (told,) = ardbench.verify(FINISHED[0].path, again=100, device="cpu", data_root=data_root)
    assert told.state == "verified", told.sentence
    assert "measured again: clean" in told.sentence


def test_tables_of_committed_runs_are_what_the_runs_make(tmp_path: Path) -> None:
    """results/cifar10-small.* byte for byte, and the table in the README."""
    words = ("report", "cifar10-small", "--runs", RESULTS / "cifar10-small" / "runs")
    assert call(*words, "--out", tmp_path).exit_code == 0
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (RESULTS / path.name).read_bytes(), (
            f"type: ardbench {' '.join(map(str, words))} --out results"
        )
    columns = "run,student,teachers,clean,pgd20,aa,aa-estimated"
    assert call(*words, "--out", tmp_path, "--columns", columns, "--checkpoint", "last").exit_code == 0
    table = (tmp_path / "cifar10-small.md").read_text(encoding="utf-8").split("\n\n")[2]
    assert table.startswith("| run ") and table in (RESULTS.parent / "README.md").read_text(encoding="utf-8")


def test_an_attack_on_a_part_says_what_it_says_on_all() -> None:
    """CW-20 and PGD-20 are known on all images, so that what their part and FGSM say of them can be held against it."""
    held = []
    for path in sorted(path for run in FINISHED for path in run.path.glob("eval/*/aa-n1000.json")):
        part = set(load_verdicts(path).index)
        fgsm, *stronger = (load_verdicts(path.with_name(f"{name}.json")) for name in ("fgsm", "pgd20", "cw20"))
        for one in stronger:
            there = one.among(part)
            found = there and extended(there, [fgsm])
            assert found is not None
            _, low, high = found.number
            held.append(low <= one.accuracy <= high)
    assert sum(held) >= 0.85 * len(held)


@pytest.mark.parametrize("entry", [e for e in zoo.ENTRIES.values() if e.package == "ardbench"], ids=lambda e: e.name)
def test_a_carried_teacher_is_a_committed_network_and_has_the_accuracies_of_its_verdicts(entry: zoo.Entry) -> None:
    ours, card = load_file(entry.path), entry.path.with_suffix(".md").read_text(encoding="utf-8")
    (run,) = [run for run in FINISHED if f"# {run.path.name}, " in card]
    checkpoint = next(name for name in ("best", "last") if f"# {run.path.name}, {name}\n" in card)
    theirs = load_file(run.weights(checkpoint))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for told in entry.measured:
        verdicts = load_verdicts(
            run.path / "eval" / checkpoint / file_name(told.protocol, None if told.n == 10_000 else told.n)
        )
        assert (verdicts.version, verdicts.n, sum(verdicts.robust)) == (told.version, told.n, told.correct)
        assert re.search(rf"\| {told.protocol} +\|.* {100 * verdicts.accuracy:.1f} \|.* {told.n} of 10000 \|", card)


def test_findings_are_what_the_committed_runs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/findings.md typed again, line by line."""
    monkeypatch.chdir(RESULTS.parent)
    page, wrapped = RESULTS.parent / "docs" / "findings.md", doctest.NORMALIZE_WHITESPACE
    told = doctest.testfile(str(page), module_relative=False, optionflags=wrapped, encoding="utf-8")
    assert told.attempted > 2 and not told.failed
