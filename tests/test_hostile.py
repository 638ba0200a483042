"""Files made to do harm: none runs code, and none leads out of its folder."""

from __future__ import annotations

import ast
import json
import os
import pickle
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from cli_call import call
from readers import BATCH, READERS, hostile_tar, member, torch_saved, with_sum
from test_checkpoint_files import Intruder
from test_data_files import cifar, md5, refusal, tiny, tiny_files
from test_reports import make_run, recipe, verdict

from ardbench import untrusted
from ardbench.data import cifar_svhn, tiny_imagenet
from ardbench.data.load import load
from ardbench.errors import ArdbenchError
from ardbench.recipes import resolve
from ardbench.reports import collect
from ardbench.runs import Run, Teacher, read_json

__all__ = ["cifar", "tiny"]


PACKAGE = Path(untrusted.__file__).parent


# No code runs ---------------------------------------------------------------------------------------------------------


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
        typed = path.name == "plugins.py" and name == "exec"  # a file that a person typed as code
        assert name not in never or typed, f"line {node.lineno}: {name}"
        assert "allow_pickle" not in said and "shell" not in said, f"line {node.lineno}"
        if name == "torch.load":
            assert isinstance(only := said.get("weights_only"), ast.Constant) and only.value is True
        if name == "pickle.Unpickler":
            raise AssertionError("an unpickler without find_class of its own")


# No path leaves its folder --------------------------------------------------------------------------------------------


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
