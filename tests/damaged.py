"""Damaged files of every kind that is read, each a function of its reader and a number, and what reads them."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
import signal
import tomllib
import zipfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch
from mutations import changed, damaged, toml
from safetensors.torch import save
from test_data_files import jpeg
from test_reports import make_run, recipe, verdict

from ardbench import data, models
from ardbench.campaigns.cells import plan
from ardbench.campaigns.suites import benchmarks_folder, load_suite
from ardbench.cli.status import _row
from ardbench.data import tiny_imagenet
from ardbench.data.cifar_batches import read_batch
from ardbench.data.cifar_svhn import _extract
from ardbench.data.npz import Npz
from ardbench.data.tiny_imagenet import read_tiny_imagenet
from ardbench.engine.checkpoints import load_state, load_weights
from ardbench.errors import ArdbenchError
from ardbench.evaluation.adversarial import read_images
from ardbench.evaluation.autoattack import load_state as load_evaluation
from ardbench.evaluation.batch_size import remembered
from ardbench.evaluation.matrix import load_transfer
from ardbench.evaluation.protocols import asked
from ardbench.models.files import load_into, read_state
from ardbench.progress import Progress
from ardbench.recipes import describe, resolve
from ardbench.reports import collect, read, tables, write
from ardbench.reports.page import page
from ardbench.runs import Run, Teacher, read_json
from ardbench.verbs.standing import facts_of

SECONDS = 20
"""An input that takes longer hangs; the slowest takes a second on a busy machine."""

SHARES = {
    "recipe": 20, "suite": 8, "protocols": 4, "trainer state": 10, "weights": 6, "outside checkpoint": 14, "results": 20,
    "Tiny-ImageNet": 8, "CIFAR batch": 3, "CIFAR archive": 3, "extra images": 4,
}  # fmt: skip
"""Inputs of each reader in a hundred."""

Read = Callable[[Random], object]


class Hang(BaseException):
    """An input took too long."""


def stop(*_: object) -> None:
    raise Hang


def run(read_one: Read, name: str, number: int) -> str:
    """Return what became of one input: "read", "refused", or the fault."""
    signal.alarm(SECONDS)
    try:
        read_one(Random(f"{name} {number}"))
    except ArdbenchError as error:
        said = str(error)
        return "refused" if said and len(said) < 2000 else f"a refusal of {len(said)} characters"
    except (Exception, Hang) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    return "read"


# The readers ----------------------------------------------------------------------------------------------------------


def document(tree: Any, source: Random, text: Callable[[Any], str]) -> bytes:
    """Return a document with other values, or its bytes damaged."""
    if source.random() < 0.6:
        return text(changed(tree, source)).encode(errors="surrogatepass")
    return damaged(text(tree).encode(), source)


def recipes(folder: Path) -> Read:
    whole = [describe(name) for name in ("rslad-digits", "crdnd-cifar100", "standard-digits")]
    path = folder / "own.toml"

    def one(source: Random) -> None:
        path.write_bytes(document(source.choice(whole), source, toml))
        found = resolve(str(path))
        assert Run.place(folder, found).path.parent == folder

    return one


def suites(folder: Path) -> Read:
    paths = sorted((benchmarks_folder() / "suites").glob("digits*.toml"))
    whole, path = [tomllib.loads(one.read_text()) for one in paths], folder / "own.toml"

    def one(source: Random) -> None:
        path.write_bytes(document(source.choice(whole), source, toml))
        suite = load_suite(str(path))
        if source.random() < 0.1:
            assert all(cell.run.path.parent == folder for cell in plan(suite, folder, resolve))

    return one


def protocols(folder: Path) -> Read:
    path = folder / "own.toml"
    pgd = {"kind": "pgd", "objective": "ce", "steps": 3, "step_size": "2/255", "reference_eps": "8/255", "version": 1}
    whole = {"mine": pgd | {"start": "uniform", "restarts": 1, "threat": {"norm": "linf", "eps": 0.1}}}

    def one(source: Random) -> None:
        path.write_bytes(document(whole, source, toml))
        asked(f"{path}:mine")

    return one


def saved(tree: object, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file, _use_new_zipfile_serialization=not legacy)
    content = file.getvalue()
    return (
        re.sub(rb"\d{12,}", lambda found: b"7" * len(found[0]), content) if legacy else content
    )  # an address in memory


def repickled(content: bytes, source: Random) -> bytes:
    """Return an archive of torch.save with its pickle or another member damaged, and the container right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", source.choice((0, 0, 8))) as new:
        chosen = source.choice([*old.namelist(), *[name for name in old.namelist() if name.endswith("data.pkl")] * 9])
        for name in old.namelist():
            new.writestr(name, damaged(old.read(name), source) if name == chosen else old.read(name))
    return made.getvalue()


