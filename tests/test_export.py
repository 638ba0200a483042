"""Exported folders: what is in them loads elsewhere as the network of the run, and the card says what was measured."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_call import call
from huggingface_hub import ModelCard
from small import CPU, batch, method, recipe

import ardbench
from ardbench.data.load import load
from ardbench.engine import networks
from ardbench.engine.exported import describe, export
from ardbench.engine.loop import Loop
from ardbench.errors import ArdbenchError
from ardbench.evaluation.verdicts import load_verdicts
from ardbench.progress import Progress
from ardbench.reports.card import card, trust_findings
from ardbench.runs import Run, sha256_of, write_json
from ardbench.written import without_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a few epochs on the fake data set, evaluated on some of its test images."""
    root = tmp_path_factory.mktemp("export")
    words = ["--epochs", 6, "--dataset", "fake", "--device", "cpu", "--runs", root]
    sets = [
        "data.train_images=200",
        "data.validation=20",
        "attack.steps=1",
        "selection.protocol=fgsm",
        "data.normalise=true",
        "evaluation.eps=8/255",
    ]
    assert call("train", "pgd-at-digits", *words, *(word for one in sets for word in ("--set", one))).exit_code == 0
    run = Run(next(root.glob("pgd-at-*")))
    evaluated = call("eval", run.path, "--protocol", "clean", "--protocol", "pgd10", "--n", 40, "--device", "cpu")
    assert evaluated.exit_code == 0
    return run


