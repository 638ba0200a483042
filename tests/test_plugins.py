"""Code from outside: what a plugin adds, what of it a run is known by, and how it is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_call import call
from click.testing import Result

import ardbench
from ardbench import data, models, plugins
from ardbench.errors import ArdbenchError
from ardbench.methods import method_class
from ardbench.recipes import resolve
from ardbench.runs import Run

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "mine.py"
TINY = ["--epochs", "1", "--set", "attack.steps=1", "--set", "selection.protocol=fgsm", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "mine.py") -> Path:
    """Return a plugin of this text."""
    path = Path(name).absolute()
    path.write_text(text)
    return path


def refusal(*words: object) -> str:
    """Return the one sentence with which a command line is refused."""
    result = call(*words)
    assert result.exit_code == 2 and "Traceback" not in result.stderr, result.output
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    return line


def trained(*words: object, plugin: Path = EXAMPLE) -> tuple[Run, Result]:
    """Train, and return the run with what was said."""
    result = call("--plugin", plugin, *words, *TINY)
    assert result.exit_code == 0, result.output
    return Run(Path(result.stdout.splitlines()[0])), result


# From one file to a measured student -----------------------------------------------------------------------------------


def test_a_network_a_data_set_and_a_method_of_one_file_go_all_the_way() -> None:
    teacher, _ = trained("train", "pgd-at", "--dataset", "my-parity", "--student", "my-net")
    student, said = trained("distill", "my-loss", "--dataset", "my-parity", "--teacher", teacher.path)
    assert student.path.name.startswith("my-loss-my-parity-my-net-s0-")
    assert f"Next: ardbench --plugin {EXAMPLE} eval {student.path}" in said.stdout
    digest = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    wanted = dict.fromkeys(["method:my-loss", "model:my-net", "dataset:my-parity"], digest)
    assert student.recipe.outside == wanted
    assert student.environment["outside"] == dict.fromkeys(wanted, "mine.py")
    assert teacher.recipe.outside == {key: digest for key in wanted if key != "method:my-loss"}

    result = call("--plugin", EXAMPLE, "eval", student.path, "--protocol", "clean", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    assert call("--plugin", EXAMPLE, "verify", student.path).exit_code == 0
    assert call("--plugin", EXAMPLE, "report", student.path, "--out", "tables").exit_code == 0
    assert call("--plugin", EXAMPLE, "export", student.path, "--out", "exported").exit_code == 0
    assert isinstance(ardbench.load("exported"), models.network.Network)
    words = (
        "eval",
        student.path / "last.safetensors:my-net",
        "--dataset",
        "my-parity",
        "--protocol",
        "clean",
        "--n",
        "50",
    )
    assert call("--plugin", EXAMPLE, *words, "--device", "cpu").exit_code == 0
    again = call("--plugin", EXAMPLE, "distill", "my-loss", "--dataset", "my-parity", "--teacher", teacher.path, *TINY)
    assert again.exit_code == 0 and "Already done" in again.stdout


def test_the_example_is_its_equation() -> None:
    """Of the loss in float64, with x' as the method crafts it."""
    import small

    plugins.use([EXAMPLE])
    with pytest.MonkeyPatch.context() as patch:
        small.in_double(patch)
        wanted = resolve("my-loss-my-parity", sets=small.SMALL | {"student": "resnet8-tiny"})
        given = small.batch(wanted, dtype=torch.float64)
        step, x_adv = small.watched(small.method(wanted, to=torch.float64), given)
        student, teacher = small.network(0).double().train(), small.network(10).double().eval()
        p, t = student(x_adv).softmax(1), teacher(given.x).softmax(1)
        q = student(given.x).softmax(1)[torch.arange(len(given.y)), given.y]
        assert torch.allclose(step.loss, 5 / 6 * (t * (t / p).log()).sum(1).mean() - 1 / 6 * q.log().mean(), rtol=1e-9)


def test_lists_show_what_plugins_add_among_ours() -> None:
    for what, name in {"methods": "my-loss", "datasets": "my-parity", "recipes": "my-loss-my-parity"}.items():
        rows = json.loads(call("--plugin", EXAMPLE, "list", what, "--json").stdout)[what]
        assert name in [row["name"] for row in rows] and len(rows) > 5
    (row,) = json.loads(call("list", "models", "my-*", "--dataset", "my-parity", "--json").stdout)["models"]
    net = models.build("my-net", data.info("my-parity"))
    assert row["parameters"] == sum(p.numel() for p in net.parameters())


def test_processes_that_are_started_from_here_have_the_plugin() -> None:
    """As those of --jobs: the path is whole, whatever their folder is."""
    Path("beside").mkdir()
    plugins.use([os.path.relpath(EXAMPLE)])
    code = "from ardbench.recipes import resolve; print(resolve('my-loss-my-parity').identity())"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": paths}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd="beside", env=env, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == resolve("my-loss-my-parity").identity()


# What a run is known by ------------------------------------------------------------------------------------------------


