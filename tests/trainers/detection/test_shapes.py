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


@pytest.mark.parametrize("seed", [4, 7, 15])
def test_masks_are_where_one_thing_is_seen(seed):
    drawing = shapes.draw_shapes(seed)
    image = drawing.image.astype(float)
    hues = image / image.sum(axis=-1, keepdims=True)
    ground = hues[~drawing.masks.any(axis=0)].mean(axis=0)
    assert len(drawing.masks) > 3
    for mask in drawing.masks:
        hue = np.median(hues[mask], axis=0)
        assert np.abs(hue - ground).max() > 0.1
        # Noise and edges aside.
        differs = np.abs(hues[mask] - hue).max(axis=-1) > 0.1
        assert differs.mean() < 0.1
