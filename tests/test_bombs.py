"""Files that would fill the memory or take forever: each is refused at once, and so is what mutations have found."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_call import call
from PIL import Image
from readers import BATCH, READERS, hostile_tar, member, refused_quickly, torch_saved, with_sum
from safetensors.torch import save
from test_data_files import tiny, tiny_files
from test_reports import make_run, recipe, verdict

from ardbench import data, untrusted
from ardbench.campaigns.suites import load_suite
from ardbench.data import cifar_svhn
from ardbench.data.load import load
from ardbench.engine.checkpoints import load_state, load_weights
from ardbench.errors import ArdbenchError
from ardbench.evaluation.adversarial import Images
from ardbench.evaluation.matrix import load_transfer
from ardbench.models.files import read_state
from ardbench.recipes import resolve
from ardbench.reports import collect, read

__all__ = ["tiny"]


PACKAGE = Path(untrusted.__file__).parent


# Sizes -----------------------------------------------------------------------------------------------------------------


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "bomb.pt", io.BytesIO(torch_saved({"a.weight": torch.zeros(10**6)}))
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert path.stat().st_size < 10_000
    refused_quickly(lambda: read_state(path), "would unpack to more bytes than it has")
    state = tmp_path / "last.state"
    state.write_bytes(with_sum(path.read_bytes()))
    refused_quickly(lambda: load_state(state), "would unpack to more bytes than it has")


def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "net.pt", io.BytesIO(torch_saved({"a.weight": torch.ones(4)}))
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, content.replace(b"K\x04", b"J\x00\xe1\xf5\x05") if name.endswith("data.pkl") else content
            )
    refused_quickly(lambda: read_state(path), "net.pt is cut short or not one of torch.save")


class Swelling:
    def __reduce__(self) -> tuple[object, ...]:
        return bytearray, (10**13,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_asks_for_memory_is_refused(legacy: bool, tmp_path: Path) -> None:
    content = torch_saved({"a.weight": torch.ones(2), "b": Swelling()}, legacy)
    (tmp_path / "net.pt").write_bytes(content)
    (tmp_path / "last.state").write_bytes(with_sum(content))
    refused_quickly(lambda: read_state(tmp_path / "net.pt"), "asks for a byte array")
    refused_quickly(lambda: load_state(tmp_path / "last.state"), "asks for a byte array")


@pytest.mark.parametrize("header", [2**63 - 1, 10**8 + 1, 10**8])
def test_a_safetensors_file_with_a_huge_header_is_refused(header: int, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(header.to_bytes(8, "little") + b"{" * 100)
    refused_quickly(lambda: load_weights(path), "is not a complete safetensors file")
    refused_quickly(lambda: read_state(path), "cut short or not a safetensors file")


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize(
    ("name", "limit"),
    [(name, untrusted.TOML_LIMIT if name in ("recipe", "suite") else untrusted.WEIGHTS_LIMIT)
     if name not in ("verdicts", "evaluation", "matrix", "results") else (name, untrusted.TEXT_LIMIT) for name in READERS],
)  # fmt: skip
def test_a_file_over_the_limit_is_not_read(name: str, limit: int, tmp_path: Path) -> None:
    file, read_one = READERS[name]
    sparse(tmp_path / file, limit + 1)
    refused_quickly(lambda: read_one(tmp_path / file), f"has {limit + 1} bytes, more than the {limit}")


@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl", "done", "env.json"])
def test_a_run_with_a_file_over_the_limit_is_told_as_damaged(file: str, tmp_path: Path) -> None:
    made = make_run(tmp_path, recipe())
    sparse(made.path / file, untrusted.TEXT_LIMIT + 1)
    said = call("report", made.path).stderr + call("status", tmp_path).stdout
    assert f"{file} has {untrusted.TEXT_LIMIT + 1} bytes, more than the {untrusted.TEXT_LIMIT}" in said


def test_an_image_is_not_unpacked_to_another_size(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    whole = file.getvalue()
    at = whole.index(b"\xff\xc0") + 5
    bomb = whole[:at] + (65_000).to_bytes(2, "big") * 2 + whole[at + 4 :]
    root = tiny("zip", tiny_files() | {"train/n02/images/n02_3.JPEG": bomb})
    refused_quickly(
        lambda: load("tiny-imagenet", "cpu", root, download=False), "is no whole JPEG|has 65000x65000 pixels"
    )


def test_an_archive_is_unpacked_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar_svhn, "UNPACKED_LIMIT", 10**6)
    archive = tmp_path / "bomb.tar.gz"
    hostile_tar(archive, member("zeros", content=bytes(10**7)))
    assert archive.stat().st_size < 20_000
    refused_quickly(
        lambda: cifar_svhn._extract(archive, tmp_path / "a", [BATCH]), "more than the 1000000 bytes allowed"
    )
    pax = tarfile.TarInfo("x")
    pax.pax_headers = {"comment": "0" * 10**7}
    hostile_tar(archive, lambda tar: tar.addfile(pax))
    refused_quickly(
        lambda: cifar_svhn._extract(archive, tmp_path / "a", [BATCH]), "more than the 1000000 bytes allowed"
    )
    archive.write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(ArdbenchError):
        cifar_svhn._extract(archive, tmp_path / "a", [BATCH])


@pytest.mark.parametrize(
    "text", ["[" * 10**6, '{"a":' * 10**5, "9" * 10**6, "-" + "9" * 5000, '{"a": 1e' + "9" * 10**5, "NaN", '"\\ud800"']
)
def test_json_of_any_depth_and_length_is_refused_quickly(text: str, tmp_path: Path) -> None:
    for file, read_one in (READERS["verdicts"], READERS["evaluation"], READERS["matrix"]):
        (tmp_path / file).write_text(text)
        refused_quickly(lambda read_one=read_one, file=file: read_one(tmp_path / file), str(tmp_path / file))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 10**5, "a = " + "{a = " * 10**4, "seed = " + "9" * 10**5, "seed = " + "9" * 4000,
        ".".join(["a"] * 10**5) + " = 1", ".".join(['"a b"'] * 10**4) + " = 1", ".".join(['"\\""'] * 10**4) + " = 1",
        'threat = { norm = "linf", eps = "1e999999999" }', 'threat = { norm = "linf", eps = "1/1e99999999" }',
        f"schedule = {{ epochs = {10**400} }}", f"schedule = {{ epochs = {2**63} }}",
    ],
)  # fmt: skip
def test_toml_of_any_depth_and_length_is_refused_quickly(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "rslad-digits"\n{text}\n')
    refused_quickly(lambda: resolve(str(path)), "own.toml")
    refused_quickly(lambda: load_suite(str(path)), "own")


@pytest.mark.parametrize("value", ["1e999999999", "1" * 10**4, "[" * 10**5, "9" * 5000, "{a=" * 10**4])
def test_a_setting_of_any_length_is_refused_quickly(value: str) -> None:
    refused_quickly(lambda: resolve("rslad-digits", sets=[f"threat.eps={value}"]), "threat.eps")


# What mutations found -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("done", {"epochs": "4"}),
        ("done", {"seconds": 1e400}),
        ("done", {"device": 3}),
        ("metrics.jsonl", {"epoch": "0"}),
        ("metrics.jsonl", {"val_clean": "half", "val_robust": 0.5}),
        ("metrics.jsonl", {"val_clean": None, "val_robust": None}),
        ("metrics.jsonl", {"images_per_second": float("nan")}),
        ("metrics.jsonl", {"diagnostics": {"teachers": [{"adv": 0.5}]}}),
        ("metrics.jsonl", {"diagnostics": []}),
        ("env.json", {"argv": [3]}),
        ("env.json", {"git_sha": None}),
        ("eval/last/clean.json", {"threat": {"norm": "linf", "eps": float("nan")}}),
        ("eval/last/clean.json", {"threat": {"norm": "linf", "eps": [8]}}),
        ("eval/last/clean.json", {"threat": {"norm": "l2", "eps": 1e308}}),
        ("eval/last/clean.json", {"version": 10**30}),
        ("eval/last/clean.json", {"labels": [10] * 10}),
        ("eval/last/clean.json", {"predictions": [-1] * 10}),
        ("eval/last/clean.json", {"seconds": float("inf")}),
        ("eval/last/trust.json", {"findings": [{"check": "a", "level": "fine", "reason": ""}]}),
    ],
)
def test_a_value_of_another_kind_in_a_run_is_refused(file: str, changes: dict[str, Any], tmp_path: Path) -> None:
    made = make_run(tmp_path, recipe())
    verdict(made, "clean", 6)
    path = made.path / file
    whole = json.loads(path.read_text()) if path.exists() else {"weights": "ab", "findings": []}
    path.write_text(json.dumps(whole | changes))
    said = call("report", made.path, "--html", tmp_path / "page.html").stderr + call("status", tmp_path).stdout
    assert str(path) in said and "Traceback" not in said


@pytest.mark.parametrize(
    "changes", [{"right": [4, 0]}, {"fooled": [[3, 1]]}, {"fooled": [[3, 1], [2, 11]]}, {"environment": {"torch": 2}}]
)
def test_counts_that_cannot_be_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "transfer-ab.json"
    whole = {"right": [4, 10], "fooled": [[3, 1], [2, 9]], "environment": {}}
    path.write_text(json.dumps(whole))
    assert load_transfer(path).right == (4, 10)
    path.write_text(json.dumps(whole | changes))
    with pytest.raises(ArdbenchError, match=r"transfer-ab\.json holds no"):
        load_transfer(path)


@pytest.mark.parametrize(
    ("column", "value"), [("n", ""), ("eps", ""), ("eps", "1e300"), ("subset", ""), ("seed", "x"), ("value", "inf")]
)
def test_a_table_of_results_with_holes_is_refused(column: str, value: str, tmp_path: Path) -> None:
    made, path = make_run(tmp_path, recipe()), tmp_path / "report.csv"
    verdict(made, "pgd20", 6)
    frame = collect([made]).astype(object)
    frame.to_csv(path, index=False)
    assert len(read(path)) == 1
    frame[column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(ArdbenchError, match=r"report\.csv"):
        read(path)


def test_images_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    images = Images(tmp_path / "aa.json")
    images.add("a", torch.tensor([7]), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ArdbenchError, match="holds other images than these"):
        images.finish(torch.zeros(3, 1, 2, 2))
    (images.folder / "b.safetensors").write_bytes(save({"rows": torch.tensor([0])}))
    with pytest.raises(ArdbenchError, match=r"b\.safetensors holds no adversarial images"):
        images.count()


def test_the_limits_leave_room_for_what_is_ours() -> None:
    assert max(path.stat().st_size for path in PACKAGE.rglob("*.toml")) * 10 < untrusted.TOML_LIMIT
    assert all(tomllib.loads(path.read_text()) == untrusted.read_toml(path) for path in PACKAGE.rglob("*.toml"))
    assert replace(data.info("tiny-imagenet")).train_images * 10_000 < untrusted.UNPACKED_LIMIT
