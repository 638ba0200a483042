"""The zoo: files of others under their own names of weights, absent ones, and what is recorded measured again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from cli_call import call
from safetensors import safe_open
from safetensors.torch import save_file
from test_models import on_meta, settled
from torch import Tensor

from ardbench import data
from ardbench.config import Threat
from ardbench.data.load import load
from ardbench.engine import networks
from ardbench.engine.checkpoints import save_weights
from ardbench.errors import ArdbenchError
from ardbench.evaluation.measure import evaluate
from ardbench.models import MODELS, build, zoo
from ardbench.models.layouts import fits
from ardbench.models.network import Network
from ardbench.models.wideresnet import WideResNet
from ardbench.models.wideresnet_swish import SwishWideResNet
from ardbench.models.wrapping import Resized
from ardbench.runs import Run, sha256_of
from ardbench.teachers import locate, planned_outside

CPU = torch.device("cpu")
THREAT = Threat(norm="linf", eps=8 / 255)
CLEAN = "zoo:clean-resnet18-cifar10"
Shapes = Iterator[tuple[str, tuple[int, ...]]]


# Layouts of others: names and shapes written down from their papers' networks, not from ours ---------------------------


def norm(name: str, width: int) -> Shapes:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def trades(depth: int, widen: int, classes: int, spare: bool) -> Shapes:
    widths = [16, 16 * widen, 32 * widen, 64 * widen]
    yield "conv1.weight", (16, 3, 3, 3)
    stages = [("block1", 0), ("sub_block1", 0), ("block2", 1), ("block3", 2)]
    for stage, at in stages if spare else [stages[0], *stages[2:]]:
        for i in range((depth - 4) // 6):
            inside, outside = widths[at] if i == 0 else widths[at + 1], widths[at + 1]
            yield from norm(f"{stage}.layer.{i}.bn1", inside)
            yield f"{stage}.layer.{i}.conv1.weight", (outside, inside, 3, 3)
            yield from norm(f"{stage}.layer.{i}.bn2", outside)
            yield f"{stage}.layer.{i}.conv2.weight", (outside, outside, 3, 3)
            if inside != outside:
                yield f"{stage}.layer.{i}.convShortcut.weight", (outside, inside, 1, 1)
    yield from norm("bn1", widths[3])
    yield from (("fc.weight", (classes, widths[3])), ("fc.bias", (classes,)))


def gowal(depth: int, widen: int, classes: int) -> Shapes:
    widths = [16, 16 * widen, 32 * widen, 64 * widen]
    yield "init_conv.weight", (16, 3, 3, 3)
    for stage in range(3):
        for i in range((depth - 4) // 6):
            inside, outside = widths[stage] if i == 0 else widths[stage + 1], widths[stage + 1]
            block = f"layer.{stage}.block.{i}"
            yield from norm(f"{block}.batchnorm_0", inside)
            yield f"{block}.conv_0.weight", (outside, inside, 3, 3)
            yield from norm(f"{block}.batchnorm_1", outside)
            yield f"{block}.conv_1.weight", (outside, outside, 3, 3)
            if inside != outside:
                yield f"{block}.shortcut.weight", (outside, inside, 1, 1)
    yield from norm("batchnorm", widths[3])
    yield from (("logits.weight", (classes, widths[3])), ("logits.bias", (classes,)))


LAYOUTS: dict[str, Callable[[], Shapes]] = {
    "trades-wrn-34-10-cifar10": lambda: trades(34, 10, 10, True),
    "ltd-wrn-34-10-cifar10": lambda: trades(34, 10, 10, False),
    "ltd-wrn-34-20-cifar10": lambda: trades(34, 20, 10, False),
    "ltd-wrn-34-10-cifar100": lambda: trades(34, 10, 100, True),
    "gowal-wrn-70-16-cifar100": lambda: gowal(70, 16, 100),
    "gowal-wrn-28-10-cifar10": lambda: gowal(28, 10, 10),
    "wang-wrn-28-10-cifar10": lambda: gowal(28, 10, 10),
    "wang-wrn-28-10-cifar100": lambda: gowal(28, 10, 100),
    "bartoldson-wrn-94-16-cifar10": lambda: gowal(94, 16, 10),
}


@pytest.mark.parametrize("wrapped", ["", "module."])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_weight_of_a_downloaded_file_has_its_place(name: str, wrapped: str) -> None:
    entry = zoo.ENTRIES[name]
    wanted = {key: tensor.shape for key, tensor in on_meta(entry.model, entry.info).state_dict().items()}
    state = {f"{wrapped}{key}": torch.empty(shape, device="meta") for key, shape in LAYOUTS[name]()}
    (found,) = fits({"state_dict": state}, wanted)
    assert {key: tensor.shape for key, tensor in found.weights.items()} == wanted


def small_wrn(info: data.DatasetInfo, normalise: bool) -> Network:
    return WideResNet(info, normalise, 10, 1)


def small_swish(info: data.DatasetInfo, normalise: bool) -> Network:
    return SwishWideResNet(info, normalise, 10, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of downloads, with small networks in place of the large ones."""
    monkeypatch.setenv("ARDBENCH_TEACHERS", str(tmp_path / "teachers"))
    (tmp_path / "teachers").mkdir()
    for model in ("wrn-34-10", "wrn-34-20"):
        monkeypatch.setitem(MODELS, model, "test_zoo:small_wrn")
    for model in ("wrn-28-10-swish", "wrn-70-16-swish", "wrn-94-16-swish"):
        monkeypatch.setitem(MODELS, model, "test_zoo:small_swish")
    return tmp_path / "teachers"


