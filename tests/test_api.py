"""What Python is given is what the command line does: evaluations, comparisons, attacks, and networks as objects."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_call import call
from test_models import settled
from test_subjects import MODEL, fake
from torch import Tensor, nn

import ardbench
from ardbench import data, models
from ardbench.engine import networks
from ardbench.engine.checkpoints import save_weights
from ardbench.engine.exported import export
from ardbench.evaluation.statistics import holm
from ardbench.models import objects
from ardbench.models.network import Network
from ardbench.progress import Progress
from ardbench.recipes import resolve
from ardbench.runs import Run, write_json
from ardbench.subjects import Words, find

CPU = torch.device("cpu")
QUIET: dict[str, Any] = {"device": "cpu", "progress": Progress()}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run, measured under 8/255 like files, whose best is another network than its last."""
    recipe = resolve(
        "pgd-at-digits", dataset="fake", student=MODEL, sets={"data.augment": "none", "data.validation": 10}
    )
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"eps": 8 / 255})})
    made = Run.place(tmp_path / "runs", recipe)
    made.create(recipe, (), {})
    for seed, checkpoint in enumerate(("last", "best")):
        torch.manual_seed(seed)
        save_weights(made.weights(checkpoint), settled(models.build(MODEL, data.info("fake"))), {})
    write_json(made.path / "done", {"epochs": 1})
    return made


@pytest.fixture
def runs(run: Run) -> Path:
    return run.path.parent


@pytest.fixture
def net(run: Run) -> Network:
    """The network of the run's best, as an object."""
    return networks.of_run(run, "best", CPU)


def rows(frame: Any) -> list[dict[str, Any]]:
    return [{key: row[key] for key in ("protocol", "accuracy", "low", "high", "n", "total")} for row in frame]


# evaluate -------------------------------------------------------------------------------------------------------------


def test_evaluate_gives_the_files_and_numbers_of_the_command(run: Run, runs: Path) -> None:
    words = ["--protocol", "clean", "--protocol", "pgd20", "--n", 20, "--device", "cpu", "--json"]
    typed = json.loads(call("eval", run.path, *words).stdout)
    files = {path: path.read_bytes() for path in run.path.glob("eval/*/*.json")}
    found = ardbench.evaluate(run, protocols=["clean", "pgd20"], n=20, runs=runs, **QUIET)
    assert found.table["stored"].all() and found.finished
    assert json.loads(json.dumps(found.document()))["trust"] == typed["trust"]
    assert rows(found.table.to_dict("records")) == rows(typed["results"])
    assert {path: path.read_bytes() for path in run.path.glob("eval/*/*.json")} == files
    kept = json.loads((run.path / "eval/best/pgd20-n20.json").read_text())
    by_hand = np.array(list(kept["labels"])) == np.array(list(kept["predictions"]))
    assert (found.robust["pgd20"] == by_hand).all() and list(found.robust) == ["clean", "pgd20"]
    for path in files:
        path.unlink()
    again = ardbench.evaluate(run, protocols=["clean", "pgd20"], n=20, runs=runs, **QUIET)
    assert not again.table["stored"].any() and (again.robust["pgd20"] == by_hand).all()


def test_one_network_has_the_same_verdicts_by_whatever_name(run: Run, runs: Path, net: Network, tmp_path: Path) -> None:
    export(run, "best", tmp_path / "handed-on")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    mode = {name: module.training for name, module in net.named_modules()}
    names: list[Any] = [
        f"{run.path}@best", tmp_path / "handed-on", f"{tmp_path / 'net.pt'}:{MODEL}", tmp_path / "net.pt", net
    ]  # fmt: skip
    told: list[dict[str, Any]] = [{}, {}, {"dataset": "fake"}, {"dataset": "fake", "model": MODEL}, {"dataset": "fake"}]
    found = [
        ardbench.evaluate(name, protocols=["pgd20"], n=30, runs=runs, **words, **QUIET)
        for name, words in zip(names, told, strict=True)
    ]
    for one in found[1:]:
        assert (one.robust["pgd20"] == found[0].robust["pgd20"]).all() and list(one.table["checkpoint"]) == ["file"]
    assert found[3].table["stored"].all() and not found[2].table["stored"].any()  # one file by two spellings
    assert {name: module.training for name, module in net.named_modules()} == mode
    with pytest.raises(ardbench.ArdbenchError, match="the same"):
        ardbench.compare(net, net, dataset="fake", runs=runs)
    for a, b in combinations([run.path, *names[1:3], net], 2):
        word = ardbench.compare(a, b, checkpoint="best", runs=runs, dataset="fake")
        assert (word.difference, word.p, word.main.alone) == (0, 1, (0, 0))


