"""What surrounds the network, with one whose detections are known."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export.detection import detector_saved_model
from export.detection.masks import paste_masks
from export.preprocessing import decode_image
from tests.support.known_detector import draw
from tests.support.known_detector import make_detector

pytestmark = [pytest.mark.detection, pytest.mark.slow]


@pytest.fixture(scope="module")
def signatures():
    return detector_saved_model.make_signatures(make_detector())


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


# Of an image of 32 by 128 pixels, which is prepared by halving it.
BOX = (8, 32, 24, 96)
WIDE = encode(draw(32, 128, BOX))
# Three quarters, by hand: 48 / 64 of 64 and 60 / 80 of 80.
TALL_BOX = (40, 8, 60, 36)
TALL = encode(draw(80, 64, TALL_BOX))


def read_turned():
    """Returns a JPEG that has to be turned to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(draw(32, 128, BOX)))
    return encode(stored, "JPEG", quality=100, subsampling=0, exif=exif)


def detect(signatures, files):
    outputs = signatures["image_bytes"](tf.constant(files, tf.string))
    return {name: value.numpy() for name, value in outputs.items()}


def test_boxes_are_in_pixels_of_the_upright_image(signatures):
    files = [WIDE, TALL, read_turned()]
    outputs = detect(signatures, files)
    assert outputs["num_detections"].tolist() == [2, 2, 2]
    assert outputs["image_sizes"].tolist() == [[32, 128], [80, 64], [32, 128]]
    for row, box, scale in zip(
        outputs["boxes"], [BOX, TALL_BOX, BOX], [2, 1.25, 2], strict=True
    ):
        # A pixel of the prepared image is off by half at an edge.
        np.testing.assert_allclose(
            row[:2], [box, box], atol=0 if scale == 2 else scale
        )
        np.testing.assert_array_equal(row[2], 0)
    np.testing.assert_array_equal(outputs["scores"], [[0.75, 0.25, 0]] * 3)
    np.testing.assert_array_equal(outputs["classes"], [[2, 1, 0]] * 3)
    np.testing.assert_array_equal(outputs["masks"][:, 0, :14], 1)
    np.testing.assert_array_equal(outputs["masks"][:, 0, 14:], 0)
    np.testing.assert_array_equal(outputs["masks"][:, 2], 0)


def test_what_is_filled_up_is_no_part_of_the_image():
    prepared, image_info = detector_saved_model.prepare_image(
        np.full((30, 50, 3), 255, "uint8"), (64, 64)
    )
    np.testing.assert_allclose(
        image_info, [[30, 50], [38, 64], [38 / 30, 64 / 50]]
    )
    is_filled = (prepared.numpy() == 0).all(axis=(1, 2))
    np.testing.assert_array_equal(is_filled, np.arange(64) >= 38)


def test_a_bad_file_costs_the_others_nothing(signatures):
    bad = [b"", b"no image", WIDE[:-30]]
    outputs = detect(signatures, [bad[0], WIDE, bad[1], bad[2], TALL])
    alone = detect(signatures, [WIDE, TALL])
    for name, values in alone.items():
        np.testing.assert_array_equal(outputs[name][[1, 4]], values)
    errors = [error.decode() for error in outputs.pop("errors")]
    assert [bool(error) for error in errors] == [True, False, True, True, False]
    assert errors[0].startswith("is no PNG, JPEG")
    for name, values in outputs.items():
        np.testing.assert_array_equal(values[[0, 2, 3]], 0, err_msg=name)


def test_no_images_have_no_detections(signatures):
    outputs = detect(signatures, [])
    assert outputs["boxes"].shape == (0, 3, 4)
    assert outputs["errors"].shape == (0,)
    outputs = signatures["serving_default"](tf.zeros((0, 8, 8, 3)))
    assert outputs["boxes"].shape == (0, 3, 4)


def test_pixels_are_looked_at_as_files_are(signatures):
    expected = detect(signatures, [TALL])
    image = decode_image(TALL, 3)
    outputs = signatures["serving_default"](
        tf.constant(image[None], tf.float32)
    )
    assert outputs.keys() == expected.keys() - {"errors"}
    for name, values in outputs.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_full_masks_are_those_of_the_boxes(signatures):
    expected = detect(signatures, [TALL])
    pasted = paste_masks(
        expected["masks"][0, :2], expected["boxes"][0, :2], 80, 64
    )
    for min_score, count in ((0.0, 2), (0.5, 1), (1.0, 0)):
        outputs = signatures["full_masks"](
            tf.constant(TALL), tf.constant(min_score)
        )
        np.testing.assert_array_equal(outputs["masks"], pasted[:count])
        for name in ("boxes", "scores", "classes"):
            np.testing.assert_array_equal(
                outputs[name], expected[name][0, :count]
            )
    top, left, bottom, right = TALL_BOX
    upper = np.flatnonzero(pasted[0].any(axis=1))
    lower = np.flatnonzero(pasted[1].any(axis=1))
    assert abs(upper[0] - top) <= 1
    assert upper[-1] + 1 == lower[0]
    assert abs(lower[-1] + 1 - bottom) <= 1
    columns = np.flatnonzero(pasted[0].any(axis=0))
    assert abs(columns[[0, -1]] - [left, right - 1]).max() <= 1