@pytest.fixture(scope="module")
def exported(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command wrote of the best checkpoint."""
    out = tmp_path_factory.mktemp("exported") / "net"
    result = call("export", trained.path, "--out", out)
    assert result.exit_code == 0
    assert result.stdout.split() == [str(out / name) for name in ("model.safetensors", "config.json", "README.md")]
    return out


def metadata(text: str) -> dict[str, Any]:
    """Return the block between the dashes, read by somebody else's parser."""
    block: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return block


def test_the_cards_snippet_runs_in_a_fresh_process_and_answers_like_the_run(trained: Run, exported: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert snippet.count("\n") <= 10
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    words = [sys.executable, "-c", f"import torch\ntorch.manual_seed(0)\n{snippet}"]
    told = subprocess.run(
        words, cwd=exported, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    torch.manual_seed(0)
    with torch.no_grad():
        labels = networks.of_run(trained, "best", CPU)(torch.rand(4, 3, 8, 8)).argmax(1)
    assert told.stdout.strip() == str([f"pattern {label}" for label in labels.tolist()])


def test_the_network_is_that_of_the_run_to_the_bit(trained: Run, exported: Path) -> None:
    net, x = ardbench.load(exported), torch.rand(8, 3, 8, 8)
    assert not net.training
    with torch.no_grad():
        assert torch.equal(net(x), networks.of_run(trained, "best", CPU)(x))
    config = json.loads((exported / "config.json").read_text())
    assert config["sha256"] == sha256_of(exported / "model.safetensors") == sha256_of(trained.weights("best"))
    assert (config["architecture"], config["dataset"], config["image"]) == (trained.recipe.student, "fake", [3, 8, 8])
    assert config["recipe"] == trained.config["recipe"]


def test_what_it_normalises_by_is_read_from_the_folder(exported: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(exported, tmp_path / "net"))
    config = json.loads((other / "config.json").read_text())
    config["normalise"] = {"mean": [0.25] * 3, "std": [0.5] * 3}
    write_json(other / "config.json", config)
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():  # (x - 0.25) / 0.5 = (x' - 0.5) / 0.25 where x' = 0.375 + x / 2
        assert torch.allclose(ardbench.load(other)(x), ardbench.load(exported)(0.375 + x / 2), atol=1e-5)


def test_hubs_read_the_metadata_and_every_result(trained: Run, exported: Path) -> None:
    read = ModelCard.load(exported / "README.md")
    results = {one.metric_args["protocol"]: one for one in read.data.eval_results}
    assert set(results) == {"clean", "pgd10"}
    for protocol, one in results.items():
        verdicts = load_verdicts(trained.path / "eval" / "best" / f"{protocol}-n40.json")
        assert (one.metric_type, one.task_type, one.dataset_type) == ("accuracy", "image-classification", "fake")
        assert one.metric_value == pytest.approx(verdicts.accuracy)
        assert (one.metric_args["n"], one.metric_args["low"]) == (40, pytest.approx(verdicts.interval[0]))
    assert results["pgd10"].metric_args["eps"] == pytest.approx(trained.recipe.evaluation.eps)
    block = metadata((exported / "README.md").read_text())
    assert (block["library_name"], block["metrics"]) == ("ardbench", ["accuracy"])
    assert "pgd-at" in block["tags"] and "license" not in block and "datasets" not in block


def test_the_card_says_what_was_measured_and_how_it_was_trained(trained: Run, exported: Path) -> None:
    text = (exported / "README.md").read_text()
    verdicts = load_verdicts(trained.path / "eval" / "best" / "pgd10-n40.json")
    low, high = (100 * bound for bound in verdicts.interval)
    row = next(line for line in text.splitlines() if line.startswith("| pgd10"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["pgd10", "linf, eps 8/255", "1", f"{100 * verdicts.accuracy:.1f}"]
    assert cells[4:] == [f"[{low:.1f}, {high:.1f}]", "40 of 64"]
    for piece in ("Classes on fake", "seed 0, 6 epochs", sha256_of(trained.weights("best"))):
        assert piece in text
    assert str(trained.path.parent) not in text + (exported / "config.json").read_text()


def test_a_card_carries_remarks_and_admits_what_is_missing(trained: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
    path = run.path / "eval" / "best" / "clean-n40.json"
    write_json(path, json.loads(path.read_text()) | {"notes": ["a remark."]})
    assert "- clean: a remark.\n" in card(run, "best", describe(run, "best"))
    shutil.rmtree(run.path / "eval")
    text = card(run, "best", describe(run, "best"))
    assert "Nothing has been measured on this checkpoint." in text
    assert "model-index" not in metadata(text)


def test_trust_verdicts_are_told_one_by_one(tmp_path: Path) -> None:
    findings = [
        {"check": "fgsm", "level": "warning", "reason": "FGSM is 3 points under PGD."},
        {"check": "unbounded", "level": "ok", "reason": "0 % are left at eps = 1."},
    ]
    write_json(tmp_path / "trust-n40.json", {"findings": findings})
    assert list(trust_findings(tmp_path)) == [
        "Trust check fgsm (warning, trust-n40.json): FGSM is 3 points under PGD.",
        "Trust check unbounded (ok, trust-n40.json): 0 % are left at eps = 1.",
    ]
    more = {"check": "fgsm", "level": "ok", "reason": "FGSM is over PGD."}
    write_json(tmp_path / "trust.json", {"findings": [more, findings[1]]})
    assert [told.partition(":")[0] for told in trust_findings(tmp_path)] == [
        "Trust check fgsm (ok, trust.json)", "Trust check unbounded (ok, trust.json)",
        "Trust check fgsm (warning, trust-n40.json)",
    ], "what fewer images say alike is told once"  # fmt: skip


@pytest.mark.parametrize("drop", [False, True])
def test_a_darht_student_is_exported_folded_unless_it_drops_blocks(drop: bool, tmp_path: Path) -> None:
    wanted = recipe("darht", schedule__epochs=1, method__drop_block=drop)
    run, built = Run(tmp_path / "run"), method(wanted)
    run.create(wanted, (), {})
    Loop(run, wanted, built, load("fake", CPU, validation=32), lambda: False, Progress()).fit()
    write_json(run.path / "done", {"epochs": 1, "seconds": 1.0})
    text = card(run, "last", export(run, "last", tmp_path / "out"))
    x = batch(wanted).x
    torch.manual_seed(1)
    expected = built.student.eval()(x)
    torch.manual_seed(1)
    assert torch.allclose(ardbench.load(tmp_path / "out")(x), expected, rtol=1e-4, atol=1e-5)
    assert ("drops a block of logits" in text) is drop


def test_an_export_is_renewed_but_nothing_else_is_overwritten(trained: Run, exported: Path, tmp_path: Path) -> None:
    renewed = Path(shutil.copytree(exported, tmp_path / "net"))
    (renewed / "README.md").write_text("old")
    assert call("export", trained.path, "--out", renewed).exit_code == 0
    assert (renewed / "README.md").read_bytes() == (exported / "README.md").read_bytes()
    result = call("export", trained.path, "--checkpoint", "last", "--out", renewed)
    assert (result.exit_code, "another run or checkpoint" in result.stderr) == (2, True)
    before = {path: path.read_bytes() for path in trained.path.iterdir() if path.is_file()}
    result = call("export", trained.path, "--out", trained.path)
    assert (result.exit_code, "holds other files" in result.stderr) == (2, True)
    assert {path: path.read_bytes() for path in trained.path.iterdir() if path.is_file()} == before


def test_unfinished_and_changed_runs_are_refused(trained: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(trained.path, tmp_path / "run")))
    shutil.copyfile(run.weights("last"), run.weights("best"))
    changed = {"weights": {"best": "0" * 64}}
    write_json(run.path / "done", (run.done or {}) | changed)
    with pytest.raises(ArdbenchError, match="has changed since the run was finished"):
        export(run, "best", tmp_path / "out")
    (run.path / "done").unlink()
    result = call("export", run.path, "--out", tmp_path / "out")
    assert (result.exit_code, "is not finished" in result.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_damaged_and_foreign_folders_are_not_loaded(trained: Run, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ArdbenchError, match="is no exported network"):
        ardbench.load(trained.path)
    other = Path(shutil.copytree(exported, tmp_path / "net"))
    (other / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ArdbenchError, match="is not the file that"):
        ardbench.load(other)


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("/home/me/runs/a-b", "a-b"),
        ("--runs=/home/me/runs/", "--runs=runs/"),
        ("robust=/home/me/a", "robust=a"),
        ("~/runs/a", "a"),
        ("robust=runs/a", "robust=runs/a"),
        ("threat.eps=8/255", "threat.eps=8/255"),
        ("clean=zoo:b", "clean=zoo:b"),
    ],
)
def test_a_command_keeps_its_words_without_the_machines_folders(word: str, kept: str) -> None:
    assert without_folder(word) == kept


def test_importing_ardbench_loads_no_torch() -> None:
    code = "import ardbench, sys; assert ardbench.load and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
