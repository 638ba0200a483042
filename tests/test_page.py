"""The page: everything inside, nothing outside, and the numbers of the tables."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_call import call
from matplotlib.image import imread
from safetensors.torch import save_file
from test_reports import make_run, recipe, verdict

from ardbench.config import Threat
from ardbench.data.load import load
from ardbench.evaluation.matrix import Question, Transfer
from ardbench.evaluation.statistics import wilson
from ardbench.reports import collect, tables, write
from ardbench.reports.evaluations import sweeps
from ardbench.reports.figures import bands, bars, png
from ardbench.reports.page import Kept, page
from ardbench.reports.transfer import Matrix
from ardbench.runs import Run, Teacher, read_json, sha256_of, write_json


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


def at_another_eps(run: Run, eps: float, correct: int, n: int = 10) -> None:
    """Write an evaluation by PGD-20 where `eval --eps` keeps it."""
    verdict(run, "pgd20", correct, n, threat={"norm": "linf", "eps": eps})
    name = "pgd20.json" if n == 10 else f"pgd20-n{n}.json"
    place = run.path / "eval-other" / f"linf-{eps:.6g}" / "last" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    (run.path / "eval" / "last" / name).rename(place)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with clean and attacked verdicts, another eps, and findings of trust checks."""
    found = make_run(tmp_path, recipe())
    for name, correct in (("clean", 9), ("aa", 4)):
        verdict(found, name, correct)
    at_another_eps(found, 16 / 255, 1)
    verdict(found, "pgd20", 2)
    path = found.path / "eval" / "last"
    findings = [{"check": "pgd-minus-aa", "level": "warning", "reason": "pgd20 <b>misleads</b>"}]
    write_json(path / "trust.json", {"findings": findings, "weights": sha256_of(found.weights("last"))})
    return found


def made(run: Run, **more: Any) -> str:
    return page("A <title>", collect([run]), [run], **more)


def matrix() -> Matrix:
    teachers = tuple(Teacher(name, "robust", name, "", "", "ab") for name in ("one", "two"))
    return Matrix(Question(teachers, "digits", Threat(norm="linf", eps=0.1), 10), Transfer((4, 5), ((3, 1), (2, 4))), 2)


def kept() -> Kept:
    clean = np.linspace(0, 1, 2 * 64, dtype=np.float32).reshape(2, 8, 8, 1)
    return Kept("some run", clean, np.clip(clean + 0.1, 0, 1), ["3", "8"], ["8", "3"])


