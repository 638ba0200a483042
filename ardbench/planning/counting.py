"""The FLOP of a training step, counted before any is made.

Nothing is modelled: the method's own step and its backward run on the meta device, whose tensors have shapes and no
values, and every product and convolution on the way has its price. So a search through a teacher, a peer, and methods of
other packages are counted as they are. A method has phases and tosses coins: `POINTS` pairs of an epoch and a coin, spread
evenly over both (Hammersley's points), stand for the run. Many of them cost the same; which ones do is seen on miniatures
of the networks, and each kind of step is then counted once on the true ones.

1 MAC = 2 FLOP of convolutions, linear layers and attention; a gradient to the input or to the weights costs a forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import conv_flop_count, flop_registry

from ardbench import data, models
from ardbench.config import Precision, Recipe
from ardbench.data import DatasetInfo
from ardbench.data.batches import Batch
from ardbench.draws import Draws
from ardbench.engine.weight_perturbation import Backward
from ardbench.errors import ArdbenchError
from ardbench.methods import method_class
from ardbench.methods.base import Context
from ardbench.models import zoo
from ardbench.models.network import Network
from ardbench.models.wrapping import fitted
from ardbench.runs import Teacher

POINTS = 16
"""A power of two: phases are seen to a sixteenth of the run, and a fair coin falls evenly in each quarter of it."""
IMAGES = 2
"""Of the counted batch; what an image costs does not depend on it."""
MINIATURE = "resnet8-tiny"
META = torch.device("meta")

Point = tuple[int, float]
"""An epoch, and the share in [0, 1) that decides its coins."""
Seen = tuple[str, int]
"""A teacher as it costs: its architecture and the side of the images that it sees."""
Shapes = dict[tuple[object, ...], tuple[Any, int]]
"""From an operator and the shapes of its inputs to its outputs and its FLOP."""


class StepCounter:
    """Counts the training steps of recipes, each kind of step once."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, tuple[Seen, ...]], _Steps] = {}
        self._shapes: Shapes = {}

    def flop(self, recipe: Recipe, teachers: Sequence[Teacher], epochs: range) -> float:
        """Return the FLOP of one image in one step, the mean over these epochs.

        Raises:
            ArdbenchError: the method looks at a value, which the meta device has not.
        """
        info = data.info(recipe.data.name)
        true = self._of(recipe, tuple(_seen(teacher, info) for teacher in teachers))
        small = self._miniature(recipe, len(teachers))
        kinds: dict[tuple[int, ...], list[Point]] = {}
        for point in _points(epochs):
            kinds.setdefault(small.prices(point), []).append(point)
        return sum(len(same) * sum(true.prices(same[0])) for same in kinds.values()) / POINTS / IMAGES

    def _miniature(self, recipe: Recipe, teachers: int) -> _Steps:
        """Return steps whose prices tell one kind from another: the small teachers see images of different sizes."""
        size = data.info(recipe.data.name).size
        attack = recipe.attack and recipe.attack.model_copy(update={"steps": 1})
        small = recipe.model_copy(update={"student": MINIATURE, "attack": attack})
        return self._of(small, tuple((MINIATURE, size + 1 + i) for i in range(teachers)))

    def _of(self, recipe: Recipe, seen: tuple[Seen, ...]) -> _Steps:
        decides = recipe.model_dump(
            include={
                **dict.fromkeys(("method", "modules", "weight_perturbation", "student", "attack"), True),
                "schedule": {"epochs"},
                "data": {"name"},
            }
        )
        key = (str(decides), seen)
        if key not in self._steps:
            self._steps[key] = _Steps(recipe, seen, self._shapes)
        return self._steps[key]