def test_ours_alone_has_no_source_from_outside() -> None:
    plugins.use([EXAMPLE])
    recipe = resolve("rslad-digits")
    assert recipe.outside == {} and "outside" not in recipe.model_dump(mode="json")


def test_an_edited_plugin_is_another_run_and_an_unfinished_one_is_not_begun_anew() -> None:
    plugin = written(EXAMPLE.read_text())
    words = ("train", "pgd-at", "--dataset", "my-parity", "--student", "my-net")
    first, _ = trained(*words, plugin=plugin)
    plugins._file.cache_clear()
    plugins._loaded.cache_clear()
    written(EXAMPLE.read_text() + "# edited\n")
    second, _ = trained(*words, plugin=plugin)
    assert second.path != first.path and second.recipe.outside != first.recipe.outside
    line = refusal("--plugin", plugin, "eval", first.path, "--protocol", "clean", "--device", "cpu")
    assert "was made with another source of the network my-net" in line and "put that source back" in line

    (first.path / "done").unlink()
    for marker in second.path.iterdir():
        marker.unlink()
    second.path.rmdir()
    line = refusal("--plugin", plugin, *words, *TINY)
    assert f"{first.path} is unfinished and was begun with another source of model:my-net, dataset:my-parity" in line
    assert "move or delete it" in line and not second.path.exists()


def test_what_needs_a_plugin_says_which() -> None:
    run, _ = trained("train", "pgd-at", "--dataset", "my-parity", "--student", "my-net")
    digest = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()[:16]
    assert call("--plugin", EXAMPLE, "eval", run.path, "--protocol", "clean", "--device", "cpu").exit_code == 0
    assert call("--plugin", EXAMPLE, "export", run.path, "--out", "out").exit_code == 0
    os.environ[plugins.VARIABLE] = ""
    for words in (("eval", run.path, "--device", "cpu"), ("export", run.path, "--out", "new")):
        line = refusal(*words)
        assert "needs the " in line and f"of mine.py (sha256 {digest})" in line, line
        assert "type `ardbench --plugin mine.py COMMAND`" in line
    assert "out needs the network my-net (sha256" in refusal("eval", "out")
    told = call("verify", run.path)
    assert told.exit_code == 1 and f"needs the data set my-parity of mine.py (sha256 {digest})" in told.output
    recipe = Path("again.toml")
    recipe.write_text(f'extends = "pgd-at-digits"\nstudent = "my-net"\n[outside]\n"model:my-net" = "{"0" * 64}"\n')
    assert "Recipe again needs the network my-net (sha256 0000000000000000)" in refusal("show", recipe)
    assert "another source of the network my-net (sha256 0000000000000000)" in refusal(
        "--plugin", EXAMPLE, "show", recipe
    )


