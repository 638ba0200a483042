"""Checkpoints of others: real ones load exactly, foreign names are understood, everything else is one clear sentence."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_models import CIFAR10, DIGITS, settled
from torch import Tensor, nn

from ardbench.errors import ArdbenchError
from ardbench.models import build
from ardbench.models.files import load_into, read_state
from ardbench.models.network import Network, Normalise


@pytest.fixture
def net() -> Network:
    return settled(build("resnet8-tiny", DIGITS))


def reload(path: Path, normalise: bool = False, part: str = "") -> Network:
    fresh = build("resnet8-tiny", DIGITS, normalise)
    load_into(fresh, read_state(path), path, part)
    return fresh.eval()


def same(one: Network, other: Network) -> bool:
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        return torch.equal(one(x), other(x))


def wheel_checkpoint() -> Path:
    spec = find_spec("pyautoattack")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pyautoattack, whose wheel carries the checkpoint, is not installed")
    path = Path(spec.submodule_search_locations[0]) / "examples" / "model_test.pt"
    if not path.exists():
        pytest.skip(f"this pyautoattack carries no {path.name}")
    return path


def test_the_resnet18_of_autoattack_loads_exactly() -> None:
    path = wheel_checkpoint()
    net = build("resnet18", CIFAR10)
    load_into(net, read_state(path), path)
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    assert torch.equal(net.head.weight, theirs["linear.weight"])
    ours = net.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if not key.startswith("linear"))
    assert len(ours) == len(theirs)


@pytest.mark.data
def test_the_resnet18_of_autoattack_classifies_cifar10() -> None:
    path, root = wheel_checkpoint(), os.environ.get("ARDBENCH_DATA")
    if not root or not (Path(root) / "cifar-10-batches-py" / "test_batch").exists():
        pytest.skip("ARDBENCH_DATA names no folder with CIFAR-10")
    from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10

    net = build("resnet18", CIFAR10).eval()
    load_into(net, read_state(path), path)
    data = TorchvisionCIFAR10(root, train=False, download=False)
    x = torch.from_numpy(data.data[:100]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        correct = (net(x).argmax(1) == torch.tensor(data.targets[:100])).sum().item()
    assert correct >= 88  # 93.7 % of 1,000; fewer than 88 of 100 has a chance of about 1 %


def prefixed(*prefixes: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {"".join(prefixes) + key: value for key, value in state.items()}


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


FOREIGN: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 7, "best": 0.5},
    "net": lambda state: {"net": state, "acc": 93.1, "optimizer": {"state": {0: {"momentum": torch.ones(3)}}}},
    "deeply nested": lambda state: {"checkpoint": {"student": {"weights": state}}},
    "beside the epoch": lambda state: {**state, "epoch": 3},
    "data parallel": prefixed("module."),
    "compiled data parallel": prefixed("module.", "_orig_mod."),
    "a model's model": prefixed("model.", "net."),
    "averaged": lambda state: {"n_averaged": torch.tensor(4), **{f"module.{k}": v for k, v in state.items()}},
    "linear": renamed("head.", "linear."),
    "fc": renamed("head.", "fc."),
    "classifier": renamed("head.", "classifier."),
    "logits": renamed("head.", "logits."),
    "downsample": renamed("shortcut", "downsample"),
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    "spare block": lambda state: {**state, "sub_block1.layer.0.bn1.weight": torch.ones(2)},
    "double": lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_layouts_of_others_are_understood(kind: str, net: Network, tmp_path: Path) -> None:
    torch.save(FOREIGN[kind](net.state_dict()), tmp_path / "other.pth")
    assert same(reload(tmp_path / "other.pth"), net)


@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_of_torch_are_read(legacy: bool, net: Network, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "other.pt", _use_new_zipfile_serialization=not legacy)
    assert same(reload(tmp_path / "other.pt"), net)


def test_safetensors_are_read(net: Network, tmp_path: Path) -> None:
    save_file(net.state_dict(), tmp_path / "last.safetensors", metadata={"model": "resnet8-tiny"})
    assert same(reload(tmp_path / "last.safetensors"), net)


def test_counters_of_older_files_do_not_disturb(net: Network, tmp_path: Path) -> None:
    state = net.state_dict() | {"bn9.num_batches_tracked": torch.tensor(3)}
    torch.save(state, tmp_path / "other.pt")
    assert same(reload(tmp_path / "other.pt"), net)


@pytest.mark.parametrize("layout", ["mean", "normalize.mean", "module.normalize.mean", "0.mean"])
def test_a_normalisation_in_the_file_is_kept(layout: str, net: Network, tmp_path: Path) -> None:
    prefix = layout.removesuffix("mean")
    inner = {"mean": "", "normalize.mean": "model.", "module.normalize.mean": "module.model.", "0.mean": "1."}[layout]
    state = {f"{inner}{key}": value for key, value in net.state_dict().items()}
    torch.save(
        {f"{prefix}mean": torch.tensor([0.11]), f"{prefix}std": torch.tensor([0.77]), **state}, tmp_path / "o.pt"
    )
    x = torch.rand(4, 1, 8, 8)
    for normalise in (False, True):  # whether the network would have normalised by the data set's numbers
        torch.testing.assert_close(reload(tmp_path / "o.pt", normalise)(x), net((x - 0.11) / 0.77))


def test_half_a_normalisation_is_refused(net: Network, tmp_path: Path) -> None:
    torch.save({**net.state_dict(), "mean": torch.tensor([0.1])}, tmp_path / "o.pt")
    with pytest.raises(ArdbenchError, match="a mean and a deviation of 1 numbers each are needed"):
        reload(tmp_path / "o.pt", normalise=True)


def test_of_several_networks_one_must_be_named(net: Network, tmp_path: Path) -> None:
    other = build("resnet8-tiny", DIGITS).state_dict()
    torch.save({"model": other, "ema": net.state_dict()}, tmp_path / "two.pt")
    with pytest.raises(
        ArdbenchError, match=r"several networks .* differ \(model, ema\): say which, such as --part model"
    ):
        reload(tmp_path / "two.pt")
    with pytest.raises(ArdbenchError, match="'em': did you mean 'ema'"):
        reload(tmp_path / "two.pt", part="em")
    assert same(reload(tmp_path / "two.pt", part="ema"), net)


def test_networks_side_by_side_are_told_apart(net: Network, tmp_path: Path) -> None:
    both = {f"student.{key}": value for key, value in net.state_dict().items()}
    both |= {f"teacher.{key}": value for key, value in build("resnet8", DIGITS).state_dict().items()}
    torch.save({"state_dict": both}, tmp_path / "lightning.ckpt")
    with pytest.raises(ArdbenchError, match=r"--part state_dict\.student or .*ckpt#state_dict\.student:resnet8-tiny"):
        reload(tmp_path / "lightning.ckpt")
    for part in ("state_dict.student", "student"):
        assert same(reload(tmp_path / "lightning.ckpt", part=part), net)


class Intruder:
    """What a malicious checkpoint does: run a command while it is being unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle-2", "pickle-4"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
