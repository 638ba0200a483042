"""`ardbench check`: whether what a plugin or a package adds is what ardbench takes it for, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ardbench import data, methods, models, plugins, recipes
from ardbench.config import Recipe
from ardbench.data import DatasetInfo
from ardbench.errors import ArdbenchError, unknown

if TYPE_CHECKING:
    from torch import nn

    from ardbench.engine.contract_checks import Bench

SMALL: dict[str, Any] = {
    "data.validation": 32, "data.train_images": None, "data.augment": "crop-flip", "data.batch": 50, "selection.by": "last",
}  # fmt: skip
"""What a recipe is changed to where a method is asked, on made-up images; [method] stays as it is written."""
EPOCHS = 4
STUDENT = "resnet8-tiny"
SOME, NEAR = 5000, 0.02
"""Of how many training images, spread over all, mean and deviation are counted, and how far those that are told may be off."""
CLOSE = 1e-6
"""How far two ways to compute the same logits may lie apart in float64; they do by some 1e-14."""


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at.

    Args:
        subject: of what, such as "method my-loss".
        what: was looked at, in a sentence.
        refusal: what is wrong; "" where nothing is.
    """

    subject: str
    what: str
    refusal: str


def checked(target: str, recipe: str | None = None, dataset: str | None = None) -> Iterator[Checked]:
    """Yield what was found of each check, in order; the checks of a thing end with the first that fails.

    Args:
        target: FILE.py, FILE.py:NAME, or a NAME that a plugin or an installed package has.
        recipe: whose constants a method is asked with, in place of the first that names it.
        dataset: for whose images a network is built.

    Raises:
        ArdbenchError: there is no such file or name.
    """
    for one in _meant(target):
        for what, check in _checks(one, recipe, dataset):
            refusal = ""
            try:
                check()
            except ArdbenchError as error:
                refusal = str(error)
            yield Checked(one.word, what, refusal)
            if refusal:
                break


def _meant(target: str) -> list[plugins.Outside]:
    file, name = (target, "") if target.endswith(".py") else target.rpartition(":")[::2]
    if file:
        plugins.use([file])
    there = [one for kind in plugins.KINDS for one in plugins.of(kind).values()]
    if file:
        there = [one for one in there if one.file == Path(file).expanduser().absolute()]
    if not there:
        raise ArdbenchError(
            f"No plugin is given and no installed package has anything for ardbench, so {name!r} is not to be checked: give "
            "FILE.py or FILE.py:NAME."
        )
    found = [one for one in there if name in ("", one.name)]
    if not found:
        raise unknown(f"name in {file}:" if file else "name of a plugin or package:", name, [one.name for one in there])
    return found


def _checks(one: plugins.Outside, recipe: str | None, dataset: str | None) -> Sequence[tuple[str, Callable[[], None]]]:
    """Return what is looked at, in words, and what looks at it."""
    if one.kind == "recipe":
        return [("it resolves", partial(_resolves, one.name))]
    if one.kind == "dataset":
        return [("its images and labels are as its facts say", partial(_dataset, one))]
    if one.kind == "model":
        name = dataset or next((d.name for d in plugins.of("dataset").values() if d.origin == one.origin), "cifar10")
        return [
            (_sentence(look), partial(plugins.called, one, look, one, name))
            for look in (_answers, _has_features, _is_trained, _is_attacked)
        ]
    from ardbench.engine.contract_checks import CHECKS

    return [(_sentence(check), partial(_of_method, check, one, recipe)) for check in CHECKS]


