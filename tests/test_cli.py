"""The command line: exit codes and what is printed, where."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rich_click as click
from cli_call import call
from click.testing import CliRunner

from ardbench.cli import COMMANDS, ardbench, options
from ardbench.listeners.screen import Bars, bars

SMALL = ["--epochs", "1", "--set", "data.train_images=64", "--set", "data.validation=20", "--dataset", "fake"]
TEACHER = [
    "train",
    "pgd-at-digits",
    *SMALL,
    "--set",
    "attack.steps=1",
    "--set",
    "selection.protocol=fgsm",
    "--device",
    "cpu",
]
STUDENT = ["distill", "rslad-digits", *TEACHER[2:]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trained teacher."""
    root = tmp_path_factory.mktemp("cli") / "runs"
    assert call(*TEACHER, "--runs", root).exit_code == 0
    return root


@pytest.fixture(scope="module")
def teacher(runs: Path) -> Path:
    """The directory of the trained teacher."""
    return next(runs.glob("pgd-at-digits-*"))


def test_every_help_names_every_option_in_a_sentence_and_loads_no_torch() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom ardbench.cli import COMMANDS, ardbench\n"
        "for words in [['--help'], ['--version'], *([name, '--help'] for name in COMMANDS)]:\n"
        "    result = CliRunner().invoke(ardbench, words)\n"
        "    assert result.exit_code == 0 and result.stdout, (words, result.output)\n"
        "heavy = {'torch', 'pandas', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    for name in COMMANDS:
        command = ardbench.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None and command.help and command.help.strip()[0].isupper()
        for option in command.params:
            text = getattr(option, "help", None)
            assert option.param_type_name == "argument" or (text and text[0].isupper() and text.endswith(".")), (
                option.name
            )


def test_called_with_nothing_the_group_prints_its_help() -> None:
    result = call()
    assert result.exit_code == 2 and "reproduce" in result.stdout and not result.stderr


def test_version_is_one_line() -> None:
    from ardbench import __version__

    assert call("--version").stdout == f"ardbench {__version__}\n"


def test_cuda_that_is_absent_is_refused(runs: Path, teacher: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is present")
    result = call("eval", teacher, "--device", "cuda")
    assert result.exit_code == 2 and "torch sees no CUDA device" in result.stderr


def test_train_prints_the_directory_first_and_the_next_command_last(tmp_path: Path) -> None:
    result = call(*TEACHER, "--runs", tmp_path)
    assert result.exit_code == 0
    first, *_, last = result.stdout.splitlines()
    assert Path(first).parent == tmp_path and (Path(first) / "done").is_file()
    assert last == f"Next: ardbench eval {first}"
    assert "Device: cpu (" in result.stderr and "epoch 1/1: 64/64 images" in result.stderr


def test_the_same_command_again_does_nothing(runs: Path, teacher: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*")}
    result = call(*TEACHER, "--runs", runs)
    assert result.exit_code == 0 and "Already done" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*")} == before


def test_quiet_prints_no_progress_but_the_device(tmp_path: Path) -> None:
    result = call(*TEACHER, "--runs", tmp_path, "--quiet")
    warning, device = result.stderr.splitlines()
    assert warning.startswith("pgd-at-digits was written for digits. ") and device.startswith("Device: ")


def test_train_json_is_one_document(tmp_path: Path) -> None:
    result = call(*TEACHER, "--runs", tmp_path, "--json")
    document = json.loads(result.stdout)
    assert document["finished"] and not document["already_done"] and len(document["metrics"]) == 1
    assert document["next"] == f"ardbench eval {document['run']}"
    assert document["done"]["weights"].keys() == set(document["checkpoints"]) == {"last", "best"}


def test_a_time_limit_counts_from_when_the_command_was_read() -> None:
    seen: list[float] = []

    @click.command()
    @options.deadline
    def shown(deadline: float) -> None:
        time.sleep(0.1)  # as long as torch takes to load
        seen.append(deadline)

    before = time.monotonic()
    assert CliRunner().invoke(shown, ["--time-limit", "1h"]).exit_code == 0
    assert before + 3600 <= seen[0] < time.monotonic() + 3600 - 0.1


def test_the_accuracies_of_eval_come_last_and_checks_that_are_ok_are_counted(teacher: Path) -> None:
    words = ("eval", teacher, "--protocol", "clean", "--protocol", "pgd20", "--checkpoint", "last", "--device", "cpu")
    document, lines = json.loads(call(*words, "--json").stdout), call(*words).stdout.splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["last", "clean"], ["last", "pgd20"]]
    levels = [one["verdict"] for one in document["trust"]]
    (counted,) = (line for line in lines if line.startswith("Trust checks: "))
    assert counted == f"Trust checks: {levels.count('ok')} of {len(levels)} ok, but" and 0 < levels.count("ok") < len(
        levels
    )
    told = {(line.split()[0], line.split()[1]) for line in lines if line.split()[:1] and line.split()[0] in levels}
    assert told == {(one["verdict"], one["check"]) for one in document["trust"] if one["verdict"] != "ok"}


def test_a_run_stopped_by_its_time_limit_goes_on_with_the_same_command(tmp_path: Path) -> None:
    words = [*TEACHER, "--epochs", "2", "--set", "data.batch=16", "--runs", tmp_path]
    stopped = call(*words, "--time-limit", "0.001s")
    assert stopped.exit_code == 3
    assert stopped.stdout.splitlines()[-1].startswith(
        "To go on, type the same command again: ardbench train pgd-at-digits"
    )
    again = call(*words)
    assert again.exit_code == 0 and "Resuming at epoch 1, batch 2." in again.stderr


def test_a_directory_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run = Path(call(*TEACHER, "--runs", tmp_path).stdout.splitlines()[0])
    document = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(document | {"identity": "0" * 64}))
    result = call(*TEACHER, "--runs", tmp_path)
    assert result.exit_code == 2 and "belongs to another recipe, seed or teacher" in result.stderr