def test_code_in_a_checkpoint_never_runs(form: str, suffix: str, net: Network, tmp_path: Path) -> None:
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    payload = {"state_dict": net.state_dict(), "epoch": Intruder(trace)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"epoch": Intruder(trace)}, protocol=int(form[-1])))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ArdbenchError) as refusal:
        read_state(path)
    assert not trace.exists()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300 + len(str(path))
    if suffix == ".pt" and form in ("zip", "legacy"):
        assert "holds Python code (posix.system), which ardbench never runs" in str(refusal.value)


@pytest.mark.parametrize("payload", [nn.Linear(2, 2), {"args": Message()}])
def test_pickled_objects_are_refused_with_what_to_do(payload: object, tmp_path: Path) -> None:
    torch.save(payload, tmp_path / "whole.pt")
    with pytest.raises(ArdbenchError, match=r"holds Python code .* save torch.save\(model.state_dict\(\), FILE\)"):
        read_state(tmp_path / "whole.pt")


@pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_cut_short_is_refused(suffix: str, share: float, net: Network, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    save_file(net.state_dict(), path) if suffix == ".safetensors" else torch.save(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArdbenchError, match="cut short"):
        read_state(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.pt", b"", "is empty"),
        ("page.pt", b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not a checkpoint"),
        ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("words.pt", b"hello, this is a note about the weights", "not one of torch.save"),
        ("noise.pt", bytes(range(229, 256)) * 9, "not a file of torch.save"),
        ("noise.safetensors", bytes(range(256)), "not a safetensors file"),
        ("weights.h5", b"\x89HDF\r\n", "is an HDF5 file"),
        ("weights.pt.gz", b"\x1f\x8b\x08", "is compressed with gzip: unpack it"),
    ],
)
def test_what_is_no_checkpoint_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArdbenchError) as refusal:
        read_state(tmp_path / name)
    assert message in str(refusal.value) and name in str(refusal.value) and "\n" not in str(refusal.value)


