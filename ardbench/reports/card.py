"""The model card of an exported network: README.md with the metadata block that model hubs read. Torch-free."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ardbench import __version__, data
from ardbench.campaigns.cells import of_present_weights
from ardbench.data.extra import file_name
from ardbench.errors import printable
from ardbench.evaluation import trust
from ardbench.evaluation.trust import FOR_CHECKS
from ardbench.evaluation.verdicts import Verdicts
from ardbench.reports.classes import class_tables, read_evaluated
from ardbench.reports.evaluations import evaluations, protocol_order, threat_name, training_seconds
from ardbench.reports.footnotes import SINGLE_SEED
from ardbench.reports.rendering import markdown, marked
from ardbench.reports.tables import Entry, Row, Table
from ardbench.runs import Run
from ardbench.written import without_folder

HUB_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
}
"""Data set -> its name on huggingface.co; one that is not there is left out of the metadata's list."""

TAGS = ("image-classification", "adversarial-robustness", "pytorch")
NOTHING = "## Results\n\nNothing has been measured on this checkpoint."
LIMITS = (
    "An accuracy under attack is an upper bound: a stronger attack may find what these did not.",
    "The numbers hold for the threat named: not for a larger radius, another norm, corruptions, or other kinds of images.",
)

SNIPPET = """import ardbench
import torch

net = ardbench.load(".")  # this folder; {normalised}
images = torch.rand(4, {image})  # put your own here, pixels in [0, 1]
with torch.no_grad():
    logits = net(images)  # (4, {num_classes})
{answer}
"""


def card(run: Run, checkpoint: str, config: Mapping[str, Any]) -> str:
    """Return the card of a checkpoint as Markdown.

    Args:
        run: finished.
        checkpoint: the one that was exported.
        config: what its config.json says.
    """
    found = _found(run, checkpoint)
    sections = [
        f"# {marked(run.path.name)}, {checkpoint}",
        _about(run, checkpoint),
        f"## Loading\n\nIn this folder, with ardbench {__version__} or later installed:",
        f"```python\n{_snippet(config)}```",
        _results(run, checkpoint, found),
        f"## Training\n\n{_bullets(_training(run, config))}",
        f"## What the numbers do not say\n\n{_bullets(_limits(run, checkpoint, config, found))}",
    ]
    return "\n".join([f"---\n{_yaml(_metadata(run, config, found))}---\n", "\n\n".join(sections), ""])


def card_of_file(config: Mapping[str, Any], found: Sequence[Verdicts], findings: Iterable[str]) -> str:
    """Return the card of a network that ardbench did not train.

    Args:
        config: what its config.json says.
        found: evaluations of it.
        findings: what the trust checks said.
    """
    dataset, source = data.info(config["dataset"]), config["source"]
    hub = HUB_DATASETS.get(dataset.name)
    about = {"library_name": "ardbench", "pipeline_tag": "image-classification", "tags": list(TAGS)}
    order = protocol_order(verdicts.protocol for verdicts in found)
    results = sorted(found, key=lambda verdicts: (order.index(verdicts.protocol), -verdicts.n))
    subset = ["Where n is below the size of the test set, a subset was measured, always the same one."]
    limits = [*LIMITS, *(subset if any(one.n < one.total for one in found) else [])]
    sections = [
        f"# {marked(source['name'])}",
        f"`{config['architecture']}` on {dataset.title}, from the file {_code(source['name'])} with sha256 "
        f"{_code(source['sha256'])}. ardbench did not train it and knows no recipe.",
        f"## Loading\n\nIn this folder, with ardbench {__version__} or later installed:",
        f"```python\n{_snippet(config)}```",
        markdown([_table(results, findings)]).rstrip("\n") if results else NOTHING,
        f"## What the numbers do not say\n\n{_bullets(iter(limits))}",
    ]
    metadata = about | ({"datasets": [hub]} if hub else {}) | {"metrics": ["accuracy"]}
    return "\n".join([f"---\n{_yaml(metadata)}---\n", "\n\n".join(sections), ""])


def _found(run: Run, checkpoint: str) -> list[Verdicts]:
    """Return the evaluations of the checkpoint's present weights, in the order of protocols, without those for checks."""
    several = [
        verdicts
        for name, _, verdicts in evaluations(run)
        if name == checkpoint and verdicts.protocol not in FOR_CHECKS and of_present_weights(run, checkpoint, verdicts)
    ]
    order = protocol_order(verdicts.protocol for verdicts in several)
    return sorted(several, key=lambda verdicts: (order.index(verdicts.protocol), -verdicts.n))


