"""The pickled batches in which CIFAR is published, read without running anything that a pickle may ask for."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np


class Refused(pickle.UnpicklingError):
    """A pickle that asks for more than an array of bytes."""


class _Array:
    """Stands where a batch has an array: keeps what numpy would have built it from."""

    state: tuple[Any, ...] = ()

    def __init__(self, *_: object) -> None:
        """Take no notice of the array's class, or of its first, empty shape."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def rows(self) -> np.ndarray:
        """Return the array (N, 3072) uint8."""
        try:
            _, shape, kind, by_columns, content = self.state
            raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
            if kind.name not in ("u1", "|u1") or by_columns:
                raise ValueError
            return np.frombuffer(raw, np.uint8).reshape(shape)
        except (AttributeError, TypeError, ValueError, OverflowError, MemoryError):
            raise Refused("it holds another array than rows of bytes") from None


class _Type:
    """Stands where an array has its type: keeps its name alone."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment say nothing about bytes."""


_KNOWN = {"_reconstruct": _Array, "ndarray": _Array, "dtype": _Type}
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for one of numpy's names; a batch needs no other."""
        if module not in _MODULES or name not in _KNOWN:
            raise Refused(f"it asks for {module}.{name}, which is never run")
        return _KNOWN[name]


def read_batch(content: bytes) -> tuple[np.ndarray, list[int]]:
    """Return the images (N, 3072) uint8 and the labels of one file.

    Raises:
        pickle.UnpicklingError: it is torn, no such file, or asks for code.
    """
    try:
        entry = _Reader(io.BytesIO(content), encoding="latin1").load()
        labels = entry.get("labels", entry.get("fine_labels"))
        rows = entry["data"].rows()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a torn pickle fails anywhere
        raise Refused(f"it is torn or no batch of CIFAR ({type(error).__name__})") from None
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 100 for label in labels):
        raise Refused("its labels are no list of class numbers")
    return rows, labels
