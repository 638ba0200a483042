"""`ardbench verify`: what is whole is signed off, and every kind of change is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from safetensors.torch import load_file, save_file

import ardbench
from ardbench.errors import ArdbenchError
from ardbench.evaluation.verdicts import load_verdicts
from ardbench.evidence import check
from ardbench.reports import read
from ardbench.reports.published import FIELDS
from ardbench.runs import Run, sha256_of
from ardbench.verbs.repeating import Repeat

SETS = [
    "data.train_images=200", "data.validation=20", "attack.steps=1", "selection.protocol=fgsm", "selection.by=best-val",
    "evaluation.eps=8/255",
]  # fmt: skip
N = 40
"""Images on which everything is measured."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a student measured with its adversarial images kept, and an export of it."""
    root = tmp_path_factory.mktemp("verify")
    words = ["--epochs", 4, "--dataset", "fake", "--device", "cpu", "--runs", root / "runs"]
    words += [word for one in SETS for word in ("--set", one)]
    assert call("train", "pgd-at-digits", *words).exit_code == 0
    teacher = next((root / "runs").glob("pgd-at-*"))
    assert call("distill", "rslad-digits", "--teacher", teacher, *words).exit_code == 0
    student = next((root / "runs").glob("rslad-*"))
    asked = [word for name in ("clean", "pgd20", "aa:apgd-ce,square") for word in ("--protocol", name)]
    measured = call("eval", student, *asked, "--n", N, "--keep-adversarial", "--device", "cpu", "--json")
    by_name = {(row["checkpoint"], row["protocol"]): row["accuracy"] for row in json.loads(measured.stdout)["results"]}
    assert 0 < by_name["best", "pgd20"] < by_name["best", "clean"], "some images must fall, and some withstand"
    assert call("export", student, "--out", root / "export").exit_code == 0
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy to be changed; teachers are named by the folder they were in, and found beside the run."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def student(root: Path) -> Path:
    return next((root / "runs").glob("rslad-*"))


def test_what_is_whole_is_signed_off(made: Path) -> None:
    result = call("verify", made / "runs", made / "export", "--again", 20, "--device", "cpu")
    assert result.exit_code == 0, result.output
    told = result.stdout.splitlines()
    assert told[-1] == "3 of 3 verified." and len(told) == 4
    of_student = next(line for line in told if line.startswith(str(student(made))))
    for part in (
        "verified. 2 checkpoints whole; 1 of 1 teacher at hand and the same; 6 files of verdicts counted again",
        f"on up to {N} images, and held against fake; 6 files of adversarial images classified again in fp32",
        "clean of best:", "pgd20 of last:",
    ):  # fmt: skip
        assert part in of_student
    document = json.loads(call("verify", student(made), "--json", "--device", "cpu").stdout)
    (row,) = document["subjects"]
    assert (row["state"], row["verdicts"], row["images"], row["teachers"]) == ("verified", 6, N, 1)


def test_an_attack_with_another_seed_agrees_or_does_not(root: Path) -> None:
    words = ("--protocol", "clean", "--protocol", "pgd20", "--n", N, "--checkpoint", "best", "--device", "cpu")
    told = call("eval", student(root), *words, "--again")
    assert told.exit_code == 0, told.stdout
    assert "with seed 1: the same images." in told.stdout and ", seed 1\n" in told.stdout
    first, second = json.loads(call("eval", student(root), *words, "--again", "--json").stdout)["subjects"]
    assert all(row["stored"] for row in first["results"] + second["results"])
    of_run = Run(student(root)).path
    then, now = (
        load_verdicts(of_run / folder / "best" / f"pgd20-n{N}.json")
        for folder in ("eval", "eval-other/linf-0.0313725-s1")
    )
    assert (then.seed, now.seed) == (0, 1)
    lost = sum(a and not b for a, b in zip(then.robust, now.robust, strict=True))
    assert Repeat("best", then, now).moved[0] == lost
    right = replace(then, predictions=list(then.labels))
    weaker = replace(right, predictions=[*((label + 1) % 10 for label in right.labels[:6]), *right.labels[6:]], seed=1)
    apart = Repeat("best", right, weaker)
    assert (apart.moved, apart.agrees, apart.both) == ((6, 0), False, (N - 6) / N)  # p = 2 / 2^6 = 0.031
    assert "do not agree" in apart.sentence and "p = 0.031" in apart.sentence
    five = replace(right, predictions=[*((label + 1) % 10 for label in right.labels[:5]), *right.labels[5:]], seed=1)
    assert Repeat("best", five, right).moved == (0, 5) and Repeat("best", five, right).agrees  # p = 0.0625