def test_several_are_measured_in_one_line(run: Run, runs: Path, tmp_path: Path) -> None:
    export(run, "best", tmp_path / "handed-on")
    words = ("--protocol", "clean", "--device", "cpu", "--runs", runs, "--json")
    document = json.loads(call("eval", run.path, tmp_path / "handed-on", *words).stdout)
    assert document["finished"] and [len(one["results"]) for one in document["subjects"]] == [2, 1]
    refused = call("eval", run.path, tmp_path / "nowhere", *words)
    assert refused.exit_code == 2 and "nowhere" in refused.stderr  # before anything is measured


def test_a_run_of_a_network_object_among_several_is_left_out(run: Run, runs: Path) -> None:
    other = Run.place(runs, run.recipe.model_copy(update={"student": "object:torch.nn.Linear"}))
    other.create(run.recipe.model_copy(update={"student": "object:torch.nn.Linear"}), (), {})
    write_json(other.path / "done", {"epochs": 1})
    words = ("--protocol", "clean", "--device", "cpu", "--runs", runs, "--json")
    done = call("eval", run.path, other.path, *words)
    assert len(json.loads(done.stdout)["results"]) == 2
    assert f"{other.path} is of a network object, which has no name here, and is left out." in done.stderr
    alone = call("eval", other.path, *words)
    assert alone.exit_code == 2 and "ardbench.evaluate(RUN, model=net)" in alone.stderr


def test_it_is_said_under_which_threat_a_file_is_measured_to_be_compared(run: Run, runs: Path, tmp_path: Path) -> None:
    export(run, "best", tmp_path / "handed-on")
    file = tmp_path / "weights.safetensors"
    file.write_bytes(run.weights("best").read_bytes())
    words = ("--dataset", "fake", "--runs", runs, "--device", "cpu", "--n", 10, "--quiet")
    assert call("eval", f"{file}:{MODEL}", "--protocol", "pgd20", *words).exit_code == 0
    told = call("status", f"{file}:{MODEL}", "--dataset", "fake", "--runs", runs).stdout
    assert "pgd20" in told and "(linf, eps 8/255, n = 10)" in told
    place = tmp_path / "handed-on" / "config.json"
    config = json.loads(place.read_text())
    config["recipe"]["evaluation"]["eps"] = 0.25
    place.write_text(json.dumps(config))
    refused = call("compare", tmp_path / "handed-on", f"{file}:{MODEL}", "--runs", runs)
    assert "weights.safetensors with --norm linf --eps 0.25." in refused.stderr, refused.output


def test_a_folder_of_runs_may_be_named_with_a_star(run: Run, runs: Path) -> None:
    unfinished = Run.place(runs, run.recipe.model_copy(update={"seed": 1}))
    unfinished.create(run.recipe.model_copy(update={"seed": 1}), (), {})
    (runs / "files").mkdir()
    (runs / "batches.json").write_text("{}")
    words = ("--protocol", "clean", "--device", "cpu", "--runs", runs, "--json")
    done = call("eval", *sorted(runs.iterdir()), *words)
    assert (
        len(json.loads(done.stdout)["results"]) == 2
        and f"{unfinished.path} is not finished and is left out." in done.stderr
    )
    refused = call("eval", unfinished.path, runs / "files", *words)
    assert refused.exit_code == 2 and "None of these is a finished run" in refused.stderr
    refused = call("eval", run.path, run.path, "--out", runs / "x", *words)
    assert refused.exit_code == 2 and "is one folder for the verdicts of one file" in refused.stderr


