"""Files whose networks normalise in code, and our own away from their runs: the right accuracy, or one sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cli_call import call
from probed import CPU, DIGITS, by, correct, probed
from test_models import settled
from torch import nn

from ardbench import data, models
from ardbench.engine import networks
from ardbench.engine.checkpoints import save_weights
from ardbench.engine.exported import export
from ardbench.errors import ArdbenchError
from ardbench.models.network import Network
from ardbench.models.normalisation import Normalisation, named, normalisation, split_normalisation
from ardbench.recipes import resolve
from ardbench.runs import Run, sha256_of, write_json
from ardbench.teachers import locate

MODEL = "resnet8"
TYPED = "+mean=digits+std=digits"


@pytest.fixture(scope="module")
def net() -> Network:
    """A network that knows digits behind their own mean and deviation."""
    return probed(MODEL, by(DIGITS.mean[0], DIGITS.std[0]))


@pytest.fixture(scope="module")
def right(net: Network) -> int:
    return correct(net)


@pytest.fixture
def file(net: Network, tmp_path: Path) -> Path:
    """Its weights as torch.save writes them: the first layer is no part of them."""
    torch.save(net.state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def evaluated(*words: object) -> dict[str, Any]:
    result = call("eval", *words, "--protocol", "clean", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def counted(*words: object) -> int:
    (row,) = evaluated(*words)["results"]
    assert not row["stored"]
    return round(row["accuracy"] * row["n"])


def taught(source: object) -> int:
    return correct(networks.of_teacher(locate(str(source)), "digits", CPU))


def refusal(source: object) -> str:
    with pytest.raises(ArdbenchError) as refused:
        taught(source)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What is typed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ("0.5", "1/255", ((0.5,), (1 / 255,))),
        ("0.5,0.5,0.5", "0.2,0.3,0.4", ((0.5,), (0.2, 0.3, 0.4))),
        ("half", "half", ((0.5,), (0.5,))),
        ("imagenet", "imagenet", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("cifar10", "svhn", (data.info("cifar10").mean, data.info("svhn").std)),
        ("127.5", "127.5", ((0.5,), (0.5,))),
        ("123.675,116.28,103.53", "58.395,57.12,57.375", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("-1e-3", "2", ((-0.001,), (2.0,))),
    ],
)
def test_numbers_and_names_are_read(mean: str, std: str, expected: tuple[tuple[float, ...], ...]) -> None:
    found = normalisation(mean, std)
    assert found is not None
    for numbers, wanted in zip((found.mean, found.std), expected, strict=True):
        assert numbers == pytest.approx(wanted, rel=1e-6)
    assert split_normalisation(f"{MODEL}@64{found}")[0] == f"{MODEL}@64"
    assert str(split_normalisation(f"{MODEL}{found}")[1]) == str(found)  # what is written down is read again


def test_numbers_are_one_for_each_channel_or_for_all() -> None:
    three = named("half").of(data.info("cifar10"))
    assert (three.mean, three.std) == ((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ArdbenchError, match=r"of 3 numbers .* no image of digits, which has 1 channel: give 1\."):
        named("imagenet").of(DIGITS)


# Files of others ------------------------------------------------------------------------------------------------------


def test_what_is_typed_gives_the_right_accuracy(file: Path, right: int, tmp_path: Path) -> None:
    words = (file, "--model", MODEL, "--dataset", "digits", "--runs", tmp_path / "runs")
    mean, std = DIGITS.mean[0], DIGITS.std[0]
    wrong = counted(*words)
    assert (
        counted(*words, "--mean", "digits", "--std", "digits") == right > 280 > wrong
    )  # and was not taken for the other
    again = evaluated(*words, "--mean", mean, "--std", std)
    assert again["results"][0]["stored"] and len(list((tmp_path / "runs" / "files").iterdir())) == 2
    assert taught(f"{file}:{MODEL}{TYPED}") == taught(f"{file}:{MODEL}+std={std}+mean={mean * 255}/255") == right
    assert taught(f"{file}:{MODEL}") == wrong
    said = call("eval", *words, "--mean", mean, "--std", std, "--protocol", "clean", "--device", "cpu").stdout
    assert f"inputs normalised by mean={mean:g} std={std:g}" in said


def test_what_is_typed_is_part_of_a_teachers_name_and_nothing_else_is(file: Path) -> None:
    plain, seen = locate(f"{file}:{MODEL}"), locate(f"{file}:{MODEL}{TYPED}")
    assert (plain.identity, plain.seen) == (sha256_of(file), "")
    assert seen.identity == f"{sha256_of(file)}+mean=0.3047+std=0.3756" and seen.sha256 == plain.sha256
    recipe = resolve("rslad-digits")
    assert len({Run.place(file.parent, recipe, [one]).path for one in (plain, seen)}) == 2
    assert "seen" in asdict(seen) and seen.model == MODEL


def test_a_surrogate_and_a_matrix_normalise_as_typed(file: Path, tmp_path: Path) -> None:
    sure = ("--n", 40, "--device", "cpu", "--json", "--runs", tmp_path / "runs")
    words = (
        file,
        "--model",
        MODEL,
        "--dataset",
        "digits",
        "--mean",
        "digits",
        "--std",
        "digits",
        "--protocol",
        "transfer",
    )
    robust = {}
    for typed in ("", TYPED):
        result = call("eval", *words, "--surrogate", f"{file}:{MODEL}{typed}", "--eps", "0.1", *sure)
        assert result.exit_code == 0, result.stderr
        (row,) = json.loads(result.stdout)["results"]
        assert not row["stored"]
        robust[typed] = row["accuracy"]
    assert robust[TYPED] < robust[""]  # crafted on the network itself
    result = call("transfer", f"{file}:{MODEL}", f"{file}:{MODEL}{TYPED}", "--dataset", "digits", "--eps", "0.1", *sure)
    assert result.exit_code == 0, result.stderr
    assert len({one["identity"] for one in json.loads(result.stdout)["teachers"]}) == 2


def test_a_suite_names_a_normalised_teacher_in_the_same_words(file: Path, tmp_path: Path) -> None:
    from ardbench.campaigns.cells import planned

    (tmp_path / "mine.toml").write_text(
        'title = "T"\nprotocols = ["clean"]\n[[runs]]\nname = "b"\nrecipe = "rslad-digits"\n'
        f'teachers = ["{file}:{MODEL}{TYPED}"]\n'
    )
    _, cells = planned(str(tmp_path / "mine.toml"), tmp_path / "runs")
    assert [one.seen for cell in cells for one in cell.teachers] == ["+mean=0.3047+std=0.3756"]


def test_numbers_in_the_file_win_and_others_are_refused(net: Network, right: int, tmp_path: Path) -> None:
    path, state = tmp_path / "own.pt", {f"1.{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save(state | {"0.mean": torch.tensor(DIGITS.mean), "0.std": torch.tensor(DIGITS.std)}, path)
    assert taught(f"{path}:{MODEL}") == taught(f"{path}:{MODEL}{TYPED}") == right
    assert "holds another input normalisation than +mean=0.5+std=0.5: leave that out" in refusal(
        f"{path}:{MODEL}+mean=half+std=half"
    )
    two = {
        "a.mean": torch.tensor([0.1]),
        "a.std": torch.tensor([0.1]),
        "0.mean": torch.tensor([0.2]),
        "0.std": torch.ones(1),
    }
    torch.save(state | two, path)
    assert "holds several input normalisations" in refusal(f"{path}:{MODEL}")


def test_numbers_for_pixels_up_to_255_are_divided_by_it_and_told(net: Network, right: int, tmp_path: Path) -> None:
    path, state = tmp_path / "own.pt", dict(net.state_dict())
    state |= {name: 255 * torch.tensor(getattr(DIGITS, name)) for name in ("mean", "std")}
    torch.save(state, path)
    found = networks.of_teacher(locate(f"{path}:{MODEL}"), "digits", CPU)
    assert correct(found) == right
    assert isinstance(found, Network) and "both were divided by 255" in found.notes[0]
    # a verdict from before they were divided has the same sha256 in its key and is not reused
    words = (path, "--model", MODEL, "--dataset", "digits", "--out", tmp_path / "out")
    assert counted(*words) == right
    (kept,) = (tmp_path / "out").rglob("clean.json")
    document = json.loads(kept.read_text())
    assert document["key"].pop("pixels") == "255"
    kept.write_text(json.dumps(document | {"predictions": "0" * 360}))
    assert counted(*words) == right  # which asserts that it is measured anew
    assert evaluated(*words)["results"][0]["stored"]


def test_a_layer_without_weights_before_the_network_is_told_until_numbers_are_typed(
    net: Network, right: int, tmp_path: Path
) -> None:
    path = tmp_path / "wrapped.pt"
    torch.save({f"module.1.{key}": tensor for key, tensor in net.state_dict().items()}, path)
    bare, seen = (networks.of_teacher(locate(f"{path}:{MODEL}{typed}"), "digits", CPU) for typed in ("", TYPED))
    assert isinstance(bare, Network) and isinstance(seen, Network)
    assert "something without weights stood there" in bare.notes[0] and f"ardbench identify {path}" in bare.notes[0]
    assert seen.notes == () and correct(seen) == right


def test_published_swish_networks_are_not_taken_without_a_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ardbench.models import wideresnet_swish

    monkeypatch.setattr(
        wideresnet_swish, "wrn_28_10_swish", lambda info, by: wideresnet_swish.SwishWideResNet(info, by, 10, 1)
    )
    info, name, path = data.info("cifar10"), "wrn-28-10-swish", tmp_path / "rebuffi.pt"
    net = settled(models.build(name, info))
    torch.save(net.state_dict(), path)
    x = torch.rand(2, 3, 32, 32)
    with pytest.raises(
        ArdbenchError, match=r"add --mean cifar10 --std cifar10, as a teacher .*\+mean=cifar10\+std=cifar10; if"
    ):
        networks.of_teacher(locate(f"{path}:{name}"), "cifar10", CPU)
    seen = networks.of_teacher(locate(f"{path}:{name}+mean=cifar10+std=cifar10"), "cifar10", CPU)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (info.mean, info.std))
    torch.testing.assert_close(seen(x), net((x - mean) / std))
    none = networks.of_teacher(locate(f"{path}:{name}+mean=0+std=1"), "cifar10", CPU)
    torch.testing.assert_close(none(x), net(x))
    words = ("--model", name, "--dataset", "cifar10", "--mean", "0.5")
    assert "A mean was given and no std" in call("eval", path, *words).stderr


# Files of ours --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(net: Network, tmp_path: Path) -> Run:
    """A finished run whose network normalises, with the facts in its files that training writes."""
    recipe = resolve("pgd-at-digits", student=MODEL, sets={"data.normalise": True})
    made = Run.place(tmp_path / "made", recipe)
    made.create(recipe, (), {})
    facts = {"model": MODEL, "dataset": "digits", "normalise": "true", "run": made.path.name, "checkpoint": "last"}
    for checkpoint in ("last", "best"):
        save_weights(made.weights(checkpoint), net, facts)
    write_json(made.path / "done", {"epochs": 1, "weights": {}})
    return made


@pytest.mark.parametrize("where", ["run", "unfinished", "export", "copy"])
def test_our_own_files_say_by_what_they_normalise(where: str, run: Run, right: int, tmp_path: Path) -> None:
    path = run.weights("last")
    if where == "unfinished":
        (run.path / "done").unlink()
    elif where == "export":
        export(run, "last", tmp_path / "handed-on")
        path = tmp_path / "handed-on" / "model.safetensors"
    elif where == "copy":
        path = Path(shutil.copy(path, tmp_path / "copy.safetensors"))
    assert taught(f"{path}:{MODEL}") == taught(f"{path}:{MODEL}{TYPED}") == right
    assert locate(f"{path}:{MODEL}").identity == locate(f"{path}:{MODEL}{TYPED}").identity
    assert counted(path, "--model", MODEL, "--dataset", "digits", "--runs", tmp_path / "runs") == right
    assert "says by what its inputs are normalised (+mean=0.3047+std=0.3756): leave out +mean=0.5" in refusal(
        f"{path}:{MODEL}+mean=half+std=half"
    )
    assert f"is a {MODEL}, as" in refusal(f"{path}:resnet18")


def test_our_own_file_that_says_it_does_not_normalise_is_believed(net: Network, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_weights(path, net, {"model": MODEL, "dataset": "digits", "normalise": "false"})
    assert "(nothing): leave out +mean" in refusal(f"{path}:{MODEL}{TYPED}")
    assert locate(f"{path}:{MODEL}").identity == sha256_of(path)


# Another shortcut -----------------------------------------------------------------------------------------------------


def by_hand(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return fast_adversarial's PreActResNet-18 in float64: every projected shortcut starts from the block's input."""
    state = {key: tensor.double() for key, tensor in net.state_dict().items() if tensor.is_floating_point()}

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(state[f"{name}.{one}"] for one in names)))

    out = F.conv2d(x.double(), state["conv1.weight"], padding=1)
    for layer in range(1, 5):
        for block in range(2):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            project = state.get(f"{at}.shortcut.0.weight")
            short = out if project is None else F.conv2d(out, project, stride=stride)
            inner = F.conv2d(norm(f"{at}.bn1", out), state[f"{at}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(norm(f"{at}.bn2", inner), state[f"{at}.conv2.weight"], padding=1) + short
    return F.linear(norm("bn", out).mean((2, 3)), state["head.weight"], state["head.bias"])


def test_the_preactresnet_of_fast_adversarial_has_our_names_and_its_own_shortcut() -> None:
    torch.manual_seed(0)
    ours, fast = (settled(models.build(name, DIGITS)).double() for name in ("preactresnet18", "preactresnet18-fast"))
    ours.load_state_dict(fast.state_dict(), strict=True)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), by_hand(fast, x))
        assert not torch.allclose(ours(x), fast(x), rtol=0.01)