def test_every_number_of_a_report_is_counted_again(root: Path) -> None:
    own = root / "own.csv"
    own.write_text(f"{','.join(FIELDS)}\nrslad,resnet8-tiny,,fake,best,clean,50,paper,A Paper\n")
    runs, out = root / "runs", root / "out"
    words = ("--columns", "run,clean,pgd20,nsd:clean", "--published", own)
    assert call("report", runs, "--out", out, *words).exit_code == 0
    file = out / "report.csv"
    whole = file.read_text()
    told = call("verify", file, "--runs", runs)
    assert told.exit_code == 0, told.stdout
    # of each checkpoint: clean, pgd20, aa:apgd-ce,square, worst of two attacks, nsd
    assert (
        "verified. 10 numbers counted again from the verdicts of 1 network; 1 number not held against anything"
        in told.stdout
    )
    (found,) = ardbench.verify(file, runs=runs)
    assert (found.state, found.facts["numbers"], found.facts["absent"]) == ("verified", 10, 1)
    frame = read(file)
    first = int(frame.index[frame["protocol"] == "pgd20"][0])
    for column, value, said in (
        ("value", 0.9876, "says value = 0.9876"), ("n", 39, "no verdicts there give one"),
        ("winner", True, "is bold and has not earned it"), ("checkpoint", "averaged", "no verdicts there give one"),
        ("published_paper", "RSLAD, ICCV 2021", "benchmarks/published.csv has no such number"),
    ):  # fmt: skip
        changed = frame.copy()
        changed.loc[first, column] = value
        if column == "published_paper":
            changed.loc[frame["published"].notna(), column] = value
        changed.to_csv(file, index=False)
        told = call("verify", file, "--runs", runs)
        assert told.exit_code == 1 and said in told.stdout, column
    file.write_text(whole)
    assert "nothing to hold it against" in call("verify", file, "--runs", root / "elsewhere").stdout
    assert f"verify that, {file}" in call("verify", out / "report.md").stderr


