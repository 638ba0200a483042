"""`ardbench doctor`: what is pasted into a bug report, and what must not be in it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from cli_call import call

from ardbench import data
from ardbench.verbs.machine import anonymous


@pytest.fixture
def somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of a user and a machine with telling names, and the folder of runs in it."""
    home = tmp_path / "home" / "ada-lovelace"
    (home / "runs").mkdir(parents=True)
    for name in ("HOME", "ARDBENCH_DATA"):
        monkeypatch.setenv(name, str(home))
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "ada-lovelace")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-ada-lovelace@engine-1")
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "ARDBENCH_TOKEN"):
        monkeypatch.setenv(name, "hf_secret")
    for name in ("HTTPS_PROXY", "http_proxy", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "https://ada:hf_secret@proxy.example.org:3128")
    monkeypatch.setattr(socket, "gethostname", lambda: "engine-1.example.org")
    monkeypatch.chdir(home)
    return home


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_nobody_and_nothing_secret_is_named(somebody: Path, more: tuple[str, ...]) -> None:
    result = call("doctor", *more)
    assert result.exit_code == 0
    for secret in (str(somebody), "lovelace", "engine-1", "hf_secret", "HF_TOKEN", "proxy", getpass.getuser()):
        assert secret not in result.output, secret
    assert "~/runs, " in result.stdout and "GPU-of-USER@HOST" in result.stdout


def test_names_within_other_words_are_no_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "al"))
    monkeypatch.setenv("LOGNAME", "al")
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    assert anonymous(f"total {tmp_path}/al/x, /scratch/al_runs on box") == "total ~/x, /scratch/USER_runs on HOST"


def test_what_is_told_is_what_torch_and_the_disk_say(tmp_path: Path) -> None:
    told = json.loads(call("doctor", "--json", "--runs", tmp_path / "absent", "--data-root", tmp_path).stdout)
    assert told["Versions"]["torch"] == torch.__version__.partition("+")[0]
    if (root := Path(data.__file__).parents[2] / ".git").exists():
        commit = subprocess.check_output(["git", "-C", root.parent, "rev-parse", "HEAD"], text=True).strip()
        assert f", commit {commit[:12]}" in told["Versions"]["ardbench"]
    assert told["Versions"]["python"] == platform.python_version()
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert told["Precision"]["cpu bf16"].startswith("yes" if units else "emulated")
    assert told["Machine"]["cores"].endswith(f"torch takes {torch.get_num_threads()} threads")
    assert ("cuda:0" in told["Machine"]) == torch.cuda.is_available()
    assert "(not there yet)" in told["Folders"]["runs"] and "0 runs" in told["Folders"]["runs"]
    assert told["Environment"]["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "not set")
    assert told["Data sets"].keys() == data.DATASETS.keys()
    assert told["Images lie"].keys() == data.DATASETS.keys()
    assert told["Images lie"]["digits"].startswith("on the device: they take 115 kB, and ")
    assert (told["Data sets"]["digits"], told["Data sets"]["svhn"]) == ("embedded", "absent")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK or Path(path) != tmp_path)
    told = json.loads(call("doctor", "--json", "--runs", tmp_path, "--data-root", tmp_path.parent).stdout)["Folders"]
    assert ["cannot be written" in told[name] for name in ("runs", "data")] == [True, False]


def test_data_sets_are_found_by_the_names_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "tiny-imagenet-200").mkdir()
    for name in ("train_32x32.mat", "cifar-100-python.tar.gz"):
        (tmp_path / name).touch()
    told = json.loads(call("doctor", "--json", "--data-root", tmp_path).stdout)["Data sets"]
    assert [told[name] for name in ("cifar10", "cifar100", "svhn", "tiny-imagenet")] == [
        "absent", "found", "absent", "found",
    ]  # fmt: skip


def test_piped_it_is_markdown() -> None:
    lines = [line for line in call("doctor").stdout.splitlines() if line]
    assert lines[0] == "### Versions" and all(line.startswith(("### ", "- ")) for line in lines)


def test_a_folder_whose_name_is_no_text_is_told_with_escapes() -> None:
    assert r"/b\udcff (not there yet)" in call("doctor", "--data-root", "b\udcff").stdout
