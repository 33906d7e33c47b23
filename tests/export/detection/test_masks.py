import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from export.detection import masks


def fill(height, width, rows, columns):
    image = np.zeros((height, width), bool)
    image[slice(*rows), slice(*columns)] = True
    return image


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((10, 20, 38, 48), (10, 38), (20, 48)),
        ((10, 20, 66, 76), (10, 66), (20, 76)),
        # Beyond the image.
        ((-14, 40, 14, 96), (0, 14), (40, 80)),
        ((10.6, 20, 38.6, 48), (11, 39), (20, 48)),
        # No pixel's middle is in it.
        ((10.6, 20, 10.6, 48), (0, 0), (0, 0)),
    ],
    ids=["as_large", "twice_as_large", "beyond", "between", "empty"],
)
def test_a_full_mask_fills_its_box(box, rows, columns):
    pasted = masks.paste_masks(
        np.ones((1, 28, 28), "float32"), np.array([box]), 70, 80
    )
    assert (pasted[0] == fill(70, 80, rows, columns)).all()


def test_half_a_mask_fills_half_of_its_box():
    mask = np.zeros((28, 28), "float32")
    mask[:14] = 1
    boxes = np.array([[10, 20, 66, 76], [0, 0, 28, 28]])
    upper, left = masks.paste_masks(np.stack([mask, mask.T]), boxes, 70, 80)
    assert (upper == fill(70, 80, (10, 38), (20, 76))).all()
    assert (left == fill(70, 80, (0, 28), (0, 14))).all()


@pytest.mark.parametrize(("share", "is_inside"), [(0.49, False), (0.51, True)])
def test_more_than_half_is_inside(share, is_inside):
    mask = np.full((1, 28, 28), share, "float32")
    # Larger than the image, whose middle no edge of the mask is near.
    pasted = masks.paste_masks(mask, np.array([[-9, -9, 19, 19]]), 10, 10)
    assert (pasted == is_inside).all()


def draw_mask():
    random = np.random.default_rng(0)
    return random.uniform(size=(11, 7)) > 0.6


@pytest.mark.parametrize("first", [False, True])
def test_text_of_run_lengths_is_that_of_coco(first):
    mask = draw_mask()
    mask[0, 0] = first
    encoded = masks.encode_mask(mask)
    assert isinstance(encoded["counts"], str)
    assert (coco_mask.decode(encoded) == mask).all()


@pytest.mark.parametrize("first", [False, True])
def test_numbers_are_run_lengths_of_coco(monkeypatch, first):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    mask = draw_mask()
    mask[0, 0] = first
    encoded = masks.encode_mask(mask)
    assert sum(encoded["counts"]) == mask.size
    decoded = coco_mask.decode(coco_mask.frPyObjects(encoded, *mask.shape))
    assert (decoded == mask).all()


def test_empty_and_full_masks_have_run_lengths(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    for value, counts in ((False, [6]), (True, [0, 6])):
        encoded = masks.encode_mask(np.full((2, 3), value))
        assert encoded == {"size": [2, 3], "counts": counts}
