"""Reading checkpoints that others made: weights only, never code, and every name and shape accounted for."""

from __future__ import annotations

import functools
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Size, Tensor

from ardbench.data import DatasetInfo
from ardbench.errors import ArdbenchError, unknown
from ardbench.models import MODELS, build
from ardbench.models.layouts import COUNTER, Fit, Shapes, State, fits, misfits, nearest, networks_in
from ardbench.models.network import Network, Normalise
from ardbench.models.normalisation import Normalisation
from ardbench.models.pickles import Swollen, load_pickle
from ardbench.models.sealed import check_seal
from ardbench.untrusted import WEIGHTS_LIMIT, check_size

STARTS = (
    (b"<!doctype", "is a web page, not a checkpoint: download the file itself"),
    (b"<html", "is a web page, not a checkpoint: download the file itself"),
    (b"version https://git-lfs", "is a Git LFS pointer, not a checkpoint: fetch the file with 'git lfs pull'"),
    (b"\x89hdf", "is an HDF5 file, as Keras writes them: ardbench reads files of torch.save and safetensors"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it, and give the checkpoint that lies in it"),
    (b"bzh", "is compressed with bzip2: unpack it, and give the checkpoint that lies in it"),
    (b"\xfd7zxz", "is compressed with xz: unpack it, and give the checkpoint that lies in it"),
    (b"7z\xbc\xaf", "is an archive of 7-Zip: unpack it, and give the checkpoint that lies in it"),
    (b"rar!", "is an archive of RAR: unpack it, and give the checkpoint that lies in it"),
    (b"\x93numpy", "is an array of NumPy: give a file of torch.save(model.state_dict(), FILE)"),
)
"""First bytes, in small letters, of what is no checkpoint, and what to do about it."""
SAVED = "give a file of torch.save(model.state_dict(), FILE)"
UNPICKLED = "where you trust it, since reading one may run code, save torch.save(pickle.load(open(FILE, 'rb')), NEW)"
PLAIN = (b"\x03", b"\x04", b"\x05")
"""Protocols of pickles that torch.save does not write by itself."""
TORCHSCRIPT = (
    "is a TorchScript archive, which is a program and not weights alone: where you trust it, save "
    "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
)


def read_state(path: str | Path) -> dict[str, State]:
    """Return the weights of each network in a checkpoint of anybody's, on the CPU; nothing in the file is executed.

    What kind of file it is its first bytes say, not its name. A network is a mapping of names to tensors, wherever it is
    nested; its part of the file is its key, "" for all of it.

    Raises:
        ArdbenchError: if the file is missing, empty, cut short, of another kind, holds code, or holds no network.
    """
    path = Path(path)
    start = _start_of(path)
    networks = networks_in(_safetensors(path) if _is_safetensors(path, start) else _pickle(path, start))
    if not networks:
        raise ArdbenchError(f"{path} holds no network: save one with torch.save(model.state_dict(), FILE).")
    return networks


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a file, or raise one sentence for a path that cannot hold weights."""
    if not path.exists():
        raise ArdbenchError(f"There is no file {path}.")
    if path.is_dir():
        raise ArdbenchError(f"{path} is a directory: give a file in it, such as one of .pt or .safetensors.")
    try:
        check_size(path, WEIGHTS_LIMIT)
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ArdbenchError(f"{path} cannot be read: {error.strerror}.") from None
    if not start:
        raise ArdbenchError(f"{path} is empty: copy or download it again.")
    for mark, reason in STARTS:
        if start.lstrip().lower().startswith(mark):
            raise ArdbenchError(f"{path} {reason}.")
    if start[257:262] == b"ustar":
        raise ArdbenchError(f"{path} is an archive of tar: unpack it, and give the checkpoint that lies in it.")
    return start


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Return whether a file begins with the length of a header in JSON, or is called so and is nothing else."""
    if start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{":
        return False
    return start[8:9] == b"{" or path.suffix.lower() == ".safetensors"


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # the last three of types torch has not
        raise ArdbenchError(f"{path} is cut short or not a safetensors file ({_first_line(error)}).") from None
    check_seal(path)
    return tensors


def _pickle(path: Path, start: bytes) -> object:
    """Return what torch.save wrote, or refuse the file by name."""
    if start.startswith(b"PK\x03\x04") and (reason := _other_archive(path)):
        raise ArdbenchError(f"{path} {reason}.")
    try:
        with path.open("rb") as file:  # torch itself opens no path that is not in UTF-8
            return load_pickle(file)
    except Swollen as error:
        raise ArdbenchError(f"{path} {error}: {SAVED}.") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None and start[:1] == b"\x80" and start[1:2] in PLAIN:
            raise ArdbenchError(f"{path} is a pickle that torch.save has not written: {UNPICKLED}.") from None
        if code is None:
            raise ArdbenchError(f"{path} is damaged or not a file of torch.save: copy or download it again.") from None
        raise ArdbenchError(
            f"{path} holds Python code ({code[1]}), which ardbench never runs: where you trust the file, load it with "
            "its own code and save torch.save(model.state_dict(), FILE)."
        ) from None
    except Exception:
        raise ArdbenchError(f"{path} is cut short or not one of torch.save: {SAVED}.") from None


def _other_archive(path: Path) -> str:
    """Return what a zip archive is that torch.save has not written, or nothing where it has, or is torn."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return ""
    if any(name.endswith("/constants.pkl") for name in names):
        return TORCHSCRIPT
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if any(name.endswith(".npy") for name in names):
        return f"is an archive of NumPy's arrays: {SAVED}"
    return "is a zip archive and no checkpoint: unpack it, and give the checkpoint that lies in it"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")[:300]


def load_into(
    net: Network, state: Mapping[str, Tensor] | Mapping[str, State], source: str | Path, part: str = ""
) -> tuple[str, ...]:
    """Load weights into a network, every name and shape accounted for; a refusal leaves the network as it was.

    Names of others are told as ours (`ardbench.models.layouts`); BatchNorm's step counters may be missing or extra; with
    a mean and a deviation in the file, the network's first layer normalises by them.

    Args:
        net: the network, which must have been built for the data set at hand.
        state: the weights by name, or those of several networks by part, as `read_state` returns them.
        source: where they come from, for messages.
        part: which network to take of several, by components of its place, such as "ema" or "student".

    Returns:
        What a user should know of what was left out, in sentences.

    Raises:
        ArdbenchError: for another number of classes, another architecture (naming the one that fits, if one does), several
            networks that fit and differ, weights beside the network, half a normalisation, or numbers that are not finite.
    """
    flat = any(isinstance(one, Tensor) for one in state.values())
    networks = cast(Mapping[str, State], {"": dict(state)} if flat else state)
    wanted = net.state_dict()
    found = _chosen(net, networks, source, part)
    normalise = _normaliser(net, found, source)
    for key, tensor in found.weights.items():
        if not torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all():
            raise ArdbenchError(f"{source} holds numbers that are not finite (in {key[-90:]}): its training diverged.")
    counters = {key: value for key, value in wanted.items() if key.endswith(COUNTER)}
    net.load_state_dict(counters | found.weights, strict=True)
    net.normalise = normalise or net.normalise
    net.of_bytes = any(_of_bytes(statistics) for statistics in found.normalisations.values())
    return _notes(net, found, source)


def _chosen(net: Network, networks: Mapping[str, State], source: str | Path, part: str) -> Fit:
    """Return the one network of a file that is meant, or say why there is none."""
    wanted = _shapes(net)
    found = fits(networks, wanted, part)
    right = [one for one in found if all(one.weights[key].shape == wanted[key] for key in one.weights)]
    if not right:
        raise _misfit(net, networks, found, source, part)
    chosen = min(right, key=lambda one: len(one.beside))
    if not all(one is chosen or _twins(chosen, one) for one in right):
        places = sorted((one.place for one in right), key=lambda place: not place)
        raise ArdbenchError(
            f"{source} holds several networks that fit {net.name} and differ ({_some(places)}): say which, such as "
            f"--part {places[0]} or {_with_part(source, places[0], net.name)}."
        )
    if chosen.beside:
        place = f"--part {chosen.place} or {_with_part(source, chosen.place, net.name)}"
        raise ArdbenchError(
            f"{source} holds weights beside the network that fits {net.name} ({_some(chosen.beside)}): to leave them out, "
            f"say so with {place}."
            if chosen.place
            else f"{source} holds weights that are none of {net.name} ({_some(chosen.beside)})."
        )
    return chosen


def _with_part(source: str | Path, place: str, model: str) -> str:
    return f"{source}#{place}:{model}"


def _twins(one: Fit, other: Fit) -> bool:
    """Return whether two networks are the same to the bit, input normalisation included."""
    pairs = [(one.weights, other.weights)]
    first, second = (list(fit.normalisations.values()) for fit in (one, other))
    if len(first) != len(second):
        return False
    pairs += zip(first, second, strict=True)
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a if not key.endswith(COUNTER))
        for a, b in pairs
    )


def _notes(net: Network, found: Fit, source: str | Path) -> tuple[str, ...]:
    """Return what was left out, and what stood before the network."""
    notes = []
    for statistics in found.normalisations.values():
        if _of_bytes(statistics):
            notes.append(f"{source}: its mean and deviation are those of pixels up to 255: both were divided by 255.")
    if found.numbers:
        notes.append(f"{source}: left out numbers of no layer ({_some(found.numbers)}).")
    if found.behind and not isinstance(net.normalise, Normalise):
        notes.append(
            f"{source}: the network lies at {found.behind} and nothing before it, so something without weights stood there, "
            "which is not in the file: if that normalised the inputs, give --mean and --std, or as a teacher "
            f"ARCH+mean=NUMBERS+std=NUMBERS; `ardbench identify {source}` finds by what."
        )
    return tuple(notes)


def _of_bytes(statistics: State) -> bool:
    """Return whether a mean and a deviation are those of pixels up to 255, as `Normalisation` tells."""
    return bool(statistics["mean"].max() > 1)


def _normaliser(net: Network, found: Fit, source: str | Path) -> Normalise | None:
    """Return the input normalisation that the file holds, or refuse half of one, several, and one that cannot be."""
    if not found.normalisations:
        return None
    if len(found.normalisations) > 1:
        places = ", ".join(place or "the file itself" for place in found.normalisations)
        raise ArdbenchError(
            f"{source} holds several input normalisations (in {places}), and which of them counts cannot be told: "
            "save the network with one."
        )
    (statistics,) = found.normalisations.values()
    sizes = sorted(tensor.numel() for tensor in statistics.values())
    if len(sizes) != 2 or not set(sizes) <= {1, net.info.channels}:
        raise ArdbenchError(
            f"{source} normalises its inputs by {' and '.join(sorted(statistics))} of sizes {sizes}, where a mean and a "
            f"deviation of {net.info.channels} numbers each are needed."
        )
    mean, std = (tuple(statistics[key].double().flatten().tolist()) for key in ("mean", "std"))
    for name, numbers, allowed in (("mean", mean, "finite"), ("deviation", std, "finite and above 0")):
        if not all(abs(number) < float("inf") and (number > 0 or name == "mean") for number in numbers):
            said = ", ".join(f"{number:g}" for number in numbers)
            raise ArdbenchError(f"{source} normalises its inputs by a {name} of {said}, which must be {allowed}.")
    info = Normalisation(mean, std).of(net.info)  # which knows numbers for pixels up to 255
    return Normalise(info.mean, info.std)


def _misfit(
    net: Network, networks: Mapping[str, State], found: Iterable[Fit], source: str | Path, part: str
) -> ArdbenchError:
    """Return what is wrong with names and shapes that are not the network's, naming the first of each kind."""
    wanted = _shapes(net)
    for one in found:  # all but the classes fits
        return ArdbenchError(
            f"{source} has {one.weights['head.weight'].shape[0]} classes, the data set {net.info.name} has "
            f"{net.info.num_classes}: name the data set it was trained on."
        )
    near = nearest(networks, wanted, part)
    if near is None:
        return unknown(f"part of {source}", part, _parts(networks, net.info))
    given = {key: tensor.shape for key, tensor in near.weights.items()}
    missing, unexpected, differing = misfits(given, wanted)
    shapes = [f"{key[-90:]} is {_times(given[key])} there and {_times(wanted[key])} here" for key in differing]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    faults = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names]
    models = fitting(networks, net.info, part)
    hint = f"it fits --model {' or '.join(models)}" if models else "nor does it fit any other model of ardbench"
    return ArdbenchError(f"{source} does not fit {net.name}, weights {', '.join(faults)}: {hint}.")


def fitting(networks: Mapping[str, State], info: DatasetInfo, part: str = "") -> list[str]:
    """Return the architectures whose names and shapes a file's networks have, whatever their number of classes."""
    return [name for name in MODELS if fits(networks, _shapes_of(name, info), part)]


def _parts(networks: Mapping[str, State], info: DatasetInfo) -> list[str]:
    """Return the places of a file that hold networks of ours, or else its mappings."""
    found = [one.place for name in MODELS for one in fits(networks, _shapes_of(name, info))]
    return sorted(set(found) or networks.keys())


@functools.cache
def _shapes_of(name: str, info: DatasetInfo) -> dict[str, Size]:
    with torch.device("meta"):
        return dict(_shapes(build(name, info)))


def _shapes(net: Network) -> Shapes:
    return {key: tensor.shape for key, tensor in net.state_dict().items()}


def _times(shape: Size) -> str:
    return "x".join(str(side) for side in shape) or "a number"


def _some(names: list[str]) -> str:
    shown = [name if len(name) < 100 else f"{name[:90]}..." for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
