"""Files made to do harm: none runs code, leads out of its folder, fills the memory, or writes markup into a report."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli_call import call
from PIL import Image
from rich.console import Console
from safetensors.torch import save
from test_checkpoint_files import Intruder
from test_data_files import cifar, md5, refusal, tiny, tiny_files
from test_reports import make_run, recipe, verdict

from ardbench import data, untrusted
from ardbench.data import cifar_svhn, tiny_imagenet
from ardbench.data.load import load
from ardbench.engine.checkpoints import load_state, load_weights
from ardbench.engine.teacher_cache import Store, TeacherCache
from ardbench.errors import ArdbenchError
from ardbench.evaluation.adversarial import Images, read_images
from ardbench.evaluation.autoattack import load_state as load_evaluation
from ardbench.evaluation.matrix import load_transfer
from ardbench.evaluation.verdicts import load_verdicts
from ardbench.models.files import read_state
from ardbench.recipes import resolve
from ardbench.reports import collect, console, read
from ardbench.reports.card import card
from ardbench.reports.figures import bars, image_of
from ardbench.runs import Run, Teacher, all_runs, read_json
from ardbench.suites import load_suite

__all__ = ["cifar", "tiny"]
PACKAGE = Path(untrusted.__file__).parent


# No code runs ---------------------------------------------------------------------------------------------------------


def with_sum(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def torch_saved(payload: object, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def logits_in(path: Path) -> None:
    cache = object.__new__(TeacherCache)
    cache.classes, cache.places, cache.device = 10, 4, torch.device("cpu")
    cache._take(Store(torch.zeros(4, 10), torch.zeros(4, dtype=torch.bool)), path)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "trainer state": ("last.state", load_state),
    "weights": ("last.safetensors", load_weights),
    "pt": ("net.pt", read_state),
    "tar": ("net.tar", read_state),
    "safetensors": ("net.safetensors", read_state),
    "images": ("aa.adversarial.safetensors", read_images),
    "logits": ("ab.safetensors", logits_in),
    "verdicts": ("aa.json", load_verdicts),
    "evaluation": ("aa.state.json", load_evaluation),
    "matrix": ("transfer-ab.json", load_transfer),
    "results": ("report.csv", read),
    "recipe": ("own.toml", lambda path: resolve(str(path))),
    "suite": ("own.toml", lambda path: load_suite(str(path))),
}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle-0", "pickle-2", "pickle-4"])
@pytest.mark.parametrize("name", READERS)
def test_no_reader_runs_code(name: str, form: str, tmp_path: Path) -> None:
    file, read_one = READERS[name]
    path, trace = tmp_path / file, tmp_path / "trace"
    payload = {"at": Intruder(trace), "a.weight": torch.ones(2)}
    content = torch_saved(payload, form == "legacy")
    if form.startswith("pickle"):
        content = pickle.dumps({"at": Intruder(trace)}, int(form[-1]))
    path.write_bytes(with_sum(content) if file == "last.state" else content)
    with pytest.raises(ArdbenchError, match=str(path)):
        read_one(path)
    assert not trace.exists()
    if form == "pickle-2":
        pickle.loads(content)
        assert trace.exists()  # the file would have done it


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: {"data": it, "labels": [0]}, lambda it: {"labels": [it]}])
def test_a_batch_of_cifar_runs_nothing(
    cifar: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, wrap: Callable[[object], object]
) -> None:
    from torchvision.datasets import CIFAR10

    batch, trace = cifar / "cifar-10-batches-py" / "data_batch_2", cifar / "trace"
    batch.write_bytes(pickle.dumps(wrap(Intruder(trace)), protocol))
    monkeypatch.setattr(  # as if somebody had forged the md5
        CIFAR10, "train_list", [[name, md5(batch) if name == batch.name else it] for name, it in CIFAR10.train_list]
    )
    message = refusal("cifar10", cifar)
    assert (
        message.startswith(f"{batch} is refused: it asks for posix.system, which is never run") and not trace.exists()
    )


@pytest.mark.parametrize("kind", ["object", "float64", "broken", "swollen"])
def test_a_batch_of_cifar_holds_bytes_alone(kind: str) -> None:
    import numpy as np

    from ardbench.data.cifar_batches import read_batch

    array = np.zeros((2, 3072), {"object": object, "float64": np.float64}.get(kind, np.uint8))
    content = pickle.dumps({"data": array, "labels": [0, 1]}, 4)
    if kind == "broken":
        content = content[:-20]
    if kind == "swollen":  # two rows of bytes that call themselves 2^30
        content = content.replace(b"K\x02M\x00\x0c\x86", b"J\x00\x00\x00\x40M\x00\x0c\x86")
    with pytest.raises(pickle.UnpicklingError):
        read_batch(content)


def test_what_stands_beside_a_data_set_runs_nothing(tiny: Callable[..., Path]) -> None:
    root = tiny("zip", tiny_files())
    trace = root / "trace"
    (root / tiny_imagenet.CACHE).write_bytes(pickle.dumps(Intruder(trace)))
    assert len(load("tiny-imagenet", "cpu", root, download=False).train) == 12 and not trace.exists()


def calls_in(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_in_the_package_could_run_what_it_reads(path: Path) -> None:
    never = {"eval", "exec", "__import__", "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open",
             "yaml.load", "joblib.load", "os.system", "os.popen", "torch.jit.load", "torch.hub.load"}  # fmt: skip
    for name, node in calls_in(path):
        said = {word.arg: word.value for word in node.keywords}
        assert name not in never, f"line {node.lineno}: {name}"
        assert "allow_pickle" not in said and "shell" not in said, f"line {node.lineno}"
        if name == "torch.load":
            assert isinstance(only := said.get("weights_only"), ast.Constant) and only.value is True
        if name == "pickle.Unpickler":
            raise AssertionError("an unpickler without find_class of its own")


# No path leaves its folder --------------------------------------------------------------------------------------------


def hostile_tar(path: Path, add: Callable[[tarfile.TarFile], None]) -> None:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        add(archive)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"x") -> Any:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, len(content) if kind == tarfile.REGTYPE else 0
    return lambda archive: archive.addfile(found, io.BytesIO(content))


BATCH = "cifar-10-batches-py/data_batch_1"


@pytest.mark.parametrize(
    "add",
    [
        member("../evil"),
        member("/tmp/ardbench-evil"),
        member(f"cifar-10-batches-py/../../{BATCH}"),
        member(BATCH, tarfile.SYMTYPE, "/etc/passwd"),
        member(BATCH, tarfile.LNKTYPE, "../../outside"),
        member(BATCH, tarfile.CHRTYPE),
        member(BATCH, tarfile.FIFOTYPE),
        member(BATCH, tarfile.DIRTYPE),
        member("cifar-10-batches-py", tarfile.SYMTYPE, "/tmp"),
    ],
)
def test_a_tar_writes_nothing_but_the_files_that_are_wanted(
    tmp_path: Path, add: Callable[[tarfile.TarFile], None]
) -> None:
    root, archive = tmp_path / "a" / "data", tmp_path / "a" / "evil.tar.gz"
    root.mkdir(parents=True)
    (tmp_path / "outside").write_text("mine")
    hostile_tar(archive, add)
    with pytest.raises(ArdbenchError, match=f"has no file {BATCH}"):
        cifar_svhn._extract(archive, root, [BATCH])
    assert not list(root.iterdir()) and sorted(os.listdir(tmp_path)) == ["a", "outside"]
    assert not Path("/tmp/ardbench-evil").exists() and sorted(os.listdir(tmp_path / "a")) == ["data", "evil.tar.gz"]
    hostile_tar(archive, lambda tar: [add(tar), member(BATCH, content=b"right")(tar)])
    cifar_svhn._extract(archive, root, [BATCH])
    assert [path.relative_to(root).as_posix() for path in sorted(root.rglob("*"))] == [BATCH.split("/")[0], BATCH]
    assert (root / BATCH).read_bytes() == b"right" and not (root / BATCH).is_symlink()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo])
def test_a_link_or_a_pipe_in_an_unpacked_data_set_is_refused(
    tiny: Callable[..., Path], make: Callable[[Path], None]
) -> None:
    root = tiny("folder", tiny_files())
    path = root / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_0.JPEG"
    path.unlink()
    make(path)
    assert refusal("tiny-imagenet", root).startswith(f"{path} is a link or a device")


NAMES = ("../../evil", "/tmp/evil", "a/b", "..", "a\\b", ".hidden", "a\nb", "", "x" * 300)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_recipe_stays_in_the_folder_of_runs(name: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "rslad-digits"\nname = {json.dumps(name)}\n')
    with pytest.raises(ArdbenchError, match="name of the run directory"):
        resolve(str(path))
    made = make_run(tmp_path / "runs", recipe())
    config = read_json(made.path / "config.json")
    config["recipe"]["name"] = name
    (made.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArdbenchError, match="holds no valid recipe"):
        _ = Run(made.path).recipe


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_suite_stays_in_the_folder_of_its_tables(name: str, tmp_path: Path) -> None:
    run = '[[runs]]\nname = "a"\nrecipe = "standard-digits"\n'
    path, out = tmp_path / "own.toml", tmp_path / "deep" / "out"
    path.write_text(f'name = {json.dumps(name)}\ntitle = ""\nprotocols = ["clean"]\n{run}')
    result = call("report", path, "--runs", tmp_path / "runs", "--out", out)
    assert result.exit_code == 2 and "In suite own: name" in result.stderr
    assert os.listdir(tmp_path) == ["own.toml"]


@pytest.mark.parametrize("parent", ["../secret", "/etc/passwd", "..\\secret"])
def test_a_recipe_extends_its_neighbours_alone(parent: str, tmp_path: Path) -> None:
    (tmp_path / "secret.toml").write_text("seed = 3")
    path = tmp_path / "sub" / "own.toml"
    path.parent.mkdir()
    path.write_text(f"extends = {json.dumps(parent)}\n")
    with pytest.raises(ArdbenchError, match="extends must be the name of a recipe beside it"):
        resolve(str(path))


def test_folders_that_no_run_has_hold_no_results(tmp_path: Path) -> None:
    made = make_run(tmp_path, recipe())
    verdict(made, "clean", 6)
    verdict(made, "pgd20", 3, checkpoint="<img src=x onerror=alert(1)>")
    assert set(collect([made])["protocol"]) == {"clean"}


def test_a_link_in_a_run_does_not_lead_what_is_written_elsewhere(tmp_path: Path) -> None:
    made = make_run(tmp_path / "runs", recipe())
    (tmp_path / "home").mkdir()
    (made.path / "eval").symlink_to(tmp_path / "home")
    with pytest.raises(ArdbenchError, match="leads out of the run"):
        _ = Run(made.path).config
    (made.path / "eval").unlink()
    target = tmp_path / "mine"
    target.write_text("mine")
    (made.path / "lock").symlink_to(target)
    with pytest.raises(ArdbenchError), Run(made.path).lock():
        raise AssertionError("a link was taken for a lock")
    assert target.read_text() == "mine"


@pytest.mark.parametrize("file", ["config.json", "done", "metrics.jsonl", "env.json", "eval/last/clean.json", "lock"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_in_a_run_is_not_waited_for(file: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    made = make_run(tmp_path, recipe(), finished=False)
    verdict(made, "clean", 6)
    (made.path / file).unlink(missing_ok=True)
    make(made.path / file)
    began = time.monotonic()
    assert call("status", tmp_path).exit_code in (0, 2)
    assert call("report", "--runs", tmp_path).exit_code in (0, 2)
    assert time.monotonic() - began < 20


def test_a_teacher_at_a_device_is_not_read(tmp_path: Path) -> None:
    made = make_run(tmp_path, recipe(), (Teacher("a", "robust", "a", "resnet18", "/dev/zero", "ab"),))
    assert not Run(made.path).stale


# No bomb is unpacked --------------------------------------------------------------------------------------------------


def refused_quickly(read_one: Callable[[], object], said: str) -> None:
    began = time.monotonic()
    with pytest.raises(ArdbenchError, match=said):
        read_one()
    assert time.monotonic() - began < 10


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


# No markup comes from data --------------------------------------------------------------------------------------------

HARMLESS = "abcdefghijklmnopqrstuvwxyz"
MARKUP = (
    "<script>alert(1)</script>", '"><img onerror=alert(1)>', "[bold]x[/bold]", "| a |", "\\input{etc}", "$\\frac$", "`rm`",
    "*a*", "[a](javascript:b)", "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;", "' onload='a", "]]><svg onload=a>", "--><b>", "%s{0}",
)  # fmt: skip


class Skeleton(HTMLParser):
    """The elements of a page with their attributes, references left out, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = {"class", "id", "href", "scope", "type", "http-equiv", "content"}
        self.tags.append((tag, tuple(f"{name}={value if name in kept else ''}" for name, value in attrs)))

    def handle_data(self, text: str) -> None:
        self.words.append(text)


