"""What torch.save wrote, read without running anything: torch's weights-only reader, and stand-ins for plain data.

Beside weights lie the things that a training script had at hand: numbers and arrays of numpy, command lines, paths, dates.
Their classes are never imported. Each becomes a `StandIn`, which holds what stood there and does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from typing import IO, Any, cast

import torch
from torch import Tensor

DATA = re.compile(
    r"numpy(\._?core)?\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
    r"|numpy\.(dtype|ndarray|bool_?|u?int\d+|float\d+|complex\d+|str_|bytes_|dtypes\.\w+DType)"
    r"|argparse\.Namespace|types\.SimpleNamespace|typing\.Any|decimal\.Decimal|fractions\.Fraction|uuid\.UUID"
    r"|datetime\.(datetime|date|time|timedelta|timezone)|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path"
    r"|builtins\.(bool|int|float|str|bytes|tuple|list|dict|frozenset|slice|range|object)"
    r"|omegaconf(\.\w+)+"
)
"""Classes and functions that stand for plain data, with which hydra's and other configurations are made."""
MAPPINGS = re.compile(
    r"collections\.defaultdict|easydict\.EasyDict|yacs\.config\.CfgNode|addict\.addict\.Dict|munch\.Munch"
    r"|(\w+\.)+AttributeDict"
)
"""Those that are mappings: they are read as such, and so may hold weights."""
LISTS = re.compile(r"collections\.deque")
WIDENING = {"hex", "hex_codec", "base64", "base64_codec", "base_64", "quopri", "quopri_codec", "quoted_printable",
            "quotedprintable", "uu", "uu_codec", "bz2", "bz2_codec", "zlib", "zlib_codec", "zip"}  # fmt: skip
"""Codecs from bytes to bytes: one after the other, a few characters would fill the memory."""
DTYPES = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "i1": torch.int8, "i2": torch.int16, "i4": torch.int32,
    "i8": torch.int64, "u1": torch.uint8,
}  # fmt: skip


class Swollen(Exception):
    """A checkpoint that would take more memory than its bytes."""


class StandIn:
    """What stands where a file names a class that is plain data: its arguments and its state, and nothing that runs."""

    origin = ""
    """The name of the class, as the file says it."""
    arguments: tuple[object, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: object) -> Any:
        """Return one that holds the arguments."""
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *arguments: object) -> None:
        """Do nothing: they are held already."""

    def __setstate__(self, state: object) -> None:
        """Hold the state, whatever it is."""
        self.state = state

    def tensor(self) -> Tensor | None:
        """Return the numbers of an array of numpy's, or None where it is none, or one of another kind of numbers.

        Numpy is not asked: the bytes that lie in the file are taken, and only where they are as many as the shape says.
        """
        if not self.origin.endswith("_reconstruct") or not (type(self.state) is tuple and len(self.state) == 5):
            return None
        _, shape, kind, fortran, content = self.state
        if not (isinstance(kind, StandIn) and kind.arguments and type(kind.state) is tuple and len(kind.state) > 1):
            return None
        dtype = DTYPES.get(name) if isinstance(name := kind.arguments[0], str) else None
        if dtype is None or kind.state[1] not in ("<", "|") or type(content) is not bytes or type(shape) is not tuple:
            return None
        if not all(type(side) is int and 0 < side < 2**40 for side in shape) or len(shape) > 8:
            return None
        if math.prod(shape) * dtype.itemsize != len(content):
            return None
        flat = torch.frombuffer(bytearray(content), dtype=dtype)
        return flat.view(shape[::-1]).permute(*reversed(range(len(shape)))) if fortran else flat.view(shape)


class MappingIn(StandIn):
    """Stands where a file names a mapping: the mapping itself is then filled by the reader."""

    def __new__(cls, *arguments: object) -> Any:
        """Return an empty mapping, of the one kind that the reader gives attributes to."""
        return OrderedDict()


class ListIn(StandIn):
    """Stands where a file names a list of some kind."""

    def __new__(cls, *arguments: object) -> Any:
        """Return an empty list."""
        return []


@functools.cache
def stand_in(name: str) -> type[StandIn] | None:
    """Return the class that stands for the one of this name, or None where that is no plain data."""
    kinds: tuple[tuple[re.Pattern[str], type[StandIn]], ...] = ((DATA, StandIn), (MAPPINGS, MappingIn), (LISTS, ListIn))
    found = next((kind for pattern, kind in kinds if pattern.fullmatch(name)), None)
    return found and type(found.__name__, (found,), {"origin": name})


def load_pickle(file: IO[bytes]) -> object:
    """Return what torch.save wrote, by torch's weights-only reader, which runs no code, with stand-ins for plain data.

    Raises:
        Swollen: it would take more memory than its bytes.
        Exception: whatever torch says of a file that is torn or holds code.
    """
    with warnings.catch_warnings(action="ignore"):  # of foreign pickle protocols, before they are refused
        named = _examined(file)
        inert = [(made, name) for name in sorted(named) if (made := stand_in(name)) is not None]
        file.seek(0)
        with torch.serialization.safe_globals(inert):  # type: ignore[arg-type]
            return torch.load(file, map_location="cpu", weights_only=True)


def _examined(file: IO[bytes]) -> set[str]:
    """Return the classes and functions that a file names, or refuse what would take more memory than it has bytes.

    Refused are compressed records, byte arrays of any length that a pickle names, and text that is encoded again and again:
    torch writes none of them.
    """
    file.seek(0)
    zipped, size = file.read(4) == b"PK\x03\x04", file.seek(0, io.SEEK_END)
    file.seek(0)
    if not zipped:
        pickles = [
            file
        ] * 5  # as torch wrote before 1.6: a mark, a version, facts, the object, the names of its numbers
    else:
        reader = torch.PyTorchFileReader(file)
        if hasattr(reader, "get_record_size"):
            unpacked = sum(map(reader.get_record_size, reader.get_all_records()))
        else:  # torch 2.11
            unpacked = sum(record.file_size for record in zipfile.ZipFile(file).infolist())
        if unpacked > size:
            raise Swollen("would unpack to more bytes than it has")
        pickles = [io.BytesIO(reader.get_record("data.pkl"))]
    named: set[str] = set()
    for one in pickles:
        with contextlib.suppress(ValueError, EOFError):  # torn: torch says how
            named |= _names(one, size)
    if "builtins.bytearray" in named:
        raise Swollen("asks for a byte array")
    return named


def _names(file: IO[bytes], size: int) -> set[str]:
    """Return what one pickle names; `size` is that of the whole file."""
    named: set[str] = set()
    lengths, latest, fetched, widens = dict[int, int](), 0, 0, False
    for operation, value, _ in pickletools.genops(file):
        text = value if isinstance(value, str) else ""
        if operation.name == "GLOBAL":
            module, _, name = text.partition(" ")  # as Python 2 called it, which is how protocol 2 writes it
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            named.add(f"{module}.{name}")
        elif operation.name in ("BINPUT", "LONG_BINPUT"):
            lengths[cast(int, value)] = latest
        elif operation.name in ("BINGET", "LONG_BINGET"):
            fetched += lengths.get(cast(int, value), 0)
        else:
            latest = len(text)
            widens |= len(text) < 20 and re.sub(r"[^a-z0-9]+", "_", text.lower()) in WIDENING
    if "_codecs.encode" in named and (widens or fetched > size):
        raise Swollen("encodes text again and again")
    return named