def test_an_evaluation_that_is_stopped_keeps_what_was_finished(run: Run, runs: Path) -> None:
    class Interrupter(Progress):
        def task(self, description: str, total: int, unit: str = "images") -> None:
            if description == "pgd20":
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    asked: dict[str, Any] = {"protocols": ["clean", "pgd20", "fgsm"], "runs": runs, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        ardbench.evaluate(run, progress=Interrupter(), **asked)
    late = ardbench.evaluate(run, time_limit=1e-6, progress=Progress(), **asked)
    assert not late.finished and list(late.table["protocol"]) == ["clean"] and late.table["stored"].all()
    whole = ardbench.evaluate(run, progress=Progress(), **asked)
    assert whole.finished and list(whole.table["stored"]) == [True] + 5 * [False]


def test_a_suites_run_is_a_subject(tmp_path: Path, run: Run) -> None:
    suite = tmp_path / "one.toml"
    suite.write_text(
        'title = "One"\nseeds = [0, 1]\nprotocols = ["clean"]\nruns = [{ name = "a", recipe = "pgd-at-digits" }]\n'
    )
    with pytest.raises(ardbench.ArdbenchError, match=r"one\.toml:a is finished below"):
        find(f"{suite}:a", Words(runs=tmp_path))
    with pytest.raises(
        ardbench.ArdbenchError, match=r"one\.toml:a has 2 seeds, and one network is wanted: name one of"
    ):
        ardbench.distill("rslad-digits", teachers=[f"{suite}:a"], runs=tmp_path)
    with pytest.raises(ardbench.ArdbenchError, match="has 2 seeds"):
        ardbench.evaluate(run, protocols=["transfer"], surrogate=f"{suite}:a", runs=tmp_path)


def test_an_export_is_never_called_a_broken_run(run: Run, tmp_path: Path) -> None:
    export(run, "best", tmp_path / "handed-on")
    for words in (["show"], ["diff", run.path]):
        said = call(*words, tmp_path / "handed-on")
        assert "restore" not in said.output and "is an exported network and no run" in said.output, said.output
    named = f"{tmp_path / 'handed-on'}@best"
    for words in (["eval", named], ["distill", "rslad-digits", "--teacher", named]):
        said = call(*words, "--runs", tmp_path / "runs")
        assert said.exit_code == 2 and "which has one checkpoint: leave out @best" in said.output, said.output


# Objects --------------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A network whose state dict does not tell all that it does."""

    def __init__(self, net: nn.Module, factor: float = 1.0, mean: Tensor | None = None) -> None:
        super().__init__()
        self.net, self.factor, self.mean = net, factor, mean

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.net(x if self.mean is None else x - self.mean) * self.factor
        return answer


class Unsaved(Scaled):
    def __init__(self, net: nn.Module, shift: float) -> None:
        super().__init__(net)
        self.register_buffer("shift", torch.tensor(shift), persistent=False)


def test_what_computes_otherwise_has_another_identity() -> None:
    made: list[Callable[[], nn.Module]] = [
        fake, lambda: fake(1), lambda: nn.Sequential(fake()), lambda: Scaled(fake()), lambda: Scaled(fake(), -1.0),
        lambda: Scaled(fake(), mean=torch.zeros(1)), lambda: Scaled(fake(), mean=torch.ones(1)),
        lambda: Unsaved(fake(), 0.0), lambda: Unsaved(fake(), 1.0),
    ]  # fmt: skip
    first, second = ([objects.identity(make()) for make in made] for _ in range(2))
    assert first == second and len(set(first)) == len(made)
    assert objects.identity(fake().train()) == objects.identity(fake().eval())


def test_verdicts_of_another_object_are_not_taken_for_its_own(net: Network, runs: Path) -> None:
    words: dict[str, Any] = {"protocols": ["clean"], "runs": runs, **QUIET}
    one, other = (ardbench.evaluate(Scaled(net, factor), "fake", **words) for factor in (1.0, -1.0))
    assert not other.table["stored"].any() and one.subject.folder != other.subject.folder
    assert ardbench.evaluate(Scaled(net, 1.0), "fake", **words).table["stored"].all()


def test_an_object_teaches_and_only_the_same_one_goes_on(runs: Path, net: Network) -> None:
    small = {
        "data.train_images": 64,
        "data.validation": 10,
        "data.batch": 32,
        "attack.steps": 1,
        "data.augment": "none",
    }
    words: dict[str, Any] = {"dataset": "fake", "student": MODEL, "epochs": 1, "set": small, "runs": runs, **QUIET}
    before = objects.identity(net)
    taught = ardbench.distill("rslad-digits", teachers=[net], **words)
    (teacher,) = taught.teachers
    assert (teacher.identity, teacher.sha256, teacher.weights) == (before, objects.sha256(net), "")
    assert objects.identity(net) == before and next(net.parameters()).requires_grad
    torch.save(net.state_dict(), runs / "net.pt")
    by_file = ardbench.distill("rslad-digits", teachers=[f"{runs / 'net.pt'}:{MODEL}"], **words)
    assert by_file.path != taught.path
    assert [torch.equal(*pair) for pair in weights_of(taught, by_file)].count(False) == 0
    assert ardbench.distill("rslad-digits", teachers=[net], **words) == taught
    assert ardbench.distill("rslad-digits", teachers=[fake(5)], **{**words, "time_limit": 1e-6}).path != taught.path
    with pytest.raises(ardbench.ArdbenchError, match=r"is a network object of Python .* give the same one to"):
        networks.of_teacher(teacher, "fake", CPU)
    assert (
        call("status", runs).exit_code
        == call("report", taught.path).exit_code
        == call("verify", taught.path).exit_code
        == 0
    )


def weights_of(*several: Run) -> list[tuple[Tensor, ...]]:
    nets = [networks.of_run(one, "last", CPU).state_dict() for one in several]
    return list(zip(*(net.values() for net in nets), strict=True))


def test_a_teacher_that_cannot_be_copied_is_refused(runs: Path, net: Network) -> None:
    net.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(
        ardbench.ArdbenchError, match=r"cannot be copied \(TypeError: cannot pickle '_thread\.lock' object\)"
    ):
        ardbench.distill("rslad-digits", dataset="fake", student=MODEL, teachers=[net], runs=runs, **QUIET)
    with pytest.raises(ardbench.ArdbenchError, match="3 teaches nothing"):
        ardbench.distill("rslad-digits", teachers=[3], runs=runs)  # type: ignore[list-item]


# attack ---------------------------------------------------------------------------------------------------------------


def test_attack_gives_the_verdicts_of_an_evaluation(run: Run, runs: Path, net: Network) -> None:
    from ardbench.data.load import load

    split = load("fake", CPU, None).test
    x, y = split.pixels(slice(None)), split.labels
    for protocol in ("clean", "pgd20", "aa:apgd-ce"):
        found = ardbench.attack(net, x, y, protocol, progress=Progress())
        other = ardbench.evaluate(f"{run.path}@best", protocols=[protocol], runs=runs, **QUIET)
        assert found.robust.tolist() == other.robust[protocol].tolist()
        assert found.x_adv.shape == x.shape and (found.x_adv - x).abs().max() <= 8 / 255 + 1e-6
        said = net.eval()(found.x_adv).argmax(1)
        assert ((said == y) | ~found.robust).all() and (said[~found.robust] != y[~found.robust]).all()
        assert torch.equal(found.x_adv[found.robust], x[found.robust])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": 255 * torch.ones(4, 3, 8, 8)}, r"x lies in \[255, 255\]: give pixels in \[0, 1\]"),
        ({"x": torch.full((4, 3, 8, 8), torch.nan)}, r"x lies in \[nan, nan\]"),
        ({"x": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, r"x is torch\.uint8 \(4, 3, 8, 8\): give images"),
        ({"x": torch.zeros(3, 8, 8)}, r"x is torch\.float32 \(3, 8, 8\)"),
        ({"x": torch.zeros(4, 1, 8, 8)}, "cannot take images"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, r"y is torch\.int64 \(3,\): give 4 integer classes"),
        ({"y": torch.zeros(4)}, r"y is torch\.float32"),
        ({"y": torch.full((4,), -1)}, "y holds the class -1"),
        ({"y": torch.full((4,), 99)}, r"gives \(2, \d+\) for 2 images: a network gives logits \(2, 100\)"),
        ({"protocol": "pgd21"}, "Unknown protocol"),
        ({"protocol": "transfer"}, "is crafted on another network"),
        ({"eps": 8}, "larger than any pixel"),
        ({"eps": -0.1}, "eps = -0.1 is no number of at least 0"),
        ({"norm": "l1"}, "norm = 'l1' is none of linf, l2"),
        ({"batch": 0}, "batch = 0 is no whole number of at least 1"),
        ({"batch": 2.5}, "batch = 2.5 is no whole number of at least 1"),
        ({"eps": "8/255"}, "eps = '8/255' is no number of at least 0"),
        ({"x": [[0.5]]}, "x is a list: give a tensor"),
        ({"y": [0, 0, 0, 0]}, "y is a list: give a tensor"),
        ({"net": abs}, "is no network: give a torch.nn.Module"),
        ({"surrogate": 3, "protocol": "transfer"}, "3 teaches nothing"),
        ({"net": nn.Flatten(0)}, "for 2 images: a network gives logits"),
    ],
)
def test_attack_refuses_in_a_sentence(change: dict[str, Any], said: str) -> None:
    words = {"net": fake(), "x": torch.zeros(4, 3, 8, 8), "y": torch.zeros(4, dtype=torch.int64)} | change
    with pytest.raises(ardbench.ArdbenchError, match=said):
        ardbench.attack(**words, progress=Progress())