def test_distill_learns_from_a_run_and_notices_when_it_changes(tmp_path: Path) -> None:
    teacher = Path(call(*TEACHER, "--runs", tmp_path).stdout.splitlines()[0])
    words = [*STUDENT, "--teacher", f"robust={teacher}", "--runs", tmp_path]
    assert call(*words).exit_code == 0
    assert "Already done" in call(*words).stdout
    (teacher / "best.safetensors").write_bytes((teacher / "last.safetensors").read_bytes() + b" ")
    result = call(*words)
    assert result.exit_code == 2 and "learnt from a teacher whose weights have changed" in result.stderr


def test_eval_tabulates_and_stores(teacher: Path) -> None:
    words = ["eval", teacher, "--protocol", "clean", "--protocol", "fgsm", "--checkpoint", "last", "--device", "cpu"]
    result = call(*words)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines if line[:1] == ["last"]] == [["last", "clean"], ["last", "fgsm"]]
    assert (teacher / "eval" / "last" / "fgsm.json").is_file()
    again = call(*words)
    assert again.stdout.count("stored") == 2
    assert [line.split()[2] for line in again.stdout.splitlines() if "stored" in line] == [
        line[2] for line in lines if line[:1] == ["last"]
    ]


def test_eval_json_is_one_document_with_fractions(teacher: Path) -> None:
    result = call("eval", teacher, "--protocol", "clean", "--n", "20", "--json", "--device", "cpu")
    document = json.loads(result.stdout)
    assert document["finished"] and document["model"] == "resnet8-tiny" and document["dataset"] == "fake"
    assert document["threat"] == json.loads((teacher / "config.json").read_text())["recipe"]["evaluation"]
    assert [row["checkpoint"] for row in document["results"]] == ["best", "last"]
    for row in document["results"]:
        verdicts = json.loads((teacher / "eval" / row["checkpoint"] / "clean-n20.json").read_text())
        right = sum(a == b for a, b in zip(verdicts["labels"], verdicts["predictions"], strict=True))
        assert row["accuracy"] == right / 20 and row["low"] <= row["accuracy"] <= row["high"] and row["n"] == 20


def test_eval_says_when_it_measured_a_subset(teacher: Path) -> None:
    assert "20 of 64" in call("eval", teacher, "--protocol", "clean", "--n", "20", "--device", "cpu").stdout


