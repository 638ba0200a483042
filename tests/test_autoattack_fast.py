"""AutoAttack's fast form and the adversarial images that are kept: nothing counts that fp32 does not confirm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attacked
import pytest
import torch
from attacked import KEY, LINF, data, killed_at_every_save, trained
from safetensors.torch import load_file
from small import CPU, network
from torch import Tensor, nn

from ardbench.data.batches import Split
from ardbench.data.load import load
from ardbench.errors import ArdbenchError
from ardbench.evaluation import autoattack
from ardbench.evaluation.measure import evaluate
from ardbench.evaluation.protocols import AutoAttack, fast_form, protocol
from ardbench.evaluation.verdicts import Paused
from ardbench.progress import Progress


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked.shorten(monkeypatch)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained(10)


@pytest.mark.parametrize(
    ("plain", "fast"),
    [("aa", "aa-fast"), ("aa-plus", "aa-plus-fast"), ("aa:apgd-ce,square", "aa-fast:apgd-ce,square")],
)
def test_a_fast_protocol_is_the_plain_one_under_its_own_name(plain: str, fast: str) -> None:
    slow, quick = protocol(plain), protocol(fast)
    assert isinstance(slow, AutoAttack) and isinstance(quick, AutoAttack)
    assert fast_form(slow) == fast_form(quick) == quick
    assert quick == slow.model_copy(update={"name": fast, "fast": True})
    assert quick.settings(LINF) == slow.settings(LINF) | {"fast": True}
    assert "fast" not in slow.settings(LINF)  # verdicts from before there was a fast form keep their key


def test_only_autoattack_has_a_fast_form() -> None:
    with pytest.raises(
        ArdbenchError, match="no protocol 'pgd20-fast', since only AutoAttack has a fast form: give pgd20"
    ):
        protocol("pgd20-fast")


class Inverted:
    """A form that is wrong about every image: each attack claims each point at once, with the image as it is."""

    def __init__(self, net: nn.Module, *_: Any) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = -self.net(x)
        return logits


@pytest.mark.usefixtures("short")
def test_what_fp32_does_not_confirm_is_attacked_again_in_fp32(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a form that only claims, everything is left to fp32: the verdicts are those without it, bit for bit."""
    split = data(60, 10, seed=2)
    plain = evaluate(net, split, "aa", LINF, batch=8)
    monkeypatch.setattr(autoattack, "FastForm", Inverted)
    fast = evaluate(net, split, "aa-fast", LINF, batch=8)
    assert (fast.predictions, fast.taken) == (plain.predictions, plain.taken)
    left, claims = 60, {}
    for gone, attack in zip(plain.taken.values(), list(plain.taken)[1:], strict=False):
        left -= gone
        claims[attack] = left
    assert fast.unconfirmed == claims
    counts = ", ".join(f"{count} of {attack}" for attack, count in claims.items())
    assert fast.notes[-1].endswith(f"attacked again in fp32: {counts}.")
    assert plain.unconfirmed == {} and plain.notes == []


def says(net: nn.Module, x: Tensor, predictions: list[int]) -> bool:
    """Return whether the network says this of each image, up to ties: FAB stops at a boundary, 1e-7 from it.

    There another batch than the one that was measured may round to the other side; logits are below 10 here.
    """
    logits = net(x)
    said = logits.gather(1, torch.tensor(predictions)[:, None]).squeeze(1)
    return bool((logits.amax(1) - said < 1e-5).all())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_every_success_of_the_real_form_is_one_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, has: bool
) -> None:
    """On colour images, whose gradients through channels_last weights the package must be able to view.

    The form is that of a processor that has instructions for bf16, and of one that has none.
    """
    monkeypatch.setattr(autoattack, "computes_bf16", lambda device: has)
    net, images = network(0).eval(), load("fake", CPU).test
    split = Split(images.images, net(images.pixels(slice(None))).argmax(1), images.index, images.info)
    fast = evaluate(net, split, f"aa-fast:{attack}", LINF, batch=20, store=tmp_path, keep_adversarial=True)
    x_adv = load_file(tmp_path / f"aa-fast-{attack}.adversarial.safetensors")["x_adv"]
    assert says(net, x_adv, fast.predictions)
    assert fast.taken[attack] > fast.taken["clean"] == 0
    said = "in bf16" if has else "with BatchNorms folded, in fp32 for want of bf16 instructions"
    assert fast.notes[-1].startswith(f"attacked {said}, every success confirmed in fp32.")