def test_paths_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArdbenchError, match=r"There is no file .*missing\.pt"):
        read_state(tmp_path / "missing.pt")
    with pytest.raises(ArdbenchError, match="is a directory"):
        read_state(tmp_path)


@pytest.mark.parametrize("payload", [{}, {"epoch": 3}, [1, 2], torch.ones(3), {"state": {0: torch.ones(2)}}])
def test_a_file_without_a_network_is_refused(payload: object, tmp_path: Path) -> None:
    torch.save(payload, tmp_path / "o.pt")
    with pytest.raises(ArdbenchError, match="holds no network"):
        read_state(tmp_path / "o.pt")


def refused(net: Network, state: dict[str, Tensor]) -> str:
    """Return the refusal, having seen that the network is as it was."""
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ArdbenchError) as refusal:
        load_into(net, state, "FILE")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    return str(refusal.value)


def test_another_number_of_classes_is_said(net: Network) -> None:
    hundred = build("resnet8-tiny", replace(DIGITS, name="digits100", num_classes=100))
    assert "FILE has 100 classes, the data set digits has 10" in refused(net, hundred.state_dict())


@pytest.mark.parametrize("name", ["resnet8", "preactresnet18", "mobilenetv2", "wrn-28-10"])
def test_another_model_is_refused_naming_the_one_that_fits(name: str, net: Network) -> None:
    with torch.device("meta"):
        foreign = build(name, DIGITS).state_dict()
    message = refused(net, {key.replace("head.", "fc."): value for key, value in foreign.items()})
    assert "FILE does not fit resnet8-tiny" in message
    twin = " or preactresnet18-fast" if name == "preactresnet18" else ""
    assert message.endswith(f"it fits --model {name}{twin}.")


def test_missing_unexpected_and_differing_weights_are_named(net: Network) -> None:
    state = net.state_dict()
    state["strange.weight"] = state.pop("layer2.0.conv1.weight")
    state["conv1.weight"] = torch.zeros(8, 3, 3, 3)
    message = refused(net, state)
    assert "1 missing (layer2.0.conv1.weight)" in message
    assert "1 unexpected (strange.weight)" in message
    assert "1 of another shape (conv1.weight is 8x3x3x3 there and 8x1x3x3 here)" in message
    assert "nor does it fit any other model" in message


def test_weights_of_a_run_that_diverged_are_refused(net: Network) -> None:
    state = {key: value.clone() for key, value in net.state_dict().items()}
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    assert "FILE holds numbers that are not finite (in layer1.0.conv1.weight)" in refused(net, state)


def test_the_data_sets_own_normalisation_stays_without_one_in_the_file(net: Network, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "o.pt")
    loaded = reload(tmp_path / "o.pt", normalise=True)
    assert isinstance(loaded.normalise, Normalise)
    assert loaded.normalise.mean.flatten().tolist() == pytest.approx(DIGITS.mean)
