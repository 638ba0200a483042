"""Files of others: any prefix, several networks, data beside the weights, any suffix; each loads to the bit or says why not."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import torch
from readers import torch_saved
from safetensors.torch import save_file
from test_models import DIGITS, settled
from torch import Tensor, nn

from ardbench.errors import ArdbenchError
from ardbench.models import build
from ardbench.models.files import load_into, read_state
from ardbench.models.layouts import networks_in
from ardbench.models.network import Network, Normalise
from ardbench.models.pickles import StandIn, load_pickle, stand_in

PREFIXES = (
    "module.", "_orig_mod.", "_module.", "_forward_module.", "_fsdp_wrapped_module.", "module._orig_mod.",
    "_orig_mod.module.", "_forward_module.module.", "_forward_module._orig_mod.", "module.module.", "module.0.", "0.",
    "model.", "model.model.", "net.", "network.", "net.net.", "backbone.", "encoder.", "encoder.model.", "student.",
    "student_model.", "teacher_model.", "basic_net.", "basic_model.", "module.basic_net.", "classifier_model.", "resnet.",
    "wrn.", "base.", "base_model.", "core.", "inner.", "f.", "_model.", "model_ema.module.", "ema_model.module.",
    "averaged_model.module.", "swa_model.module.", "module.encoder.", "model.backbone.", "learner.network.", "trainer.model.",
    "policy.net.0.", "module.model.module.", "a.b.c.d.e.f.g.", "layer1.", "conv1.", "head.", "fc.",
    "_fsdp_wrapped_module._fpw_module.",
    "_checkpoint_wrapped_module.", "pytorch_model.", "torch_model.", "target.", "online.", "victim.", "std_model.",
)  # fmt: skip
"""What wrappers and habits put before every name."""


@pytest.fixture
def net() -> Network:
    return settled(build("resnet8-tiny", DIGITS))


def told(path: Path, part: str = "", model: str = "resnet8-tiny") -> tuple[Network, tuple[str, ...]]:
    fresh = build(model, DIGITS)
    notes = load_into(fresh, read_state(path), path, part)
    return fresh.eval(), notes


def same(one: Network, other: Network) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def put(prefix: str, net: Network) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in net.state_dict().items()}


def refusal(path: Path, part: str = "", model: str = "resnet8-tiny") -> str:
    with pytest.raises(ArdbenchError) as refused:
        told(path, part, model)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Prefixes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_all_names_share_is_taken_off(prefix: str, net: Network, tmp_path: Path) -> None:
    torch.save(put(prefix, net), tmp_path / "a.pt")
    found, notes = told(tmp_path / "a.pt")
    assert same(found, net) and notes == ()
    assert refusal(tmp_path / "a.pt", model="resnet8").endswith("it fits --model resnet8-tiny.")


@pytest.mark.parametrize("prefix", ["1.", "module.1.", "net.1.", "model.2.", "1.model."])
def test_what_stood_before_a_network_is_said(prefix: str, net: Network, tmp_path: Path) -> None:
    torch.save(put(prefix, net), tmp_path / "a.pt")
    found, (note,) = told(tmp_path / "a.pt")
    assert (
        same(found, net)
        and "something without weights stood there" in note
        and prefix[:-1].removesuffix(".model") in note
    )
    before = prefix.removesuffix("model.").rpartition(".")[0].rpartition(".")[0]
    place = f"{before}.0".lstrip(".") if prefix != "1.model." else "0"
    numbers = {f"{place}.mean": torch.tensor([0.2]), f"{place}.std": torch.tensor([0.4])}
    torch.save(numbers | put(prefix, net), tmp_path / "b.pt")
    found, notes = told(tmp_path / "b.pt")
    assert notes == () and isinstance(found.normalise, Normalise)
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(found(x), net((x - 0.2) / 0.4))


def test_a_layer_before_the_network_is_not_left_out_in_silence(net: Network, tmp_path: Path) -> None:
    torch.save({"0.weight": torch.ones(1, 1, 1, 1)} | put("1.", net), tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert "holds weights beside the network that fits resnet8-tiny (0.weight)" in message and "--part 1 " in message
    assert same(told(tmp_path / "a.pt", "1")[0], net)


@pytest.mark.parametrize("name", ["fc2", "last_linear", "heads.head", "classifier.1", "module_head", "linear"])
def test_the_last_layer_may_be_called_anything(name: str, net: Network, tmp_path: Path) -> None:
    state = {key.replace("head.", f"{name}."): tensor for key, tensor in put("encoder.", net).items()}
    torch.save(state, tmp_path / "a.pt")
    assert same(told(tmp_path / "a.pt")[0], net)
    del state[f"encoder.{name}.bias"]
    torch.save(state, tmp_path / "a.pt")
    assert "does not fit resnet8-tiny" in refusal(tmp_path / "a.pt")


# Numbers of no layer --------------------------------------------------------------------------------------------------


def test_numbers_of_no_layer_are_left_out_and_named(net: Network, tmp_path: Path) -> None:
    extra = {"n_classes": torch.tensor(10), "temperature": torch.ones(1), "loss.scale": torch.tensor(2.0)}
    torch.save(extra | {"mean": torch.zeros(1), "std": torch.ones(1)} | put("model.", net), tmp_path / "mair.pth")
    found, (note,) = told(tmp_path / "mair.pth")
    assert same(found, net) and isinstance(found.normalise, Normalise)
    assert note.endswith("left out numbers of no layer (n_classes, temperature, loss.scale).")
    torch.save({"temperature": torch.ones(())} | net.state_dict(), tmp_path / "a.pt")
    assert told(tmp_path / "a.pt")[1][0].endswith("(temperature).")


def test_a_number_in_a_layer_is_a_weight(net: Network, tmp_path: Path) -> None:
    torch.save(net.state_dict() | {"layer1.0.gain": torch.ones(())}, tmp_path / "a.pt")
    assert "1 unexpected (layer1.0.gain)" in refusal(tmp_path / "a.pt")


# Several networks -----------------------------------------------------------------------------------------------------


def test_the_only_one_that_fits_needs_no_choice_and_twins_need_none(net: Network, tmp_path: Path) -> None:
    wide = settled(build("resnet8", DIGITS))
    torch.save({"student": net.state_dict(), "teacher": {"net": put("module.", wide)}}, tmp_path / "a.pt")
    assert same(told(tmp_path / "a.pt")[0], net) and same(told(tmp_path / "a.pt", model="resnet8")[0], wide)
    torch.save({"model": net.state_dict(), "ema": put("module.", net)}, tmp_path / "b.pt")
    assert same(told(tmp_path / "b.pt")[0], net)
    other = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    other["head.bias"][3] += 1e-3
    torch.save({"model": net.state_dict(), "ema": other}, tmp_path / "b.pt")
    assert "several networks that fit resnet8-tiny and differ (model, ema)" in refusal(tmp_path / "b.pt")
    assert not same(told(tmp_path / "b.pt", "ema")[0], net) and same(told(tmp_path / "b.pt", "model")[0], net)


def test_the_same_weights_behind_another_normalisation_are_no_twins(net: Network, tmp_path: Path) -> None:
    own = {"mean": torch.tensor([0.3]), "std": torch.tensor([0.4])}
    torch.save({"a": net.state_dict(), "b": net.state_dict() | own}, tmp_path / "a.pt")
    assert "differ (a, b)" in refusal(tmp_path / "a.pt")
    assert not isinstance(told(tmp_path / "a.pt", "a")[0].normalise, Normalise)
    assert isinstance(told(tmp_path / "a.pt", "b")[0].normalise, Normalise)


def test_each_network_has_its_own_normalisation(net: Network, tmp_path: Path) -> None:
    other = settled(build("resnet8-tiny", DIGITS))
    numbers = {"teacher.norm.mean": torch.tensor([0.3]), "teacher.norm.std": torch.tensor([0.5])}
    torch.save(put("student.", net) | numbers | put("teacher.net.", other), tmp_path / "a.pt")
    assert isinstance(told(tmp_path / "a.pt", "student")[0].normalise, nn.Identity)
    taught = told(tmp_path / "a.pt", "teacher")[0]
    assert isinstance(taught.normalise, Normalise) and taught.normalise.std.item() == pytest.approx(0.5)


def test_two_normalisations_of_one_network_are_refused(net: Network, tmp_path: Path) -> None:
    one = {"mean": torch.tensor([0.3]), "std": torch.tensor([0.5])}
    torch.save(one | {f"0.{key}": value for key, value in one.items()} | put("1.", net), tmp_path / "a.pt")
    assert "holds several input normalisations (in the file itself, 0)" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [(0.5, 0.0, "a deviation of 0"), (0.5, float("nan"), "a deviation of nan"), (float("inf"), 0.2, "a mean of inf"),
     (float("nan"), 0.2, "a mean of nan"), (0.5, -0.1, "a deviation of -0.1")],
)  # fmt: skip
def test_a_normalisation_that_cannot_be_is_named_as_that(
    mean: float, std: float, said: str, net: Network, tmp_path: Path
) -> None:
    torch.save({"mean": torch.tensor([mean]), "std": torch.tensor([std])} | put("model.", net), tmp_path / "a.pt")
    assert f"normalises its inputs by {said}, which must be finite" in refusal(tmp_path / "a.pt")


def test_an_unknown_part_offers_those_that_there_are(net: Network, tmp_path: Path) -> None:
    torch.save(put("student.", net) | put("teacher.", net), tmp_path / "a.pt")
    assert "did you mean 'student'" in refusal(tmp_path / "a.pt", "studnt")


# Data beside the weights ----------------------------------------------------------------------------------------------

BESIDE: dict[str, object] = {
    "a scalar of numpy": np.float64(0.5),
    "a whole number of numpy": np.int64(3),
    "an array of numpy": np.arange(6.0).reshape(2, 3),
    "an array of numpy's text": np.array(["a", "b"]),
    "an array of objects": np.array([None, {"a": 1}], dtype=object),
    "a type of numpy": np.dtype("float32"),
    "a command line": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), seen=np.float32(2)),
    "a simple namespace": types.SimpleNamespace(a=1),
    "a path": pathlib.PurePosixPath("/a/b"),
    "a default dictionary": defaultdict(list, {"loss": [0.5, 0.4]}),
    "default dictionaries": defaultdict(int, {"n": 3, "in": defaultdict(dict)}),
    "a date": datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC),
    "a day": datetime.date(2026, 11, 27),
    "a time": datetime.timedelta(hours=3),
    "a queue": deque([1.0, 2.0], maxlen=100),
    "a counter": Counter("abca"),
    "an ordered dictionary": OrderedDict(a=1),
    "numbers": [Decimal("0.1"), Fraction(1, 3), 1j, {1, 2}, frozenset({3}), range(3), slice(1, 2)],
    "a name of a run": UUID(int=7),
    "a random state": np.random.RandomState(0).get_state(),
    "types": [int, str, list],
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("what", BESIDE)
def test_plain_data_beside_the_weights_is_no_code(what: str, legacy: bool, net: Network, tmp_path: Path) -> None:
    payload = {"args": BESIDE[what], "state_dict": net.state_dict(), "also": {"deep": [BESIDE[what]]}}
    (tmp_path / "a.pt").write_bytes(torch_saved(payload, legacy))
    assert same(told(tmp_path / "a.pt")[0], net)


def test_a_mapping_of_another_kind_may_hold_the_weights(net: Network, tmp_path: Path) -> None:
    torch.save({"state": defaultdict(dict, {"net": defaultdict(int, net.state_dict())})}, tmp_path / "a.pt")
    assert same(told(tmp_path / "a.pt")[0], net)


@pytest.mark.parametrize("order", ["C", "F"])
def test_weights_may_be_arrays_of_numpy(order: str, net: Network, tmp_path: Path) -> None:
    arrays = {key: np.array(tensor.numpy(), order=order) for key, tensor in net.state_dict().items()}  # type: ignore[call-overload]
    torch.save(arrays, tmp_path / "a.pt")
    assert same(told(tmp_path / "a.pt")[0], net)
    halves = {key: array.astype("f2") if array.dtype.kind == "f" else array for key, array in arrays.items()}
    torch.save(halves, tmp_path / "b.pt")
    found, _ = told(tmp_path / "b.pt")
    assert torch.equal(found.head.weight, net.head.weight.half().float())
    arrays["head.bias"] = np.array([None] * 10, dtype=object)
    torch.save(arrays, tmp_path / "c.pt")
    assert "1 missing (head.bias)" in refusal(tmp_path / "c.pt")


# Kinds of files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ckpt.t7", "best.th", "net.pkl", "net.model", "net", "net.weights.best", "net.PTH", "net.safetensors"]
)
def test_the_first_bytes_say_what_a_file_is(name: str, net: Network, tmp_path: Path) -> None:
    for legacy in (False, True):
        (tmp_path / name).write_bytes(torch_saved({"net": net.state_dict(), "acc": 93.1}, legacy))
        assert same(told(tmp_path / name)[0], net)
    save_file(net.state_dict(), tmp_path / name)
    assert same(told(tmp_path / name)[0], net)


def test_other_archives_have_a_sentence_of_their_own(net: Network, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(net.eval(), torch.rand(1, 1, 8, 8)), tmp_path / "script.pt")
    said = refusal(tmp_path / "script.pt")
    assert "is a TorchScript archive, which is a program" in said and "torch.jit.load(FILE).state_dict()" in said
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    assert "is an archive of NumPy's arrays" in refusal(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.ones(3))
    assert "is an array of NumPy" in refusal(tmp_path / "a.npy")
    for protocol in (3, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(3)}, protocol=protocol))
        assert "a.pkl is a pickle that torch.save has not written: where you trust it" in refusal(tmp_path / "a.pkl")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("best.pth", b"x")
    assert "is a zip archive and no checkpoint: unpack it" in refusal(tmp_path / "a.pt")


# What was made to do harm ---------------------------------------------------------------------------------------------


class Reduced:
    """Stands in a pickle for a call and a state."""

    def __init__(self, call: object, arguments: tuple[object, ...], state: object = None) -> None:
        self.how = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.how


RECONSTRUCT = np.ndarray((2, 2)).__reduce__()[0]
HOSTILE: dict[str, object] = {
    "an array of 2^60 numbers": Reduced(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2**60,), np.dtype("f4"), False, b"")
    ),
    "an array that is short": Reduced(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (4, 4), np.dtype("f4"), False, b"1234")
    ),
    "an array of negative sides": Reduced(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1, -1), np.dtype("f4"), False, b"1234")
    ),
    "an array of huge sides": Reduced(
        RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (2**39,) * 8, np.dtype("u1"), False, b"1")
    ),
    "an array reconstructed as something else": Reduced(RECONSTRUCT, (dict, (10**12,), b"b")),
    "a scalar without bytes": Reduced(np.float64(1).__reduce__()[0], (np.dtype("V1"), b"")),
    "a state that is no state": Reduced(argparse.Namespace, (), [1, 2]),
    "a state with names of python": Reduced(argparse.Namespace, (), {"__class__": dict, "__dict__": 3, "tensor": 4}),
    "a date of nothing": Reduced(datetime.datetime, (b"x" * 3,)),
    "a range without end": Reduced(range, (10**18,)),
    "bytes of any length": Reduced(bytes, (10**15,)),
    "a tuple of a range": Reduced(tuple, (Reduced(range, (10**15,)),)),
    "an ordered dictionary whose items are something else": Reduced(
        OrderedDict, (), {"items": int, "values": 3, "keys": 2}
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_stand_in_holds_what_was_given_and_does_nothing(what: str, net: Network, tmp_path: Path) -> None:
    torch.save({"at": HOSTILE[what], "state_dict": net.state_dict() | {"x.weight": HOSTILE[what]}}, tmp_path / "a.pt")
    assert same(told(tmp_path / "a.pt")[0], net)  # the claimed array is none, so it is no weight


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.getattr", "builtins.__import__", "numpy.load",
        "numpy.testing._private.utils.runstring", "argparse._sys.modules", "collections.namedtuple", "types.FunctionType",
        "types.CodeType", "functools.partial", "pathlib.os.system", "datetime.sys.exit", "omegaconf", "operator.attrgetter",
    ],
)  # fmt: skip
def test_only_plain_data_has_a_stand_in(name: str) -> None:
    assert stand_in(name) is None


def test_a_stand_in_imports_nothing(net: Network, tmp_path: Path) -> None:
    inner = (
        b"comegaconf.dictconfig\nDictConfig\n)\x81}q\x07X\x01\x00\x00\x00xK\x05sb"  # an object whose state is {"x": 5}
    )
    made = {"cfg": 0, "state_dict": net.state_dict()}
    torch.save(made, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b"K\x00", inner, 1) if name.endswith("data.pkl") else data)
    with (tmp_path / "a.pt").open("rb") as file:
        found = load_pickle(file)
    assert isinstance(found, dict) and isinstance(found["cfg"], StandIn)
    assert found["cfg"].origin == "omegaconf.dictconfig.DictConfig" and found["cfg"].state == {"x": 5}
    assert same(told(tmp_path / "a.pt")[0], net)


def encoded(text: str, codec: str, times: int) -> object:
    import _codecs

    inner: object = text
    for _ in range(times):
        inner = Reduced(_codecs.encode, (inner, codec))
    return inner


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("codec", ["hex", "hex_codec", "HEX", "base64", "quopri", "bz2", "uu-codec", "Hex Codec"])
def test_text_that_is_encoded_again_and_again_is_refused(
    codec: str, legacy: bool, net: Network, tmp_path: Path
) -> None:
    payload = {"at": encoded("x" * 9, codec, 60), "state_dict": net.state_dict()}
    (tmp_path / "a.pt").write_bytes(torch_saved(payload, legacy))
    assert "encodes text again and again" in refusal(tmp_path / "a.pt")


def test_one_text_that_is_encoded_often_is_refused(net: Network, tmp_path: Path) -> None:
    text = "x" * 10**6
    torch.save({"at": [encoded(text, "latin1", 1) for _ in range(10**3)], **net.state_dict()}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 1.5 * 10**6
    assert "encodes text again and again" in refusal(tmp_path / "a.pt")


def test_parts_that_are_shared_are_walked_once() -> None:
    inner: object = {"a.weight": torch.ones(2)}
    for _ in range(100):
        inner = {"a": inner, "b": inner}
    assert networks_in(inner) == {}  # deeper than is looked
    shared = {"x": torch.ones(2), "a.weight": torch.ones(2)}
    assert list(networks_in({"a": [shared] * 1000, "b": shared})) == ["a.0"]


def test_names_without_end_are_looked_into_so_deep_and_no_deeper(tmp_path: Path) -> None:
    long = {".".join(["a"] * 50_000) + f".{i}.weight": torch.ones(2) for i in range(40)}
    torch.save(
        long | {"9" * 5000 + ".weight": torch.ones(2)} | {f"n{i}": torch.ones(()) for i in range(5000)},
        tmp_path / "a.pt",
    )
    assert "does not fit resnet8-tiny" in refusal(tmp_path / "a.pt")[: 10**7]


@pytest.mark.parametrize("odd", ["sparse", "meta", "complex", "quantized"])
def test_numbers_of_another_kind_are_no_weights(odd: str, net: Network, tmp_path: Path) -> None:
    weight = net.head.weight.detach()
    kinds = {"sparse": lambda: weight.to_sparse(), "meta": lambda: weight.to("meta"),
             "complex": lambda: weight.to(torch.complex64),
             "quantized": lambda: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)}  # fmt: skip
    made = kinds[odd]()
    torch.save(net.state_dict() | {"head.weight": made}, tmp_path / "a.pt")
    assert "1 missing (head.weight)" in refusal(tmp_path / "a.pt")