def test_one_word_is_not_its_letters(run: Run, runs: Path) -> None:
    found = ardbench.evaluate(run, protocols="clean", checkpoints="best", n=10, runs=runs, **QUIET)
    assert [(one.protocol, one.checkpoint) for one in found.measured] == [("clean", "best")]
    assert set(ardbench.results(runs, derived="worst-class:clean")["protocol"]) == {"clean", "worst-class:clean"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": "20"}, "n = '20' is no whole number"),
        ({"seed": True}, "seed = True is no whole number"),
        ({"batch": "all"}, "batch = 'all' is no whole number"),
        ({"eps": float("nan")}, "eps = nan is no number of at least 0"),
        ({"time_limit": "9m"}, "time_limit = '9m' is no number of seconds"),
        ({"time_limit": -1}, "time_limit = -1 is no number of seconds"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
        ({"protocols": [3]}, "Unknown protocol '3'"),
    ],
)
def test_evaluate_refuses_in_a_sentence(run: Run, runs: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ardbench.ArdbenchError, match=said):
        ardbench.evaluate(run, **({"protocols": ["pgd20"], "runs": runs} | QUIET | change))
    assert not (run.path / "eval").exists()


# compare --------------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_one_alone_is_compared_with_nothing(run: Run, runs: Path) -> None:
    with pytest.raises(ardbench.ArdbenchError, match="name two or more"):
        ardbench.compare_all([run], runs=runs)