def test_a_preactresnet_that_may_be_the_other_one_is_told_of(tmp_path: Path) -> None:
    torch.save(models.build("preactresnet18", DIGITS).state_dict(), tmp_path / "net.pt")
    for name, other in (("preactresnet18", "preactresnet18-fast"), ("preactresnet18-fast", "preactresnet18")):
        net = networks.of_teacher(locate(f"{tmp_path / 'net.pt'}:{name}"), "digits", CPU)
        assert isinstance(net, Network)
        assert any(f"fits {other} as well as {name}" in note and "ardbench identify" in note for note in net.notes)
    save_weights(tmp_path / "own.safetensors", net, {"model": name, "dataset": "digits", "normalise": "false"})
    own = networks.of_teacher(locate(f"{tmp_path / 'own.safetensors'}:{name}"), "digits", CPU)
    assert isinstance(own, Network) and not own.notes  # ours says which it is


def test_a_normalisation_that_was_made_up_in_a_file_of_ours_is_no_traceback(tmp_path: Path, net: Network) -> None:
    path = tmp_path / "odd.safetensors"
    save_weights(path, net, {"model": "../..", "dataset": "nowhere", "normalise": "maybe"})
    assert isinstance(taught(f"{path}:{MODEL}{TYPED}"), int)
    assert Normalisation((0.5,), (0.5,)) == named("half")
