"""Several processes at one piece of work, as `torchrun` starts them: who does what, and what everybody hears of it.

Without `torchrun` there is one process, and each of these functions is a plain call. Every process calls each of them at
the same places in the same order. Objects go through gloo, pickled; tensors through NCCL where each process has a GPU.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others' batches; one that dies is noticed at once."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that `torchrun` started, each with its own CUDA device where there are enough; else do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        if torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"]):
            backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return rank() == 0


def share(items: Sequence[Item], work: Callable[[Item], Answer]) -> list[Answer]:
    """Deal items to the processes in turn, and return work(item) of all of them, in order, to every process.

    Raises:
        Exception: whatever the first item to fail raised, in every process.
    """
    if size() == 1:
        return [work(item) for item in items]
    mine = [_tried(work, item) for item in items[rank() :: size()]]
    everybodys: list[list[Answer | Exception]] = [[] for _ in range(size())]
    dist.all_gather_object(everybodys, mine)
    answers = [everybodys[place % size()][place // size()] for place in range(len(items))]
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers  # type: ignore[return-value]


def once(work: Callable[[], Answer]) -> Answer:
    """Let the first process work, and return its answer to every process."""
    return share([None], lambda _: work())[0]


def first(work: Callable[[], Answer]) -> Answer:
    """Let the first process work and then each of the others, and return to each its own answer."""
    found: list[Answer] = []
    once(lambda: found.append(work()))
    return found[0] if found else work()


@contextmanager
def held(context: AbstractContextManager[Any]) -> Iterator[None]:
    """Let the first process enter a context, such as a lock, while all of them work; where it fails, all do."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(context)

        once(enter)
        yield


def anybody(question: Callable[[], bool]) -> bool:
    """Return whether the answer is yes in any process; no device is waited for."""
    if size() == 1:
        return question()
    answer = torch.tensor(int(question()))
    dist.all_reduce(answer, dist.ReduceOp.MAX)
    return bool(answer)


def total(part: Tensor) -> Tensor:
    """Return the sum over all processes of tensors of one shape; a gradient of any process's loss flows to every part."""
    return part if size() == 1 else _Total.apply(part)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)  # itself a sum whose gradient flows to every part: a norm of gradients has one


def _summed(part: Tensor) -> Tensor:
    whole = part.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(whole)
    return whole


def _tried(work: Callable[[Item], Answer], item: Item) -> Answer | Exception:
    try:
        return work(item)
    except Exception as error:  # it is raised again where everybody has heard of it
        _let_go(error)
        return error


def _let_go(error: BaseException | None) -> None:
    """Empty the frames of an error and of those behind it: out of memory, they would hold what did not fit."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
