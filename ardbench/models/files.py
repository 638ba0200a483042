"""Reading checkpoints that others made: weights only, never code, and every name and shape accounted for."""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Size, Tensor

from ardbench.data import DatasetInfo
from ardbench.errors import ArdbenchError, unknown
from ardbench.models import MODELS, build
from ardbench.models.layouts import networks_in, rename
from ardbench.models.network import Network, Normalise
from ardbench.models.sealed import check_seal
from ardbench.untrusted import WEIGHTS_LIMIT, check_size

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLES)
STATISTICS = ("normalise.mean", "normalise.std")
COUNTER = "num_batches_tracked"
"""BatchNorm's step counter, which no forward reads: it may be missing or extra."""


def read_state(path: str | Path, part: str = "") -> dict[str, Tensor]:
    """Return the weights in a checkpoint of anybody's, by name, on the CPU; nothing in the file is executed.

    Nested checkpoints are searched, and prefixes of wrappers (DataParallel, torch.compile) taken off. An input
    normalisation that the file carries is called normalise.mean and normalise.std.

    Args:
        path: a .safetensors file, or a .pt, .pth, .bin, .ckpt, .tar one as torch.save writes them.
        part: which network to take from a file that holds several, such as "ema".

    Raises:
        ArdbenchError: if the file is missing, empty, cut short, of another kind, holds code, or holds no network, or
            several and `part` names none of them.
    """
    path = Path(path)
    _refuse_what_is_no_checkpoint(path)
    networks = networks_in(_safetensors(path) if path.suffix.lower() == ".safetensors" else _pickle(path))
    if not networks:
        raise ArdbenchError(f"{path} holds no network: save one with torch.save(model.state_dict(), FILE).")
    if part:
        if part not in networks:
            raise unknown(f"part of {path}", part, networks)
        return networks[part]
    if len(networks) > 1:
        raise ArdbenchError(
            f"{path} holds several networks ({', '.join(networks)}): save the one you mean in a file of its own."
        )
    return next(iter(networks.values()))


def _refuse_what_is_no_checkpoint(path: Path) -> None:
    """Raise one sentence for a path that cannot hold weights, judged by its name and first bytes."""
    if not path.exists():
        raise ArdbenchError(f"There is no file {path}.")
    if path.is_dir():
        raise ArdbenchError(f"{path} is a directory: give a file in it ({', '.join(SUFFIXES)}).")
    if path.suffix.lower() not in SUFFIXES:
        raise ArdbenchError(f"{path} is no checkpoint by its name: its suffix must be one of {', '.join(SUFFIXES)}.")
    try:
        check_size(path, WEIGHTS_LIMIT)
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        raise ArdbenchError(f"{path} cannot be read: {error.strerror}.") from None
    if path.stat().st_size == 0:
        raise ArdbenchError(f"{path} is empty: copy or download it again.")
    if start.startswith((b"<!doctype", b"<html")):
        raise ArdbenchError(f"{path} is a web page, not a checkpoint: download the file itself.")
    if start.startswith(b"version https://git-lfs"):
        raise ArdbenchError(f"{path} is a Git LFS pointer, not a checkpoint: fetch the file with 'git lfs pull'.")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # the last three of types torch has not
        raise ArdbenchError(f"{path} is cut short or not a safetensors file ({_first_line(error)}).") from None
    check_seal(path)
    return tensors


def load_pickle(file: str | io.BytesIO) -> object:
    """Return what torch.save wrote, by torch's weights-only reader, which runs no code.

    Raises:
        Swollen: it would take more memory than its bytes.
        Exception: whatever torch says of a file that is torn or holds code.
    """
    with warnings.catch_warnings(action="ignore"):  # of foreign pickle protocols, before they are refused
        _refuse_what_swells(file)
        return torch.load(file, map_location="cpu", weights_only=True)


class Swollen(Exception):
    """A checkpoint that would take more memory than its bytes."""


def _refuse_what_swells(file: str | io.BytesIO) -> None:
    """Refuse compressed records, and byte arrays of any length that a pickle names: torch writes neither."""
    with contextlib.nullcontext(file) if isinstance(file, io.BytesIO) else open(file, "rb") as opened:
        zipped, size = opened.read(4) == b"PK\x03\x04", opened.seek(0, io.SEEK_END)
        opened.seek(0)
        if zipped:
            reader = torch.PyTorchFileReader(file)
            if hasattr(reader, "get_record_size"):
                unpacked = sum(map(reader.get_record_size, reader.get_all_records()))
            else:  # torch 2.11
                unpacked = sum(record.file_size for record in zipfile.ZipFile(file).infolist())
            if unpacked > size:
                raise Swollen("would unpack to more bytes than it has")
            opened = io.BytesIO(reader.get_record("data.pkl"))
        if any(b"bytearray\n" in line for line in opened):
            raise Swollen("asks for a byte array")
        if isinstance(file, io.BytesIO):
            file.seek(0)


