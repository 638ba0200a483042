"""Commands of the docs: each is one that there is, and those of your-data.md and your-network.md work one after the other."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import timm
import torch
from attacked import shorten
from cli_call import call
from PIL import Image

import ardbench
from ardbench import data, recipes
from ardbench.cli import ardbench as ardbench_group
from ardbench.config import Recipe
from ardbench.data import cifar_svhn
from ardbench.data.raw import Raw

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("your-data", "your-network")}
TYPED = sorted(
    {
        line.strip()
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for block in re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().startswith("ardbench ")
    }
)
BLOCKS = [
    (page, [shlex.split(line, comments=True) for line in block.splitlines()])
    for page, text in PAGES.items()
    for block in re.findall(r"^```\n(ardbench .*?)^```$", text, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("line", TYPED)
def test_a_command_of_the_docs_has_the_words_that_it_needs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)[1:]
    words = words[: min(words.index(end) if end in words else len(words) for end in ("|", "&&", ">"))]
    group: Any = ardbench_group
    context, words = None, ["ardbench", *words]
    while isinstance(group, click.Group):
        context = group.make_context(words[0], words[1:], parent=context)
        words = [*context._protected_args, *context.args]
        group = group.resolve_command(context, words)[1]
    group.make_context(words[0], words[1:], parent=context)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands be short: few images, one epoch of attacks of one step, and a CIFAR-10 of noise."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "data").mkdir()
    checked = recipes._checked

    def shortened(recipe: Recipe) -> Recipe:
        parts: dict[str, dict[str, Any]] = {
            "schedule": {"epochs": 1}, "data": {"train_images": 16, "validation": 8, "batch": 8}, "attack": {"steps": 1},
        }  # fmt: skip
        sections = {key: section for key in parts if (section := getattr(recipe, key)) is not None}
        changed = {key: section.model_copy(update=parts[key]) for key, section in sections.items()}
        return checked(recipe.model_copy(update=changed))

    monkeypatch.setattr(recipes, "_checked", shortened)
    shorten(monkeypatch)
    cifar = replace(data.DATASETS["cifar10"], train_images=40, test_images=20)
    monkeypatch.setitem(data.DATASETS, "cifar10", cifar)

    def noise(info: data.DatasetInfo, *_: Any) -> Raw:
        halves = [torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8) for n in (40, 20)]
        labels = [torch.arange(n) % 10 for n in (40, 20)]
        return Raw(halves[0], labels[0], halves[1], labels[1], info.classes)

    monkeypatch.setattr(cifar_svhn, "read_torchvision", noise)


def pictures(folder: Path) -> None:
    """Write photographs of four kinds of pets, or what passes for them."""
    source = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 2)):
        for place, name in enumerate(("bird", "cat", "dog", "fish")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = source.integers(0, 100, (72, 72, 3)) + 50 * place
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.jpg")


def weights(line: list[str]) -> None:
    """Write the file of weights that a page calls its reader's own."""
    if "my-net" in line:
        from examples import mine  # type: ignore[import-not-found]

        torch.save(mine.MyNet(data.info("digits"), False).state_dict(), "weights.pt")
    else:
        torch.save(timm.create_model("resnet18", num_classes=10).state_dict(), "weights.pt")


def typed(words: list[str]) -> list[str]:
    """Return what a shell makes of a line, with the reader's runs in place of runs/T, runs/TEACHER and runs/STUDENT."""
    runs = sorted(Path("runs").glob("*"), key=lambda run: run.stat().st_mtime)
    names = {"runs/T": "trades-*", "runs/TEACHER": "trades-*", "runs/STUDENT": "rslad-*"}
    there = [next(str(run) for run in runs if run.match(names[word])) if word in names else word for word in words]
    return [path for word in there for path in sorted(glob(word)) or [word]]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("page", "lines"), BLOCKS, ids=lambda given: given if isinstance(given, str) else "")
def test_the_commands_of_a_page_work_one_after_the_other(
    page: str, lines: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    pictures(tmp_path / "pets")
    for program, *words in lines:
        if any(word.startswith("weights.pt") for word in words):
            weights(words)
        result = call(*typed(words))
        assert program == "ardbench" and result.exit_code == 0, (words, result.output)
    if lines[-1][1] == "export":
        net = ardbench.load("my-student")
        side = net.info.size
        assert net(torch.rand(2, net.info.channels, side, side)).shape == (2, net.info.num_classes)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "line", sorted({one for text in PAGES.values() for one in re.findall(r"`(ardbench \w+ [^`\n]+)`", text)})
)
def test_commands_between_the_words_of_a_page_work(line: str, tmp_path: Path) -> None:
    pictures(tmp_path / "pets")
    result = call(*shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