def test_without_data_and_torch_files_are_held_against_each_other(made: Path) -> None:
    counts = check(Run(student(made)), {})
    assert (counts.weights, counts.teachers, counts.verdicts, counts.images) == (2, 1, 6, N)


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def verdicts_with(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda root: edited(student(root) / "eval" / "best" / f"{name}-n{N}.json", change)


def another(document: dict[str, Any], right: bool) -> None:
    """Change the first prediction that is right, or wrong, so that it is the other."""
    labels, said = document["labels"], list(document["predictions"])
    at = next(i for i, label in enumerate(labels) if (label == said[i]) == right)
    said[at] = labels[at] if not right else str((int(labels[at]) + 1) % 10)
    document["predictions"] = "".join(said)


def swapped(document: dict[str, Any]) -> None:
    """Make a right prediction wrong and a wrong one right: the accuracy stays."""
    another(document, True)
    labels, said = document["labels"], list(document["predictions"])
    wrong = [i for i, label in enumerate(labels) if label != said[i]]
    said[wrong[-1]] = labels[wrong[-1]]
    document["predictions"] = "".join(said)


def relabelled(document: dict[str, Any]) -> None:
    """Exchange two images of different classes, labels and predictions: every count stays."""
    other = next(i for i, label in enumerate(document["labels"]) if label != document["labels"][0])
    for name in ("labels", "predictions"):
        told = list(document[name])
        told[0], told[other] = told[other], told[0]
        document[name] = "".join(told)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def forged(root: Path) -> None:
    """Give the selected weights other numbers, a seal that fits them (none) and their own checksum in `done`."""
    path = student(root) / "best.safetensors"
    save_file({name: t * 1.01 if t.is_floating_point() else t for name, t in load_file(path).items()}, path)
    edited(student(root) / "done", lambda done: done["weights"].update(best=sha256_of(path)))


def image(root: Path, stood: bool) -> None:
    """Change a kept image: one that withstood a little, or one that fell back into the clean one."""
    folder = student(root) / "eval" / "best"
    kept = {at: load_file(folder / f"{at}-n{N}.adversarial.safetensors")["x_adv"] for at in ("clean", "pgd20")}
    document = json.loads((folder / f"pgd20-n{N}.json").read_text())
    fell = (kept["pgd20"] != kept["clean"]).flatten(1).any(dim=1)
    robust = torch.tensor([a == b for a, b in zip(document["labels"], document["predictions"], strict=True)])
    at = int((robust if stood else fell).nonzero()[0])
    kept["pgd20"][at] = kept["clean"][at] if not stood else (kept["clean"][at] * 0.999)
    save_file({"x_adv": kept["pgd20"]}, folder / f"pgd20-n{N}.adversarial.safetensors")


def shorter(root: Path) -> None:
    path = student(root) / "metrics.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def better(root: Path) -> None:
    """Let another epoch than the selected one look best."""
    path, best = student(root) / "metrics.jsonl", json.loads((student(root) / "done").read_text())["best_epoch"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[(best + 1) % len(rows)]["val_robust"] = 1.0
    rows[best]["val_robust"] = 0.5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (verdicts_with("clean", lambda d: another(d, True)), "are misclassified, and the attacks had taken"),
        (verdicts_with("pgd20", lambda d: another(d, False)), "are misclassified, and the attacks had taken"),
        (verdicts_with("clean", relabelled), "and another elsewhere"),
        (verdicts_with("pgd20", lambda d: d.update(n=39)), "n is 40 and was written as 39"),
        (verdicts_with("pgd20", lambda d: d.update(seed=1)), "its seed is not the one that was measured"),
        (verdicts_with("pgd20", lambda d: d["threat"].update(eps=0.5)), "its threat is not the one"),
        (lambda root: flipped(student(root) / "best.safetensors"), "has changed since the run was finished"),
        (forged, "was measured on other weights than best.safetensors has"),
        (lambda root: (student(root) / "last.safetensors").unlink(), "has no checkpoint 'last'"),
        (lambda root: image(root, stood=True), "withstood every attack, and is not the clean one there"),
        (lambda root: image(root, stood=False), "1 of 40 images are classified otherwise in fp32"),
        (shorter, "has 3 rows, `done` says 4 epochs and the recipe 4"),
        (better, "and the selected one is"),
        (
            lambda root: edited(student(root) / "config.json", lambda d: d["recipe"]["optimizer"].update(lr=0.5)),
            "has changed since the run was made",
        ),
        (
            lambda root: edited(student(root) / "config.json", lambda d: d["teachers"][0].update(sha256="ab")),
            "is not what",
        ),
        (lambda root: (student(root) / "eval/best" / f"clean-n{N}.json").write_text("{"), "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_a_change_is_found_and_named(change: Callable[[Path], None], said: str, root: Path) -> None:
    change(root)
    result = call("verify", student(root), root / "export", "--device", "cpu")
    assert result.exit_code == 1, result.output
    assert f"{student(root)}: not verified. " in result.stdout and said in result.stdout
    assert f"{root / 'export'}: verified." in result.stdout and "1 of 2 verified." in result.stdout


def test_verdicts_that_count_right_and_are_of_another_network_are_found_by_measuring_again(root: Path) -> None:
    verdicts_with("clean", swapped)(root)
    for kept in student(root).rglob("*.adversarial.safetensors"):
        kept.unlink()  # they would tell it
    assert call("verify", student(root), "--device", "cpu").exit_code == 0, "nothing tells it without measuring"
    result = call("verify", student(root), "--again", N, "--device", "cpu")
    assert result.exit_code == 1 and "predictions differ: the stored verdicts are not its own" in result.stdout


def test_labels_are_held_against_each_other_and_against_the_data_set(root: Path) -> None:
    files = [path for path in student(root).glob("eval/*/*.json") if not path.name.startswith("trust")]
    edited(files[0], relabelled)
    with pytest.raises(ArdbenchError, match="and another elsewhere"):
        check(Run(student(root)), {})
    for path in files[1:]:
        edited(path, relabelled)
    check(Run(student(root)), {})
    result = call("verify", student(root), "--device", "cpu")
    assert result.exit_code == 1 and "has other labels or images than fake" in result.stdout


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_export_is_found(file: str, root: Path) -> None:
    if file == "config.json":
        edited(root / "export" / file, lambda config: config.update(sha256="0" * 64))
    else:
        flipped(root / "export" / file)
    result = call("verify", root / "export")
    assert result.exit_code == 1 and "is not the file that config.json describes" in result.stdout


def test_an_unfinished_run_is_told_and_its_state_is_checked(root: Path) -> None:
    (student(root) / "done").unlink()
    result = call("verify", student(root))
    assert result.exit_code == 0 and "not finished, 4 of 4 epochs; what there is of it is whole" in result.stdout
    assert "1 of 2 verified, 1 not finished." in call("verify", root / "runs", "--device", "cpu").stdout
    flipped(student(root) / "last.state")
    result = call("verify", student(root))
    assert result.exit_code == 1 and "last.state is damaged" in result.stdout
    (student(root) / "last.state").unlink()
    assert call("verify", student(root)).exit_code == 0, "no epoch is over"
