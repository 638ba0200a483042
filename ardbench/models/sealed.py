"""Our own safetensors carry the sha256 of themselves, so that a damaged one is known wherever it was copied to. Torch-free.

A file of others has no such seal and passes. So does one whose damage lies in the word `sha256` itself: its numbers are whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from ardbench.errors import ArdbenchError

BLANK = "0" * 64
"""What stands in the metadata, after the word sha256, while a file is sealed and while its seal is checked."""
SEAL = re.compile(rb"(?<=sha256\\\": \\\").{64}", re.DOTALL)
LONGEST = 2**20
"""Bytes of a header in which a seal is looked for; that of a network with thousands of tensors has 100,000."""


def sealed(content: bytes) -> bytes:
    """Return a safetensors file with its own sha256 in the place of `BLANK`, which its metadata holds once."""
    return content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def check_seal(path: Path) -> None:
    """Read a safetensors file, and refuse it where its seal is broken.

    Raises:
        ArdbenchError: it is not the file that was sealed.
    """
    with path.open("rb") as file:
        size = file.read(8)
        header = file.read(min(int.from_bytes(size, "little"), LONGEST))
        if (seal := SEAL.search(header)) is None:
            return
        digest = hashlib.sha256(size + header[: seal.start()] + BLANK.encode() + header[seal.end() :])
        while part := file.read(LONGEST):
            digest.update(part)
    if digest.hexdigest().encode() != seal[0]:
        raise ArdbenchError(
            f"{path} is damaged (its checksum does not match): restore it, or train the run that wrote it again."
        )


DIGEST = 32
"""Bytes of the sha256 that ends a trainer's state."""


def ends_with_its_digest(content: bytes) -> bool:
    """Return whether a file ends with the sha256 of all that stands before."""
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def facts_of(path: Path) -> dict[str, str]:
    """Return what one of our safetensors files says of its network in its metadata: model, dataset, normalise, and more.

    Of a file of others, or one that cannot be read, nothing.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LONGEST)))
            facts = json.loads(header["__metadata__"]["ardbench"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {key: value for key, value in facts.items() if isinstance(value, str)} if isinstance(facts, dict) else {}