def _metadata(run: Run, config: Mapping[str, Any], found: Sequence[Verdicts]) -> dict[str, Any]:
    """Return the block that hubs read, in their schema; the license is left to whoever publishes."""
    dataset = run.recipe.data.name
    hub = HUB_DATASETS.get(dataset)
    tags = [*TAGS, run.recipe.method["name"]]
    about = {
        "library_name": "ardbench",
        "pipeline_tag": "image-classification",
        "tags": [*tags, "knowledge-distillation"] if run.teachers else tags,
        **({"datasets": [hub]} if hub else {}),
        "metrics": ["accuracy"],
    }
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": hub or dataset, "name": data.info(dataset).title},
        "metrics": [_metric(verdicts) for verdicts in found],
    }
    index = [{"name": f"{config['architecture']}-{run.identity[:8]}", "results": [result]}]
    return about | ({"model-index": index} if found else {})


def _metric(verdicts: Verdicts) -> dict[str, Any]:
    low, high = verdicts.interval
    name = "Accuracy" if verdicts.protocol == "clean" else f"Accuracy under {verdicts.protocol}"
    args = {"protocol": verdicts.protocol, "version": verdicts.version, "n": verdicts.n, "low": low, "high": high}
    return {
        "type": "accuracy",
        "value": verdicts.accuracy,
        "name": name if verdicts.n == verdicts.total else f"{name}, {verdicts.n} of {verdicts.total} images",
        "args": args if verdicts.protocol == "clean" else args | verdicts.threat,
    }


def _yaml(tree: Mapping[str, Any], indent: str = "") -> str:
    """Return YAML in blocks: a string is written as in JSON, which YAML reads alike."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key}:\n{_yaml(value, indent + '  ')}")
        elif isinstance(value, list):
            lines.append(f"{indent}{key}:\n{''.join(_item(one, indent) for one in value)}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)


def _item(value: Any, indent: str) -> str:
    """Return an entry of a list; the dash stands in the first line's indentation."""
    if isinstance(value, Mapping):
        return f"{indent}- {_yaml(value, indent + '  ').removeprefix(indent + '  ')}"
    return f"{indent}- {json.dumps(value, ensure_ascii=False)}\n"


def _about(run: Run, checkpoint: str) -> str:
    recipe = run.recipe
    names = " and ".join(marked(Path(teacher.source).name) for teacher in run.teachers)
    taught = f", distilled from {names}" if run.teachers else ""
    extra = ""
    if recipe.data.extra and recipe.data.extra_share and recipe.data.extra_sha256:
        file = f"{_code(file_name(recipe.data.extra))} with sha256 `{recipe.data.extra_sha256[:16]}`"
        extra = f" and, {100 * recipe.data.extra_share:g} % of each batch, the images of {file}"
    compared = f"accuracy under {recipe.selection.protocol}"
    if recipe.selection.score == "weighted":
        compared = f"mean of clean accuracy and {compared}"
    judged = "test images" if recipe.selection.by == "best-test" else "validation images"
    selected = {
        "best": f"the epoch with the highest {compared} on {judged}",
        "last": "the last epoch",
        "averaged": f"an average over training ({recipe.average.kind})",
    }
    return (
        f"`{recipe.student}`, trained with `{recipe.method['name']}` on {data.info(recipe.data.name).title}{extra}{taught}. "
        f"Checkpoint `{checkpoint}`: {selected.get(checkpoint, 'the weights after that epoch')}."
    )


def _snippet(config: Mapping[str, Any]) -> str:
    if config["classes"]:
        answer = "print([net.info.classes[label] for label in logits.argmax(1)])"
    else:
        answer = "print(logits.argmax(1).tolist())"
    return SNIPPET.format(
        normalised="it normalises its input itself" if config["normalise"] else "it takes pixels as they are",
        image=", ".join(map(str, config["image"])),
        num_classes=config["num_classes"],
        answer=answer,
    )


def _results(run: Run, checkpoint: str, found: Sequence[Verdicts]) -> str:
    """Return the tables of results, and what the trust checks said where they were made."""
    if not found:
        return NOTHING
    made = _table(found, trust_findings(run.path / "eval" / checkpoint))
    return markdown([made, *class_tables(read_evaluated([run]))]).rstrip("\n")