def test_a_package_is_known_by_all_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from their_package.parts import Net\n")
    (package / "parts.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    one = plugins.Outside("model", "theirs", "their_package.nets:Net", "their-package 1.0")
    before = one.sha256
    told = hashlib.sha256()
    for path in ("__init__.py", "nets.py", "parts.py"):
        told.update(f"{path}\0".encode() + (package / path).read_bytes() + b"\0")
    assert before == hashlib.sha256(("" + told.hexdigest()).encode()).hexdigest()
    (package / "parts.py").write_text("class Net:\n    width = 2\n")
    plugins._source_of.cache_clear()
    assert one.sha256 != before


def test_nothing_that_is_read_runs_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe names an import path or a file in the place of a name."""
    written("raise SystemExit('it ran')\n", "evil.py")
    monkeypatch.syspath_prepend(str(Path().absolute()))
    for key, value in (("student", "evil:Net"), ("student", "evil.py"), ("data.name", "evil:DATA")):
        assert "Unknown" in refusal("show", "pgd-at-digits", "--set", f'{key}="{value}"')
    Path("own.toml").write_text('extends = "pgd-at-digits"\n[method]\nname = "evil:Method"\n')
    assert "Unknown method" in refusal("show", "own.toml")
    assert "evil" not in sys.modules


# What is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef (:\n", "has a syntax error in line 2"),
        ("x = 1\n\n1 / 0\n", "cannot be loaded (ZeroDivisionError in {path}, line 3: division by zero): mend it"),
        ("raise SystemExit(3)\n", "cannot be loaded (SystemExit in {path}, line 1: 3)"),
        ("import no_such_package\n", "cannot be loaded (ModuleNotFoundError in {path}, line 1"),
        ("x = 1\n", "has none of METHODS, MODULES, MODELS, DATASETS, RECIPES"),
        ("MODELS = [1]\n", "MODELS is a list: give a dict of names and a class"),
        ("MODELS = {1: print}\n", "1 in MODELS is no name"),
        ("MODELS = {'a:b': print}\n", "'a:b' in MODELS is no name"),
        ("MODELS = {'a': 3}\n", "a in MODELS is a int: give a class, or an import path"),
        ("DATASETS = {'a': len}\n", "a in DATASETS is a builtin_function_or_method: give an ardbench.data.Dataset"),
        ("RECIPES = {'a': len}\n", "a in RECIPES is a builtin_function_or_method: give a dict, or the path"),
        ("METHODS = {'trades': print}\n", "its method trades has the name of one of ardbench itself"),
        ("MODELS = {'resnet18': print}\n", "its network resnet18 has the name of one of ardbench itself"),
        ("DATASETS = {'cifar10': 'a:b'}\n", "its data set cifar10 has the name of one of ardbench itself"),
        ("RECIPES = {'trades-cifar10': {}}\n", "its recipe trades-cifar10 has the name of one of ardbench itself"),
    ],
)
def test_a_plugin_that_is_wrong_is_refused_in_one_sentence(text: str, said: str) -> None:
    path = written(text)
    assert said.format(path=path) in refusal("--plugin", path, "list", "suites")


def test_a_file_that_is_not_there_or_no_text_is_refused() -> None:
    assert f"Plugin {Path('no.py').absolute()} cannot be read (No such file or directory)" in refusal(
        "--plugin", "no.py", "list", "suites"
    )
    Path("null.py").write_bytes(b"x = 1\0\n")
    assert "null.py" in refusal("--plugin", "null.py", "list", "suites")


def test_two_plugins_with_one_name_are_refused_and_twice_the_same_file_is_once() -> None:
    one, two = written("MODELS = {'a': print}\n", "one.py"), written("MODELS = {'a': print}\n", "two.py")
    assert f"Plugin {two}: its network a has the name of one of {one}" in refusal(
        "--plugin", one, "--plugin", two, "list", "suites"
    )
    assert call("--plugin", one, "--plugin", one, "list", "suites").exit_code == 0


def test_a_broken_plugin_of_the_environment_breaks_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = written("1 / 0\n", "broken.py")
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join([str(broken), str(EXAMPLE)]))
    result = call("list", "methods", "--json")
    assert result.exit_code == 0 and "my-loss" in result.stdout
    assert f"Plugin {broken} cannot be loaded (ZeroDivisionError" in result.stderr
    assert method_class("my-loss").__name__ == "MyLoss"


NETS = """
import torch
from torch import nn
from ardbench.models.network import Network
class Own(Network):
    def __init__(self, info, normalise):
        super().__init__(info, normalise)
        self.head = nn.Linear(info.channels, {classes})
        {more}
    def features(self, x):
        return {features}
MODELS = {{"own": {value}}}
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": "3"}, "gives (2, 3) for 2 images of digits: give logits (2, 10)"),
        ({"features": "x.mean((2, 3)) / 0 * 0"}, "answers with numbers that are not finite before any training"),
        ({"features": "x.nothing"}, "failed with AttributeError in"),
        ({"more": "raise KeyError('k')"}, "failed with KeyError in"),
        ({"value": "lambda info, normalise: nn.Identity()"}, "is no Network with a head"),
        ({"value": "'no_such_package:Net'"}, "cannot be loaded from no_such_package:Net (ModuleNotFoundError"),
    ],
)
def test_a_network_that_is_none_of_ours_is_refused_in_one_sentence(changes: dict[str, str], said: str) -> None:
    words = {"classes": "info.num_classes", "more": "", "features": "x.mean((2, 3))", "value": "Own"} | changes
    path = written(NETS.format(**words))
    listed = call("--plugin", path, "list", "models", "[or][we][ns]*", "--dataset", "digits")  # own, and some of ours
    assert listed.exit_code == 0 and "resnet8-tiny" in listed.stdout
    line = refusal("--plugin", path, "train", "pgd-at-digits", "--student", "own", *TINY)
    assert said in line and "own" in line and not list(Path("runs").glob("*/config.json"))


def test_data_of_another_kind_is_refused_in_one_sentence() -> None:
    text = EXAMPLE.read_text()
    words = ("train", "pgd-at", "--dataset", "my-parity", "--student", "my-net", *TINY)
    for at, (old, new, said) in enumerate([
        ("return Raw(images[:cut],", "return Raw(images[:cut].float(),", "return an ardbench.data.raw.Raw of such tensors"),
        ("return Raw(images[:cut],", "return (images[:cut],", "return an ardbench.data.raw.Raw of such tensors"),
        ("return Raw(images[:cut],", "return Raw(images[:9],", "The training set of my-parity has the shape (9, 1, 8, 8)"),
        ("to(torch.int64) % 2", "to(torch.int64) % 3", "The training set of my-parity has labels outside 0 to 1"),
        ("bunch = load_digits()", "bunch = root / 0", "The data set my-parity of"),
        ('name="my-parity"', 'name="parity"', "is no ardbench.data.Dataset whose info has that name"),
    ]):  # fmt: skip
        assert text.count(old) == 1
        path = written(text.replace(old, new), f"mine{at}.py")
        os.environ[plugins.VARIABLE] = ""
        assert said in refusal("--plugin", path, *words)


def test_plugins_are_taken_from_python_too() -> None:
    with pytest.raises(ArdbenchError, match="cannot be read"):
        plugins.use(["nowhere.py"])
    plugins.use([EXAMPLE])
    assert data.info("my-parity").num_classes == 2 and models.known("my-net")
