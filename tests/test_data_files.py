"""Data sets on disk: whole ones are read, torn, wrong, empty and hostile ones are refused in one sentence."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from ardbench import data
from ardbench.data import file_tree, tiny_imagenet
from ardbench.data.batches import TrainBatches
from ardbench.data.images import FileImages
from ardbench.data.load import load
from ardbench.data.verify import describe, place
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress

WNIDS = ["n03", "n01", "n02"]  # wnids.txt is not sorted, labels are


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def refusal(name: str, root: Path, download: bool = False) -> str:
    with pytest.raises(ArdbenchError) as caught:
        load(name, "cpu", root, download=download)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)


# CIFAR-10, of 50 + 10 images


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like CIFAR-10's with its archive beside it, and torchvision told of their md5s."""
    from torchvision.datasets import CIFAR10

    root, folder = tmp_path / "data", tmp_path / "data" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    source = np.random.default_rng(0)
    for name in [file for file, _ in CIFAR10.train_list + CIFAR10.test_list]:
        rows = {"data": source.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(rows))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(data.CIFAR10_NAMES)}))
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        archive.add(folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(folder / name)] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, md5(folder / name)] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(root / CIFAR10.filename))
    small = replace(data.info("cifar10"), train_images=50, test_images=10)
    monkeypatch.setitem(data.DATASETS, "cifar10", small)
    return root


def test_extracted_files_need_no_archive(cifar: Path) -> None:
    (cifar / "cifar-10-python.tar.gz").unlink()
    splits = load("cifar10", "cpu", cifar, download=False)
    rows = pickle.loads((cifar / "cifar-10-batches-py" / "data_batch_3").read_bytes())["data"]
    assert splits.train.images[24].flatten().tolist() == rows[4].tolist()  # (C, H, W), as the file has it
    assert splits.train.labels.tolist() == list(range(10)) * 5 and splits.train.images.is_contiguous()
    assert {file["verdict"] for file in describe("cifar10", cifar, download=False)["files"]} == {"ok"}


@pytest.mark.parametrize("lost", ["all", "one"])
def test_an_archive_is_extracted_without_network(cifar: Path, lost: str, offline: None) -> None:
    whole = load("cifar10", "cpu", cifar).train.images
    folder = cifar / "cifar-10-batches-py"
    shutil.rmtree(folder) if lost == "all" else (folder / "data_batch_2").unlink()
    assert torch.equal(load("cifar10", "cpu", cifar, download=False).train.images, whole)
    assert sorted(path.name for path in cifar.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_a_wrong_file_is_named_and_left_alone(cifar: Path) -> None:
    wrong = cifar / "cifar-10-batches-py" / "data_batch_4"
    wrong.write_bytes(wrong.read_bytes()[:-1])
    before = wrong.read_bytes()
    message = refusal("cifar10", cifar, download=True)
    assert message.startswith(f"{wrong} is torn or another file (md5 {md5(wrong)}") and "--data-root" in message
    assert wrong.read_bytes() == before


def test_a_torn_archive_is_named(cifar: Path) -> None:
    shutil.rmtree(cifar / "cifar-10-batches-py")
    archive = cifar / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:100])
    assert refusal("cifar10", cifar, download=True).startswith(f"{archive} is torn or another file")


def test_the_folder_itself_is_not_the_root(cifar: Path) -> None:
    assert refusal("cifar10", cifar / "cifar-10-batches-py").endswith(f"give --data-root the folder above it, {cifar}.")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "tiny-imagenet"])
def test_an_empty_folder(name: str, tmp_path: Path, offline: None) -> None:
    assert f"{name} is not in {tmp_path}" in (message := refusal(name, tmp_path))
    assert "--data-root" in message and f"`ardbench data {name}`" in message
    message = refusal(name, tmp_path, download=True)
    host = {"svhn": "ufldl.stanford.edu", "tiny-imagenet": "cs231n.stanford.edu"}.get(name, "www.cs.toronto.edu")
    assert f"cannot be downloaded from {host} (Temporary failure in name resolution)" in message
    assert "--data-root" in message and not list(tmp_path.iterdir())


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file: give --data-root the folder" in refusal("cifar10", tmp_path / "file", download=True)


