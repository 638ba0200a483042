"""The wheel is built, installed away from the checkout, and used there: what travels with it is what a user gets."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ardbench", "benchmarks", "docs", "tests")
CARRIED = ("ardbench/models/weights/one.safetensors", "ardbench/models/weights/one.md")
"""A teacher with its card, put into the copy that the wheel is built of."""
CACHES = shutil.ignore_patterns("__pycache__", "*_cache", "*.egg-info", "*.pyc")


def packages() -> list[str]:
    """Return the folders of ardbench that hold modules, as dotted names."""
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "ardbench").rglob("*.py")}
    return sorted(".".join(folder.parts) for folder in folders)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source distribution from a copy of the checkout, and the wheel from that."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=CACHES)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source / path.name)
    for name in CARRIED:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("a teacher")
    out = source / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    return target


def elsewhere(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed wheel before the dependencies, in a folder from which no checkout is found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ARDBENCH"))}
    environment |= {"PYTHONPATH": str(installed), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_every_package_is_listed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = config["options"]["packages"].split()
    assert sorted(set(listed) - {"ardbench.benchmarks"}) == packages()
    assert listed == sorted(listed)


def test_the_wheel_holds_every_module_and_all_data_and_nothing_else(wheel: Path) -> None:
    sources = [
        *(ROOT / "ardbench").rglob("*.py"),
        *(ROOT / "ardbench").rglob("*.toml"),
        *(ROOT / "ardbench").rglob("*.html"),
        *(ROOT / "ardbench" / "models" / "weights").glob("*"),
        *(ROOT / "benchmarks" / "suites").glob("*.toml"),
        ROOT / "benchmarks" / "published.csv",
    ]
    expected = {path.relative_to(ROOT).as_posix() for path in sources}
    expected = {f"ardbench/{name}" if name.startswith("benchmarks/") else name for name in expected}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected | set(CARRIED)
    assert "ardbench/benchmarks/suites/digits.toml" in held


def test_metadata_state_version_license_and_command(wheel: Path) -> None:
    version: dict[str, str] = {}
    exec((ROOT / "ardbench" / "__init__.py").read_text(encoding="utf-8"), version)
    with zipfile.ZipFile(wheel) as archive:
        texts = {name.split("/", 1)[1]: archive.read(name).decode() for name in archive.namelist() if "-info/" in name}
    metadata = message_from_string(texts["METADATA"])
    assert metadata["Version"] == version["__version__"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert "MIT" in (metadata["License-Expression"], metadata["License"])
    assert texts["licenses/LICENSE"] == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "ardbench = ardbench.__main__:main" in texts["entry_points.txt"]


def test_the_installed_wheel_is_found_before_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import ardbench\n"
        "from ardbench.campaigns.suites import benchmarks_folder\n"
        "print(ardbench.__file__)\n"
        "print(benchmarks_folder())\n"
    )
    done = elsewhere(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    module, benchmarks = done.stdout.split("\n")[:2]
    assert Path(module) == installed / "ardbench" / "__init__.py"
    assert Path(benchmarks) == installed / "ardbench" / "benchmarks"


def test_the_installed_wheel_plans_the_digits_suite(installed: Path, tmp_path: Path) -> None:
    done = elsewhere(installed, tmp_path, "-m", "ardbench", "reproduce", "digits", "--dry-run")
    assert done.returncode == 0, done.stderr
    suite = tomllib.loads((ROOT / "benchmarks" / "suites" / "digits.toml").read_text(encoding="utf-8"))
    names = {run["name"] for run in suite["runs"]}
    assert names <= set(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_the_installed_wheel_knows_every_recipe(installed: Path, tmp_path: Path) -> None:
    code = (
        "from ardbench.recipes import recipe_names, resolve\n"
        "for name in recipe_names():\n"
        "    print(resolve(name).name)\n"
    )
    done = elsewhere(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    files = (ROOT / "ardbench" / "recipes").glob("[!_]*.toml")
    assert {path.stem for path in files} <= set(done.stdout.split())


def test_the_published_numbers_are_read_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from ardbench.campaigns.suites import benchmarks_folder\n"
        "print(sum(1 for _ in (benchmarks_folder() / 'published.csv').open(encoding='utf-8')))\n"
    )
    done = elsewhere(installed, tmp_path, "-c", code)
    lines = (ROOT / "benchmarks" / "published.csv").read_text(encoding="utf-8").splitlines()
    assert done.stdout.split() == [str(len(lines))]