def test_compare_gives_what_the_command_prints(run: Run, runs: Path) -> None:
    sources = [f"{run.path}@best", f"{run.path}@last", f"{runs / 'third.pt'}:{MODEL}"]
    torch.save(fake(7).state_dict(), runs / "third.pt")
    for source in sources:
        ardbench.evaluate(
            source, "fake" if "third" in source else None, protocols=["clean", "pgd20"], runs=runs, **QUIET
        )
    word = ardbench.compare(*sources[:2], runs=runs)
    assert word.places == ("best", "last")
    document = json.loads(call("compare", *sources[:2], "--runs", runs, "--json").stdout)
    assert document["sentence"] == word.sentence
    (about,) = (one for one in document["differences"] if one["protocol"] == word.about)
    assert (about["difference"], about["low"], about["high"], about["p"]) == (word.difference, *word.interval, word.p)
    pairs = ardbench.compare_all(sources, runs=runs)
    alone = [ardbench.compare(*pair, protocol=pairs[0].about, runs=runs).p for pair in combinations(sources, 2)]
    assert [one.p for one in pairs] == pytest.approx(holm(alone)) and len({one.about for one in pairs}) == 1
    text = call("compare", *sources, "--runs", runs).stdout
    assert all(one.sentence in text for one in pairs) and text.count("Holm-corrected for 3 pairs") == 3


# export ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_exported_with_its_normalisation_and_what_was_measured(tmp_path: Path) -> None:
    torch.save(fake().state_dict(), tmp_path / "net.pt")
    source, runs, out = f"{tmp_path / 'net.pt'}:{MODEL}+mean=0.3+std=0.5", tmp_path / "runs", tmp_path / "out"
    found = ardbench.evaluate(source, "fake", protocols=["clean"], runs=runs, **QUIET)
    words = ("--dataset", "fake", "--runs", runs, "--out", out)
    assert call("export", source, *words).exit_code == 0
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ardbench.load(out)(x), fake()((x - 0.3) / 0.5))
    again = ardbench.evaluate(out, protocols=["clean"], runs=runs, **QUIET)
    assert (again.robust["clean"] == found.robust["clean"]).all()
    text = (out / "README.md").read_text()
    assert f"{100 * found.table['accuracy'][0]:.1f}" in text and "knows no recipe" in text and str(tmp_path) not in text
    assert call("export", source, *words).exit_code == 0  # renewed
    torch.save(fake(1).state_dict(), tmp_path / "net.pt")
    refused = call("export", source, *words)
    assert refused.exit_code == 2 and "the export of another" in refused.stderr
    copied = call("export", out, "--out", tmp_path / "copy")
    assert copied.exit_code == 2 and "is an exported network already: copy the folder." in copied.stderr
