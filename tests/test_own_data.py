"""Images of one's own: folders and .npz files of known content, rules for pictures, identities, and the whole way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_call import call
from PIL import Image

import ardbench
from ardbench import data
from ardbench.data import own
from ardbench.data.load import load
from ardbench.data.pictures import decoded, header
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress
from ardbench.recipes import resolve

STARTS = ("cannot be read as a picture (", "holds ", "has ")
COLOURS = {"cat": (200, 20, 20), "dog": (20, 200, 20)}


def pictures(folder: Path, train: int = 6, test: int = 3, side: int = 8, split_up: bool = True) -> Path:
    """Write pictures of one colour a class, each a little different, into train/ and test/, or into class folders alone."""
    for split, count in (("train", train), ("test", test)):
        for place, (name, colour) in enumerate(COLOURS.items()):
            there = folder / (split if split_up else "") / name
            there.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.full((side, side, 3), colour, np.uint8)
                pixels[number % side, place] += 30 if split == "train" else 50
                Image.fromarray(pixels).save(there / f"{split}{number}.png")
    return folder


def refusal(name: str) -> str:
    with pytest.raises(ArdbenchError) as refused:
        data.info(name)
    return str(refused.value)


def test_a_folder_is_read_counted_and_kept(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets")
    (folder / "train" / "cat" / ".DS_Store").write_text("x")
    (folder / "train" / "notes.txt").write_text("x")
    name = f"folder:{folder}"
    info = data.info(name)
    assert (info.classes, info.size, info.channels, info.train_images, info.test_images) == (
        ("cat", "dog"),
        8,
        3,
        12,
        6,
    )
    assert info.flip and info.pad == 1
    splits = load(name, "cpu")
    wanted = np.stack([
        np.asarray(Image.open(folder / "train" / label / f"train{i}.png")) for label in COLOURS for i in range(6)
    ])  # fmt: skip
    assert (splits.train.images.permute(0, 2, 3, 1).numpy() == wanted).all()
    assert splits.train.labels.tolist() == [0] * 6 + [1] * 6
    assert info.mean == pytest.approx(tuple((wanted / 255).mean((0, 1, 2))), abs=1e-4)
    assert info.std == pytest.approx(tuple((wanted / 255).std((0, 1, 2))), abs=1e-4)
    assert own.found(name).passed == 1
    kept = own.found(name).folder
    assert kept.parent == tmp_path / "pets.ardbench" and sorted(path.name for path in kept.iterdir()) == [
        "facts.json", "test-labels.npy", "test.npy", "train-labels.npy", "train.npy",
    ]  # fmt: skip
    shutil.copy(folder / "train" / "cat" / "train0.png", folder / "test" / "cat" / "test0.png")
    own.found_below.cache_clear()
    assert own.found(name).folder != kept and own.twins(name) == 1
    told = json.loads(call("data", name, "--json").stdout)
    assert told["root"] == str(own.found(name).folder)
    assert told["twins"] == 1 and told["classes_of"]["train"] == {"cat": 6, "dog": 6}


def test_a_run_is_known_by_its_images_wherever_they_lie(tmp_path: Path) -> None:
    first = pictures(tmp_path / "pets")
    other = tmp_path / "elsewhere" / "pets"
    shutil.copytree(first, other)

    def identity(folder: Path) -> str:
        own.found_below.cache_clear()
        return resolve("pgd-at", dataset=f"folder:{folder}", student="resnet8-tiny").identity()

    assert identity(first) == identity(other)
    Image.new("RGB", (8, 8)).save(other / "train" / "cat" / "train0.png")
    assert identity(first) != identity(other)
    own.check(f"folder:{first}", own.found(f"folder:{first}").sha256)
    with pytest.raises(ArdbenchError, match="holds other images than the run learnt from"):
        own.check(f"folder:{other}", own.found(f"folder:{first}").sha256)


def test_class_folders_alone_are_shared_by_class_and_always_alike(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets", split_up=False)
    assert "says which images are for the test: give --test-share 0.2" in refusal(f"folder:{folder}")
    found = load(f"folder:{folder}?test_share=0.3", "cpu")
    assert found.test.labels.tolist() == [0] * 3 + [1] * 3 and len(found.train) == 12
    own.found_below.cache_clear()
    shutil.rmtree(tmp_path / "pets.ardbench")
    again = load(f"folder:{folder}?test_share=0.3", "cpu")
    assert torch.equal(found.test.images, again.test.images)


def test_pictures_of_every_kind_by_stated_rules(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "odd", train=1, test=1)
    there = folder / "train" / "cat"
    (there / "train0.png").unlink()
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.save(there / "a-transparent.png")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(there / "b-cmyk.jpg", quality=100)
    Image.new("L", (8, 8), 77).save(there / "c-grey.png")
    Image.fromarray(np.full((8, 8), 257 * 40, np.uint16)).save(there / "d-16.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.save(there / "e-palette.gif")
    turned = Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8)[:, None] * 30, 8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top lies on the right
    turned.convert("RGB").save(there / "f-turned.png", exif=exif)
    images = load(f"folder:{folder}", "cpu").train.images[:6].permute(0, 2, 3, 1).numpy()
    assert (images[0] == 255).all(), "what is transparent lies on white"
    assert abs(images[1].astype(int) - (255, 0, 0)).max() < 4
    assert (images[2] == 77).all() and (images[3] == 40).all() and (images[4] == (9, 8, 7)).all()
    assert images[5, 0, :, 0].tolist() == [210, 180, 150, 120, 90, 60, 30, 0]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # which it adds to what it reads nevertheless
def test_damaged_pictures_are_read_or_refused(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    picture = Image.fromarray(source.integers(0, 256, (12, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    said: list[str] = []
    for name in ("a.png", "b.jpg", "c.webp", "d.gif", "e.bmp", "f.tif"):
        picture.save(tmp_path / name, **({"exif": exif} if name in ("a.png", "b.jpg", "c.webp") else {}))
        whole = (tmp_path / name).read_bytes()
        for number in range(120):
            there = bytearray(whole[: source.integers(len(whole)) if number % 4 == 0 else None])
            for _ in range(source.integers(1, 8) if number % 4 else 0):
                there[source.integers(min(len(there), 200))] = source.choice([0, 1, 255, source.integers(256)])
            (tmp_path / name).write_bytes(there)
            for read in (header, lambda path: decoded(path, 3, 8)):
                try:
                    read(tmp_path / name)
                except ArdbenchError as error:
                    said.append(str(error).removeprefix(f"{tmp_path / name} "))
    assert len(said) > 400 and not [one for one in said if "\n" in one or len(one) > 400 or not one.startswith(STARTS)]


def test_images_are_resized_by_the_shorter_side_and_cut_in_the_middle(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "wide", train=1, test=1, side=16)
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 200
    Image.fromarray(wide).save(folder / "train" / "cat" / "train0.png")
    said = refusal(f"folder:{folder}")
    assert "have the sizes 16x16 (3), 32x16 (1)" in said and "give --size 16" in said
    images = load(own.named(f"folder:{folder}", size=8) or "", "cpu").train.images
    assert images.shape == (2, 3, 8, 8) and int(images[0].min()) > 150
    assert "is larger than the smallest image" in refusal(f"folder:{folder}?size=20")


def test_grey_pictures_have_one_channel_unless_told(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("L", (8, 8), 10 * i).save(folder / split / name / f"{i}.png")
    info = data.info(f"folder:{folder}")
    assert (info.channels, info.flip) == (1, False)
    assert data.info(f"folder:{folder}?channels=3&flip=true").channels == 3
    assert data.info(f"folder:{folder}?channels=3&flip=true").flip


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}?test_share=0.25"


def test_an_npz_file_is_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 4), np.uint8)
    labels = np.array([0, 1, 2, 3] * 4)
    name = npz(tmp_path / "four.npz", image=images, label=labels)
    found = load(name, "cpu")
    assert (found.train.info.channels, found.train.info.num_classes, len(found.train), len(found.test)) == (4, 4, 12, 4)
    both = torch.cat([found.train.images, found.test.images]).permute(0, 2, 3, 1).numpy()
    assert sorted(one.tobytes() for one in both) == sorted(one.tobytes() for one in images)
    for bad, said in (
        ({"image": images, "label": labels + 1}, "has labels 1 to 4"),
        ({"image": images, "label": labels + (labels == 3)}, "no image of class 3"),
        ({"image": images, "label": np.where(labels == 3, 10**15, labels)}, "has labels 0 to 1000000000000000"),
        ({"image": images, "label": np.where(labels == 3, 2**64 - 1, labels.astype(np.uint64))}, f"0 to {2**64 - 1}"),
        ({"image": images, "label": labels * 0}, "has labels 0 to 0"),
        ({"image": images}, "has no array of labels beside `image`"),
        ({"image": images, "label": np.array([object()] * 16)}, "pickled objects"),
        ({"image": images[:, :, :4], "label": labels}, "must be square"),
    ):
        assert said in refusal(npz(tmp_path / f"{len(said)}.npz", **bad)), said


def test_a_folder_to_validate_on_beside_a_test_set_joins_the_training_set(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets")
    shutil.copytree(folder / "test", folder / "val")
    Image.new("RGB", (8, 8)).save(folder / "val" / "dog" / "black.png")
    found = load(f"folder:{folder}", "cpu")
    assert found.train.labels.tolist() == [0] * 9 + [1] * 10 and len(found.test) == 6
    assert int(found.train.images[9 + 6].max()) == 0, "files of a class are in the order of their folders and names"
    assert "leave --test-share out" in refusal(f"folder:{folder}?test_share=0.2")


def fashion(root: Path) -> dict[str, np.ndarray]:
    """Write a small FashionMNIST as torchvision keeps it, and return its images."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    source = np.random.default_rng(0)
    images = {
        "train": source.integers(0, 256, (40, 28, 28), np.uint8),
        "t10k": source.integers(0, 256, (20, 28, 28), np.uint8),
    }
    for split, array in images.items():
        labels = np.arange(len(array), dtype=np.uint8) % 10
        sizes = b"".join(int(side).to_bytes(4, "big") for side in array.shape)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + array.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + labels.tobytes())
    return images


