"""AutoAttack on a part of the images carried to all of them: against numbers of hand, and against truth that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_call import call
from test_reports import make_run, recipe, verdict

from ardbench.errors import ArdbenchError
from ardbench.evaluation.extended import Extended, covariance_of_estimates, difference, extended
from ardbench.evaluation.statistics import paired_interval, wilson
from ardbench.evaluation.verdicts import Verdicts
from ardbench.reports import collect
from ardbench.reports.compare import compare_extended
from ardbench.reports.tradeoff import tradeoffs
from ardbench.runs import Run

THREAT = {"norm": "linf", "eps": 0.1}


def said(name: str, robust: object, index: object = None, eps: float = 0.1) -> Verdicts:
    """Return verdicts on images of class 0 of which these are robust."""
    right = [bool(one) for one in np.asarray(robust)]
    where = list(range(len(right))) if index is None else [int(one) for one in np.asarray(index)]
    labels = [0] * len(right)
    return Verdicts(name, 1, THREAT | {"eps": eps}, labels, [1 - one for one in right], where, 1.0, 5, 0, 2000)


def known(weaker: np.ndarray, strong: np.ndarray, part: np.ndarray) -> Extended:
    found = extended(said("aa", strong[part], part), [said("cw20", weaker)])
    assert found is not None
    return found


def test_the_estimate_is_that_of_hand() -> None:
    """Of 8 images 5 stand under both weaker attacks; of the four in the part 3 do, and aa takes one of these: 5/8 - 1/4."""
    pgd, cw = said("pgd20", [1, 1, 1, 1, 1, 1, 0, 0]), said("cw20", [1, 1, 1, 0, 1, 1, 1, 0])
    found = extended(said("aa", [1, 0, 0, 1], [0, 2, 3, 4]), [said("clean", [1] * 8), pgd, cw])
    assert found is not None and (found.value, found.lost, found.whole.n) == (5 / 8 - 1 / 4, 1 / 4, 8)
    value, low, high = found.number
    (under, over), (least, most) = wilson(3, 8), paired_interval([True, True, False, True], [True, False, False, True])
    assert value - low == pytest.approx(((3 / 8 - under) ** 2 + (most - 1 / 4) ** 2 / 2) ** 0.5)
    assert high - value == pytest.approx(((over - 3 / 8) ** 2 + (1 / 4 - least) ** 2 / 2) ** 0.5)


def test_there_is_none_without_a_weaker_attack_on_more_images_under_the_same_threat() -> None:
    part = said("aa", [1, 0, 0, 1], [0, 2, 3, 4])
    for others in (
        [],
        [said("clean", [1] * 8)],
        [said("pgd20", [1, 0, 0, 1], [0, 2, 3, 4])],
        [said("pgd20", [1] * 8, eps=0.2)],
        [said("pgd20", [1] * 8, range(3, 11))],
    ):
        assert extended(part, others) is None
    assert extended(said("aa", [1], [0]), [said("pgd20", [1] * 8)]) is None, "one image has no spread"


def test_intervals_hold_what_they_promise_and_are_much_narrower() -> None:
    """The accuracy is 0.33 under the weaker attack and 0.85 of that under aa; 200 of 2,000 images are attacked."""
    draw, held, width, alone = np.random.default_rng(0), 0, 0.0, 0.0
    for _ in range(500):
        weaker = draw.random(2000) < 0.33
        strong = weaker & (draw.random(2000) < 0.85)
        part = np.sort(draw.choice(2000, 200, replace=False))
        _, low, high = known(weaker, strong, part).number
        held, width = held + (low <= 0.33 * 0.85 <= high), width + high - low
        least, most = wilson(int(strong[part].sum()), 200)
        alone += most - least
    assert 0.92 < held / 500 < 0.98  # 3 standard deviations of 500 draws at 0.95
    assert width < 0.65 * alone


def test_two_alike_are_told_apart_as_seldom_as_promised() -> None:
    """Both agree on most images, as networks do, and neither is better."""
    draw, wrong = np.random.default_rng(1), 0
    for _ in range(500):
        hard, part = draw.random(2000), np.sort(draw.choice(2000, 200, replace=False))
        sides = []
        for _ in "ab":
            weaker = np.where(draw.random(2000) < 0.7, hard < 0.33, draw.random(2000) < 0.33)
            sides.append(known(weaker, weaker & (draw.random(2000) < 0.85), part))
        low, high, p = difference(*sides)
        assert (p < 0.05) == (low > 0 or high < 0)
        wrong += p < 0.05
    assert 0.02 < wrong / 500 < 0.08
    assert difference(sides[0], sides[0]) == (0, 0, 1)
    for first in (sides[:1], sides):
        with pytest.raises(ArdbenchError, match="other parts of the images"):
            compare_extended("aa-estimated", first, [known(weaker, weaker, np.arange(200))] * len(first), "")


def test_the_covariance_of_estimates_is_that_of_the_networks_drawn_again() -> None:
    """Of two networks drawn 4,000 times estimates have the covariance that each draw foretells."""
    draw, values, told = np.random.default_rng(2), [], []
    for campaign in range(4000):
        hard, frail, part = (
            draw.random(400),
            draw.random(400),
            np.arange(400) % 5 == 0,
        )  # independent draws: any part will do
        sides = [
            known(weaker := hard < 0.5 + 0.1 * side, weaker & (frail < 0.7), np.flatnonzero(part)) for side in (0, 1)
        ]
        values.append([side.value for side in sides])
        if campaign < 200:
            told.append([covariance_of_estimates(sides[0], side) for side in sides])
    assert np.mean(told, axis=0) == pytest.approx(np.cov(np.transpose(values))[0], rel=0.08)  # 3.5 deviations


def evaluated(root: Path, aa: int, pgd: int, **changes: object) -> Run:
    run = make_run(root, recipe(**changes))
    verdict(run, "pgd20", pgd, n=200, total=200)
    verdict(run, "clean", 200, n=200, total=200)
    verdict(run, "aa", aa, n=40, total=200)
    return run


def test_compare_and_tables_have_it(tmp_path: Path) -> None:
    """In A pgd20 leaves 150 of 200 and aa 30 of the first 40, in B 60 and 30: the part alone sees nothing."""
    a, b = evaluated(tmp_path, 30, 150), evaluated(tmp_path, 30, 60, method={"name": "pgd-at"})
    frame = collect([a], derived=["aa-estimated"]).set_index("protocol")
    assert frame.loc["aa-estimated", ["n", "value"]].tolist() == [200, pytest.approx(150 / 200 - 10 / 40)]
    assert "aa-estimated" not in set(collect([a])["protocol"])
    drawn = {
        name: [attack for attack, _ in tradeoffs(collect([a, b], derived=name))] for name in ((), ("aa-estimated",))
    }
    assert drawn == {(): ["aa"], ("aa-estimated",): ["aa-estimated"]}
    text = call("compare", a.path, b.path).stdout
    assert "cannot be told apart under aa at n = 40" in text
    (line,) = [line.split() for line in text.splitlines() if "aa-estimated" in line]
    assert line[:5] == ["aa-estimated", "200", "50.0", "5.0", "+45.0"]
    sure = call("compare", a.path, b.path, "--protocol", "aa-estimated").stdout
    assert "is better than" in sure and "under aa-estimated by 45.0 points" in sure
    assert "at n = 200, of which 40 were attacked so; both on the same images, normal p = " in sure
    seeds = [[evaluated(tmp_path, 30 + seed, pgd, seed=seed, method={"name": name}) for seed in (1, 2)]
             for name, pgd in (("trades", 150), ("mart", 100))]  # fmt: skip
    from ardbench import compare

    told = compare(*seeds, protocol="aa-estimated")
    assert (
        "by 25.0 points" in told.sentence
        and "at n = 200 over 2 and 2 seeds; Welch's p over seeds and images = " in told.sentence
    )
    whole = make_run(tmp_path, recipe(method={"name": "adaad"}))
    verdict(whole, "aa", 3, n=40, total=200)
    refused = call("compare", a.path, whole.path, "--protocol", "aa-estimated")
    assert (
        refused.exit_code == 2 and "under another attack on more of them: compare by --protocol aa." in refused.stderr
    )
