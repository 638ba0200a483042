"""What people have beside runs - exports, hub folders, parts of files, odd names - teaches and is measured like a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from safetensors.torch import save_file
from test_models import settled
from torch import nn

import ardbench
from ardbench import data, models
from ardbench.engine import networks
from ardbench.engine.checkpoints import save_weights
from ardbench.engine.exported import export
from ardbench.errors import ArdbenchError
from ardbench.models.network import Network, Normalise
from ardbench.recipes import resolve
from ardbench.reports.published import FIELDS
from ardbench.runs import Run, sha256_of, write_json
from ardbench.teachers import locate, resolve_teachers

CPU = torch.device("cpu")
MODEL = "resnet8-tiny"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run of a network that normalises by itself."""
    sets = {"data.validation": 10, "data.augment": "none", "data.normalise": True}
    recipe = resolve("pgd-at-digits", dataset="fake", sets=sets)
    made = Run.place(tmp_path / "runs", recipe)
    made.create(recipe, (), {})
    for checkpoint in ("last", "best"):
        save_weights(made.weights(checkpoint), settled(models.build(MODEL, data.info("fake"), True)), {})
    write_json(made.path / "done", {"epochs": 1})
    return made


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    export(run, "best", tmp_path / "handed-on")
    return tmp_path / "handed-on"


def logits(net: nn.Module) -> torch.Tensor:
    torch.manual_seed(0)
    answer: torch.Tensor = net(torch.rand(4, 3, 8, 8)).detach()
    return answer


def taught(source: str | Path) -> torch.Tensor:
    return logits(networks.of_teacher(locate(str(source)), "fake", CPU))


