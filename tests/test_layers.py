"""Imports go in the direction of docs/design.md, and tables, plans and recipes need no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ardbench"

LAYERS = (
    ("config", "errors"),
    ("faults", "untrusted"),
    ("draws", "processes", "progress", "evaluation.protocols", "plugins", "written"),
    ("losses", "data"),
    ("attacks", "models"),
    ("methods",),
    ("recipes",),
    ("runs",),
    ("exports",),
    ("starts", "teachers", "evaluation"),
    ("campaigns.cells", "campaigns.copies", "campaigns.suites", "campaigns.varied", "evidence"),
    ("engine", "reports"),
    ("subjects",),
    ("campaigns",),
    ("planning",),
    ("listeners",),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
"""From below: a module imports from its own layer and those below it. A submodule may stand lower than its package."""

TORCH_FREE = (
    "ardbench", "campaigns", "campaigns.board", "campaigns.cells", "campaigns.copies", "campaigns.suites",
    "campaigns.varied", "cli", "cli.*", "config", "data", "data.epoch", "data.extra", "data.npz", "errors",
    "evaluation", "evaluation.derived", "evaluation.matrix", "evaluation.protocols", "evaluation.statistics",
    "evaluation.trust", "evaluation.verdicts", "evidence", "exports", "faults", "losses", "methods", "methods.*",
    "models", "models.normalisation", "models.sealed", "models.zoo", "plugins", "progress", "recipes", "recipes.*",
    "reports", "reports.*", "runs", "starts", "teachers", "subjects", "untrusted", "verbs", "verbs.*", "written",
    "__main__",
)  # fmt: skip
"""Modules that are imported without torch."""

TORCH = {"torch", "torchvision", "timm"}
HOMELESS = {"common", "helper", "helpers", "misc", "util", "utils"}


@dataclass(frozen=True)
class Import:
    """An import statement's target: a module outside, or one of ardbench without the leading `ardbench.`."""

    target: str
    line: int
    ours: bool


def module_name(path: Path) -> str:
    """Return ardbench/methods/iad.py as methods.iad, a package as its name, and ardbench itself as ardbench."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "ardbench"


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_in(module: str) -> Iterator[Import]:
    """Yield every import of a module, those in functions and those for types alone included."""
    package = f"ardbench.{module}".removesuffix(".ardbench").split(".")
    if SOURCES[module].name != "__init__.py":
        package = package[:-1]
    yield from imports_of(ast.parse(SOURCES[module].read_text(encoding="utf-8")), package)


def imports_of(tree: ast.AST, package: list[str]) -> Iterator[Import]:
    """Yield the imports below a node; `from ardbench import data` imports ardbench.data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield named(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                yield named(submodule if submodule.removeprefix("ardbench.") in SOURCES else origin, node.lineno)


def named(target: str, line: int) -> Import:
    """Return an import of a dotted name."""
    ours = target == "ardbench" or target.startswith("ardbench.")
    return Import(target.removeprefix("ardbench."), line, ours)


def layer(module: str) -> int:
    """Return where a module stands: by itself, or by the package that it lies in."""
    for name in (module, module.split(".")[0]):
        for height, names in enumerate(LAYERS):
            if name in names:
                return height
    raise AssertionError(f"ardbench.{module} has no layer: give it one here and in docs/design.md")


def against_direction(module: str, imports: Iterator[Import]) -> list[str]:
    """Return a line for each import that goes up; ardbench itself holds only the version, and is free for all."""
    ground = module in LAYERS[0]
    return [
        f"{module}:{found.line} imports {found.target}"
        for found in imports
        if found.ours
        and (ground or (found.target != "ardbench" and layer(found.target) > layer(module)))
        and found.target != module
    ]


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "ardbench"])
def test_imports_go_down(module: str) -> None:
    assert against_direction(module, imports_in(module)) == []


def test_the_package_itself_imports_nothing_of_ours() -> None:
    """For types it may: what it offers is resolved by name."""
    tree = ast.parse(SOURCES["ardbench"].read_text(encoding="utf-8"))
    typed = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    assert [one for node in typed for one in imports_of(node, ["ardbench"]) if one.ours] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("config", "from ardbench.errors import ArdbenchError"),
        ("losses", "from ardbench import methods"),
        ("attacks.pgd", "def f():\n    import ardbench.methods.rslad"),
        ("methods.rslad", "if TYPE_CHECKING:\n    from ardbench.engine.loop import Loop"),
        ("methods.rslad", "from ..runs import Run"),
        ("reports.tables", "from ardbench.cli.output import table"),
    ],
)
def test_an_import_against_the_direction_is_found(module: str, source: str) -> None:
    package = ["ardbench", *module.split(".")[:-1]]
    assert len(against_direction(module, imports_of(ast.parse(source), package))) == 1


@pytest.mark.parametrize("module", [name for name in SOURCES if name.startswith("methods.")])
def test_methods_do_not_import_each_other(module: str) -> None:
    allowed = ("methods.base", "methods.module", "methods", module)
    targets = [found.target for found in imports_in(module) if found.ours]
    assert [target for target in targets if target.startswith("methods") and target not in allowed] == []


def test_reports_never_import_torch() -> None:
    found = [
        f"{module}:{one.line} imports {one.target}"
        for module in SOURCES
        if module == "reports" or module.startswith("reports.")
        for one in imports_in(module)
        if not one.ours and (one.target.split(".")[0] in TORCH or one.target == "safetensors.torch")
    ]
    assert found == []


def test_recipes_plans_and_tables_are_imported_without_torch() -> None:
    chosen = [name for name in SOURCES if any(fnmatch(name, pattern) for pattern in TORCH_FREE)]
    missing = [pattern for pattern in TORCH_FREE if "*" not in pattern and pattern not in chosen]
    assert missing == []
    full = ["ardbench" if name == "ardbench" else f"ardbench.{name}" for name in chosen]
    code = (
        "import importlib, sys\n"
        f"for name in {full!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = sorted({TORCH!r} & sys.modules.keys())\n"
        "    assert not loaded, f'{name} imports {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["list", "recipes"], ["show", "rslad-cifar10"]])
def test_help_and_lists_do_not_load_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = ['ardbench', *{words!r}]\n"
        "from ardbench.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as done:\n"
        "    assert not done.code, done.code\n"
        f"assert not {TORCH!r} & sys.modules.keys(), sorted({TORCH!r} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


SHORT = 150
"""Lines that no command has: what it does lies in verbs, it parses and prints."""


@pytest.mark.parametrize("command", sorted({name for name in SOURCES if name.startswith("cli.")} - {"cli.options"}))
def test_a_command_is_short(command: str) -> None:
    """That it loads no torch before it is called, the imports above show."""
    lines = len(SOURCES[command].read_text(encoding="utf-8").splitlines())
    assert lines < SHORT, f"{command} has {lines} lines"


def test_every_module_has_a_purpose_in_its_name() -> None:
    folders = [PACKAGE, ROOT / "benchmarks", ROOT / "tests"]
    paths = [path.relative_to(ROOT).with_suffix("") for folder in folders for path in folder.rglob("*.py")]
    assert [str(path) for path in paths if HOMELESS & set(path.parts)] == []