def trainer_state(folder: Path) -> Read:
    nets = {"student": {"w": torch.ones(3), "n": torch.tensor(4)}}
    content = saved(
        {"at": {"epoch": 1, "step": 0}, "nets": nets, "averaged": None, "ledger": {"sum": 1.5, "rows": [1]}}
    )
    path = folder / "last.state"

    def one(source: Random) -> None:
        inner = repickled(content, source) if source.random() < 0.5 else damaged(content, source)
        right = hashlib.sha256(inner if source.random() < 0.9 else content).digest()
        path.write_bytes(inner + right)
        assert isinstance(load_state(path), dict)

    return one


def safetensors(content: bytes, source: Random) -> bytes:
    """Return a safetensors file with its bytes damaged, or with other values in its header."""
    if source.random() < 0.4:
        return damaged(content, source)
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(changed(json.loads(content[8 : 8 + size]), source)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def weights(folder: Path) -> Read:
    content = save({"a.weight": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.int64)}, {"ardbench": "{}"})
    images = save({"x_adv": torch.zeros(2, 1, 2, 2), "rows": torch.arange(2)})
    path = folder / "last.safetensors"

    def one(source: Random) -> None:
        if source.random() < 0.7:
            path.write_bytes(safetensors(content, source))
            load_weights(path)
        else:
            path.write_bytes(safetensors(images, source))
            assert read_images(path, "rows")["x_adv"].ndim == 4

    return one


