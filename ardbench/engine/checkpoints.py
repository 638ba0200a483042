"""What a run keeps: weights as safetensors, the trainer's state in a container that knows when it is broken."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from ardbench.errors import ArdbenchError
from ardbench.models.pickles import load_pickle
from ardbench.models.sealed import BLANK, DIGEST, check_seal, ends_with_its_digest, sealed
from ardbench.runs import write_atomic
from ardbench.untrusted import WEIGHTS_LIMIT, read_bytes


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the trainer's state atomically, followed by its sha256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomic(path, content + hashlib.sha256(content).digest())


def load_state(path: Path) -> dict[str, Any]:
    """Read a trainer's state on the CPU; nothing in it can run.

    Raises:
        ArdbenchError: the file is truncated, altered, or not a state.
    """
    content = read_bytes(path, WEIGHTS_LIMIT)
    if not ends_with_its_digest(content):
        raise ArdbenchError(f"{path} is damaged (its checksum does not match): delete it to train the run again.")
    try:
        state = load_pickle(io.BytesIO(content[:-DIGEST]))
    except Exception as error:  # what is no state of torch.save fails anywhere
        said = str(error).partition("\n")[0][:300] or type(error).__name__
        raise ArdbenchError(f"{path} is not a trainer state: {said}") from None
    if not isinstance(state, dict):
        raise ArdbenchError(f"{path} is not a trainer state: it holds a {type(state).__name__}.")
    return state


def save_weights(path: Path, net: nn.Module, facts: dict[str, str]) -> None:
    """Write a network's parameters and buffers as safetensors, sealed and atomically, in contiguous layout on the CPU."""
    write_atomic(path, packed(net, facts))


def packed(net: nn.Module, facts: dict[str, str]) -> bytes:
    """Return what `save_weights` writes.

    The facts stand under one key of the file's metadata: several would be written in a random order, and equal weights
    would not give equal files.
    """
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in net.state_dict().items()}
    facts = {**facts, "sha256": BLANK}
    return sealed(save_safetensors(tensors, {"ardbench": json.dumps(facts, sort_keys=True)}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one of our safetensors files, or refuse it by name."""
    try:
        tensors = load_safetensors(read_bytes(path, WEIGHTS_LIMIT))
        check_seal(path)
    except FileNotFoundError:
        raise ArdbenchError(f"There is no checkpoint {path}: train the run first.") from None
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ArdbenchError(f"{path} is not a complete safetensors file: {str(error)[:300]}") from None
    return tensors


def all_finite(nets: list[nn.Module]) -> bool:
    """Return whether every parameter and buffer of the networks is finite."""
    floats = [t for net in nets for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in floats]).all())
