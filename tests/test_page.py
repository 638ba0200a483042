"""The page: everything inside, nothing outside, and the numbers of the tables."""

from __future__ import annotations

import base64
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_call import call
from safetensors.torch import save_file
from test_reports import make_run, recipe, verdict

from ardbench.config import Threat
from ardbench.data.load import load
from ardbench.evaluation.matrix import Question, Transfer
from ardbench.evaluation.statistics import wilson
from ardbench.reports import collect, tables, write
from ardbench.reports.figures import bands, bars, pictures
from ardbench.reports.page import Kept, page
from ardbench.reports.results import sweeps
from ardbench.reports.transfer import Matrix
from ardbench.runs import Run, Teacher, write_json


class Seen(HTMLParser):
    """Every reference of a page, its images, headings, and the texts of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.references += [known[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in known]
        self.inside = tag
        if tag == "img":
            self.images.append(known)
        elif tag == "td":
            self.cells.append("")

    def handle_data(self, text: str) -> None:
        if self.inside == "h2":
            self.headings += [text.strip()] if text.strip() else []
        elif self.inside in ("td", "strong", "small") and self.cells:
            self.cells[-1] = " ".join(filter(None, (self.cells[-1], text.strip())))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with clean and attacked verdicts, another eps, and findings of trust checks."""
    found = make_run(tmp_path, recipe())
    for name, correct in (("clean", 9), ("aa", 4), ("pgd20", 5)):
        verdict(found, name, correct)
    verdict(found, "pgd20", 2)
    other = {"norm": "linf", "eps": 16 / 255}
    path = found.path / "eval" / "last"
    kept = (path / "pgd20.json").read_bytes()
    verdict(found, "pgd20", 1, threat=other)
    wide = found.path / "eval-other" / "linf-0.0627451" / "last" / "pgd20.json"
    wide.parent.mkdir(parents=True)
    (path / "pgd20.json").rename(wide)
    (path / "pgd20.json").write_bytes(kept)
    findings = [{"check": "pgd-minus-aa", "level": "warning", "reason": "pgd20 <b>misleads</b>"}]
    write_json(path / "trust.json", {"findings": findings, "weights": "w"})
    return found


def made(run: Run, **more: Any) -> str:
    return page("A <title>", collect([run]), [run], **more)


def matrix() -> Matrix:
    teachers = tuple(Teacher(name, "robust", name, "", "", "ab") for name in ("one", "two"))
    return Matrix(Question(teachers, "digits", Threat(norm="linf", eps=0.1), 10), Transfer((4, 5), ((3, 1), (2, 4))), 2)


def kept() -> Kept:
    clean = np.linspace(0, 1, 2 * 64, dtype=np.float32).reshape(2, 8, 8, 1)
    return Kept("some run", clean, np.clip(clean + 0.1, 0, 1), ["3", "8"], ["8", "3"])


def test_nothing_is_asked_of_anybody_else_and_every_image_is_inside_and_described(run: Run) -> None:
    seen = Seen(text := made(run, matrix=matrix(), kept=[kept()]))
    anchors = {reference for reference in seen.references if reference.startswith("#")}
    assert all(f'id="{anchor[1:]}"' in text for anchor in anchors)
    inside = [reference for reference in seen.references if not reference.startswith("#")]
    assert len(inside) == len(seen.images) >= 5
    for image in seen.images:
        kind, _, content = (image["src"] or "").partition(";base64,")
        start = {"data:image/svg+xml": b"<?xml", "data:image/png": b"\x89PNG"}[kind]
        assert base64.b64decode(content).startswith(start)
        assert image["alt"]
    assert "@import" not in text and "url(" not in text and "fetch(" not in text


