"""One evaluation in several processes, as `torchrun` starts them: who works on what, and what everybody hears of it.

Without `torchrun` there is one process, and each of these functions is a plain call. Every process calls each of them at
the same places in the same order. What is shared goes through gloo, pickled, whatever the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

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
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that writes verdicts and states."""
    return not dist.is_initialized() or dist.get_rank() == 0


def share(items: Sequence[Item], work: Callable[[Item], Answer]) -> list[Answer]:
    """Deal items to the processes in turn, and return work(item) of all of them, in order, to every process.

    Raises:
        Exception: whatever the first item to fail raised, in every process.
    """
    if size() == 1:
        return [work(item) for item in items]
    mine = [_tried(work, item) for item in items[dist.get_rank() :: size()]]
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


def anybody(question: Callable[[], bool]) -> bool:
    """Return whether the answer is yes in any process."""
    return any(share(range(size()), lambda _: question()))


def _tried(work: Callable[[Item], Answer], item: Item) -> Answer | Exception:
    try:
        return work(item)
    except Exception as error:  # it is raised again where everybody has heard of it
        return error