def test_a_set_of_torchvision_is_read_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARDBENCH_DATA", str(tmp_path))
    images = fashion(tmp_path)
    info = data.info("torchvision:FashionMNIST")
    assert (info.size, info.channels, info.num_classes, info.classes[9]) == (28, 1, 10, "Ankle boot")
    found = load("torchvision:FashionMNIST", "cpu")
    assert (found.train.images[:, 0].numpy() == images["train"]).all() and (
        found.test.images[:, 0].numpy() == images["t10k"]
    ).all()
    assert data.info("torchvision:FashionMNIST?size=14").size == 14
    assert "Unknown data set of torchvision 'FashionMINST': did you mean 'FashionMNIST'?" in refusal(
        "torchvision:FashionMINST"
    )
    assert "is not in " in refusal("torchvision:KMNIST") and "cannot be fetched" in refusal("torchvision:KMNIST")


def test_a_set_of_torchvision_is_read_below_the_folder_that_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARDBENCH_DATA", raising=False)
    fashion(tmp_path / "one")
    name, images = "torchvision:FashionMNIST", fashion(tmp_path / "other")
    images["train"][0] ^= 255
    path = tmp_path / "other/FashionMNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:16] + images["train"].tobytes())
    told = [json.loads(call("data", name, "--data-root", root, "--json").stdout) for root in ("one", "other")]
    assert told[0]["mean"] != told[1]["mean"], "each folder has its own images"
    line = ("--dataset", name, "--student", "resnet8-tiny", "--epochs", 1, "--device", "cpu", "--set", "attack.steps=1")
    root = ("--data-root", "other")
    trained = call("train", "pgd-at", *line, "--set", "selection.by=last", "--set", "data.validation=10", *root)
    assert trained.exit_code == 0, trained.stderr
    run = next(iter((tmp_path / "runs").iterdir()))
    assert ardbench.evaluate(run, protocols=["clean"], device="cpu", data_root="other").table["n"].tolist() == [20]
    for words in (
        ("eval", run, "--protocol", "clean"),
        ("status", run),
        ("export", run, "--out", "taken"),
        ("show", run),
        ("report", run),
    ):
        assert (said := call(*words, *root)).exit_code == 0, said.stderr
        own.found_below.cache_clear()
    refused = call("export", run, "--out", "again")
    assert refused.exit_code == 2 and "is not in data and cannot be fetched" in refused.stderr


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "There is no folder"),
        (lambda folder: shutil.rmtree(folder / "test"), "has a folder train and none called one of test, val, validation"),
        (lambda folder: shutil.rmtree(folder / "test" / "dog"), "has pictures of 1 classes (cat), and two are needed"),
        (lambda folder: (folder / "train" / "cat" / "train0.png").write_bytes(b""), "cannot be read as a picture (it is"),
        (lambda folder: (folder / "train" / "cat" / "train0.png").write_bytes(b"no"), "be read as a picture (cannot identify"),
        (lambda folder: shutil.copy(folder / "train/cat/train0.png", folder / "train/x.png"), "x.png lies in no class folder"),
        (lambda folder: (folder / "train/cat/l.png").symlink_to(folder / "train/cat/train0.png"), "is a link or a device"),
        (lambda folder: Image.new("1", (9000, 9000)).save(folder / "train/cat/train0.png"), "has 9000x9000 pixels, over"),
        (lambda folder: Image.new("1", (20000, 10000)).save(folder / "train/cat/train0.png"), "has more pixels, over"),
        (
            lambda folder: Image.new("L", (8, 8)).save(
                folder / "train/cat/x.gif", save_all=True, append_images=[Image.new("L", (8, 8), 200)]
            ),
            "x.gif holds 2 pictures",
        ),
        (lambda folder: (folder / "train" / "cat").rename(folder / "train" / "cow"), "has the class 'cat' in test alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence_and_nothing_is_kept(spoil: Any, said: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets")
    spoil(folder)
    told = refusal(f"folder:{folder}")
    assert said in told and "\n" not in told and not list((tmp_path / "pets.ardbench").glob("*")), told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder:", "'folder:' names no place: write it like folder:PATH?size=64&test_share=0.2."),
        ("folder:x?sise=3", "has no option 'sise', only size, test_share, channels, flip"),
        ("folder:x?size=one", "has an option that cannot be meant: size is 4 to 1024"),
        ("npz:x?test_share=1.5", "has an option that cannot be meant"),
        ("npz:nothing.npz?test_share=0.5", "There is no file nothing.npz"),
    ],
)
def test_names_that_cannot_be_meant(name: str, said: str) -> None:
    assert said in refusal(name)