def test_each_part_has_its_section_and_the_cells_are_those_of_the_tables(run: Run) -> None:
    seen = Seen(made(run, matrix=matrix(), kept=[kept()], costs={"resnet8": (78_000, 763_500)}))
    begins = ("Accuracy in %", "Cost of training", "Trust checks", "Classes", "Accuracy by class", "Curves",
              "Accuracy against eps", "Transfer", "Adversarial images", "Provenance")  # fmt: skip
    assert [any(heading.startswith(one) for heading in seen.headings) for one in begins] == [True] * len(begins)
    wanted = [
        " ".join(filter(None, (entry.text + entry.mark, entry.detail)))
        for table in tables(collect([run]))
        for row in table.rows
        for entry in row.entries
    ]
    assert [cell for cell in wanted if cell and cell not in seen.cells] == []
    assert {"0.078", "0.7635", "warning"} <= set(seen.cells)
    bare = Seen(made(run))
    assert not any(heading.startswith(("Transfer", "Adversarial")) for heading in bare.headings)


def test_what_users_wrote_is_text_and_the_same_runs_give_the_same_bytes(run: Run) -> None:
    text = made(run, matrix=matrix(), kept=[kept()])
    assert "<title>A &lt;title&gt;</title>" in text
    assert "<b>misleads" not in text and "pgd20 &lt;b&gt;misleads&lt;/b&gt;" in text
    assert text == made(run, matrix=matrix(), kept=[kept()])


def test_a_sweep_has_the_clean_accuracy_at_zero_and_every_eps_that_was_measured(run: Run) -> None:
    found = sweeps([run])
    assert found.keys() == {("pgd20", "linf")}
    (points,) = found["pgd20", "linf"].values()
    expected = [(0, 9), (8 / 255, 2), (16 / 255, 1)]
    assert points == [(pytest.approx(eps), k / 10, *wilson(k, 10)) for eps, k in expected]


def test_figures_draw_the_numbers_that_they_are_given() -> None:
    (axes,) = bars({"clean": {"a": 0.9, "b": 0.5}, "aa": {"a": 0.25, "b": 0.0}}).axes
    assert [bar.get_height() for bar in axes.patches] == [90, 50, 25, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    (axes,) = bands({"run": [(0, 0.9, 0.8, 0.95), (0.1, 0.4, 0.3, 0.5)]}, "eps", "accuracy").axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 90], [0.1, 40]]
    one = kept()
    drawn = pictures(one.clean, one.adversarial, ["3 / 8", "8 / 3"])
    images = [axes.images[0].get_array() for axes in drawn.axes]
    assert len(images) == 6
    assert np.array_equal(images[0], one.clean[0, :, :, 0]) and np.array_equal(images[5], one.adversarial[1, :, :, 0])
    change = one.adversarial - one.clean
    assert np.allclose((np.asarray(images[2]) - 0.5) * 2 * abs(change).max(), change[0, :, :, 0], atol=1e-6)


def test_report_writes_the_page_with_images_that_were_kept(tmp_path: Path) -> None:
    found = make_run(tmp_path, recipe())
    test = load("digits", torch.device("cpu")).test
    truth, index = test.labels[:10].tolist(), test.index[:10].tolist()
    wrong = [(label + 1) % 10 for label in truth[:4]] + truth[4:]
    verdict(found, "pgd20", 0, labels=truth, predictions=wrong, index=index, total=360)
    x_adv = test.pixels(slice(0, 10)).clone()
    x_adv[:3] = (x_adv[:3] + 0.1).clamp(0, 1)  # the fourth was wrong without an attack
    save_file({"x_adv": x_adv}, found.path / "eval" / "last" / "pgd20-n10.adversarial.safetensors")
    done = call("report", found.path, "--html", tmp_path / "new" / "page.html")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "new" / "page.html")
    text = (tmp_path / "new" / "page.html").read_text()
    assert f"{found.path.name}, last, pgd20" in text and text.count("data:image/png") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(run: Run, tmp_path: Path) -> None:
    write(collect([run]), tmp_path, "t", [run])
    lines = (
        r"\documentclass{article}",
        r"\usepackage{booktabs}",
        r"\begin{document}",
        r"\input{t.tex}",
        r"\end{document}",
    )
    (tmp_path / "whole.tex").write_text("\n".join(lines))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "whole.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:]