def _table(found: Sequence[Verdicts], findings: Iterable[str]) -> Table:
    """Return the table of results, with what is to be known of them below it."""
    rows = [Row(tuple(map(Entry, _cells(verdicts)))) for verdicts in found]
    header = ("protocol", "threat", "version", "accuracy in %", "95 % interval", "n")
    notes = [
        "n of the test images; the interval is Wilson's, of these n images alone.",
        *dict.fromkeys(f"{verdicts.protocol}: {note}" for verdicts in found for note in verdicts.notes),
        *findings,
    ]
    return Table("Results", header, 2, tuple(rows), tuple(notes))


def _cells(verdicts: Verdicts) -> tuple[str, ...]:
    """Return the words of a line of results."""
    low, high = verdicts.interval
    threat = "" if verdicts.protocol == "clean" else threat_name(**verdicts.threat)
    numbers = (
        f"{100 * verdicts.accuracy:.1f}",
        f"[{100 * low:.1f}, {100 * high:.1f}]",
        f"{verdicts.n} of {verdicts.total}",
    )
    return verdicts.protocol, threat, str(verdicts.version), *numbers


def trust_findings(folder: Path) -> Iterator[str]:
    """Yield what the trust checks said in a folder, if they were made; what fewer images say alike is left out."""
    told = set[tuple[str, str]]()
    for path in sorted(folder.glob("trust*.json"), key=lambda path: (path.stem != trust.STEM, path.name)):
        findings = [one for one in trust.load(path)[0] if (one.check, one.level) not in told]
        told.update((one.check, one.level) for one in findings)
        for one in findings:
            yield f"Trust check {one.check} ({one.level}, {path.name}): {one.reason}"


def _epochs(run: Run) -> str:
    planned, made = run.recipe.schedule.epochs, (run.done or {}).get("epochs")
    return f"{planned} epochs" if made in (None, planned) else f"{made} of {planned} epochs (selection.patience)"


def _training(run: Run, config: Mapping[str, Any]) -> Iterator[str]:
    recipe, known = run.recipe, run.environment
    yield f"Recipe {_code(recipe.name)}, seed {recipe.seed}, {_epochs(run)}; every value is in `config.json`."
    yield f"The recipe's threat: {threat_name(recipe.threat.norm, recipe.threat.eps)}."
    for teacher in config["teachers"]:
        name, model, digest = marked(teacher["name"]), _code(teacher["model"]), _code(teacher["sha256"])
        yield f"Teacher ({marked(teacher['role'])}): {name}, {model}, sha256 {digest}."
    for asked in run.teachers_checked or []:
        yield f"Teacher ({marked(asked.role)}) before the first epoch: {marked(asked.said)}."
        yield from (marked(f"Teacher ({asked.role}), {reason}") for reason in asked.warnings)
    if "argv" in known:
        yield f"Command: {_code(shlex.join(map(without_folder, known['argv'])))}."
    hours = training_seconds(run) / 3600
    several = f"{known['processes']} processes, each on " if known.get("processes", 1) > 1 else ""
    device = known.get("device_name") or (run.done or {}).get("device", "an unrecorded device")
    yield f"{hours:.3g} hours on {several}{marked(device)}."
    if known:
        changed = " with uncommitted changes" if known.get("git_dirty") else ""
        ours, sha, torch, started = (
            marked(known.get(name, "")) for name in ("ardbench", "git_sha", "torch", "started")
        )
        yield f"ardbench {ours}{f', commit {sha}{changed}' if sha else ''}, torch {torch}, begun {started}."
    yield f"Weights: `model.safetensors`, sha256 `{config['sha256']}`."


def _limits(run: Run, checkpoint: str, config: Mapping[str, Any], found: Sequence[Verdicts]) -> Iterator[str]:
    yield from LIMITS
    yield SINGLE_SEED
    if any(verdicts.n < verdicts.total for verdicts in found):
        yield "Where n is below the size of the test set, a subset was measured, always the same one."
    if checkpoint == "best" and run.recipe.selection.by == "best-test":
        yield "This epoch was chosen on the test set itself, so its accuracy is flattered."
    if run.stale:
        yield "A teacher's weights have changed since this network learnt from them."
    if config["recipe"]["method"].get("drop_block"):
        yield (
            "The network drops a block of logits at random in each forward: attacks that expect a fixed network "
            "overestimate its robustness."
        )
    yield "Trained for research: nothing here makes it fit for a decision about people."


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _code(text: str) -> str:
    """Return text as Markdown's code, which ends at no accent within it."""
    return f"`{printable(text).replace('`', chr(39))}`"