def pixels(source: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the levels (H, W, 3) in 0 to 255 of a PNG in a data URI."""
    content = base64.b64decode(source.partition(";base64,")[2])
    return np.rint(255 * imread(io.BytesIO(content), format="png")[:, :, :3].astype(np.float64))


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
    assert "default-src 'none'; img-src data:" in text  # and no browser may ask either
    assert "@import" not in text and "url(" not in text and "fetch(" not in text


def test_each_part_has_its_section_and_the_cells_are_those_of_the_tables(run: Run) -> None:
    seen = Seen(made(run, matrix=matrix(), kept=[kept()], costs={"resnet8": {"digits": (78_000, 763_500)}}))
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


def test_sizes_are_those_of_each_data_set(run: Run) -> None:
    sizes = {"resnet8": {"cifar10": (78_042, 12_500_000), "digits": (77_706, 763_500)}}
    seen = Seen(text := made(run, costs=sizes))
    assert {"0.07804 / 0.07771", "12.5 / 0.7635"} <= set(seen.cells)
    assert "resnet8: its sizes on cifar10 / digits." in text


def test_findings_about_weights_that_are_gone_are_not_shown(run: Run) -> None:
    path = run.path / "eval" / "last" / "trust.json"
    write_json(path, read_json(path) | {"weights": "others"})
    assert "Trust checks" not in Seen(made(run)).headings


def test_bars_by_class_are_of_the_attack_that_leaves_least(run: Run) -> None:
    for name, correct in (("fgsm", 6), ("cw20", 1)):
        verdict(run, name, correct)
    last = run.path / "eval" / "last"
    assert "aa" in protocols_drawn(run)
    (last / "aa.json").unlink()
    assert protocols_drawn(run) == ["clean", "cw20"]
    for name in ("cw20", "fgsm", "pgd20"):
        (last / f"{name}.json").unlink()
    assert protocols_drawn(run) == ["clean"]


def protocols_drawn(run: Run) -> list[str]:
    """Return the legend of the bars by class, which stands in their SVG as text."""
    (bars_by_class,) = [image for image in Seen(made(run)).images if image["alt"] == f"{run.path.name}, last"]
    content = base64.b64decode((bars_by_class["src"] or "").partition(";base64,")[2]).decode()
    legend = content.partition('id="legend_1"')[2]
    return re.findall(r"<text[^>]*>([^<]+)</text>", legend)


def test_a_line_of_a_sweep_is_of_the_same_images_throughout(run: Run) -> None:
    verdict(run, "clean", 4, n=5)
    at_another_eps(run, 2 / 255, 3, n=5)
    at_another_eps(run, 4 / 255, 2, n=5)
    verdict(run, "pgd20", 1, n=5)
    (line,) = sweeps([run])["pgd20", "linf"].items()
    assert line[0] == f"{run.path.name}, last, n = 5"
    assert [(round(255 * eps), share) for eps, share, *_ in line[1]] == [(0, 0.8), (2, 0.6), (4, 0.4), (8, 0.2)]


def test_figures_draw_the_numbers_that_they_are_given() -> None:
    (axes,) = bars({"clean": {"a": 0.9, "b": 0.5}, "aa": {"a": 0.25, "b": 0.0}}).axes
    assert [bar.get_height() for bar in axes.patches] == [90, 50, 25, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    (axes,) = bands({"run": [(0, 0.9, 0.8, 0.95), (0.1, 0.4, 0.3, 0.5)]}, "eps", "accuracy").axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 90], [0.1, 40]]


def test_a_grid_shows_each_image_its_scaled_perturbation_and_the_sum_pixel_for_pixel(run: Run) -> None:
    one = kept()
    seen = Seen(made(run, kept=[one]))
    shown = [(image["alt"], pixels(image["src"] or "")) for image in seen.images if "png" in (image["src"] or "")]
    words = ["3", "the perturbation of 3", "3, taken for 8", "8", "the perturbation of 8", "8, taken for 3"]
    assert [alt for alt, _ in shown] == words
    change = one.adversarial - one.clean
    for i, wanted in enumerate((one.clean[0], 0.5 + change[0] / (2 * change.max()), one.adversarial[0])):
        assert np.array_equal(shown[i][1], np.rint(255 * np.repeat(wanted, 3, axis=2)))
    colour = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 255
    assert np.array_equal(pixels(png(colour)), 255 * colour)


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
    assert f"{found.path.name}, last, pgd20" in text and text.count("data:image/png") == 3 * 3


def test_images_without_their_data_set_are_left_out_and_the_page_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARDBENCH_DATA", str(tmp_path))
    data = {"name": "cifar10", "validation": 100, "augment": "none", "batch": 64}
    found = make_run(tmp_path / "runs", recipe(data=data))
    verdict(found, "pgd20", 0, total=10_000)
    save_file({"x_adv": torch.zeros(10, 3, 32, 32)}, found.path / "eval" / "last" / "pgd20-n10.adversarial.safetensors")
    done = call("report", found.path, "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    for text in (done.stderr, (tmp_path / "page.html").read_text()):
        assert "not at hand: cifar10 is not in" in text and "type `ardbench data cifar10`" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "runs"]  # nothing is fetched for a page


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_heading_sorts_runs_with_the_lines_below_them_and_blank_cells_last(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, recipe(name=f"{name}-digits")) for name in ("low", "none", "high")]
    for run, correct in ((runs[0], 3), (runs[2], 8)):
        verdict(run, "clean", correct)
        verdict(run, "aa", 1, checkpoint="best")
    text = page("t", collect(runs), runs)
    for clicks, order in ((1, ["high", "low", "none"]), (2, ["low", "high", "none"])):
        click = f"for (let i = 0; i < {clicks}; i++) document.querySelectorAll('th button')[4].click();"
        (tmp_path / "page.html").write_text(text.replace("</body>", f"<script>{click}</script></body>"))
        command = [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        done = subprocess.run(
            [*command, "--dump-dom", f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, check=True
        )
        table = done.stdout.partition("<table")[2].partition("</table>")[0]
        assert re.findall(r"<td[^>]*>(\w+)-digits", table) == order
        assert f'aria-sort="{("descending", "ascending")[clicks - 1]}"' in table


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
