"""Tiny-ImageNet from its archive or its unpacked folder; the validation images, which have labels, are the test set."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ardbench.data import DatasetInfo
from ardbench.data.fetch import Published, absent, check_md5, fetch, scratch
from ardbench.data.file_tree import FileTree, of_folder, of_zip
from ardbench.data.places import decoded_size, no_room
from ardbench.data.raw import CheckedFile, Raw, Undecoded
from ardbench.errors import ArdbenchError
from ardbench.progress import Progress

FOLDER = "tiny-imagenet-200"

ARCHIVE = Published(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    name="tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
)
"""248,100,043 bytes; Stanford publishes no md5, this is the one that avalanche and other readers check."""

CACHE = "tiny-imagenet-200.decoded-v1.safetensors"
"""The decoded images, beside their source; made again whenever the source changes."""

Listed = list[tuple[str, int]]
"""Files with their labels."""


def read_tiny_imagenet(info: DatasetInfo, root: Path, download: bool, progress: Progress, place: str = "auto") -> Raw:
    """Return the data set from the archive in `root` if there is one, else from the unpacked folder, else fetched.

    Labels number the sorted WordNet ids, as torchvision's ImageFolder does. Nothing is unpacked to disk. A folder may be as
    people keep it: one too deep, validation images sorted into folders of their classes, with files of macOS among them.

    Args:
        place: where images are to lie; in their "files" they stay undecoded, with "auto" where the decoded ones have no room.

    Raises:
        ArdbenchError: what lies in `root` is torn, incomplete or not Tiny-ImageNet, or absent and not to be had.
    """
    found, checked = _open(info, root, download)
    tree = _inner(found)
    ids = sorted(line.strip() for line in tree.lines("wnids.txt"))
    if len(ids) != info.num_classes or len(set(ids)) != len(ids):
        raise _wrong(
            tree, f"wnids.txt names {len(set(ids))} classes in {len(ids)} lines, {info.num_classes} are needed"
        )
    train, test = _train_files(info, tree, ids), _test_files(info, tree, ids)
    labels = torch.tensor([label for _, label in train + test])
    n, more = info.train_images, (_names(tree, ids), (checked,))
    images = None if place == "files" else _cached(root, tree.identity, info)
    why = no_room(root, decoded_size(info)) if images is None and place == "auto" else ""
    if place == "files" or why:
        size, decode = (info.channels, info.size, info.size), partial(_decode, tree, size=info.size)
        apart = [Undecoded([name for name, _ in files], size, decode, why) for files in (train, test)]
        return Raw(apart[0], labels[:n], apart[1], labels[n:], *more)
    if images is None:
        images = _decoded(info, tree, train + test, progress)
        _cache(root, tree.identity, images)
    return Raw(images[:n], labels[:n], images[n:], labels[n:], *more)


def _open(info: DatasetInfo, root: Path, download: bool) -> tuple[FileTree, CheckedFile]:
    archive, folder = root / ARCHIVE.name, root / FOLDER
    if not archive.exists() and folder.is_dir():
        verdict = f"{info.train_images + info.test_images} images, counted and decoded"
        return of_folder(folder), CheckedFile(f"{FOLDER}/", None, verdict)
    if not archive.exists():
        if (root / "wnids.txt").exists():
            raise ArdbenchError(
                f"{root} is the folder {FOLDER} itself: rename it so and give --data-root the folder above it."
            )
        if not download:
            raise absent(info.name, root, f"{ARCHIVE.name} or the folder {FOLDER}")
        fetch(info.name, root, ARCHIVE)
    check_md5(archive, ARCHIVE.md5)
    tree = of_zip(archive, FOLDER, ARCHIVE.md5)
    return tree, CheckedFile(ARCHIVE.name, ARCHIVE.md5, "ok")


def _inner(tree: FileTree) -> FileTree:
    """Return the folder in which wnids.txt lies, where that is one alone, without what macOS leaves beside every file."""
    kept = frozenset(
        name for name in tree.names if not any(part.startswith(("._", "__MACOSX")) for part in name.split("/"))
    )
    tops = [name.rpartition("/")[0] for name in kept if name.rpartition("/")[2] == "wnids.txt"]
    tree = replace(tree, names=kept)
    return tree.below(tops[0]) if len(tops) == 1 and tops[0] else tree


def _train_files(info: DatasetInfo, tree: FileTree, ids: list[str]) -> Listed:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in tree.names:
        parts = name.split("/")
        if parts[0] == "train" and parts[2:-1] in ([], ["images"]) and len(parts) > 2 and name.endswith(".JPEG"):
            found[parts[1]].append(name)
    if unlisted := sorted(found.keys() - set(ids)):
        raise _wrong(tree, f"train/{unlisted[0]} is no class of wnids.txt")
    each = info.train_images // info.num_classes
    for wnid in ids:
        if len(found[wnid]) != each:
            raise _wrong(tree, f"train/{wnid} has {len(found[wnid])} JPEG files, {each} are needed")
    return [(name, label) for label, wnid in enumerate(ids) for name in sorted(found[wnid])]


def _test_files(info: DatasetInfo, tree: FileTree, ids: list[str]) -> Listed:
    """Return the images of `val` in the order of their annotations, or of their numbers where folders sort them by class."""
    sorted_by_class = _sorted_files(tree, {wnid: label for label, wnid in enumerate(ids)})
    flat = any(name.startswith("val/images/") and name.count("/") == 2 for name in tree.names)
    annotated = [] if sorted_by_class and "val/val_annotations.txt" not in tree.names else _annotated_files(tree, ids)
    listed = annotated if flat or not sorted_by_class else sorted_by_class
    if len(listed) != info.test_images:
        where = "val/val_annotations.txt has" if listed is annotated else "the class folders of val have"
        raise _wrong(tree, f"{where} {len(listed)} images, {info.test_images} are needed")
    name, times = Counter(name.rpartition("/")[2] for name, _ in listed).most_common(1)[0]
    if times > 1:
        raise _wrong(tree, f"val has {name} {times} times")
    said = {name.rpartition("/")[2]: label for name, label in annotated}
    for name, label in listed:
        file = name.rpartition("/")[2]
        if name not in tree.names:
            raise _wrong(tree, f"{name} is missing")
        if said.get(file, label) != label:
            raise _wrong(tree, f"{name} lies in another class than val/val_annotations.txt says ({ids[said[file]]})")
    return listed


def _sorted_files(tree: FileTree, label_of: dict[str, int]) -> Listed:
    """Return the images of `val` that lie in folders of their classes, below or above an `images`, by their numbers."""
    found: list[tuple[int, str, int]] = []
    for name in tree.names:
        *folders, file = name.split("/")
        wnids = [folder for folder in folders[1:] if folder != "images"]
        if (
            folders[:1] == ["val"]
            and len(folders) < 4
            and len(wnids) == 1
            and wnids[0] in label_of
            and file.endswith(".JPEG")
        ):
            number = re.fullmatch(r"val_(\d{1,9})\.JPEG", file)
            if number is None:
                raise _wrong(tree, f"{name} is not called val_NUMBER.JPEG, by which the images are ordered")
            found.append((int(number[1]), name, label_of[wnids[0]]))
    return [(name, label) for _, name, label in sorted(found)]


def _annotated_files(tree: FileTree, ids: list[str]) -> Listed:
    """Return the images that the annotations list: file, WordNet id, then a box that is not used."""
    label_of = {wnid: label for label, wnid in enumerate(ids)}
    listed: Listed = []
    for number, line in enumerate(tree.lines("val/val_annotations.txt"), 1):
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0].strip()
        if wnid not in label_of:
            raise _wrong(tree, f"line {number} of val/val_annotations.txt names no class of wnids.txt: {line[:80]!r}")
        listed.append((f"val/images/{file}", label_of[wnid]))
    return listed


def _decoded(info: DatasetInfo, tree: FileTree, files: Listed, progress: Progress) -> Tensor:
    """Return the images (N, C, H, W) uint8 of all files; grey ones are repeated over the channels."""
    images = np.empty((len(files), info.size, info.size, info.channels), dtype=np.uint8)
    progress.task(f"decode {info.name}", len(files))
    for place, (name, _) in enumerate(files):
        images[place] = _decode(tree, name, info.size)
        if place % 1000 == 999:
            progress.update(place + 1)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _decode(tree: FileTree, name: str, size: int) -> np.ndarray:
    """Return one image (H, W, 3); the size in its header is checked before anything is unpacked."""
    from PIL import Image

    content = tree.read(name)
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.size == (size, size):
                return np.asarray(image.convert("RGB"))
            found = "x".join(map(str, image.size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _wrong(tree, f"{name} is no whole JPEG ({error})") from None
    raise _wrong(tree, f"{name} has {found} pixels, {size}x{size} are needed")


def _names(tree: FileTree, ids: list[str]) -> tuple[str, ...]:
    """Return a readable name of each class, the WordNet id where words.txt has none."""
    if "words.txt" not in tree.names:
        return tuple(ids)
    words = dict(line.split("\t", 1) for line in tree.lines("words.txt") if "\t" in line)
    return tuple(words.get(wnid, wnid).split(",")[0].strip() for wnid in ids)


def _cached(root: Path, identity: str, info: DatasetInfo) -> Tensor | None:
    """Return the decoded images of a source if they were kept; a torn or older file counts as none."""
    from safetensors import SafetensorError, safe_open

    shape = (info.train_images + info.test_images, info.channels, info.size, info.size)
    try:
        with safe_open(root / CACHE, framework="pt") as file:
            if (file.metadata() or {}).get("source") != identity:
                return None
            images: Tensor = file.get_tensor("images")
            whole = _sha256(images) == file.metadata()["sha256"]
    except (OSError, SafetensorError, KeyError):
        return None
    return images if whole and tuple(images.shape) == shape and images.dtype == torch.uint8 else None


def _cache(root: Path, identity: str, images: Tensor) -> None:
    """Keep decoded images for the next run, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    facts = {"source": identity, "sha256": _sha256(images)}
    try:
        with scratch(root) as folder:
            save_file({"images": images}, folder / CACHE, facts)
            os.replace(folder / CACHE, root / CACHE)
    except (ArdbenchError, OSError, SafetensorError):
        return  # a folder without room or write permission: the next run decodes again, the images are the same


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(images.view(-1).numpy().data).hexdigest()


def _wrong(tree: FileTree, what: str) -> ArdbenchError:
    return ArdbenchError(
        f"{tree.source} is not the published Tiny-ImageNet: {what}; give --data-root another folder, or move this one away and "
        "type `ardbench data tiny-imagenet`."
    )