@pytest.mark.usefixtures("short")
def test_a_fast_run_killed_between_claim_and_second_attack_gives_the_same_verdicts(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoattack, "FastForm", Inverted)
    how: dict[str, Any] = {"net": net, "split": data(40, 10, seed=2), "protocol": "aa-fast:square,fab-t"}
    how |= {"threat": LINF, "batch": 8, "keep_adversarial": True, "key": KEY}
    whole = evaluate(**how, store=tmp_path / "whole")
    parts, states = killed_at_every_save(monkeypatch, True, **how, store=tmp_path / "parts")
    assert sum(0 < len(state.again) < len(state.pending) for state in states) >= 2
    assert (parts.predictions, parts.unconfirmed, parts.notes) == (whole.predictions, whole.unconfirmed, whole.notes)
    names = ["aa-fast-square+fab-t.adversarial.safetensors", "aa-fast-square+fab-t.json"]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == names
    one, other = ((tmp_path / folder / names[0]).read_bytes() for folder in ("whole", "parts"))
    assert one == other


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["clean", "pgd20", "aa:apgd-ce,square"])
def test_the_image_that_took_a_point_is_kept_and_every_other_stays_as_it_is(
    net: nn.Module, tmp_path: Path, name: str
) -> None:
    split = data(60, 10, seed=2)
    verdicts = evaluate(net, split, name, LINF, batch=20, n=40, store=tmp_path, keep_adversarial=True)
    (file,) = tmp_path.glob("*-n40.adversarial.safetensors")
    x_adv, chosen = load_file(file)["x_adv"], split.subset(40, 0)
    x, moved = chosen.pixels(slice(None)), (x_adv != chosen.pixels(slice(None))).flatten(1).any(1)
    assert x_adv.dtype == torch.float32 and verdicts.index == chosen.index.tolist()
    assert says(net.eval(), x_adv, verdicts.predictions)
    clean = (net.eval()(x).argmax(1) == chosen.labels).tolist()
    assert moved.tolist() == [right and not robust for right, robust in zip(clean, verdicts.robust, strict=True)]
    assert moved.any() == (name != "clean")
    assert (x_adv - x).abs().max() <= LINF.eps + 1e-6


class Heard(Progress):
    """Remembers what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.usefixtures("short")
def test_images_are_asked_for_after_the_verdicts(net: nn.Module, tmp_path: Path) -> None:
    """What was measured or begun without them is measured again, and images of other weights do not stay."""
    split, listener, questions = data(40, 10, seed=2), Heard(), iter([False] * 8 + [True] * 99)
    how: dict[str, Any] = {"split": split, "protocol": "aa:apgd-ce,square", "threat": LINF, "batch": 10}
    how |= {"store": tmp_path, "progress": listener}
    images = tmp_path / "aa-apgd-ce+square.adversarial.safetensors"

    with pytest.raises(Paused):
        evaluate(net, **how, key=KEY, stop=lambda: next(questions))
    assert sum(autoattack.load_state(images.with_name("aa-apgd-ce+square.state.json")).taken.values()) > 0
    kept = evaluate(net, **how, key=KEY, keep_adversarial=True)
    assert listener.notes == [
        "aa-apgd-ce+square.state.json was begun without keeping adversarial images and is begun anew."
    ]
    images.unlink()
    again = evaluate(net, **how, key=KEY, keep_adversarial=True)
    assert listener.notes[1:] == [
        "aa-apgd-ce+square.json was measured without keeping adversarial images and is measured again."
    ]
    assert images.exists() and again.predictions == kept.predictions
    stamp = images.stat().st_mtime_ns
    assert evaluate(net, **how, key=KEY, keep_adversarial=True).seconds == again.seconds  # read, not measured
    assert images.stat().st_mtime_ns == stamp
    evaluate(trained(10), **how, key={"weights": "other"})
    assert not images.exists()