def outside(folder: Path) -> Read:
    torch.manual_seed(0)
    net = models.build("resnet8-tiny", data.info("digits"))
    state = net.state_dict()
    floats = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    parts = torch.cat([tensor.flatten() for tensor in floats.values()]).split(
        [tensor.numel() for tensor in floats.values()]
    )
    of_one_storage = {key: part.view_as(floats[key]) for key, part in zip(floats, parts, strict=True)}
    trees = [{"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}, "epoch": 3}, state]
    beside = {"args": Namespace(lr=np.float64(0.1), out=Path("a")), "seen": defaultdict(list, {"loss": [1.0]})}
    trees.append(
        beside | {"net": {f"1.{key}": tensor.numpy() for key, tensor in state.items()}, "n_classes": torch.tensor(10)}
    )
    files = {".pt": [saved(tree) for tree in trees], ".pth": [saved(of_one_storage, True)]}
    packed = save({key: tensor.contiguous() for key, tensor in state.items()})

    def one(source: Random) -> None:
        suffix = source.choice((".pt", ".pt", ".pth", ".safetensors"))
        path = folder / f"theirs{suffix}"
        if suffix == ".safetensors":
            path.write_bytes(safetensors(packed, source))
        else:
            content = source.choice(files[suffix])
            inner = repickled if suffix == ".pt" and source.random() < 0.6 else damaged
            path.write_bytes(inner(content, source))
        load_into(net, read_state(path), path)

    return one


def results(folder: Path) -> Read:
    teacher = Teacher("runs/wide", "robust", "ab@best", "resnet18", str(folder / "gone.safetensors"), "ab")
    made = make_run(folder / "runs", recipe(), (teacher,))
    told = {"clean": 0.8, "adv": 0.4, "both": 0.4, "clean_only": 0.4, "neither": 0.2}
    by_class = {"class_clean": [0.8] * 9 + [None], "class_adv": [0.4] * 10}
    row = {
        "epoch": 0,
        "loss": 2.0,
        "seconds": 900.0,
        "images": 1800,
        "images_per_second": 2.0,
        "val_clean": 0.5,
        "val_robust": 0.2,
    }
    row |= {"diagnostics": {"teachers": [told | by_class], "peer": {"clean": 0.1, "adv": 0.1}}}
    (made.path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    for protocol, correct in (("clean", 9), ("aa", 4), ("pgd20", 5)):
        verdict(made, protocol, correct, notes=["one"], environment={"device": "cpu"}, key={"weights": "ab"})
    finding = {"check": "pgd-minus-aa", "level": "warning", "reason": "it misleads"}
    (made.path / "eval/last/trust.json").write_text(json.dumps({"weights": "ab", "findings": [finding]}))
    beside = folder / "runs"
    matrix = {"right": [4, 10], "fooled": [[3, 1], [2, 9]], "environment": {"torch": "2", "argv": ["a"]}, "n": 10}
    (beside / "transfer-ab.json").write_text(json.dumps(matrix))
    (beside / "batches.json").write_text(json.dumps({"net": 64}))
    half = {
        "key": {"n": 4},
        "batch": 2,
        "predictions": [0, 1, 1, 0],
        "taken": {"clean": 1},
        "pending": [0, 2],
        "position": 1,
    }
    (made.path / "eval/last/aa.state.json").write_text(json.dumps(half))
    write(collect([made]), beside, "report", [made])
    names = (
        "config.json",
        "env.json",
        "metrics.jsonl",
        "done",
        "eval/last/clean.json",
        "eval/last/aa.json",
        "eval/last/trust.json",
    )
    paths = [*(made.path / name for name in names), made.path / "eval/last/aa.state.json"]
    paths += [beside / name for name in ("transfer-ab.json", "batches.json", "report.csv")]
    whole = {path: path.read_bytes() for path in paths}

    def one(source: Random) -> None:
        path = source.choice(paths)
        if path.suffix == ".csv" or source.random() < 0.3:
            path.write_bytes(damaged(whole[path], source))
        else:
            path.write_text(json.dumps(changed(json.loads(whole[path]), source)))
        try:
            match path.name:
                case "transfer-ab.json":
                    assert all(0 <= rate <= 1 for line in load_transfer(path).rates for rate in line)
                case "batches.json":
                    if "net" in read_json(path):  # else it would be found by trial
                        assert remembered(path, "net", torch.nn.Identity(), torch.zeros(1, 1, 1, 1)) > 0
                case "aa.state.json":
                    load_evaluation(path)
                case "report.csv":
                    tables(read(path))
                case _:
                    whole_run(Run(made.path), folder, source.random())
        finally:
            path.write_bytes(whole[path])

    return one


def whole_run(run: Run, folder: Path, share: float) -> None:
    """Read a run as `status` does, of some as `report` does, and of few as `report --html` does."""
    facts = facts_of(run)
    _row({"run": "", "reason": "", "age": 0.0, **facts})
    json.dumps(facts, allow_nan=False)
    if share < 0.05:
        frame = collect([run])
        assert isinstance(frame, pd.DataFrame)
        write(frame, folder / "out", "report", [run])
    if share < 0.005:
        page("A title", frame, [run])


def tiny(folder: Path) -> Read:
    small = replace(data.info("tiny-imagenet"), num_classes=2, train_images=4, test_images=2, size=8)
    files = {"wnids.txt": b"n02\nn01\n", "words.txt": b"n01\tgoldfish, Carassius\nn02\tnewt\n"}
    files |= {f"train/{w}/images/{w}_{i}.JPEG": jpeg((9, 9, 80 * i), 8) for w in ("n01", "n02") for i in range(2)}
    files |= {f"val/images/v{i}.JPEG": jpeg(99 * i, 8) for i in range(2)}
    files["val/val_annotations.txt"] = b"v0.JPEG\tn02\t0\t1\t2\t3\nv1.JPEG\tn01\t0\t1\t2\t3\n"
    archive = folder / tiny_imagenet.ARCHIVE.name
    names = ("../../x", "/etc/x", "tiny-imagenet-200", "tiny-imagenet-200/", "a\\b", "C:x", "\xff" * 300)

    def packed(source: Random) -> bytes:
        made, chosen = io.BytesIO(), source.choice([*files, ""])
        with zipfile.ZipFile(made, "w", source.choice((0, 8, 12, 14))) as file:
            for name, content in files.items():
                at = f"tiny-imagenet-200/{name}"
                if name == chosen and source.random() < 0.2:
                    at = source.choice(names)
                file.writestr(at, damaged(content, source) if name == chosen else content)
        return made.getvalue()

    def one(source: Random) -> None:
        content = packed(source)
        if source.random() < 0.5:
            content = damaged(content, source)
        archive.write_bytes(content)
        (folder / tiny_imagenet.CACHE).unlink(missing_ok=True)
        tiny_imagenet.ARCHIVE = replace(tiny_imagenet.ARCHIVE, md5=hashlib.md5(content).hexdigest())
        raw = read_tiny_imagenet(small, folder, False, Progress())
        assert raw.train_images.shape == (4, 3, 8, 8) and len(raw.test_labels) == 2
        assert {path.name for path in folder.iterdir()} <= {archive.name, tiny_imagenet.CACHE}

    return one


def cifar_batch(folder: Path) -> Read:
    import numpy as np

    rows = {"data": np.zeros((2, 3072), np.uint8), "labels": [3, 4], "batch_label": "b"}
    content = pickle.dumps(rows, protocol=4)

    def one(source: Random) -> None:
        try:
            images, labels = read_batch(damaged(content, source))
        except pickle.UnpicklingError:  # named by who knows the path
            raise ArdbenchError("refused") from None
        assert images.dtype == np.uint8 and all(0 <= label < 100 for label in labels)

    return one


def extra(folder: Path) -> Read:
    arrays = {"image": np.arange(384, dtype=np.uint16).astype(np.uint8).reshape(2, 8, 8, 3), "label": np.array([3, 4])}
    contents = []
    for write_one in (np.savez, np.savez_compressed):
        made = io.BytesIO()
        write_one(made, **arrays)  # type: ignore[arg-type]
        contents.append(made.getvalue())

    def one(source: Random) -> None:
        path = folder / "extra.npz"
        path.write_bytes(damaged(source.choice(contents), source))
        file = Npz(path)
        shutil.rmtree(file.folder, ignore_errors=True)
        assert len(file.contents.sha256) == 64
        for member in filter(None, (file.image, file.label)):
            assert file.array(member).sum() >= 0 or member is file.label

    return one


def cifar_archive(folder: Path) -> Read:
    import gzip
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("b/first", "b/wanted", "b/" + "long" * 40):
            member = tarfile.TarInfo(name)
            member.size = 700
            tar.addfile(member, io.BytesIO(b"x" * 700))
    content, root = made.getvalue(), folder / "root"
    root.mkdir()

    def one(source: Random) -> None:
        archive = folder / "cifar.tar.gz"
        inner = damaged(content, source) if source.random() < 0.8 else content
        packed = gzip.compress(inner, 1)
        archive.write_bytes(packed if inner is not content else damaged(packed, source))
        try:
            _extract(archive, root, ["b/wanted"])
        finally:
            found = {path.relative_to(root).as_posix() for path in root.rglob("*")}
        assert found <= {"b", "b/wanted"} and (root / "b/wanted").is_file() and not (root / "b/wanted").is_symlink()

    return one


READERS: dict[str, Callable[[Path], Read]] = {
    "recipe": recipes, "suite": suites, "protocols": protocols, "trainer state": trainer_state, "weights": weights,
    "outside checkpoint": outside, "results": results, "Tiny-ImageNet": tiny, "CIFAR batch": cifar_batch,
    "CIFAR archive": cifar_archive, "extra images": extra,
}  # fmt: skip