def test_a_download_is_whole_or_not_there(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cifar / "cifar-10-python.tar.gz"
    content = archive.read_bytes()
    shutil.rmtree(cifar)

    def send(sent: bytes) -> Callable[..., None]:
        def download_url(url: str, root: Path, filename: str, digest: str) -> None:
            Path(root, filename).write_bytes(sent)
            if hashlib.md5(sent).hexdigest() != digest:
                raise RuntimeError("File not found or corrupted.")

        return download_url

    monkeypatch.setattr("torchvision.datasets.utils.download_url", send(content[:-5]))
    assert "www.cs.toronto.edu sent another file than cifar-10-python.tar.gz" in refusal(
        "cifar10", cifar, download=True
    )
    assert not cifar.exists()
    monkeypatch.setattr("torchvision.datasets.utils.download_url", send(content))
    assert len(load("cifar10", "cpu", cifar).test) == 10
    assert archive.read_bytes() == content


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    digits = (np.arange(20) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for the digit 0
    listed = dict(SVHN.split_list)
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": digits})
        listed[split] = [listed[split][0], f"{split}_32x32.mat", md5(tmp_path / f"{split}_32x32.mat")]
    monkeypatch.setattr(SVHN, "split_list", listed)
    monkeypatch.setitem(data.DATASETS, "svhn", replace(data.info("svhn"), train_images=20, test_images=20))
    splits = load("svhn", "cpu", tmp_path, download=False)
    assert splits.test.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert np.array_equal(splits.train.images[7].permute(1, 2, 0).numpy(), pixels[..., 7])
    (tmp_path / "test_32x32.mat").write_bytes(b"torn")
    assert refusal("svhn", tmp_path).startswith(f"{tmp_path / 'test_32x32.mat'} is torn or another file")


# Tiny-ImageNet, of 3 classes with 4 images each, and 5 for the test


def jpeg(colour: tuple[int, int, int] | int, size: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("L" if isinstance(colour, int) else "RGB", (size, size), colour).save(file, "JPEG", quality=100)
    return file.getvalue()


def tiny_files() -> dict[str, bytes]:
    """Return a small Tiny-ImageNet by file name; the colour of an image tells its class and number."""
    files = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n", "words.txt": b"n01\tgoldfish, Carassius\nn02\tnewt\n"}
    for wnid in WNIDS:
        for number in range(4):
            colour: Any = 200 if (wnid, number) == ("n01", 1) else (80 * int(wnid[1:]), 60 * number, 0)
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(colour)
    tests = ["n02", "n02", "n03", "n01", "n03"]
    files |= {f"val/images/val_{place}.JPEG": jpeg((80 * int(wnid[1:]), 0, 255)) for place, wnid in enumerate(tests)}
    lines = [f"val_{place}.JPEG\t{wnid}\t0\t1\t2\t3\n" for place, wnid in enumerate(tests)]
    return files | {"val/val_annotations.txt": "".join(lines).encode(), "test/images/test_0.JPEG": jpeg(0)}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write files as a folder or as an archive of known md5, and return the data root."""
    small = replace(data.info("tiny-imagenet"), num_classes=3, train_images=12, test_images=5)
    monkeypatch.setitem(data.DATASETS, "tiny-imagenet", small)

    def write(form: str, files: dict[str, bytes]) -> Path:
        if form == "folder":
            for name, content in files.items():
                path = tmp_path / "tiny-imagenet-200" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return tmp_path
        archive = tmp_path / "tiny-imagenet-200.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(f"tiny-imagenet-200/{name}", content)
        monkeypatch.setattr(tiny_imagenet, "ARCHIVE", replace(tiny_imagenet.ARCHIVE, md5=md5(archive)))
        return tmp_path

    return write


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_tiny_imagenet(tiny: Callable[..., Path], form: str) -> None:
    root = tiny(form, tiny_files())
    splits = load("tiny-imagenet", "cpu", root, download=False)
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4  # n01, n02, n03
    assert splits.test.labels.tolist() == [1, 1, 2, 0, 2]
    assert splits.train.images.shape == (12, 3, 64, 64)
    means = splits.train.images.float().mean((2, 3))
    assert (means[5] - torch.tensor([160.0, 60.0, 0.0])).abs().max() < 4  # n02_1
    assert means[1].tolist() == [200, 200, 200]  # a grey file
    assert (splits.test.images[3].float().mean((1, 2)) - torch.tensor([80.0, 0.0, 255.0])).abs().max() < 4
    told = describe("tiny-imagenet", root, download=False)
    assert told["classes"] == ["goldfish", "newt", "n03"] and told["files"][0]["name"].startswith("tiny-imagenet-200")
    assert told["train"] == {"images": 12, "fewest_of_a_class": 4, "most_of_a_class": 4}


class Tasks(Progress):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def task(self, description: str, total: int, unit: str = "images") -> None:
        self.seen.append(description)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_decoded_images_are_kept_until_their_source_changes(tiny: Callable[..., Path], form: str) -> None:
    root, tasks, files = tiny(form, tiny_files()), Tasks(), tiny_files()
    first = load("tiny-imagenet", "cpu", root, progress=tasks).train.images
    assert torch.equal(load("tiny-imagenet", "cpu", root, progress=tasks).train.images, first)
    assert tasks.seen == ["decode tiny-imagenet"]
    cache = root / tiny_imagenet.CACHE
    content = bytearray(cache.read_bytes())
    for spoiled in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        cache.write_bytes(spoiled)
        assert torch.equal(load("tiny-imagenet", "cpu", root, progress=tasks).train.images, first)
    assert len(tasks.seen) == 3
    files["train/n01/images/n01_0.JPEG"] = jpeg((9, 9, 9), 64)
    tiny(form, files)
    assert load("tiny-imagenet", "cpu", root, progress=tasks).train.images[0].max() < 12
    assert len(tasks.seen) == 4 and not list(root.glob(".unfinished*"))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_images_that_stay_in_their_files_are_those_of_the_cache(
    form: str, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny(form, tiny_files())
    words = ("tiny-imagenet", "cpu", root, 3, None, False)
    there = load(*words, place="files", workers=2)
    assert not (root / tiny_imagenet.CACHE).exists()
    decoded = load(*words, place="device")
    assert (root / tiny_imagenet.CACHE).exists()
    for one, other in (
        (there.train, decoded.train),
        (there.validation, decoded.validation),
        (there.test, decoded.test),
    ):
        assert one is not None and other is not None
        assert isinstance(one.images, FileImages) and torch.equal(one.pixels(slice(None)), other.pixels(slice(None)))
    batches = [TrainBatches(splits.train, "crop-flip", 2, False, 0) for splits in (there, decoded)]
    for step in range(len(batches[0])):
        one, other = (made.batch(0, step) for made in batches)
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert load(*words).place.name == "device"  # the cache is there already
    (root / tiny_imagenet.CACHE).unlink()
    found = load(*words).place
    assert found is not None and found.name == "files"
    assert f"decoded they would take 209 kB, and 1 kB are free in {root}" in found.why
    assert place("tiny-imagenet", torch.device("cpu"), root) == found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("wnids.txt", b"n01\nn02\n", "wnids.txt names 2 classes in 2 lines, 3 are needed"),
        ("wnids.txt", b"n01\nn02\nn04\n", "train/n03 is no class of wnids.txt"),
        ("wnids.txt", b"\xff\xfe\n", "wnids.txt .* is not text"),
        ("wnids.txt", None, "wnids.txt is missing"),
        ("train/n02/images/n02_3.JPEG", None, "train/n02 has 3 JPEG files, 4 are needed"),
        ("train/n02/images/n02_3.JPEG", b"", "n02_3.JPEG is no whole JPEG"),
        ("train/n02/images/n02_3.JPEG", jpeg(0)[:-200], "n02_3.JPEG is no whole JPEG"),
        ("train/n02/images/n02_3.JPEG", jpeg(0, 32), "n02_3.JPEG has 32x32 pixels, 64x64 are needed"),
        ("val/images/val_4.JPEG", None, "val/images/val_4.JPEG is missing"),
        ("val/val_annotations.txt", None, "val/val_annotations.txt is missing"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01\n", "has 1 images, 5 are needed"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn01\n" * 5, "val has val_0.JPEG 5 times"),
        ("val/val_annotations.txt", b"val_0.JPEG n01\n", "line 1 of val/val_annotations.txt names no class"),
        (
            "val/val_annotations.txt",
            b"".join(b"../%d.JPEG\tn01\n" % n for n in range(5)),
            r"val/images/\.\./0.JPEG is missing",
        ),
    ],
)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_an_incomplete_tiny_imagenet(
    tiny: Callable[..., Path], form: str, name: str, content: bytes | None, said: str
) -> None:
    files = {file: old for file, old in tiny_files().items() if file != name}
    root = tiny(form, files if content is None else files | {name: content})
    with pytest.raises(ArdbenchError, match=said):
        load("tiny-imagenet", "cpu", root, download=False)
    assert not (root / tiny_imagenet.CACHE).exists()


def as_people_have_it(kind: str) -> dict[str, bytes]:
    """Return the files of `tiny_files` in a form that preparing scripts and machines leave."""
    files = tiny_files()
    label = dict(line.split("\t")[:2] for line in files["val/val_annotations.txt"].decode().splitlines())
    place = {"sorted": "val/{}/", "sorted with images": "val/{}/images/", "sorted in images": "val/images/{}/"}
    if form := place.get(kind.removesuffix(", annotated").removesuffix(", too deep")):
        files = {f"{form.format(label[name[11:]])}{name[11:]}" if name.startswith("val/images/") else name: content
                 for name, content in files.items()}  # fmt: skip
        if not kind.endswith("annotated"):
            del files["val/val_annotations.txt"]
    if kind.endswith("too deep"):
        files = {f"tiny-imagenet-200/{name}": content for name, content in files.items()}
    if kind == "macos":
        beside = {f"{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}".lstrip("/"): b"\0\5\x16\7" for name in files}
        files |= beside | {
            "__MACOSX/tiny-imagenet-200/._wnids.txt": b"\0",
            "__MACOSX/wnids.txt": b"\0",
            ".DS_Store": b"\0",
        }
    if kind == "windows":
        files = {name: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") if name.endswith(".txt") else content
                 for name, content in files.items()}  # fmt: skip
    if kind == "train without images":
        files = {name.replace("/images/", "/") if name.startswith("train/") else name: it for name, it in files.items()}
    return files


PEOPLES = ("sorted", "sorted with images", "sorted in images", "sorted, annotated", "sorted with images, too deep", "too deep",
           "macos", "windows", "train without images")  # fmt: skip


@pytest.mark.parametrize("kind", PEOPLES)
def test_tiny_imagenet_as_people_have_it_is_the_same_to_the_bit(tiny: Callable[..., Path], kind: str) -> None:
    root = tiny("folder", as_people_have_it(kind))
    found = load("tiny-imagenet", "cpu", root, download=False)
    shutil.rmtree(root / "tiny-imagenet-200")
    (root / tiny_imagenet.CACHE).unlink()
    whole = load("tiny-imagenet", "cpu", tiny("folder", tiny_files()), download=False)
    for one, other in ((found.train, whole.train), (found.test, whole.test)):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert describe("tiny-imagenet", root, download=False)["classes"] == ["goldfish", "newt", "n03"]


def test_sorted_images_are_in_the_order_of_their_numbers(tiny: Callable[..., Path]) -> None:
    files = as_people_have_it("sorted")
    files = {name.replace("val_3.", "val_10.").replace("val_4.", "val_9999."): it for name, it in files.items()}
    test = load("tiny-imagenet", "cpu", tiny("folder", files), download=False).test
    assert test.labels.tolist() == [1, 1, 2, 0, 2]  # 0, 1, 2, 10, 9999


@pytest.mark.parametrize(
    ("kind", "old", "new", "said"),
    [
        ("sorted, annotated", "val/n02/val_0.JPEG", "val/n01/val_0.JPEG", "lies in another class than .* says .n02."),
        ("sorted", "val/n02/val_0.JPEG", "val/n02/nail.JPEG", "val/n02/nail.JPEG is not called val_NUMBER.JPEG"),
        ("sorted", "val/n02/val_0.JPEG", "val/n02/val_1.JPEG", "the class folders of val have 4 images, 5 are needed"),
        ("sorted", "val/n02/val_0.JPEG", "val/n01/val_1.JPEG", "val has val_1.JPEG 2 times"),
        ("sorted, annotated", "val/n02/val_0.JPEG", "val/images/val_0.JPEG", "val/images/val_1.JPEG is missing"),
        ("sorted", "wnids.txt", "a/wnids.txt", "train/n01 has 0 JPEG files"),
    ],
)
def test_what_is_not_unambiguous_is_refused(
    tiny: Callable[..., Path], kind: str, old: str, new: str, said: str
) -> None:
    files = as_people_have_it(kind)
    files[new] = files.pop(old)
    with pytest.raises(ArdbenchError, match=said) as refused:
        load("tiny-imagenet", "cpu", tiny("folder", files), download=False)
    assert "delete" not in str(refused.value)


def test_nobody_is_told_to_delete_the_data_that_they_brought() -> None:
    for path in Path(data.__file__).parent.glob("*.py"):
        assert "delete" not in path.read_text(encoding="utf-8"), path


def test_a_torn_or_other_archive(tiny: Callable[..., Path]) -> None:
    archive = tiny("zip", tiny_files()) / "tiny-imagenet-200.zip"
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert refusal("tiny-imagenet", archive.parent, True).startswith(f"{archive} is torn or another file (md5 ")
    archive.write_bytes(content + b"\0")
    assert refusal("tiny-imagenet", archive.parent, True).startswith(f"{archive} is torn or another file (md5 ")
    archive.unlink()
    (archive.parent / "wnids.txt").write_text("n01")
    assert "is the folder tiny-imagenet-200 itself" in refusal("tiny-imagenet", archive.parent, True)


def hostile(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (hostile("../../evil.py"), r"'\.\./\.\./evil\.py' leads out of the archive"),
        (hostile("tiny-imagenet-200/../../evil.py"), "leads out of the archive"),
        (hostile("/etc/evil"), "'/etc/evil' leads out of the archive"),
        (hostile("..\\evil"), "leads out of the archive"),
        (hostile("C:/evil"), "leads out of the archive"),
        (hostile("tiny-imagenet-200/wnids2.txt", 0o120777), "is a link or a device"),
    ],
)
def test_hostile_members_are_refused(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, member: zipfile.ZipInfo, said: str
) -> None:
    archive = tiny("zip", tiny_files()) / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(member, b"/etc/passwd")
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", replace(tiny_imagenet.ARCHIVE, md5=md5(archive)))
    with pytest.raises(ArdbenchError, match=said):
        load("tiny-imagenet", "cpu", archive.parent, download=False)
    assert os.listdir(archive.parent) == [archive.name]


def test_unpack_bombs_are_refused(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny("zip", tiny_files() | {"bomb.txt": b"0" * 2_000_000})
    monkeypatch.setattr(file_tree, "MEMBER_LIMIT", 1_000_000)
    assert "'tiny-imagenet-200/bomb.txt' would unpack to 2000000 bytes" in refusal("tiny-imagenet", root)
    monkeypatch.setattr(file_tree, "MEMBER_LIMIT", 4_000_000)
    monkeypatch.setattr(file_tree, "UNPACKED_LIMIT", 1_000_000)
    assert "more than the 1000000 allowed" in refusal("tiny-imagenet", root)
