"""A run keeps its name: identities of recipes as they were when runs of them were trained."""

from typing import Any, ClassVar

import pytest

from ardbench.config import Recipe, Section
from ardbench.recipes import resolve

PINNED = {
    "adaad-cifar10-level": "42231a1d068a75d3",
    "adaad-cifar100-level": "e0f873809e2d627c",
    "adaad-digits": "0f6c4cc58c5da0fb",
    "adaad-tiny-imagenet-level": "ba531144d2a4a5c3",
    "akd2-cifar10-level": "d10f7d488aae3efa",
    "akd2-cifar100-level": "6be4e13b66dbe595",
    "akd2-digits": "515f482c38a10ecd",
    "akd2-tiny-imagenet-level": "979a523460204c48",
    "ard-cifar10-level": "88a426fb0dde2d03",
    "ard-cifar100-level": "a5d6703bf5df8391",
    "ard-digits": "8fef9d02ee29b35a",
    "ard-tiny-imagenet-level": "f5cacc8f1ffab050",
    "crdnd-cifar10-level": "5283562bc0e99e17",
    "crdnd-cifar100-level": "c5fe4f0a519d031b",
    "crdnd-digits": "170a54cd56bbe4d1",
    "crdnd-tiny-imagenet-level": "5aa495f78711b996",
    "darht-cifar10-level": "04c3cf8f3a78f0b1",
    "darht-cifar100-level": "67f647dc5b11e10b",
    "darht-digits": "9358859514657305",
    "darht-tiny-imagenet-level": "1f65d6de2543e0ba",
    "iad-i-cifar10-level": "48dd7cddad2f8e24",
    "iad-i-cifar100-level": "650aa6cb083804bf",
    "iad-i-digits": "c43d3c9a287e2c26",
    "iad-i-tiny-imagenet-level": "3c2bc3350d624f64",
    "iad-ii-cifar10-level": "4b828d053cc0091f",
    "iad-ii-cifar100-level": "b0ffd4871a6fc39e",
    "iad-ii-digits": "ff09fdaf1be5c764",
    "iad-ii-tiny-imagenet-level": "dbcbdf3dac7b42f1",
    "mart-cifar10-level": "80a8eee174394ec8",
    "mart-cifar100-level": "d69b7a4e9bf745a4",
    "mart-digits": "62b94fedd165a163",
    "mart-tiny-imagenet-level": "f7437696eb3ec0da",
    "peeraid-cifar10-level": "beb584317635fb0c",
    "peeraid-cifar100-level": "073abfd86afe65fb",
    "peeraid-digits": "de3ee77373b99f09",
    "peeraid-tiny-imagenet-level": "33a48913879b98ee",
    "pgd-at-cifar10-level": "e7d62898df46a6de",
    "pgd-at-cifar100-level": "49fbc01a34c43407",
    "pgd-at-digits": "cff3553f7ce7459d",
    "pgd-at-tiny-imagenet-level": "067555e9bdca7cc2",
    "rslad-cifar10-level": "0fb4aad45ac53ea4",
    "rslad-cifar100-level": "af08fac6e823e104",
    "rslad-digits": "2aca50b1ee7ed30f",
    "rslad-tiny-imagenet-level": "94e10f80b6ac09c4",
    "standard-cifar10-level": "f649b8e0ba7dbd56",
    "standard-cifar100-level": "3a9db99bfb37e9ff",
    "standard-digits": "55b098e80b34f388",
    "standard-tiny-imagenet-level": "8b5241d51975cc90",
    "trades-cifar10-level": "035ce95e348a21c3",
    "trades-cifar100-level": "cb82f849c9538305",
    "trades-digits": "dd78a9f924d5b50d",
    "trades-tiny-imagenet-level": "3dbbb9d80802d1b9",
}
"""Recipe -> first 16 digits of its identity. A campaign of days stands on each: a new field of a recipe is `LATER`."""


@pytest.mark.parametrize("name", PINNED)
def test_a_recipe_has_the_identity_of_its_runs(name: str) -> None:
    recipe = resolve(name)
    assert recipe.identity()[:16] == PINNED[name]
    again = Recipe.model_validate(recipe.model_dump(mode="json"))
    assert again == recipe and again.identity() == recipe.identity()


def test_a_later_field_is_written_where_it_differs_from_its_default() -> None:
    class Before(Section):
        a: int

    class After(Before):
        LATER: ClassVar[frozenset[str]] = frozenset({"b", "c"})
        b: float = 0.5
        c: tuple[str, ...] = ()

    def written(**given: Any) -> dict[str, Any]:
        return After(a=1, **given).model_dump(mode="json")

    assert written() == written(b=0.5) == written(c=()) == Before(a=1).model_dump(mode="json") == {"a": 1}
    assert written(b=1) == {"a": 1, "b": 1.0} and written(c=("x",)) == {"a": 1, "c": ["x"]}
    assert After.model_validate(written(b=1)) == After(a=1, b=1)