def test_eval_fast_keeps_verdicts_and_images_beside_those_of_the_plain_protocol(
    teacher: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ardbench.evaluation.autoattack.computes_bf16", lambda device: True)
    words = ["eval", teacher, "--protocol", "aa:apgd-ce,apgd-t", "--checkpoint", "last", "--device", "cpu", "--n", 20]
    fast = [*words, "--protocol", "clean", "--fast", "--keep-adversarial", "--batch", "auto", "--runs", runs]
    assert call(*words).exit_code == 0
    result = call(*fast, "--json")
    rows = json.loads(result.stdout)["results"]
    assert [row["protocol"] for row in rows] == ["aa-fast:apgd-ce,apgd-t", "clean"]
    assert rows[0]["taken"].keys() == {"clean", "apgd-ce", "apgd-t"}
    stems = [f"{name}-apgd-ce+apgd-t-n20" for name in ("aa", "aa-fast")]
    suffixes = [(teacher / "eval" / "last" / f"{stem}.adversarial.safetensors").exists() for stem in stems]
    assert suffixes == [False, True]
    plain, kept = (json.loads((teacher / "eval" / "last" / f"{stem}.json").read_text()) for stem in stems)
    assert (plain["batch"], {kept["batch"]}) == (500, set(json.loads((runs / "batches.json").read_text()).values()))
    table = call(*fast)
    assert "aa-fast:apgd-ce,apgd-t, last: points taken by clean" in table.stdout
    assert "aa-fast:apgd-ce,apgd-t: attacked in bf16, every success confirmed in fp32." in table.stdout


def test_another_threat_leaves_the_runs_own_verdicts_alone(teacher: Path) -> None:
    own = ["eval", teacher, "--protocol", "fgsm", "--checkpoint", "last", "--device", "cpu", "--json"]
    before = json.loads(call(*own).stdout)["results"][0]["accuracy"]
    other = json.loads(call(*own, "--eps", "0").stdout)
    clean = json.loads(call("eval", teacher, "--protocol", "clean", *own[4:]).stdout)
    assert other["threat"]["eps"] == 0 and other["results"][0]["accuracy"] == clean["results"][0]["accuracy"]
    after = json.loads(call(*own).stdout)["results"][0]
    assert after["stored"] and after["accuracy"] == before


def test_eval_of_a_file_agrees_with_its_run(teacher: Path, runs: Path) -> None:
    words = ["--protocol", "fgsm", "--eps", "0.2", "--device", "cpu", "--json"]
    file = call(
        "eval", teacher / "last.safetensors", "--model", "resnet8-tiny", "--dataset", "fake", "--runs", runs, *words
    )
    run = call("eval", teacher, "--checkpoint", "last", *words)
    assert json.loads(file.stdout)["results"][0]["accuracy"] == json.loads(run.stdout)["results"][0]["accuracy"]
    assert len(list((runs / "files").glob("last-*/eval-other/linf-0.2/file/fgsm.json"))) == 1


def test_transfer_from_the_network_itself_is_pgd20(teacher: Path, tmp_path: Path) -> None:
    """The surrogate's draws and steps are pgd20's, so crafting on the same weights fools the same images."""
    words = ["--checkpoint", "last", "--device", "cpu", "--json"]
    (tmp_path / "own.toml").write_text(
        '[own]\nversion = 1\nkind = "pgd"\nobjective = "ce"\nsteps = 20\nstep_size = "2/255"\n'
        'reference_eps = "8/255"\nstart = "uniform"\nrestarts = 1\n'
    )
    asked = ["--protocol", "pgd20", "--protocol", "transfer", "--protocol", f"{tmp_path}/own.toml:own"]
    rows = json.loads(call("eval", teacher, *asked, "--surrogate", f"{teacher}@last", *words).stdout)["results"]
    assert [row["protocol"] for row in rows] == ["pgd20", "transfer", "own"]
    assert len({row["accuracy"] for row in rows}) == 1
    assert rows[1]["notes"] == [f"crafted on {teacher.name}@last."]
    other = json.loads(call("eval", teacher, *asked[2:4], "--surrogate", f"{teacher}@best", *words).stdout)
    assert not other["results"][0]["stored"]


def test_eval_stopped_by_its_time_limit_says_how_to_go_on(teacher: Path) -> None:
    words = ["eval", teacher, "--protocol", "pgd20", "--seed", "5", "--time-limit", "0.001s", "--device", "cpu"]
    result = call(*words)
    assert result.exit_code == 3 and result.stdout.splitlines()[-1].startswith(
        "To go on, type the same command again: "
    )
    document = json.loads(call(*words, "--json").stdout)
    assert document["finished"] is False and document["results"] == []


def test_report_prints_or_writes_tables(teacher: Path, runs: Path, tmp_path: Path) -> None:
    call("eval", teacher, "--protocol", "clean", "--checkpoint", "last", "--device", "cpu")
    assert "pgd-at-digits" in call("report", "--runs", runs).stdout
    result = call("report", teacher, "--out", tmp_path)
    assert sorted(map(Path, result.stdout.splitlines())) == sorted(tmp_path.iterdir())
    assert {path.name for path in tmp_path.iterdir()} >= {"report.csv", "report.md", "report.tex"}


def test_show_of_a_run(teacher: Path) -> None:
    result = call("show", teacher)
    assert result.exit_code == 0 and "resnet8-tiny" in result.stdout and "done" in result.stdout
    assert json.loads(call("show", teacher, "--json").stdout)["checkpoints"] == ["last", "best"]


def test_ctrl_c_before_there_is_anything_to_save_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ardbench.verbs.training.resolve", interrupted)
    result = call("train", "pgd-at-digits")
    assert result.exit_code == 130 and result.stderr.strip().startswith("Interrupted: what was saved before stays")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_saves_and_the_same_command_finishes(tmp_path: Path) -> None:
    words = ["ardbench", *TEACHER, "--runs", str(tmp_path), "--epochs", "200", "--set", "data.batch=16"]
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None and process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert out.splitlines()[-1] == f"To go on, type the same command again: {shlex.join(words)}"
    again = call(*words[1:], "--time-limit", "0.001s")
    assert again.exit_code == 3 and "Resuming at epoch" in again.stderr


def test_bars_count_the_epoch_and_the_whole_run() -> None:
    with bars() as display:
        listener = Bars(display)
        listener.task("epoch 2/4", 100)
        listener.update(30, loss=1.25)
        whole, epoch = display.tasks
        assert (whole.completed, whole.total, epoch.completed, epoch.total) == (130, 400, 30, 100)
        assert epoch.fields["numbers"] == "loss 1.25"
        listener.task("epoch 3/4", 100)
        assert [task.completed for task in display.tasks] == [130, 0]
