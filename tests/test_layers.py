"""The direction of imports, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ardbench"
FILES = sorted(PACKAGE.rglob("*.py"))
ABOVE = {  # what each part may import of ardbench, beside itself and the four that stand below everything
    "config": set(),
    "errors": set(),
    "draws": set(),
    "progress": set(),
    "losses": set(),
    "data": set(),
    "models": {"data"},
    "attacks": {"losses"},
    "methods": {"attacks", "losses", "data", "models"},
    "evaluation": {"attacks", "losses", "data", "models", "runs"},
    "recipes": {"data", "models", "methods", "evaluation"},
    "runs": set(),
    "teachers": {"data", "models", "runs"},
    "suites": {"recipes", "methods", "evaluation", "runs", "teachers", "data", "models"},
    "engine": {"recipes", "methods", "evaluation", "runs", "teachers", "suites", "attacks", "losses", "data", "models"},
    "reports": {"suites", "recipes", "evaluation", "runs", "teachers", "data", "models"},
}
BELOW = {"config", "errors", "draws", "progress"}
TORCH_FREE = ["config", "errors", "progress", "losses", "runs", "teachers", "suites", "recipes", "reports", "methods"]


def _part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST, at_import_time: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports, type-checking blocks left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        yield from _imports(node, at_import_time)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downwards(file: Path) -> None:
    part = _part(file)
    if part in ("cli", "__main__", "__init__"):
        return
    allowed = ABOVE[part] | BELOW | {part, "__version__"} if part not in ("config", "errors") else {part}
    for module in _imports(ast.parse(file.read_text())):
        if module.startswith("ardbench."):
            assert module.split(".")[1] in allowed, f"{file} imports {module}"


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "methods"], ids=lambda file: file.stem)
def test_methods_never_import_each_other(file: Path) -> None:
    for module in _imports(ast.parse(file.read_text())):
        if module.startswith("ardbench.methods.") and file.stem != "__init__":
            assert module.startswith(("ardbench.methods.base", f"ardbench.methods.{file.stem}"))


@pytest.mark.parametrize("file", [f for f in FILES if _part(f) in TORCH_FREE], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_is_read_without_torch(file: Path) -> None:
    always = _part(file) == "reports"
    for module in _imports(ast.parse(file.read_text()), at_import_time=not always):
        assert module.split(".")[0] not in ("torch", "torchvision", "timm"), f"{file} imports {module}"


def test_no_homeless_modules() -> None:
    assert not {file.stem for file in FILES} & {"utils", "util", "common", "helpers", "misc"}


@pytest.mark.parametrize("words", [["--help"], ["list", "recipes"], ["show", "rslad-cifar10"], ["train", "pgd-att"]])
def test_commands_that_need_no_tensor_load_no_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom ardbench.__main__ import main\n"
        f"sys.argv = ['ardbench', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
