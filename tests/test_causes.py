"""benchmarks/findings: TRADES and RSLAD with one thing changed, and nothing else; the suites beside the campaign's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from references import LOSSES
from small import batch, method, recipe, watched
from test_method_equations import look

from ardbench import methods
from ardbench.campaigns.cells import planned
from ardbench.plugins import use

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "findings"))

import causes

FOLDER = Path(causes.__file__).parent


def test_trades_by_labels_is_trades_at_the_x_of_pgd_at(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, by_labels = (recipe(name, data__batch=12, attack__start="uniform") for name in ("trades", "pgd-at"))
    given = batch(wanted, dtype=torch.float64)
    own, theirs = (watched(method(one, to=torch.float64), given)[1] for one in (wanted, by_labels))
    monkeypatch.setattr(methods, "method_class", lambda _: causes.TRADESByLabels)
    built = method(wanted, to=torch.float64)
    step, x_adv = watched(built, given)
    assert torch.equal(x_adv, theirs) and not torch.equal(x_adv, own)
    seen = look(built, given.x, x_adv)
    told = SimpleNamespace(beta=built.config.beta)
    assert step.loss.item() == pytest.approx(LOSSES["trades"](seen, seen, given.y.tolist(), told), rel=1e-9)


def test_a_teacher_set_right_is_right_and_as_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe("rslad", data__batch=12)
    given = batch(wanted, dtype=torch.float64)
    said = method(wanted, to=torch.float64).teacher_logits(given)
    monkeypatch.setattr(methods, "method_class", lambda _: causes.RSLADSetRight)
    given.y[:3] = said.argmax(1)[:3]
    built = method(wanted, to=torch.float64)
    right = built.teacher_logits(given)
    assert torch.equal(right.argmax(1), given.y) and torch.equal(right.sort(1).values, said.sort(1).values)
    assert torch.equal(right[:3], said[:3]) and ((right != said).sum(1)[3:] <= 2).all() and (right != said).any()
    step, x_adv = watched(built, given)
    seen = look(built, given.x, x_adv) | {"T0(x)": right.tolist()}
    told = SimpleNamespace(alpha=built.config.alpha, scale=built.config.scale)
    assert step.loss.item() == pytest.approx(LOSSES["rslad"](seen, seen, given.y.tolist(), told), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "own"), [("causes", ["trades-by-labels", "rslad-set-right"]), ("precision", ["fp32", "fp32", "fp32"])]
)
def test_a_suite_has_few_runs_of_its_own_and_else_those_of_the_campaign(name: str, own: list[str]) -> None:
    use([FOLDER / "causes.py"])
    campaign = {cell.run.path for cell in planned("cifar10-small", Path())[1]}
    cells = planned(str(FOLDER / f"{name}.toml"), Path())[1]
    assert [cell.name for cell in cells if cell.run.path not in campaign] == own and len(cells) > len(own)