def theirs(net: Network) -> dict[str, Tensor]:
    """Return a network's weights by the name that its authors gave the head."""
    head = "logits." if isinstance(net, SwishWideResNet) else "fc."
    return {key.replace("head.", head): tensor for key, tensor in net.state_dict().items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_downloaded_file_computes_what_its_authors_network_does(name: str, folder: Path) -> None:
    entry = zoo.ENTRIES[name]
    net = settled(build(entry.model, entry.info))
    state = theirs(net)
    state |= {f"sub_{key}": tensor + 1 for key, tensor in state.items() if key.startswith("block1.")}
    torch.save(state, folder / entry.file)
    taught = locate(f"zoo:{name}")
    assert (taught.sha256, taught.model) == (sha256_of(folder / entry.file), entry.model)
    found = networks.of_teacher(taught, entry.dataset, CPU)
    x = torch.rand(2, 3, 32, 32)
    mean, std = (0.0, 1.0) if not entry.mean else (torch.tensor(n).view(3, 1, 1) for n in (entry.mean, entry.std))
    torch.testing.assert_close(found(x), net((x - mean) / std))
    assert not any(module.training for module in found.modules())


def test_numbers_in_the_file_go_before_those_of_the_zoo(folder: Path) -> None:
    entry = zoo.ENTRIES["gowal-wrn-70-16-cifar100"]
    net = settled(build(entry.model, entry.info))
    own = {"mean": torch.full((3, 1, 1), 0.25), "std": torch.full((3, 1, 1), 0.5)}
    torch.save(theirs(net) | own, folder / entry.file)
    x = torch.rand(2, 3, 32, 32)
    plain = locate(f"{folder / entry.file}:wrn-70-16-swish")
    for taught in (locate(f"zoo:{entry.name}"), plain):
        found = networks.of_teacher(taught, "cifar100", CPU)
        torch.testing.assert_close(found(x), net((x - 0.25) / 0.5))


def test_the_numbers_that_a_network_sees_by_are_part_of_what_it_is(folder: Path) -> None:
    entry = zoo.ENTRIES["gowal-wrn-70-16-cifar100"]
    torch.save(theirs(build(entry.model, entry.info)), folder / entry.file)
    plain, ours = locate(f"{folder / entry.file}:wrn-70-16-swish"), locate(f"zoo:{entry.name}")
    assert plain.sha256 == ours.sha256 == plain.identity
    assert plain.identity != ours.identity, "one normalises, the other does not"


def test_a_teacher_of_our_own_may_be_kept_in_half_precision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = zoo.Entry(name="own", model="resnet8-tiny", dataset="fake", by="us", get="it", file="own.safetensors")
    monkeypatch.setitem(zoo.ENTRIES, "own", entry)
    net = settled(build("resnet8-tiny", data.info("fake")))
    halved = {key: t.half() if t.is_floating_point() else t for key, t in net.state_dict().items()}
    save_file(halved, folder / "own.safetensors")
    found = networks.of_teacher(locate("zoo:own"), "fake", CPU)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, halved[key].to(tensor.dtype)) for key, tensor in found.state_dict().items())