def told_by(name: str, root: Path) -> Run:
    """Return a run that says `name` wherever a file or a config may say words."""
    of = recipe(name=name.replace("/", "_").replace("\\", "_"), title=name)
    teacher = Teacher(name, name, name, name, "gone", name)
    made = make_run(root / "runs", of, (teacher,))
    (made.path / "env.json").write_text(
        json.dumps(
            dict.fromkeys(("ardbench", "torch", "device", "device_name", "git_sha", "started"), name) | {"argv": [name]}
        )
    )
    done = read_json(made.path / "done") | {"device": name}
    (made.path / "done").write_text(json.dumps(done))
    (made.path / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "loss": 1.0, "seconds": 1.0, name: 2.0}) + "\n")
    for protocol, correct in (("clean", 9), ("aa", 4)):
        verdict(made, protocol, correct, notes=[name], environment={name: name}, attack={name: name})
    other = read_json(made.path / "eval/last/aa.json") | {"protocol": name}
    (made.path / "eval/last/other.json").write_text(json.dumps(other))
    finding = {"check": name, "level": "warning", "reason": name}
    trusted = {"weights": done["weights"]["last"], "findings": [finding]}
    (made.path / "eval/last/trust.json").write_text(json.dumps(trusted))
    return Run(made.path)


def reported(name: str, root: Path) -> tuple[Skeleton, dict[str, str]]:
    """Return the page and the other files that `ardbench report` makes of a run that says `name`."""
    run = told_by(name, root)
    result = call("report", run.path, "--out", root / "out", "--html", root / "page.html")
    assert result.exit_code == 0, result.stderr
    files = {path.suffix: path.read_text() for path in (root / "out").iterdir() if path.suffix in (".md", ".tex")}
    return Skeleton((root / "page.html").read_text()), files


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Skeleton, dict[str, str]]:
    return reported(HARMLESS, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_is_a_word_in_every_report(name: str, plain: tuple[Skeleton, dict[str, str]], tmp_path: Path) -> None:
    page, files = reported(name, tmp_path)
    assert page.tags == plain[0].tags
    assert any(name in words for words in page.words)  # it stands there, as words
    text = files[".tex"]
    for command in ("input", "frac"):
        assert f"\\{command}" not in text
    assert text.count("\\\\\n") == plain[1][".tex"].count("\\\\\n") and text.count(" & ") == plain[1][".tex"].count(
        " & "
    )
    cells = [len(cells_of(line)) for line in files[".md"].splitlines() if line.startswith("|")]
    assert cells == [len(cells_of(line)) for line in plain[1][".md"].splitlines() if line.startswith("|")]
    for forbidden in ("<script", "<img", "<svg", "<b>", "](javascript"):
        assert forbidden not in files[".md"].replace("\\<", "").replace("\\]", "")


def cells_of(line: str) -> list[str]:
    return line.replace("\\|", "").split("|")


@pytest.mark.parametrize("name", [*MARKUP, "\x1b[2J\x1b]0;owned\x07", "a\nb", "\u202egnp.exe", "\r"])
def test_a_name_is_a_word_on_the_console(name: str, tmp_path: Path) -> None:
    run = told_by("plain", tmp_path)
    for protocol in ("clean", "aa"):
        path = run.path / "eval" / "last" / f"{protocol}.json"
        path.write_text(json.dumps(read_json(path) | {"notes": [name]}))
    screen = Console(width=200, file=io.StringIO(), color_system=None)
    screen.print(console(collect([run]), [run]))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
    if name.isprintable():
        assert name.split()[0] in shown
    for words in (["status", run.path.parent], ["report", run.path]):
        result = call(*words)
        assert result.exit_code == 0 and not {"\x1b", "\x07", "\u202e"} & set(result.stdout)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\udcffb"])
def test_a_folder_with_a_name_that_cannot_be_printed_is_refused(name: str, tmp_path: Path) -> None:
    made = make_run(tmp_path, recipe())
    made.path.rename(tmp_path / name)
    result = call("report", "--runs", tmp_path)
    assert result.exit_code == 2 and "has a name that cannot be printed" in result.stderr
    result = call("status", tmp_path)
    assert "damaged" in result.stdout and "\x1b" not in result.stdout
    assert len(all_runs(tmp_path)) == 1


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_is_a_word_on_a_card_and_in_a_figure(name: str, tmp_path: Path) -> None:
    run = told_by(name, tmp_path)
    config = {
        "architecture": "resnet8", "classes": [], "normalise": None, "image": [1, 8, 8], "num_classes": 10, "sha256": "ab",
        "recipe": run.recipe.model_dump(mode="json"),
        "teachers": [{"name": name, "role": name, "model": name, "sha256": name}],
    }  # fmt: skip
    text = card(run, "last", config)
    _, block, text = text.split("---\n", 2)
    assert all(yaml.safe_load(block)["tags"])  # strings are quoted there
    outside_code = "".join(text.split("`")[::2]).replace("\\<", "").replace("\\]", "")
    for forbidden in ("<script", "<img", "<svg", "](javascript"):
        assert forbidden not in outside_code
    assert image_of(bars({name: {name: 0.5}})).startswith("data:image/svg+xml;base64,")


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
