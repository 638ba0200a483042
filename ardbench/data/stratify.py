"""A fixed order of examples whose every beginning holds the classes in proportion."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from ardbench.draws import derive


def stratified(labels: Sequence[int], index: Sequence[int], *key: object) -> list[int]:
    """Return all positions in an order that depends on `key` and whose every prefix is stratified by class.

    The r-th example of a class of m (r from 0, by hash) comes at (2r + 1) / 2m: the first n positions hold the classes
    as the divisor method of Sainte-Lague would share out n seats, and larger subsets contain smaller ones. The order
    rests on sha256 alone, so it is the same with every version of torch and on every device.

    Args:
        labels: (N,) classes.
        index: (N,) what names each example, all different.
        key: the purpose and seed of the draw.
    """
    sizes = Counter(labels)
    hashes = [derive(*key, name) for name in index]
    seen: defaultdict[int, int] = defaultdict(int)
    places: list[tuple[float, int, int]] = []
    for position in sorted(range(len(labels)), key=hashes.__getitem__):
        label = labels[position]
        places.append(((2 * seen[label] + 1) / (2 * sizes[label]), hashes[position], position))
        seen[label] += 1
    return [position for _, _, position in sorted(places)]
