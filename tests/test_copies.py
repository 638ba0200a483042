"""Runs between folders: what `reproduce --keep` leaves and `--from` takes, and what is never set back."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from cli_call import call
from test_cli_reproduce import suite_file
from test_reports import make_run, recipe, verdict

from ardbench.campaigns.copies import bring, standing
from ardbench.errors import ArdbenchError
from ardbench.runs import Run, Teacher, sha256_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite whose three runs lie in `runs`, and as they can be committed in `kept`."""
    root = tmp_path_factory.mktemp("made")
    words = ["--runs", root / "runs", "--out", root / "out", "--keep", root / "kept", "--jobs", 1, "--device", "cpu"]
    result = call("reproduce", suite_file(root), *words)
    assert result.exit_code == 0, result.output
    assert f"Kept 3 runs in {root / 'kept'}." in result.stderr
    return root


@pytest.fixture
def there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the suite and what was kept, as on another machine."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "kept", tmp_path / "kept")
    suite_file(tmp_path)
    return tmp_path


def words(folder: Path, *more: object) -> list[object]:
    where = ["--runs", folder / "runs", "--out", folder / "out", "--from", folder / "kept"]
    return ["reproduce", folder / "tiny.toml", *where, "--jobs", 1, "--device", "cpu", *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_has_no_trainer_state_and_names_no_folder_of_the_machine(made: Path) -> None:
    for run in (made / "kept").iterdir():
        names = {str(path.relative_to(run)).partition("/")[0] for path in run.rglob("*") if path.is_file()}
        assert names == {
            "config.json",
            "env.json",
            "metrics.jsonl",
            "best.safetensors",
            "last.safetensors",
            "done",
            "eval",
            *(["teachers.json"] if run.name.startswith("rslad-") else []),
        }
        texts = [path.read_text() for path in run.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
        assert not [text for text in texts if str(made) in text]
        same = list((made / "runs" / run.name).glob("*.safetensors"))
        assert all(path.read_bytes() == (run / path.name).read_bytes() for path in same)
    student = Run(next((made / "kept").glob("rslad-*")))
    (teacher,) = student.teachers
    assert sha256_of(Path(teacher.weights)) == teacher.sha256, "the teacher is found beside the student"
    assert Path(teacher.weights).is_relative_to(made / "kept") and not student.stale


def test_kept_runs_are_measured_and_compared_as_they_lie(there: Path) -> None:
    students = sorted((there / "kept").glob("rslad-*"))
    told = call("eval", students[0], "--protocol", "fgsm", "--checkpoint", "last", "--json", "--device", "cpu")
    assert json.loads(told.stdout)["results"][0]["stored"], "measured again"
    assert call("compare", *students).exit_code == 0


def test_runs_are_taken_once_and_give_the_same_tables(made: Path, there: Path) -> None:
    plan = call(*words(there, "--dry-run"))
    assert plan.exit_code == 0 and "3 runs: 0 to train, 0 evaluations missing" in plan.stdout, plan.output
    assert "3 of 3 runs would be taken" in plan.stderr and not (there / "runs").exists()
    taken = call(*words(there))
    assert taken.exit_code == 0, taken.output
    assert f"Took 3 runs from {there / 'kept'}." in taken.stderr and "Nothing is missing" in taken.stderr
    assert (there / "out" / "tiny.md").read_bytes() == (made / "out" / "tiny.md").read_bytes()
    before = contents(there / "runs")
    again = call(*words(there))
    assert "Took" not in again.stderr and contents(there / "runs") == before


def test_runs_that_would_be_taken_tell_how_fast_the_device_is(there: Path) -> None:
    shutil.rmtree(next((there / "kept").glob("rslad-*-s0-*")))
    plan = call(*words(there, "--dry-run")).stdout
    shutil.copytree(there / "kept", there / "runs")
    assert "reached by the same method and student" in plan and plan == call(*words(there, "--dry-run")).stdout


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_damaged_run_is_refused_before_anything_is_done(dry: tuple[str, ...], there: Path) -> None:
    weights = next((there / "kept").glob("rslad-*")) / "best.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = call(*words(there, *dry))
    assert result.exit_code == 2 and f"{weights} has changed since the run was finished" in result.stderr
    assert not (there / "runs" / weights.parent.name).exists()


def test_a_changed_recipe_is_refused(there: Path) -> None:
    config = next((there / "kept").glob("pgd-at-*")) / "config.json"
    config.write_text(config.read_text().replace('"epochs": 1', '"epochs": 2'))
    result = call(*words(there))
    assert result.exit_code == 2 and f"{config} has changed since the run was made" in result.stderr


def test_an_unfinished_run_goes_on_elsewhere(made: Path, there: Path) -> None:
    name = next((made / "runs").glob("rslad-*-s1-*")).name
    half = there / "half"
    shutil.copytree(made / "runs", half / "runs")
    for file in ("done", "last.safetensors"):
        (half / "runs" / name / file).unlink()
    shutil.rmtree(half / "runs" / name / "eval")
    suite = suite_file(half)
    told = call("reproduce", suite, "--runs", half / "runs", "--keep", half / "kept", "--unfinished", "--dry-run")
    assert told.exit_code == 0 and not (half / "kept").exists(), "a dry run does nothing"
    shutil.rmtree(there / "kept")
    bring(Run(half / "runs" / name), Run(there / "kept" / name))
    assert (there / "kept" / name / "last.state").exists()
    plan = call(*words(there, "--dry-run"))
    states = [line.split()[3] for line in plan.stdout.splitlines() if line.strip().startswith("student")]
    assert states == ["missing", "partial"]
    result = call(*words(there, "--keep", there / "kept"))
    assert result.exit_code == 0 and "Resuming at epoch 2" in result.stderr, result.output
    for checkpoint in ("best", "last"):
        weights = Path(name) / f"{checkpoint}.safetensors"
        assert (there / "runs" / weights).read_bytes() == (made / "runs" / weights).read_bytes()
    assert (there / "kept" / name / "done").exists() and not (there / "kept" / name / "last.state").exists()


def test_a_damaged_state_is_refused(made: Path, there: Path) -> None:
    run = there / "kept" / next((made / "runs").glob("rslad-*-s1-*")).name
    (run / "done").unlink()
    (run / "last.state").write_bytes(b"0" * 100)
    assert f"{run / 'last.state'} is damaged" in call(*words(there)).stderr


# Which of two is further -------------------------------------------------------------------------------------------------


def begun(root: Path, epochs: int | None) -> Run:
    """Return a run that has trained so many epochs, or is finished, or with -1 is not there."""
    if epochs == -1:
        return Run.place(root, recipe())
    run = make_run(root, recipe(), finished=epochs is None)
    rows = [{"epoch": epoch, "seconds": 1.0, "images": 1} for epoch in range(epochs or 0)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if epochs is not None:
        content = f"{root} {epochs}".encode()
        (run.path / "last.state").write_bytes(content + sha256(content).digest())
    return run


@pytest.mark.parametrize(
    ("source", "target", "taken"),
    [(None, -1, True), (None, 3, True), (2, -1, True), (3, 2, True), (2, 2, False), (2, 3, False), (3, None, False)],
)
def test_only_what_is_further_is_taken(source: int | None, target: int, taken: bool, tmp_path: Path) -> None:
    there, here = begun(tmp_path / "a", source), begun(tmp_path / "b", target)
    before = contents(tmp_path / "b") if here.path.exists() else {}
    assert bool(bring(there, here)) == taken
    assert (contents(tmp_path / "b") != before) == taken
    if taken:
        assert standing(Run(here.path)) == standing(there)
        assert (here.path / "last.state").exists() == (source is not None)


def test_verdicts_are_added_and_renewed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    there, here = begun(tmp_path / "a", None), begun(tmp_path / "b", None)
    verdict(there, "clean", 6)
    verdict(there, "fgsm", 4)
    verdict(here, "clean", 7)
    assert bring(there, here) == 1
    clean = here.path / "eval/last/clean.json"
    assert json.loads(clean.read_text())["predictions"] == [i % 2 if i < 7 else 1 - i % 2 for i in range(10)]
    assert bring(there, here, renew=True) == 1
    assert json.loads(clean.read_text())["predictions"] == "0101011010"
    assert bring(there, here, renew=True) == 0


def test_two_trainings_of_one_run_are_left_apart(made: Path, there: Path) -> None:
    shutil.copytree(there / "kept", there / "runs")
    run = next((there / "runs").glob("rslad-*-s0-*"))
    shutil.copy(run / "best.safetensors", there / "other")
    (run / "last.safetensors").write_bytes(next((there / "runs").glob("pgd-at-*/last.safetensors")).read_bytes())
    done = json.loads((run / "done").read_text())
    done["weights"]["last"] = sha256_of(run / "last.safetensors")
    (run / "done").write_text(json.dumps(done))
    for path in (run / "eval").rglob("*.json"):
        path.unlink()
    result = call(*words(there))
    assert f"{run} was finished with other weights than in {there / 'kept'}, and stays as it is." in result.stderr
    assert json.loads((run / "done").read_text()) == done


def test_a_run_of_another_teacher_is_no_copy(tmp_path: Path) -> None:
    there = begun(tmp_path / "a", None)
    taught = Teacher("wide", "robust", "ab@best", "resnet18", "wide/best.safetensors", "ab")
    other = make_run(tmp_path / "b", recipe(), (taught,), finished=False)
    other.path.rename(tmp_path / "b" / there.path.name)
    with pytest.raises(ArdbenchError, match="are two runs under one name"):
        bring(there, Run(tmp_path / "b" / there.path.name))