def test_size_is_for_images_of_ones_own() -> None:
    assert "--size is for images of your own" in call("train", "pgd-at", "--dataset", "cifar10", "--size", 64).stderr


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "pets")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert "cannot be written (No space left on device): make room" in refusal(f"folder:{folder}")
    assert not list((tmp_path / "pets.ardbench").iterdir())


def test_where_there_is_no_room_pictures_are_decoded_when_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "pets", train=20)
    name = f"folder:{folder}?size=8"
    usual = load(name, "cpu", validation=4)
    with monkeypatch.context() as patch:
        patch.setattr("ardbench.data.pictures.header", lambda path: pytest.fail(f"{path} is known already"))
        asked = load(name, "cpu", validation=4, place="files")
    assert asked.place.name == "files"
    shutil.rmtree(tmp_path / "pets.ardbench")
    own.found_below.cache_clear()
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=100))
    cramped = load(name, "cpu", validation=4)
    assert (
        cramped.place.name == "files" and "decoded they would take 8,832 bytes, and 100 are free" in cramped.place.why
    )
    assert not list((tmp_path / "pets.ardbench").rglob("train.npy")) and own.twins(name) == 0
    for split in ("train", "validation", "test"):
        first = getattr(usual, split)
        for other in (getattr(asked, split), getattr(cramped, split)):
            assert torch.equal(first.images[torch.arange(len(first))], other.images[torch.arange(len(first))])
            assert torch.equal(first.labels, other.labels)


