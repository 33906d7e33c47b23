import numpy as np
import pytest

from trainers.detection import shapes


@pytest.mark.parametrize("seed", range(8))
def test_boxes_hold_the_visible_parts(seed):
    drawing = shapes.draw_shapes(seed, 96, 128)
    assert drawing.image.shape == (96, 128, 3)
    # Nothing is seen twice.
    assert drawing.masks.sum(axis=0).max() == 1
    for box, mask in zip(drawing.boxes, drawing.masks, strict=True):
        rows, columns = np.nonzero(mask)
        expected = (
            rows.min(),
            columns.min(),
            rows.max() + 1,
            columns.max() + 1,
        )
        np.testing.assert_array_equal(box, expected)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("circle", 0.76, 0.81),
        ("triangle", 0.3, 0.52),
        ("rectangle", 0.53, 1.0),
    ],
)
def test_classes_are_those_of_the_shapes(kind, least, most):
    drawing = shapes.draw_shapes(5, kinds=[kind])
    assert {shapes.SHAPES[n - 1] for n in drawing.classes} == {kind}
    # The first one is in front of the others, and here within the image.
    top, left, bottom, right = drawing.boxes[0]
    filled = drawing.masks[0].sum() / ((bottom - top) * (right - left))
    assert least < filled < most


def test_seeds_choose_drawings():
    first, again, other = (shapes.draw_shapes(seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert np.abs(first.image.astype(int) - other.image).mean() > 10


def test_things_differ_from_the_ground():
    drawing = shapes.draw_shapes(1)
    ground = drawing.image[~drawing.masks.any(axis=0)].mean(axis=0)
    for mask in drawing.masks:
        assert np.abs(drawing.image[mask].mean(axis=0) - ground).max() > 40