# Entries and their files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", zoo.ENTRIES.values(), ids=lambda entry: entry.name)
def test_entries_fit_the_rest_of_ardbench(entry: zoo.Entry) -> None:
    assert on_meta(entry.model, entry.info).info.num_classes == data.info(entry.dataset).num_classes
    assert {len(entry.mean), len(entry.std)} <= {0, entry.info.channels} and len(entry.mean) == len(entry.std)
    assert all(one.correct <= one.n <= entry.info.test_images for one in entry.measured)


def test_what_is_absent_says_what_to_download_and_where_to_put_it(folder: Path) -> None:
    for name in LAYOUTS:
        with pytest.raises(ArdbenchError) as refusal:
            locate(f"zoo:{name}")
        assert zoo.ENTRIES[name].get in str(refusal.value) and str(folder / f"{name}.pt") in str(refusal.value)
        assert call("eval", f"zoo:{name}").exit_code == 2
    with pytest.raises(ArdbenchError, match="did you mean 'trades-wrn-34-10-cifar10'"):
        locate("zoo:trades-wrn-34-10-cifar")


def test_the_clean_network_is_found_in_its_package_and_planned_without_torch() -> None:
    code = (
        "import sys\nfrom ardbench.teachers import planned_outside\n"
        f"taught = planned_outside({CLEAN!r}, 'clean')\nprint(taught.identity, taught.weights)\n"
        "assert not {'torch', 'pyautoattack'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    identity, weights = done.stdout.split()
    assert Path(weights).name == "model_test.pt" and identity == sha256_of(Path(weights))
    net = networks.of_teacher(locate(CLEAN), "cifar10", CPU)
    theirs = torch.load(weights, map_location="cpu", weights_only=True)
    assert torch.equal(net.get_parameter("head.weight"), theirs["linear.weight"])
    with pytest.raises(
        ArdbenchError, match=r"was trained on cifar10 \(10 classes of 3x32x32\), but .* cifar100 has 100"
    ):
        networks.of_teacher(locate(CLEAN), "cifar100", CPU)


SUITE = """
title = "One has a teacher that nobody has downloaded"
dataset = "fake"
protocols = ["clean"]
[[runs]]
name = "student"
recipe = "rslad-digits"
teachers = ["zoo:trades-wrn-34-10-cifar10"]
[[runs]]
name = "plain"
recipe = "standard-digits"
set = { schedule.epochs = 1, data.train_images = 64, data.validation = 20, data.augment = "none", selection.by = "last" }
"""


def test_a_suite_is_planned_without_the_file_and_only_that_run_is_refused(folder: Path, tmp_path: Path) -> None:
    suite, out = tmp_path / "zoo.toml", tmp_path / "out"
    suite.write_text(SUITE)
    words = ["reproduce", suite, "--runs", tmp_path / "runs", "--out", out, "--device", "cpu"]
    plan = call(*words, "--dry-run")
    assert plan.exit_code == 0 and "zoo:trades-wrn-34-10-cifar10" in plan.stdout
    planned = planned_outside("zoo:trades-wrn-34-10-cifar10", "robust")
    assert (planned.identity, planned.sha256) == ("zoo:trades-wrn-34-10-cifar10", "")
    assert planned.weights == str(folder / "trades-wrn-34-10-cifar10.pt")
    result = call(*words, "--jobs", "1")
    assert result.exit_code == 2
    assert "student (seed 0) was refused: " + zoo.ENTRIES["trades-wrn-34-10-cifar10"].absence in result.stderr
    assert len(list((tmp_path / "runs").glob("standard-*/done"))) == 1


# Teachers that a package carries ------------------------------------------------------------------------------------------


@pytest.fixture
def carried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> zoo.Entry:
    """Return an entry whose file lies in an installed package, with the checksum that it has there."""
    weights = folder.parent / "packages" / "carrier" / "weights"
    weights.mkdir(parents=True)
    (weights.parent / "__init__.py").write_text("raise ImportError('finding a file imports nothing')")
    monkeypatch.syspath_prepend(weights.parents[1])
    save_weights(
        weights / "own.safetensors", settled(build("resnet8-tiny", data.info("fake"))), {"model": "resnet8-tiny"}
    )
    entry = zoo.Entry(
        name="own", model="resnet8-tiny", dataset="fake", by="us", get="the wheel", file="weights/own.safetensors",
        package="carrier", sha256=sha256_of(weights / "own.safetensors"), threat=THREAT,
    )  # fmt: skip
    monkeypatch.setitem(zoo.ENTRIES, "own", entry)
    return entry


def test_a_carried_teacher_teaches_is_measured_and_crafts(carried: zoo.Entry, tmp_path: Path) -> None:
    where = ["--device", "cpu", "--runs", tmp_path / "runs"]
    sets = ["data.train_images=64", "data.validation=20", "attack.steps=1", "selection.protocol=fgsm"]
    words = [word for one in sets for word in ("--set", one)]
    trained = call(
        "distill", "rslad-digits", "--dataset", "fake", "--epochs", 1, "--teacher", "zoo:own", *words, *where
    )
    assert trained.exit_code == 0, trained.output
    run = Run(next((tmp_path / "runs").glob("rslad-*")))
    (teacher,) = run.teachers
    assert (teacher.source, teacher.sha256, teacher.identity) == ("zoo:own", carried.sha256, carried.sha256)
    assert "1 of 1 teacher at hand and the same" in call("verify", run.path, "--device", "cpu").stdout
    alone = json.loads(call("eval", "zoo:own", "--protocol", "pgd20", "--n", 20, "--json", *where).stdout)
    assert alone["threat"] == {"norm": "linf", "eps": 8 / 255}
    crafted = call("eval", run.path, "--protocol", "transfer", "--surrogate", "zoo:own", "--n", 20, *where)
    assert crafted.exit_code == 0 and "crafted on zoo:own" in crafted.stdout
    rows = {row["name"]: row["file"] for row in json.loads(call("list", "teachers", "--json").stdout)["teachers"]}
    assert rows["own"] == "here"


@pytest.mark.parametrize("line", [("eval", "zoo:own"), ("distill", "rslad-digits", "--teacher", "zoo:own")])
def test_another_file_in_the_place_of_a_carried_one_is_refused(line: tuple[str, ...], carried: zoo.Entry) -> None:
    save_weights(carried.path, settled(build("resnet8-tiny", data.info("fake"))), {"model": "another"})
    result = call(*line)
    assert result.exit_code == 2
    said = f"{carried.path} is not zoo:own (its checksum does not match): get the wheel again, and put it there."
    assert said in " ".join(result.stderr.split())


def test_what_ardbench_carries_is_small_whole_measured_and_described() -> None:
    weights = Path(str(resources.files("ardbench"))) / "models" / "weights"
    files = {path.name for path in weights.glob("*")}
    ours = [entry for entry in zoo.ENTRIES.values() if entry.package == "ardbench"]
    assert files == {f"{entry.name}.{ending}" for entry in ours for ending in ("md", "safetensors")}
    for entry in ours:
        assert entry.file == f"models/weights/{entry.name}.safetensors" and entry.path.stat().st_size < 3 * 2**20
        assert locate(f"zoo:{entry.name}").sha256 == entry.sha256
        assert {"clean", "pgd20", "aa"} <= {one.protocol for one in entry.measured}
        assert (entry.threat is None) == entry.name.startswith("clean-")
        with safe_open(entry.path, "pt") as file:
            facts = json.loads(file.metadata()["ardbench"])
        assert (facts["model"], facts["dataset"]) == (entry.model, entry.dataset)
        info = data.info(entry.dataset)
        assert (entry.mean, entry.std) == ((info.mean, info.std) if facts["normalise"] == "true" else ((), ()))


# Listing and measuring again --------------------------------------------------------------------------------------------


def test_list_teachers_says_what_is_here_and_what_is_recorded(folder: Path) -> None:
    rows = {row["name"]: row for row in json.loads(call("list", "teachers", "--json").stdout)["teachers"]}
    assert rows.keys() == zoo.ENTRIES.keys()
    clean = rows["clean-resnet18-cifar10"]
    assert (clean["file"], clean["clean"], clean["pgd20"]) == ("here", "94.22 % of 10000", "0.00 % of 200")
    assert {rows[name]["file"] for name in LAYOUTS} == {"absent"}
    assert "94.22 % of 10000" in call("list", "teachers").stdout


@pytest.mark.parametrize(("away", "code"), [(0, 0), (1, 0), (2, 2), (-2, 2)])
def test_verify_measures_again_and_refuses_a_mismatch(
    away: int, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = settled(build("resnet8-tiny", data.info("fake")))
    torch.save(net.state_dict(), folder / "own.pt")
    words = {"model": "resnet8-tiny", "dataset": "fake", "by": "us", "get": "it"}
    bare = zoo.Entry(name="own", file="own.pt", **words)
    now = evaluate(net, load("fake", CPU).test, "clean", THREAT, batch=500, n=40)
    record = {"version": 1, "n": 40, "within": 1, "date": "2026-01-01"}
    recorded = {"protocol": "clean", "correct": sum(now.robust) + away, **record}
    entries = {
        "own": zoo.Entry.model_validate({**bare.model_dump(), "measured": [recorded]}),
        "gone": zoo.Entry.model_validate(
            {**bare.model_dump(), "name": "gone", "file": "no.pt", "measured": [recorded]}
        ),
        "far": zoo.Entry.model_validate(
            {**bare.model_dump(), "name": "far", "dataset": "svhn", "measured": [recorded]}
        ),
        "new": bare.model_copy(update={"name": "new"}),
    }
    monkeypatch.setattr(zoo, "ENTRIES", entries)
    result = call("list", "teachers", "--verify", "--json", "--device", "cpu", "--data-root", folder)
    assert result.exit_code == code, result.output
    if code:
        was, measured = (f"{100 * count / 40:.2f} % of 40" for count in (sum(now.robust) + away, sum(now.robust)))
        said = f"own under clean is recorded with {was} by version 1 and has {measured} by version 1."
        assert result.stderr.splitlines()[-1] == f"Error: The zoo is not what is recorded: {said}"
        return
    verified = [row["verified"] for row in json.loads(result.stdout)["teachers"]]
    assert (verified[0], verified[1], verified[3]) == ("yes", "its file is absent", "nothing is recorded")
    assert verified[2].startswith("no data: ")


def test_verify_is_for_teachers() -> None:
    result = call("list", "models", "--verify")
    assert result.exit_code == 2 and "type `ardbench list teachers --verify`" in result.stderr


def test_eval_measures_a_network_of_the_zoo(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"model": "resnet8-tiny", "dataset": "fake", "by": "us", "get": "it", "size": 16}
    monkeypatch.setitem(zoo.ENTRIES, "own", zoo.Entry(name="own", file="own.pt", **words))
    net = settled(build("resnet8-tiny", replace(data.info("fake"), size=16)))
    torch.save(net.state_dict(), folder / "own.pt")
    asked = ["eval", "zoo:own", "--protocol", "clean", "--device", "cpu", "--runs", tmp_path / "runs", "--json"]
    document = json.loads(call(*asked).stdout)
    wanted = evaluate(Resized(net), load("fake", CPU).test, "clean", THREAT, batch=500)
    assert document["results"][0]["accuracy"] == wanted.accuracy and document["model"] == "resnet8-tiny"
    assert json.loads(call(*asked).stdout)["results"][0]["stored"]
    assert "leave out --model, --dataset, --part" in call(*asked, "--dataset", "fake").stderr