def fake(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return settled(models.build(MODEL, data.info("fake")))


def refusal(source: str | Path) -> str:
    with pytest.raises(ArdbenchError) as refused:
        networks.of_teacher(locate(str(source)), "fake", CPU)
    return str(refused.value)


def evaluated(*words: object) -> dict[str, Any]:
    result = call("eval", *words, "--protocol", "clean", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


# Names ----------------------------------------------------------------------------------------------------------------


def test_a_name_with_an_equals_sign_is_a_file_and_no_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(fake().state_dict(), "epoch=3-step=100.ckpt")
    for text in (f"epoch=3-step=100.ckpt:{MODEL}", f"robust=epoch=3-step=100.ckpt:{MODEL}"):
        (found,) = resolve_teachers([text], "rslad", ("robust",))
        assert found.role == "robust" and Path(found.weights).name == "epoch=3-step=100.ckpt"
    with pytest.raises(ArdbenchError, match=r"no role is called 'epoch', nor is there a file of that name\."):
        resolve_teachers([f"epoch=4-step=100.ckpt:{MODEL}"], "rslad", ("robust",))


def test_a_part_of_a_file_teaches_under_a_name_of_its_own(tmp_path: Path) -> None:
    one, other, file = fake(1), fake(2), tmp_path / "two.pt"
    torch.save({"model": one.state_dict(), "ema": {"module": other.state_dict()}}, file)
    assert torch.equal(taught(f"{file}#model:{MODEL}"), logits(one))
    assert torch.equal(taught(f"{file}#ema:{MODEL}"), logits(other))
    found = locate(f"{file}#ema:{MODEL}")
    assert (found.identity, found.sha256, found.part) == (f"{sha256_of(file)}#ema", sha256_of(file), "ema")
    assert f"--part model or {file}#model:{MODEL}" in refusal(f"{file}:{MODEL}")
    marked = tmp_path / "run#3.pt"
    torch.save(one.state_dict(), marked)
    assert locate(f"{marked}:{MODEL}").part == "" and torch.equal(taught(f"{marked}:{MODEL}"), logits(one))


def test_parts_of_a_file_are_measured_each_for_itself(tmp_path: Path) -> None:
    file = tmp_path / "two.pt"
    torch.save({"model": fake(1).state_dict(), "ema": fake(2).state_dict()}, file)
    words = ("--model", MODEL, "--dataset", "fake", "--runs", tmp_path / "runs")
    documents = [evaluated(file, "--part", part, *words) for part in ("model", "ema")]
    again = evaluated(f"{file}#ema", *words)
    whole = evaluated(f"{file}#ema:{MODEL}", "--dataset", "fake", "--runs", tmp_path / "runs")
    assert [one["results"][0]["stored"] for one in (*documents, again, whole)] == [False, False, True, True]
    assert documents[0]["results"] != documents[1]["results"]
    assert len(list((tmp_path / "runs" / "files").iterdir())) == 2
    assert call("eval", file, *words).exit_code == 2


# Exports, hubs, runs --------------------------------------------------------------------------------------------------


def test_an_exported_folder_teaches_as_the_run_does(run: Run, folder: Path) -> None:
    expected = logits(networks.of_run(run, "best", CPU))
    for source in (folder, f"{folder}/model.safetensors:{MODEL}"):
        assert torch.equal(taught(source), expected)
    found, info = locate(str(folder)), data.info("fake")
    assert found.identity == f"{sha256_of(folder / 'model.safetensors')} {info.mean!r} {info.std!r}"
    assert locate(f"{folder}/model.safetensors:{MODEL}").identity == found.identity
    assert f"is a {MODEL}, as config.json beside it says" in refusal(f"{folder}/model.safetensors:wrn-28-10")
    with pytest.raises(ArdbenchError, match=r"was trained on fake .* digits has"):
        networks.of_teacher(found, "digits", CPU)


def test_an_exported_folder_is_measured_and_transferred(run: Run, folder: Path, tmp_path: Path) -> None:
    beside = ("--runs", tmp_path / "kept")
    one, other = evaluated(folder, *beside), evaluated(run.path, "--checkpoint", "best")
    assert one["results"][0]["accuracy"] == other["results"][0]["accuracy"] and one["threat"] == other["threat"]
    assert evaluated(folder, *beside)["results"][0]["stored"]
    assert "is an exported network and knows its model" in call("eval", folder, "--model", MODEL).stderr
    words = ("--protocol", "transfer", "--surrogate", folder, "--device", "cpu", "--n", 20)
    assert call("eval", run.path, "--checkpoint", "last", *words).exit_code == 0
    words = (run.path, folder, "--size", 2, "--n", 20, "--device", "cpu", *beside, "--json")
    matrix = json.loads(call("transfer", *words).stdout)
    assert matrix["dataset"] == "fake"


def test_words_for_a_file_hold_for_the_files_among_several(run: Run, folder: Path, tmp_path: Path) -> None:
    torch.save(fake().state_dict(), tmp_path / "old.pt")
    named = (run.path, folder, f"{tmp_path}/old.pt:{MODEL}")
    common = ("--protocol", "clean", "--n", 20, "--device", "cpu", "--runs", tmp_path / "kept", "--json")
    told, untold = (
        json.loads(call("eval", *named, *words, *common).stdout)["subjects"]
        for words in (("--dataset", "fake"), ("--checkpoint", "last"))
    )
    assert [[row["checkpoint"] for row in one["results"]] for one in told] == [["best", "last"], ["file"], ["file"]]
    assert [[row["checkpoint"] for row in one["results"]] for one in untold] == [["last"], ["file"], ["file"]]
    assert (
        untold[2]["results"][0]["stored"] and untold[2]["results"][0]["accuracy"] == told[2]["results"][0]["accuracy"]
    )
    assert "leave out --model" in call("eval", *named[:2], "--model", MODEL, *common).stderr


def test_what_is_no_run_stands_in_tables_and_status(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(fake().state_dict(), "old.pt")
    own = tmp_path / "own.csv"
    own.write_text(f"{','.join(FIELDS)}\nold-way,{MODEL},,fake,best,clean,50,paper,A Paper\n")
    file, wide = f"old.pt:{MODEL}", ("--dataset", "fake", "--eps", "0.2")
    accuracy = evaluated(file, "--dataset", "fake")["results"][0]["accuracy"]
    assert call("eval", file, *wide, "--protocol", "fgsm", "--protocol", "clean", "--device", "cpu").exit_code == 0
    kept = evaluated(folder)["results"][0]["accuracy"]
    frame = ardbench.results([run, str(folder), file], published=own, named=["standard, resnet18", f"old-way, {MODEL}"])
    shown = frame[frame["run"].isin(["handed-on", file])]
    clean = shown[shown["protocol"] == "clean"]
    assert [tuple(row) for row in clean[clean["value"].notna()][["run", "student", "value"]].itertuples(index=False)] == [
        ("handed-on", "resnet18", kept), (file, MODEL, accuracy),
    ]  # fmt: skip
    (quoted,) = clean[clean["published"].notna()].itertuples()
    assert (quoted.run, quoted.published, quoted.verdict) == (file, 0.5, "match" if accuracy == 0.5 else "off")
    assert set(shown[shown["protocol"] == "fgsm"]["eps"]) == {0.2}
    told = json.loads(call("status", file, "--dataset", "fake", "--json").stdout)["runs"]
    assert [(one["state"], one["evaluations"][0]["accuracy"], one["age"] < 60) for one in told] == [
        ("file", accuracy, True)
    ]
    assert json.loads(call("status", folder, "--json").stdout)["runs"][0]["evaluations"][0]["accuracy"] == kept
    out = tmp_path / "out"
    words = ("--published", own, "--as", "standard, resnet18", "--as", f"old-way, {MODEL}", "--out", out)
    assert call("report", run.path, folder, file, *words).exit_code == 0
    numbers = int(frame["value"].notna().sum())
    told = call("verify", out / "report.csv")
    assert f"verified. {numbers} numbers counted again from the verdicts of 2 networks" in told.stdout
    text = (out / "report.csv").read_text()
    assert f",{accuracy}," in text
    (out / "report.csv").write_text(text.replace(f",{accuracy},", f",{accuracy / 2},"))
    assert "says value" in call("verify", out / "report.csv").stdout
    for words, said in (
        (("--as", "rslad, resnet18"), "--as names 1 networks that are no runs, and the table has 0"),
        ((file, "--dataset", "fake", "--as", "rslad"), "--as 'rslad' is no METHOD, STUDENT"),
        (
            (file, "--dataset", "fake", "--as", "rsald, resnet18"),
            "Unknown published method 'rsald': did you mean 'rslad'?",
        ),
    ):
        assert said in call("report", run.path, *words).stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "resnet9"}, "describes no network of this ardbench (resnet9 on fake)"),
        ({"dataset": "../../etc"}, "describes no network of this ardbench"),
        ({"normalise": {"mean": [0.5], "std": [0.5]}}, "describes no network of this ardbench"),
        ({"normalise": {"mean": [0.5] * 3, "std": [0.0] * 3}}, "holds no description of an exported network"),
        ({"normalise": {"mean": [1e999] * 3, "std": [0.5] * 3}}, "holds no description of an exported network"),
        ({"normalise": 3}, "holds no description of an exported network"),
        ({"sha256": "ab"}, "is not the file that config.json describes"),
        ({"sha256": None}, "holds no description of an exported network"),
        ({"architecture": "wrn-28-10"}, "does not fit wrn-28-10"),
    ],
)
def test_a_damaged_export_is_one_sentence(change: dict[str, Any], said: str, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said in refusal(folder)
    result = call("eval", folder, "--protocol", "clean", "--device", "cpu")
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("config", ['{"model_type": "resnet", "architectures": ["ResNet"]}', "{}"])
def test_weights_beside_a_config_of_a_hub_teach(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    for name in ("model.safetensors", "best.safetensors", "weights.safetensors"):
        save_file(fake().state_dict(), tmp_path / name)
        assert torch.equal(taught(f"{tmp_path / name}:{MODEL}"), logits(fake()))


def test_a_wrong_name_for_a_runs_own_weights_is_refused(run: Run) -> None:
    best = run.weights("best")
    assert torch.equal(taught(f"{best}:{MODEL}"), logits(networks.of_run(run, "best", CPU)))
    message = f"{best} is a {MODEL}, as config.json beside it says, and no wrn-28-10: give {run.path}@best."
    assert refusal(f"{best}:wrn-28-10") == message
    result = call("eval", best, "--model", "wrn-28-10", "--dataset", "fake")
    assert result.exit_code == 2 and message in result.stderr
    torch.save(fake().state_dict(), run.path / "mine.pt")  # somebody's file that only lies there
    assert torch.equal(taught(f"{run.path / 'mine.pt'}:{MODEL}"), logits(fake()))


# What is told ---------------------------------------------------------------------------------------------------------


def test_what_was_left_out_is_told_before_it_is_measured_or_teaches(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save(
        {f"1.{key}": tensor for key, tensor in fake().state_dict().items()} | {"n_classes": torch.tensor(10)}, file
    )
    words = ("--device", "cpu", "--runs", tmp_path / "runs")
    said = call("eval", file, "--model", MODEL, "--dataset", "fake", "--protocol", "clean", *words).stderr
    assert "left out numbers of no layer (n_classes)" in said and "something without weights stood there" in said
    small = [word for one in ("data.train_images=64", "data.validation=10", "attack.steps=1", "data.augment=none")
             for word in ("--set", one)]  # fmt: skip
    result = call(
        "distill", "rslad-digits", "--dataset", "fake", "--epochs", 1, "--teacher", f"{file}:{MODEL}", *small, *words
    )
    assert result.exit_code == 0, result.stderr
    assert "left out numbers of no layer (n_classes)" in result.stderr and "something without weights" in result.stderr
    assert isinstance(networks.of_teacher(locate(f"{file}:{MODEL}"), "fake", CPU), nn.Module)
    assert not isinstance(fake().normalise, Normalise)