def _sentence(check: Callable[..., None]) -> str:
    said = (check.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return said[0].lower() + said[1:]


# Recipes and data sets -----------------------------------------------------------------------------------------------------


def _resolves(name: str) -> None:
    recipes.resolve(name)


def _dataset(one: plugins.Outside) -> None:
    from ardbench.data.load import read
    from ardbench.data.raw import Undecoded

    info = data.info(one.name)
    raw = read(info, None, download=False)
    if isinstance(raw.train_images, Undecoded):
        return
    some = raw.train_images[:: max(1, info.train_images // SOME)]
    pixels = some.double().transpose(0, 1).flatten(1) / 255  # (C, N H W)
    for word, told, counted in (("mean", info.mean, pixels.mean(1)), ("std", info.std, pixels.std(1))):
        if len(told) != info.channels or max(abs(a - b) for a, b in zip(told, counted.tolist(), strict=True)) > NEAR:
            numbers = ", ".join(f"{number:.4f}" for number in counted.tolist())
            raise ArdbenchError(
                f"The {one.word} of {one.origin} has {word} = {told} of training pixels: write ({numbers},)."
            )


# Networks ------------------------------------------------------------------------------------------------------------------


def _made(one: plugins.Outside, name: str) -> tuple[nn.Module, DatasetInfo]:
    from ardbench.draws import seeded

    info = data.info(name)
    with seeded(0, "check"):
        return models.build(one.name, info, False), info


def _images(info: DatasetInfo, count: int = 8) -> Any:
    import torch

    made = torch.Generator().manual_seed(0)
    return torch.rand(count, info.channels, info.size, info.size, generator=made, dtype=torch.float64)


def _answers(one: plugins.Outside, name: str) -> None:
    """It is built alike from one seed, and gives one logit a class."""
    import torch

    from ardbench.models import outside

    (net, info), (again, _) = _made(one, name), _made(one, name)
    outside.check(net, info)  # type: ignore[arg-type]
    if not all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True)):
        raise _wrong(one, "begins otherwise from the same seed", "draw its weights from torch's global generator")


def _has_features(one: plugins.Outside, name: str) -> None:
    """Its logits are its head on its features."""
    import torch

    net, info = _made(one, name)
    x = _images(info)
    net.double().eval()
    with torch.no_grad():
        same = torch.allclose(net(x), net.head(net.features(x)), atol=CLOSE)  # type: ignore[operator]
    if not same:
        raise _wrong(one, "has a forward that is not head(features(x))", "leave forward as Network has it")


def _is_trained(one: plugins.Outside, name: str) -> None:
    """Each of its parameters gets a finite gradient, and so do the pixels."""
    net, info = _made(one, name)
    x = _images(info).requires_grad_()
    net.double().train()(x).logsumexp(1).sum().backward()
    for key, tensor in {**dict(net.named_parameters()), "x": x}.items():
        if tensor.requires_grad and (tensor.grad is None or not tensor.grad.isfinite().all()):
            raise _wrong(one, f"gives {key} no finite gradient", "let the logits depend on it, or leave it out")


def _is_attacked(one: plugins.Outside, name: str) -> None:
    """An image's logits are its own, and those of the form that is attacked are the same."""
    import torch

    from ardbench.attacks.form import FastForm
    from ardbench.config import Precision

    net, info = _made(one, name)
    x = _images(info)
    net.double().train()
    with torch.no_grad():
        net(x)  # running statistics that are not those of the beginning
        logits = net.eval()(x)
        if not torch.allclose(net(x[:1]), logits[:1], atol=CLOSE):
            raise _wrong(one, "answers an image by what else is in the batch, in eval mode", "look at no other example")
        if not torch.allclose(FastForm(net, False, Precision()).settled()(x), logits, atol=CLOSE):
            raise _wrong(
                one, "is another network when its BatchNorms are folded", "use a part of the network once alone"
            )


def _wrong(one: plugins.Outside, about: str, wanted: str) -> ArdbenchError:
    return ArdbenchError(f"The {one.word} of {one.origin} {about}: {wanted}.")


# Methods and modules -------------------------------------------------------------------------------------------------------


def _of_method(check: Callable[[Bench], None], one: plugins.Outside, recipe: str | None) -> None:
    from ardbench.faults import blamed

    resolved = _small(recipe or _recipe_of(one))
    with blamed(methods.method_class(resolved.method["name"]), "__init__"):
        check(bench_of(resolved))


def _recipe_of(one: plugins.Outside) -> str:
    """Return the first recipe that names a method or a module, of those that come with it."""
    for name in [recipe.name for recipe in plugins.of("recipe").values() if recipe.origin == one.origin]:
        tree = recipes.describe(name)
        sections = [tree.get("method", {})] if one.kind == "method" else tree.get("modules", [])
        if one.name in [section.get("name") for section in sections]:
            return name
    raise ArdbenchError(
        f"No recipe of {one.origin} says the constants of the {one.word}: give RECIPES one that names it, or add "
        "--recipe FILE.toml."
    )


def _small(name: str) -> Recipe:
    """Return a recipe on made-up images, in few and short steps."""
    changes = SMALL | ({"attack.steps": 2} if recipes.resolve(name).attack else {})
    return recipes.resolve(name, dataset="fake", student=STUDENT, epochs=EPOCHS, sets=changes)


def bench_of(recipe: Recipe) -> Bench:
    """Return what a recipe's method is asked with: untrained networks, on made-up images."""
    from ardbench.data.batches import TrainBatches
    from ardbench.data.load import load
    from ardbench.draws import seeded
    from ardbench.engine.contract_checks import Bench
    from ardbench.methods.base import Context, Method

    info, kind = data.info(recipe.data.name), methods.method_class(recipe.method["name"])
    split = load(info.name, "cpu", validation=recipe.data.validation).train
    of = recipe.data
    batches = TrainBatches(split, of.augment, of.batch, False, recipe.seed, area=of.crop_area)

    def network(name: str, seed: int) -> nn.Module:
        with seeded(seed, "check"):
            return models.build(name, info, recipe.data.normalise).train()

    def method(to: Any) -> Method[Any]:
        roles = [role for role in kind.roles if role is not ...]
        teachers = [network(recipe.student, 10 + i).to(to).eval().requires_grad_(False) for i in range(len(roles))]
        student = network(recipe.student, 0).to(to)
        built = kind(Context(recipe, student, tuple(teachers), lambda name: network(name, 5).to(to)))
        for net in built.trainables().values():
            net.to(to)
        return built

    return Bench(method, lambda step: batches.batch(0, step), recipe.schedule.epochs, info.num_classes)