def test_the_whole_way_with_ones_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pets", train=20, test=6)
    name = "folder:pets"
    sets = {
        "attack.steps": 2,
        "selection.protocol": "fgsm",
        "data.batch": 16,
        "selection.by": "last",
        "data.validation": 4,
    }
    words: dict[str, Any] = {"dataset": name, "epochs": 2, "set": sets, "device": "cpu", "progress": Progress()}
    teacher = ardbench.train("pgd-at", student="resnet8-tiny", **words)
    assert teacher.path.name.startswith("pgd-at-level-folder-pets-resnet8-tiny-s0-")
    student = ardbench.distill("rslad", student="resnet8-tiny", teachers=[teacher], **words)
    found = ardbench.evaluate(student, protocols=["clean", "pgd20"], device="cpu")
    assert found.table["n"].tolist() == [12, 12]
    assert call("report", student.path, "--out", "out").exit_code == 0
    assert call("export", student.path, "--out", "exp").exit_code == 0
    net = ardbench.load("exp")
    assert net.info.classes == ("cat", "dog") and net(torch.rand(2, 3, 8, 8)).shape == (2, 2)
    again = ardbench.evaluate("exp", protocols=["clean"], device="cpu")
    assert (again.robust["clean"] == found.robust["clean"]).all()
    measured = call("eval", student.path, "--protocol", "aa", "--device", "cpu")
    assert measured.exit_code == 0 and "with 2 classes without apgd-t" in measured.output
    assert "aa: not the whole ensemble: with 2 classes without apgd-t" in call("report", student.path).output
    Image.new("RGB", (8, 8)).save("pets/test/cat/test0.png")
    own.found_below.cache_clear()
    assert "holds other images than the run learnt from" in call("eval", student.path, "--device", "cpu").stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_thousand_photographs_by_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = np.random.default_rng(0)
    for split, count in (("train", 400), ("val", 100)):
        for label in range(4):
            (tmp_path / "photos" / split / f"class {label}").mkdir(parents=True)
            for number in range(count):
                height, width = source.integers(20, 40, 2)
                waves = 128 + 100 * np.sin((label + 1) * np.arange(width) / 4) + source.normal(0, 10, (height, width))
                grey = waves.clip(0, 255).astype(np.uint8)
                Image.fromarray(np.stack([grey] * 3, -1)).save(f"photos/{split}/class {label}/{number}.jpg")
    own_images = ("--dataset", "folder:photos", "--size", 16, "--student", "resnet8-tiny", "--device", "cpu")
    short = ("--epochs", 4, "--set", "attack.steps=2")

    def last(method: str) -> str:
        return str(next(iter((tmp_path / "runs").glob(f"{method}-*"))))

    assert call("data", "folder:photos", "--size", 16).exit_code == 0
    assert call("train", "pgd-at", *own_images, *short).exit_code == 0
    student = call("distill", "rslad", *own_images, *short, "--teacher", last("pgd-at"))
    assert student.exit_code == 0, student.stderr
    for line in (
        ("eval", last("rslad"), "--protocol", "clean", "--protocol", "pgd20", "--device", "cpu"),
        ("report", last("rslad")),
        ("export", last("rslad"), "--out", "taken-out"),
    ):
        assert (said := call(*line)).exit_code == 0, said.stderr
    net = ardbench.load("taken-out")
    test = load("folder:photos?size=16", "cpu").test
    right = (net(test.images[:400] / 255).argmax(1) == test.labels[:400]).float().mean()
    assert net.info.classes[3] == "class 3" and right > 0.5, right