class _Steps:
    """A recipe's method on the meta device, in fp32, since autocast is not there."""

    def __init__(self, recipe: Recipe, seen: Sequence[Seen], shapes: Shapes) -> None:
        self._name, self._info, self._shapes = recipe.composition, data.info(recipe.data.name), shapes
        self._known: dict[Point, tuple[int, ...]] = {}
        plain = recipe.model_copy(update={"precision": Precision(channels_last=False)})
        teachers = tuple(
            fitted(self._build(name, size), self._info.size).eval().requires_grad_(False) for name, size in seen
        )
        with self._explained():
            kind = method_class(recipe.method["name"])
            self._method = kind(Context(plain, self._build(recipe.student), teachers, self._build))
            self._backward = Backward(self._method, plain)

    def prices(self, point: Point) -> tuple[int, ...]:
        """Return the FLOP of each operator in one step of `IMAGES` images, in order."""
        if point not in self._known:
            with self._explained():
                self._known[point] = self._count(*point)
        return self._known[point]

    def _count(self, epoch: int, share: float) -> tuple[int, ...]:
        info = self._info
        with META:
            x, y = torch.empty(IMAGES, info.channels, info.size, info.size), torch.arange(IMAGES)
            batch = Batch(x, y, y, torch.zeros(IMAGES, 3, dtype=torch.int64), _Coins(0, epoch, 0, IMAGES, share=share))
        for part in self._method.parts:
            part.begin_epoch(epoch)
        for net in self._method.trainables().values():
            net.train()
        with _Priced(self._shapes) as counted, self._backward(batch, epoch, 1.0):
            pass
        return tuple(counted.prices)

    def _build(self, name: str, size: int | None = None) -> Network:
        with META:
            return models.build(name, replace(self._info, size=size or self._info.size))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ArdbenchError:
            raise
        except Exception as error:  # whatever a method's own code may raise
            raise ArdbenchError(
                f"a step of the method {self._name} cannot be counted: it does not run on the meta device, or not with a "
                f"{MINIATURE} ({error})."
            ) from error


class _Priced(TorchDispatchMode):
    """Lists the FLOP of every product, convolution and attention; `FlopCounterMode` fails at gradients of a leaf.

    What an operator gives for inputs of some shapes is kept in `shapes`: to derive it is what takes time on meta.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prices: list[int] = []
        self._shapes = shapes

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable or any(out.alias_info for out in func._schema.returns):
            return func(*args, **kwargs)
        key = (func, _shape(args), _shape(tuple(kwargs.items())))
        if key not in self._shapes:
            out = func(*args, **kwargs)
            self._shapes[key] = (out, _price(func.overloadpacket, args, kwargs, out))
        out, price = self._shapes[key]
        if price:
            self.prices.append(price)
        return _again(out) if isinstance(out, Tensor) else tree_map(_again, out)


def _again(leaf: Any) -> Any:
    """Return another tensor like a kept one: autograd writes into what it is given."""
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)


def _shape(given: Any) -> tuple[object, ...]:
    if isinstance(given, Tensor):
        return given.shape, given.stride(), given.dtype, given.device
    return tuple(map(_shape, given)) if isinstance(given, list | tuple) else (type(given), given)


def _price(operator: Any, args: Any, kwargs: Any, out: Any) -> int:
    if operator is torch.ops.aten.convolution_backward:
        return _backward_of_convolution(*args)
    return int(flop_registry[operator](*args, **kwargs, out_val=out)) if operator in flop_registry else 0


def _backward_of_convolution(outer: Any, x: Any, weight: Any, *rest: Any) -> int:
    """Return a forward's FLOP for each gradient that is asked for; torch's own formula forgets the groups."""
    transposed, wanted = rest[4], rest[7]
    return int(sum(wanted[:2]) * conv_flop_count(x.shape, weight.shape, outer.shape, transposed))


@dataclass(frozen=True)
class _Coins(Draws):
    """Draws whose coins fall as a share in [0, 1) says."""

    share: float = 0.0

    def coin(self, purpose: str, probability: float) -> bool:
        return self.share < probability


def _points(epochs: range) -> list[Point]:
    """Return the epochs at evenly spaced places, each with a coin: the place's bits reversed."""
    bits = POINTS.bit_length() - 1
    coins = [int(f"{place:0{bits}b}"[::-1], 2) for place in range(POINTS)]
    return [(epochs[int((i + 0.5) / POINTS * len(epochs))], (coin + 0.5) / POINTS) for i, coin in enumerate(coins)]


def _seen(teacher: Teacher, info: DatasetInfo) -> Seen:
    model, _, size = teacher.model.partition("@")
    if teacher.source.startswith(zoo.PREFIX):
        return model, zoo.entry(teacher.source).info.size
    return model, int(size or info.size)
