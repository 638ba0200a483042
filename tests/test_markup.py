"""Names and notes made to be markup: on the page, in tables, on cards and on the console they are words."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from cli_call import call
from rich.console import Console
from test_reports import make_run, recipe, verdict

from ardbench.reports import collect, console
from ardbench.reports.card import card
from ardbench.reports.figures import bars, image_of
from ardbench.runs import Run, Teacher, all_runs, read_json

HARMLESS = "abcdefghijklmnopqrstuvwxyz"
MARKUP = (
    "<script>alert(1)</script>", '"><img onerror=alert(1)>', "[bold]x[/bold]", "| a |", "\\input{etc}", "$\\frac$", "`rm`",
    "*a*", "[a](javascript:b)", "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;", "' onload='a", "]]><svg onload=a>", "--><b>", "%s{0}",
)  # fmt: skip


class Skeleton(HTMLParser):
    """The elements of a page with their attributes, references left out, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kept = {"class", "id", "href", "scope", "type", "http-equiv", "content"}
        self.tags.append((tag, tuple(f"{name}={value if name in kept else ''}" for name, value in attrs)))

    def handle_data(self, text: str) -> None:
        self.words.append(text)


def told_by(name: str, root: Path) -> Run:
    """Return a run that says `name` wherever a file or a config may say words."""
    of = recipe(name=name.replace("/", "_").replace("\\", "_"), title=name)
    teacher = Teacher(name, name, name, name, "gone", name)
    made = make_run(root / "runs", of, (teacher,))
    (made.path / "env.json").write_text(
        json.dumps(
            dict.fromkeys(("ardbench", "torch", "device", "device_name", "git_sha", "started"), name) | {"argv": [name]}
        )
    )
    done = read_json(made.path / "done") | {"device": name}
    (made.path / "done").write_text(json.dumps(done))
    (made.path / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "loss": 1.0, "seconds": 1.0, name: 2.0}) + "\n")
    for protocol, correct in (("clean", 9), ("aa", 4)):
        verdict(made, protocol, correct, notes=[name], environment={name: name}, attack={name: name})
    other = read_json(made.path / "eval/last/aa.json") | {"protocol": name}
    (made.path / "eval/last/other.json").write_text(json.dumps(other))
    finding = {"check": name, "level": "warning", "reason": name}
    trusted = {"weights": done["weights"]["last"], "findings": [finding]}
    (made.path / "eval/last/trust.json").write_text(json.dumps(trusted))
    return Run(made.path)


def reported(name: str, root: Path) -> tuple[Skeleton, dict[str, str]]:
    """Return the page and the other files that `ardbench report` makes of a run that says `name`."""
    run = told_by(name, root)
    result = call("report", run.path, "--out", root / "out", "--html", root / "page.html")
    assert result.exit_code == 0, result.stderr
    files = {path.suffix: path.read_text() for path in (root / "out").iterdir() if path.suffix in (".md", ".tex")}
    return Skeleton((root / "page.html").read_text()), files


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Skeleton, dict[str, str]]:
    return reported(HARMLESS, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_is_a_word_in_every_report(name: str, plain: tuple[Skeleton, dict[str, str]], tmp_path: Path) -> None:
    page, files = reported(name, tmp_path)
    assert page.tags == plain[0].tags
    assert any(name in words for words in page.words)  # it stands there, as words
    text = files[".tex"]
    for command in ("input", "frac"):
        assert f"\\{command}" not in text
    assert text.count("\\\\\n") == plain[1][".tex"].count("\\\\\n") and text.count(" & ") == plain[1][".tex"].count(
        " & "
    )
    cells = [len(cells_of(line)) for line in files[".md"].splitlines() if line.startswith("|")]
    assert cells == [len(cells_of(line)) for line in plain[1][".md"].splitlines() if line.startswith("|")]
    for forbidden in ("<script", "<img", "<svg", "<b>", "](javascript"):
        assert forbidden not in files[".md"].replace("\\<", "").replace("\\]", "")


def cells_of(line: str) -> list[str]:
    return line.replace("\\|", "").split("|")


@pytest.mark.parametrize("name", [*MARKUP, "\x1b[2J\x1b]0;owned\x07", "a\nb", "\u202egnp.exe", "\r"])
def test_a_name_is_a_word_on_the_console(name: str, tmp_path: Path) -> None:
    run = told_by("plain", tmp_path)
    for protocol in ("clean", "aa"):
        path = run.path / "eval" / "last" / f"{protocol}.json"
        path.write_text(json.dumps(read_json(path) | {"notes": [name]}))
    screen = Console(width=200, file=io.StringIO(), color_system=None)
    screen.print(console(collect([run]), [run]))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
    if name.isprintable():
        assert name.split()[0] in shown
    for words in (["status", run.path.parent], ["report", run.path]):
        result = call(*words)
        assert result.exit_code == 0 and not {"\x1b", "\x07", "\u202e"} & set(result.stdout)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\udcffb"])
def test_a_folder_with_a_name_that_cannot_be_printed_is_refused(name: str, tmp_path: Path) -> None:
    made = make_run(tmp_path, recipe())
    made.path.rename(tmp_path / name)
    result = call("report", "--runs", tmp_path)
    assert result.exit_code == 2 and "has a name that cannot be printed" in result.stderr
    result = call("status", tmp_path)
    assert "damaged" in result.stdout and "\x1b" not in result.stdout
    assert len(all_runs(tmp_path)) == 1


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_is_a_word_on_a_card_and_in_a_figure(name: str, tmp_path: Path) -> None:
    run = told_by(name, tmp_path)
    config = {
        "architecture": "resnet8", "classes": [], "normalise": None, "image": [1, 8, 8], "num_classes": 10, "sha256": "ab",
        "recipe": run.recipe.model_dump(mode="json"),
        "teachers": [{"name": name, "role": name, "model": name, "sha256": name}],
    }  # fmt: skip
    text = card(run, "last", config)
    _, block, text = text.split("---\n", 2)
    assert all(yaml.safe_load(block)["tags"])  # strings are quoted there
    outside_code = "".join(text.split("`")[::2]).replace("\\<", "").replace("\\]", "")
    for forbidden in ("<script", "<img", "<svg", "](javascript"):
        assert forbidden not in outside_code
    assert image_of(bars({name: {name: 0.5}})).startswith("data:image/svg+xml;base64,")
