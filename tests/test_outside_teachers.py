"""Teachers that ardbench did not train: those that see images of another size, and those of RobustBench."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cli_call import call
from test_models import on_meta, settled
from torch import Tensor, nn

from ardbench import data
from ardbench.attacks.form import FastForm
from ardbench.config import Precision
from ardbench.engine import networks
from ardbench.errors import ArdbenchError
from ardbench.models import build, robustbench
from ardbench.models.wrapping import Resized, fitted
from ardbench.recipes import resolve
from ardbench.runs import sha256_of
from ardbench.teachers import locate, planned_outside, resolve_teachers

CPU = torch.device("cpu")


# Other sizes ------------------------------------------------------------------------------------------------------------


def bilinear(inside: int, outside: int) -> Tensor:
    """Return the matrix (outside, inside) of linear interpolation between pixels' middles, in float64."""
    rows = torch.zeros(outside, inside, dtype=torch.float64)
    for i in range(outside):
        at = min(max((i + 0.5) * inside / outside - 0.5, 0.0), inside - 1.0)
        left = min(int(at), inside - 2)
        rows[i, left], rows[i, left + 1] = 1 - (at - left), at - left
    return rows


@pytest.mark.parametrize("size", [8, 20])
def test_a_teacher_of_another_size_sees_resized_then_normalised_images(size: int) -> None:
    info = replace(data.info("fake"), size=size, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    net = settled(build("resnet8-tiny", info, normalise=True)).double()
    x = torch.rand(2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    rows = bilinear(12, size)
    by_hand = rows @ x.detach() @ rows.T
    wrapped = fitted(net, 12)
    torch.testing.assert_close(wrapped(x), net(by_hand), rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(wrapped(x)[:, 0].sum(), x)
    inner = by_hand.requires_grad_()
    (at_inner,) = torch.autograd.grad(net(inner)[:, 0].sum(), inner)
    torch.testing.assert_close(gradient, rows.T @ at_inner @ rows, rtol=1e-10, atol=1e-10)
    assert fitted(net, size) is net


@pytest.mark.parametrize("model", ["resnet8", "vit-micro"])
def test_a_wrapped_teacher_has_a_fast_form_and_lives_on_meta(model: str) -> None:
    net = settled(build(model, replace(data.info("fake"), size=16), normalise=True))
    wrapped, x = Resized(net), torch.rand(4, 3, 8, 8)
    plain = Precision(attack="fp32", fold_bn=True, channels_last=False)
    with torch.no_grad():
        scale = wrapped(x).abs().max()
        assert (FastForm(wrapped, True, plain)(x) - wrapped(x)).abs().max() < 0.05 * scale
        form, x = FastForm(wrapped.double(), False, plain), x.double()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in form._copy.modules()), "nothing was folded"
        torch.testing.assert_close(form(x), wrapped(x), rtol=1e-10, atol=1e-10)
    on = Resized(on_meta(model, replace(data.info("fake"), size=16), normalise=True))
    assert on(torch.empty(4, 3, 8, 8, device="meta")).shape == (4, 10)


def test_a_file_says_with_its_architecture_how_large_its_images_are(tmp_path: Path) -> None:
    net = settled(build("vit-micro", replace(data.info("fake"), size=16)))
    torch.save(net.state_dict(), tmp_path / "vit.pt")
    source = f"{tmp_path / 'vit.pt'}:vit-micro@16"
    taught, x = locate(source), torch.rand(2, 3, 8, 8)
    assert taught.identity == f"{sha256_of(tmp_path / 'vit.pt')}@16"
    enlarged = F.interpolate(x, (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(networks.of_teacher(taught, "fake", CPU)(x), net(enlarged))
    for wrong in ("@0", "@", "@big", "@-8"):
        with pytest.raises(ArdbenchError, match=r"no side of an image in pixels; give vit-micro@64"):
            locate(source.removesuffix("@16") + wrong)


# RobustBench ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a package called robustbench in place that knows one network; return how it was asked."""
    asked: list[dict[str, Any]] = []
    torch.manual_seed(3)
    net = build("resnet8-tiny", data.info("fake")).train()

    def load_model(**words: Any) -> nn.Module:
        asked.append(words)
        return {"Known2020": net}[words["model_name"]]

    utils = ModuleType("robustbench.utils")
    utils.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    return asked


def test_a_network_of_robustbench_is_asked_for_by_data_set_and_threat(
    package: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARDBENCH_TEACHERS", str(tmp_path))
    recipe = resolve("rslad-digits", dataset="fake", sets={"data.augment": "none", "data.validation": 10})
    (taught,) = resolve_teachers(["robustbench:Known2020"], "rslad", ("robust",), recipe)
    assert package == [
        {"model_name": "Known2020", "model_dir": tmp_path / "robustbench", "dataset": "fake", "threat_model": "Linf"}
    ]
    net = networks.of_teacher(taught, "fake", CPU)
    assert taught.identity == robustbench.digest(net) and not net.training
    with torch.no_grad():
        next(net.parameters()).flatten()[0] += 1e-6
    assert robustbench.digest(net) != taught.identity
    with pytest.raises(ArdbenchError, match="RobustBench gave no Other2020 for fake and Linf"):
        resolve_teachers(["robustbench:Other2020"], "rslad", ("robust",), recipe)
    with pytest.raises(ArdbenchError, match="of one recipe: give it to `ardbench distill`"):
        planned_outside("robustbench:Known2020", "robust")


def test_without_robustbench_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)  # importing it fails
    result = call("distill", "rslad-cifar10", "--teacher", "robustbench:Rade2021Helper_R18_ddpm")
    assert result.exit_code == 2
    assert "needs the package robustbench" in result.stderr and "docs/teachers.md" in result.stderr
