"""Pictures as people have them: class folders, and one picture as an array by stated rules. Torch-free.

Rotation by EXIF is applied; palettes and CMYK become RGB; what is transparent lies on white; 16 bits become 8. A set is grey
where every picture is. Hidden files, and files that are called no picture, are passed over.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ardbench.errors import ArdbenchError
from ardbench.untrusted import MEMBER_LIMIT, read_bytes

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PIXELS = 64_000_000
"""Of one picture; its header is read first."""
TRAIN, TEST = "train", ("test", "val", "validation")
"""Names of the folders of a split. The first of several that is there is the test set; the others join the training set."""
GREY = ("1", "L", "I;16", "I;16B", "I")


@dataclass(frozen=True)
class Tree:
    """Files of a folder by split and class.

    Args:
        identity: sha256 of their names, sizes and times.
        splits: "train" and "test", or "" where class folders alone lie there: class -> files.
        passed: how many files are no pictures.
    """

    identity: str
    splits: dict[str, dict[str, list[Path]]]
    passed: int


def tree_of(folder: Path) -> Tree:
    """Return what lies in a folder.

    Raises:
        ArdbenchError: it is not there, holds no class folders, or a link.
    """
    if not folder.is_dir():
        raise ArdbenchError(f"There is no folder {folder}: give one with a folder of pictures for each class.")
    top = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    tests = [name for name in TEST if name in top]
    if (TRAIN in top) != bool(tests):
        there, lacks = (tests[0], TRAIN) if tests else (TRAIN, f"one of {', '.join(TEST)}")
        raise ArdbenchError(
            f"{folder} has a folder {there} and none called {lacks}: add it, or leave class folders alone."
        )
    digest, passed = hashlib.sha256(), 0
    splits: defaultdict[str, defaultdict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    parts = [(TRAIN, TRAIN), ("test", tests[0]), *((TRAIN, name) for name in tests[1:])] if tests else [("", "")]
    for split, part in parts:
        found = splits[split]
        for parent, folders, files in os.walk(folder / part):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(parent, name)
                if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                    passed += not name.startswith(".")
                    continue
                inside = path.relative_to(folder / part).parts
                if len(inside) < 2:
                    raise ArdbenchError(f"{path} lies in no class folder: move it into that of its class.")
                found[inside[0]].append(path)
                digest.update(_facts(path, folder))
    for names in splits.values():
        if len(names) < 2:
            raise ArdbenchError(
                f"{folder} has pictures of {len(names)} classes ({', '.join(names) or 'none'}), and two are needed: put those "
                "of each class into a folder of its own."
            )
    if len(splits) == 2 and (alone := sorted(splits["train"].keys() ^ splits["test"].keys())):
        where = "train" if alone[0] in splits["train"] else "test"
        raise ArdbenchError(f"{folder} has the class {alone[0]!r} in {where} alone: each class needs pictures in both.")
    return Tree(digest.hexdigest(), {split: dict(found) for split, found in splits.items()}, passed)


def _facts(path: Path, folder: Path) -> bytes:
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode):
        raise ArdbenchError(f"{path} is a link or a device: put the file itself in its place.")
    name = path.relative_to(folder).as_posix()
    return f"{name}|{facts.st_size}|{facts.st_mtime_ns}\n".encode(errors="surrogateescape")


def header(path: Path) -> tuple[int, int, bool]:
    """Return width and height of a picture as it is shown, and whether it is grey; its header is looked at first."""
    with _opened(path) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = image.size
        return (height, width, image.mode in GREY) if turned else (width, height, image.mode in GREY)


def decoded(path: Path, channels: int, side: int | None) -> np.ndarray:
    """Return a picture (H, W, C) uint8.

    Args:
        channels: 1 for grey, 3 for RGB.
        side: resize its shorter side to this, smoothly, and cut out the middle; None leaves it as it is.

    Raises:
        ArdbenchError: it cannot be read, moves, or is larger than `PIXELS`.
    """
    with _opened(path) as image:
        return as_array(image, channels, side)


def as_array(image: Picture, channels: int, side: int | None) -> np.ndarray:
    """Return a picture that is open as (H, W, C) uint8; `channels` and `side` as in `decoded`."""
    import numpy as np
    from PIL import Image, ImageOps

    shown = _plain(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    if side is not None:
        shown = ImageOps.fit(shown, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(shown, np.uint8).reshape(shown.height, shown.width, channels)


def _plain(image: Picture) -> Picture:
    """Return a picture without transparency, in 8 bits."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        numbers = np.asarray(image).astype(np.int64)
        return Image.fromarray((numbers.clip(0, 65535) // 257).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return image


@contextmanager
def _opened(path: Path) -> Iterator[Picture]:
    """Give a picture; whatever it cannot be read for, now or in the body, is one sentence."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_bytes(path, MEMBER_LIMIT)), formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise _too_large(path, f"{image.width}x{image.height}")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise ArdbenchError(f"{path} holds {frames} pictures: give one with a single picture.")
            if image.mode == "F":
                raise ArdbenchError(f"{path} holds fractions, whose range nothing says: save it with 8 or 16 bits.")
            yield image
    except ArdbenchError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(path, "more") from None
    except Exception as error:  # of Pillow: damaged files raise nearly anything
        raise _unreadable(path, error) from None


def _too_large(path: Path, size: str) -> ArdbenchError:
    return ArdbenchError(f"{path} has {size} pixels, over {PIXELS:,}: make it smaller.")


def _unreadable(path: Path, error: Exception) -> ArdbenchError:
    said = "it is empty" if path.is_file() and not path.stat().st_size else str(error).partition("\n")[0][:200]
    return ArdbenchError(f"{path} cannot be read as a picture ({said}): mend it, or take it away.")
