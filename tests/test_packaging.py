"""The wheel holds everything: built here, installed elsewhere, and asked to plan a suite there."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split()) - {"ardbench.benchmarks"}
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob("ardbench/**/*.py")}
    assert listed == found


def test_an_installed_wheel_plans_a_suite(tmp_path: Path) -> None:
    source, target, elsewhere = tmp_path / "source", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wanted = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    source.mkdir()
    for name in wanted:
        shutil.copy(ROOT / name, source / name)
    for folder in ("ardbench", "benchmarks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("ardbench-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)

    environment = os.environ | {"PYTHONPATH": str(target), "COLUMNS": "200"}
    where = "import ardbench; print(ardbench.__file__)"
    asked = {"cwd": elsewhere, "env": environment, "capture_output": True, "text": True, "check": True}
    located = subprocess.run([sys.executable, "-c", where], **asked)
    assert Path(located.stdout.strip()).is_relative_to(target)
    planned = subprocess.run([sys.executable, "-m", "ardbench", "reproduce", "digits", "--dry-run"], **asked)
    for name in ("robust-conv", "robust-vit", "rslad-conv", "iad-ii"):
        assert name in planned.stdout
    assert not list(elsewhere.iterdir()), "planning leaves nothing behind"
