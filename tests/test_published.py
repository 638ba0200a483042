"""Published numbers: each stands in a table of a built-in suite or is listed with the reason why not."""

from __future__ import annotations

import csv
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from ardbench.campaigns.cells import plan
from ardbench.campaigns.suites import benchmarks_folder, load_suite, suite_names
from ardbench.recipes import resolve
from ardbench.reports import collect_suite
from ardbench.reports.published import Number, numbers, published_beside
from ardbench.runs import Teacher

OWN_RUNS = "7i10/ard_codex_bootstrap, own runs, seed 0, 45k training images"


def outside(source: str, role: str) -> Teacher:
    """Stand in for a network of the zoo, whether its file is there or not."""
    return Teacher(source, role, source, "wrn-34-10", "nowhere", "")


def rows_of(name: str) -> list[dict[str, str]]:
    with (benchmarks_folder() / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> set[Number]:
    """Return the numbers in the tidy results of all built-in suites while nothing is measured."""
    found = set()
    for name in suite_names():
        cells = plan(load_suite(name), tmp_path_factory.mktemp("runs"), resolve, outside=outside)
        frame = collect_suite(cells)
        quoted = frame[frame["published"].notna()]
        found |= {
            Number(
                row.published_method, row.student, row.published_teacher, row.dataset, row.checkpoint, row.protocol,
                row.published, row.published_kind, row.published_paper,
            )
            for row in quoted.itertuples()
        }  # fmt: skip
    return found


def test_each_number_is_shown_or_listed_with_one_reason(shown: set[Number]) -> None:
    patterns = rows_of("unmatched.csv")
    used = set()
    assert len(numbers()) == len(rows_of("published.csv")) == 858
    for number, row in zip(numbers(), rows_of("published.csv"), strict=True):
        fits = [
            index
            for index, pattern in enumerate(patterns)
            if all(fnmatchcase(row[key], text) for key, text in pattern.items() if key != "reason")
        ]
        assert (number in shown) + len(fits) == 1, f"{row}: shown {number in shown}, fits patterns {fits}"
        used.update(fits)
    assert used == set(range(len(patterns))), "a pattern that fits nothing"
    assert all(pattern["reason"] for pattern in patterns)


@pytest.mark.parametrize(
    ("recipe", "student", "protocol", "expected"),
    [
        (
            "rslad-cifar10",
            "resnet18",
            "aa",
            [
                ("RSLAD, ICCV 2021", "paper", "wrn-34-10 trades", "best", 51.49),
                ("RSLAD, ICCV 2021", "paper", "wrn-34-10 trades", "last", 51.32),
                ("SZU-AdvTech-2023/252 reproduction of RSLAD", "re-run", "wrn-34-10 trades", "last", 51.67),
                ("AdaAD, CVPR 2023, Table 2", "second-hand", "wrn-34-10 trades", "best", 48.45),
                ("AdaAD, CVPR 2023, Table 2", "second-hand", "wrn-34-20 LTD", "best", 48.66),
                ("PeerAiD, CVPR 2024, Table 1", "second-hand", "", "not stated", 51.03),
                ("CGARD, re-runs of all baselines", "re-run", "wrn-34-10 at (CGARD)", "not stated", 51.49),
                ("IGDM, ICLR 2025, re-runs", "re-run", "LTD", "not stated", 52.13),
                (
                    "SAAD, TMLR 2026, Table 4 (mean of 3 seeds)",
                    "second-hand",
                    "wrn-94-16 Bartoldson2024",
                    "last",
                    44.42,
                ),
                (
                    "SAAD, TMLR 2026, Table 12 (mean of 3 seeds)",
                    "second-hand",
                    "wrn-28-10 Gowal2021 (ddpm 100M)",
                    "last",
                    40.57,
                ),
                ("SAAD, TMLR 2026, Table 1/10", "second-hand", "wrn-34-10 LTD", "not stated", 52.21),
                ("SAAD, TMLR 2026, Table 1", "second-hand", "wrn-94-16 Bartoldson2024", "not stated", 44.07),
                ("Why Robust Teachers Fail, ICML 2026, Table 2", "second-hand", "wrn-34-20 LTD", "not stated", 49.86),
                (OWN_RUNS, "re-run", "wrn-34-10 LTD", "best", 51.90),
                (OWN_RUNS, "re-run", "wrn-34-10 LTD", "last", 51.78),
                (OWN_RUNS, "re-run", "wrn-94-16 Bartoldson2024", "best", 47.11),
                (OWN_RUNS, "re-run", "wrn-94-16 Bartoldson2024", "last", 43.12),
            ],
        ),
        (
            "rslad-cifar10@igdm",
            "resnet18",
            "aa",
            [("IGDM, ICLR 2025, Table 3", "second-hand", "LTD", "last", 53.10)],
        ),
        (
            "adaad-cifar10@igdm",  # its base is not stated
            "resnet18",
            "aa",
            [
                (
                    "SAAD, TMLR 2026, Table 4 (mean of 3 seeds)",
                    "second-hand",
                    "wrn-94-16 Bartoldson2024",
                    "last",
                    44.94,
                ),
                (
                    "SAAD, TMLR 2026, Table 12 (mean of 3 seeds)",
                    "second-hand",
                    "wrn-28-10 Gowal2021 (ddpm 100M)",
                    "last",
                    44.76,
                ),
                ("Why Robust Teachers Fail, ICML 2026, Table 2", "second-hand", "wrn-34-20 LTD", "not stated", 52.73),
            ],
        ),
        (
            "trades-cifar10@awp",
            "wrn-34-10",
            "aa",
            [("AWP, NeurIPS 2020", "paper", "", "best", 56.17)],
        ),
        (
            "crdnd-cifar100",
            "mobilenetv2",
            "pgd20-trades",
            [("CRDND, ICASSP 2023, Table 1", "second-hand", "wrn-70-16 gowal2020", "best", 37.02)],
        ),
        (
            "iad-ii-cifar10",
            "mobilenetv2",
            "cw20",
            [
                ("RSLAD, ICCV 2021", "paper", "wrn-34-10 trades", "best", 50.45),
                ("RSLAD, ICCV 2021", "paper", "wrn-34-10 trades", "last", 49.41),
                ("CGARD, re-runs of all baselines", "re-run", "wrn-34-10 at (CGARD)", "not stated", 50.15),
            ],
        ),
    ],
)
def test_cells_checked_by_hand(
    recipe: str, student: str, protocol: str, expected: list[tuple[str, str, str, str, float]]
) -> None:
    wanted = resolve(recipe, student=student)
    found = published_beside(wanted.composition, student, wanted.data.name, {protocol}, numbers())
    assert [(n.paper, n.kind, n.teacher, n.checkpoint, round(100 * n.value, 2)) for n in found] == expected


def test_a_level_recipe_stands_alone(tmp_path: Path) -> None:
    quoted = {
        name: collect_suite(plan(load_suite(name), tmp_path, resolve, outside=outside))["published"].notna().any()
        for name in ("cifar10-level", "rslad-table")
    }
    assert quoted == {"cifar10-level": False, "rslad-table": True}