def _pickle(path: Path) -> object:
    """Return what `load_pickle` returns, or refuse the file by name."""
    try:
        return load_pickle(str(path))
    except Swollen as error:
        raise ArdbenchError(f"{path} {error}: give a file of torch.save(model.state_dict(), FILE).") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise ArdbenchError(f"{path} is damaged or not a file of torch.save: copy or download it again.") from None
        raise ArdbenchError(
            f"{path} holds Python code ({code[1]}), which ardbench never runs: where you trust the file, load it with "
            "its own code and save torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception as error:
        reason = "is a TorchScript archive" if "TorchScript" in str(error) else "is cut short or not one of torch.save"
        raise ArdbenchError(f"{path} {reason}: give a file of torch.save(model.state_dict(), FILE).") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")[:300]


def load_into(net: Network, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights into a network, every name and shape accounted for; a refusal leaves the network as it was.

    Names of others are told as ours (`ardbench.models.layouts`); BatchNorm's step counters may be missing or extra; with
    a mean and a deviation in the file, the network's first layer normalises by them.

    Args:
        net: the network, which must have been built for the data set at hand.
        state: the weights, as `read_state` returns them.
        source: where they come from, for messages.

    Raises:
        ArdbenchError: for another number of classes, another architecture (naming the one that fits, if one does), half a
            normalisation, or numbers that are not finite.
    """
    wanted = net.state_dict()
    given = rename(state, wanted)
    statistics: dict[str, Tensor] = {key: given.pop(key) for key in STATISTICS if key in given}
    _refuse_misfits(net, {key: tensor.shape for key, tensor in given.items()}, source)
    _refuse_normalisation(net, statistics, source)
    for key, tensor in given.items():
        if not torch.isfinite(tensor).all():
            raise ArdbenchError(f"{source} holds numbers that are not finite (in {key}): its training diverged.")
    counters = {key: value for key, value in wanted.items() if key.endswith(COUNTER)}
    net.load_state_dict(counters | given, strict=True)
    if statistics:
        net.normalise = Normalise(*(tuple(statistics[key].flatten().tolist()) for key in STATISTICS))


def _refuse_normalisation(net: Network, statistics: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise for a mean without a deviation, and for as many numbers as no image has channels."""
    sizes = sorted(tensor.numel() for tensor in statistics.values())
    if len(sizes) not in (0, 2) or not set(sizes) <= {1, net.info.channels}:
        raise ArdbenchError(
            f"{source} normalises its inputs by {' and '.join(statistics)} of sizes {sizes}, where a mean and a "
            f"deviation of {net.info.channels} numbers each are needed."
        )


def _refuse_misfits(net: Network, given: Mapping[str, Size], source: str | Path) -> None:
    """Raise for names and shapes that are not the network's, naming the first of each kind."""
    wanted = _shapes(net)
    missing = [key for key in wanted if key not in given and not key.endswith(COUNTER)]
    unexpected = [key for key in given if key not in wanted]
    differing = [key for key in given if key in wanted and given[key] != wanted[key]]
    if not (missing or unexpected or differing):
        return
    only_head = not missing and not unexpected and set(differing) == {"head.weight", "head.bias"}
    if only_head and given["head.weight"][1:] == wanted["head.weight"][1:]:
        raise ArdbenchError(
            f"{source} has {given['head.weight'][0]} classes, the data set {net.info.name} has {net.info.num_classes}: "
            "name the data set it was trained on."
        )
    shapes = [f"{key} is {_times(given[key])} there and {_times(wanted[key])} here" for key in differing]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    faults = [f"{len(found)} {kind} ({_some(found)})" for kind, found in kinds if found]
    fitting = [name for name in MODELS if _fits(name, net, given)]
    hint = f"it fits --model {' or '.join(fitting)}" if fitting else "nor does it fit any other model of ardbench"
    raise ArdbenchError(f"{source} does not fit {net.name}, weights {', '.join(faults)}: {hint}.")


def _fits(name: str, net: Network, given: Mapping[str, Size]) -> bool:
    """Return whether the network called `name` takes these weights, whatever the number of classes."""
    wanted = _shapes_of(name, net.info)
    renamed = rename(given, wanted)
    if {"head.weight", "head.bias"} - renamed.keys():
        return False
    return _body(renamed) == _body(wanted) and renamed["head.weight"][1:] == wanted["head.weight"][1:]


@functools.cache
def _shapes_of(name: str, info: DatasetInfo) -> dict[str, Size]:
    with torch.device("meta"):
        return _shapes(build(name, info))


def _body(shapes: Mapping[str, Size]) -> dict[str, Size]:
    return {key: shape for key, shape in shapes.items() if not key.endswith(COUNTER) and not key.startswith("head.")}


def _shapes(net: Network) -> dict[str, Size]:
    return {key: tensor.shape for key, tensor in net.state_dict().items()}


def _times(shape: Size) -> str:
    return "x".join(str(side) for side in shape) or "a number"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
