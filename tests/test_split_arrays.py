"""Files of arrays that are split into training and test, by the names that people give them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_own_data import refusal

from ardbench.data.batches import Split
from ardbench.data.load import load

LAYOUTS = {
    "keras": ("x_train", "y_train", "x_test", "y_test"),
    "medmnist": ("train_images", "train_labels", "test_images", "test_labels", "val_images", "val_labels"),
}


def arrays(layout: str) -> dict[str, np.ndarray]:
    """Return grey images of three classes as one writes them: MedMNIST's labels are (N, 1)."""
    source, given, names = np.random.default_rng(0), dict[str, np.ndarray](), LAYOUTS[layout]
    for images, labels, count in zip(names[::2], names[1::2], (12, 6, 4), strict=False):
        given[images] = source.integers(0, 256, (count, 8, 8), np.uint8)
        given[labels] = (np.arange(count) % 3).astype(np.uint8).reshape((-1, 1) if layout == "medmnist" else -1)
    return given


def held(given: dict[str, np.ndarray], *names: str) -> Counter[tuple[int, bytes]]:
    """Return each label with the bytes of its image, of arrays of images and of labels in turn."""
    pairs = zip(names[::2], names[1::2], strict=True)
    return Counter(
        (int(label), image.tobytes())
        for images, labels in pairs
        for image, label in zip(given[images], given[labels].reshape(-1), strict=True)
    )


def read(split: Split) -> Counter[tuple[int, bytes]]:
    return Counter(zip(split.labels.tolist(), (one.numpy().tobytes() for one in split.images), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_are_read_by_their_names(layout: str, tmp_path: Path) -> None:
    given, names = arrays(layout), LAYOUTS[layout]
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / f"{save.__name__}.npz", **given)
        found = load(f"npz:{tmp_path / save.__name__}.npz", "cpu")
        assert (found.train.info.channels, found.train.info.size, found.train.info.classes) == (1, 8, ("0", "1", "2"))
        assert read(found.train) == held(given, *names[:2], *names[4:])  # images to validate on join the training set
        assert read(found.test) == held(given, *names[2:4])
    assert load(f"npz:{tmp_path / 'savez.npz'}?size=4", "cpu").test.images.shape == (6, 1, 4, 4)
    without = {name: array for name, array in given.items() if not name.startswith("test")}
    if layout == "medmnist":
        np.savez(tmp_path / "without.npz", **without)
        assert read(load(f"npz:{tmp_path / 'without.npz'}", "cpu").test) == held(given, *names[4:])


def test_what_arrays_that_are_split_must_be(tmp_path: Path) -> None:
    given = arrays("keras")

    def said(option: str = "", **changed: np.ndarray | None) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **{name: array for name, array in (given | changed).items() if array is not None})
        return refusal(f"npz:{path}{option}")

    assert "says itself which images are for the test: leave --test-share out" in said("?test_share=0.2")
    assert "has 1 channels, not 3: leave channels out" in said("?channels=3")
    assert "has training images and none for the test: add them" in said(x_test=None, y_test=None)
    assert "has no array of labels beside `x_test`" in said(y_test=None)
    assert "`y_test` is int64 of (6, 14), and 6 whole numbers are needed" in said(y_test=np.zeros((6, 14), int))
    assert "has no image of class 1 to train on" in said(y_train=given["y_train"] * 0)
    assert "has labels 0 to 60: labels are 0 to K - 1" in said(y_test=given["y_test"] * 30)
    assert "has images of 1 and of 3 channels" in said(x_test=np.zeros((6, 8, 8, 3), np.uint8))
    assert "have the sizes 8x8 (12), 9x9 (6), and all must be square" in said(x_test=np.zeros((6, 9, 9), np.uint8))
    unknown = said(x_train=None, y_train=None)
    assert "has no array `image`, only x_test, y_test; give one with `image`" in unknown
    assert (
        "or with x_train, y_train, x_test, y_test, x_val, y_val, or with train_images, train_labels, test_" in unknown
    )
