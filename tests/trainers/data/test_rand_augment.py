"""Tests of RandAugment: its operations, and how they are chosen."""

import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image
from PIL import ImageEnhance
from PIL import ImageOps

from tests.support.keyed import call_with_keys
from tests.support.keyed import make_image
from tests.support.keyed import make_key
from trainers.data import rand_augment as module
from trainers.data.rand_augment import list_operations
from trainers.data.rand_augment import rand_augment

HEIGHT, WIDTH = 29, 23


def apply(name, magnitude=10.0, direction=1.0, place=(0.0, 0.0)):
    operation = list_operations(magnitude, 3)[name]
    place = tf.constant(place)
    return operation(make_image(), tf.constant(direction), place).numpy()


def move(image, matrix):
    """Takes each pixel from the nearest one to where a 3x3 matrix says."""
    expected = np.full_like(image, 128)
    for row, column in np.ndindex(image.shape[:2]):
        x, y, _ = np.rint(matrix @ [column, row, 1]).astype(int)
        if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
            expected[row, column] = image[y, x]
    return expected


@pytest.mark.parametrize(
    ("name", "operation", "magnitudes"),
    [
        ("autocontrast", lambda image, _: ImageOps.autocontrast(image), [10]),
        ("equalize", lambda image, _: ImageOps.equalize(image), [10]),
        ("invert", lambda image, _: ImageOps.invert(image), [10]),
        (
            "posterize",
            lambda image, m: ImageOps.posterize(image, {5: 2, 10: 4, 15: 6}[m]),
            [5, 10, 15],
        ),
        (
            "solarize",
            lambda image, m: ImageOps.solarize(image, int(25.6 * m)),
            [0, 3, 9, 10, 15, 30],
        ),
        (
            "color",
            lambda image, m: ImageEnhance.Color(image).enhance(0.18 * m + 0.1),
            [0, 5, 10, 15, 30],
        ),
        (
            "brightness",
            lambda image, m: ImageEnhance.Brightness(image).enhance(
                0.18 * m + 0.1
            ),
            [0, 5, 10, 15, 30],
        ),
        (
            "sharpness",
            lambda image, m: ImageEnhance.Sharpness(image).enhance(
                0.18 * m + 0.1
            ),
            [0, 5, 10],
        ),
    ],
)
def test_operation_equals_that_of_pillow(name, operation, magnitudes):
    image = make_image() // 2 + 40
    picture = Image.fromarray(image.numpy())
    for magnitude in magnitudes:
        expected = np.asarray(operation(picture, magnitude))
        result = list_operations(magnitude, 3)[name](image, 1.0, None).numpy()
        # Roundings, of a gray value and then multiplied by up to 5.5.
        error = np.abs(result.astype(int) - expected)
        assert error.max() <= (1 if magnitude <= 10 else 5), magnitude
        assert np.mean(error) < 1


def test_contrast_spreads_each_channel_about_its_mean():
    image = make_image().numpy().astype(float)
    mean = image.mean(axis=(0, 1))
    expected = np.clip(mean + 1.9 * (image - mean), 0, 255)
    np.testing.assert_allclose(apply("contrast"), expected, atol=1)


def test_solarize_add_brightens_the_dark_half():
    image = make_image().numpy().astype(int)
    expected = np.where(image < 128, np.minimum(image + 55, 255), image)
    np.testing.assert_array_equal(apply("solarize_add", 5.0), expected)


@pytest.mark.parametrize("magnitude", [20.0, 30.0])
def test_posterize_keeps_all_bits_where_more_than_all_are_asked_for(magnitude):
    np.testing.assert_array_equal(apply("posterize", magnitude), make_image())


@pytest.mark.parametrize("direction", [-1.0, 1.0])
@pytest.mark.parametrize("magnitude", [0.0, 7.0, 13.0])
@pytest.mark.parametrize(
    "name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"]
)
def test_moved_pixels_come_from_where_the_matrix_says(
    name, magnitude, direction
):
    amount = direction * magnitude / 10
    matrix = np.eye(3)
    if name == "rotate":
        to_middle = np.eye(3)
        to_middle[:2, 2] = (1 - WIDTH) / 2, (1 - HEIGHT) / 2
        angle = math.radians(30 * amount)
        matrix[0, :2] = math.cos(angle), -math.sin(angle)
        matrix[1, :2] = math.sin(angle), math.cos(angle)
        matrix = np.linalg.inv(to_middle) @ matrix @ to_middle
    else:
        index, value = {
            "shear_x": ((0, 1), 0.3),
            "shear_y": ((1, 0), 0.3),
            "translate_x": ((0, 2), 100 / 224 * WIDTH),
            "translate_y": ((1, 2), 100 / 224 * HEIGHT),
        }[name]
        matrix[index] = value * amount
    result = apply(name, magnitude, direction)
    differs = np.any(result != move(make_image().numpy(), matrix), axis=-1)
    # Points about midway between two pixels may round either way.
    assert np.mean(differs) < 0.005
    if magnitude:
        assert np.mean(np.any(result != make_image().numpy(), axis=-1)) > 0.2


def test_cutout_covers_a_square_about_its_place():
    expected = make_image().numpy()
    # 40 of 224 of 23 pixels is 4 on each side of (14, 18).
    expected[10:18, 14:22] = 128
    result = apply("cutout", place=(14.5 / HEIGHT, 18.5 / WIDTH))
    np.testing.assert_array_equal(result, expected)


def test_cutout_is_cut_off_at_the_border():
    expected = make_image().numpy()
    expected[25:, :4] = 128
    result = apply("cutout", place=(0.9999, 0.0))
    # Of the last row, 4 before it and none behind.
    expected[24:25, :4] = 128
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0.0, 10.0, 30.0])
def test_images_keep_their_type_and_shape_and_range(channels, magnitude, dtype):
    image = tf.cast(make_image(channels=channels), dtype)
    results = call_with_keys(
        lambda key: rand_augment(image, key, 3, magnitude), range(100)
    )
    assert results.dtype == dtype
    assert results.shape == (100, *image.shape)
    np.testing.assert_array_equal(results, np.rint(results))
    assert results.min() >= 0
    assert results.max() <= 255
    # They differ from each other.
    assert len(np.unique(results.reshape(100, -1), axis=0)) > 20


def test_gray_images_become_what_gray_colors_become(monkeypatch):
    image = make_image(channels=1)
    gray = call_with_keys(lambda key: rand_augment(image, key), range(60))
    monkeypatch.setattr(
        module, "list_operations", lambda *_: list_operations(10.0, 1)
    )
    colors = tf.repeat(image, 3, axis=-1)
    colors = call_with_keys(lambda key: rand_augment(colors, key), range(60))
    np.testing.assert_array_equal(gray, colors[..., :1])


def test_images_of_unknown_size_are_augmented():
    image = make_image()
    traced = tf.function(
        rand_augment,
        input_signature=[
            tf.TensorSpec((None, None, 3), tf.uint8),
            tf.TensorSpec((2,), tf.int32),
        ],
        autograph=False,
    )
    for index in range(20):
        key = make_key(index)
        np.testing.assert_array_equal(
            traced(image, key), rand_augment(image, key)
        )


def test_key_decides_the_image_in_a_graph_and_eagerly():
    image = make_image()
    results = call_with_keys(lambda key: rand_augment(image, key), range(40))
    again = [rand_augment(image, make_key(index)) for index in range(40)]
    np.testing.assert_array_equal(results, again)
    assert len(np.unique(results.reshape(40, -1), axis=0)) > 30


def test_operations_and_none_are_equally_likely(monkeypatch):
    """Each operation writes its number in the image."""
    count = len(list_operations(10.0, 3))
    assert count == 16
    operations = {
        number: lambda image, *_, number=number: tf.fill(
            tf.shape(image), tf.constant(number, tf.uint8)
        )
        for number in range(count)
    }
    monkeypatch.setattr(module, "list_operations", lambda *_: operations)
    image = tf.fill((1, 1, 3), tf.constant(count, tf.uint8))
    chosen = call_with_keys(
        lambda key: rand_augment(image, key, 1), range(3400)
    )
    frequencies = np.bincount(chosen[:, 0, 0, 0], minlength=count + 1)
    assert scipy.stats.chisquare(frequencies).pvalue > 0.01


def test_layers_choose_independently(monkeypatch):
    """Each operation appends its number, 1 to 3, in the system of base 4."""
    operations = {
        number: lambda image, *_, number=number: 4 * image + number
        for number in (1, 2, 3)
    }
    monkeypatch.setattr(module, "list_operations", lambda *_: operations)
    image = tf.zeros((1, 1, 3), tf.uint8)
    chosen = call_with_keys(
        lambda key: rand_augment(image, key, 2), range(1600)
    )
    frequencies = np.bincount(chosen[:, 0, 0, 0], minlength=16)
    # A number alone is the first's or the second's.
    shares = {0: 1 / 16, 1: 2 / 16, 2: 2 / 16, 3: 2 / 16}
    expected = [
        1600 * shares.get(value, 1 / 16) for value in range(16) if value % 4
    ]
    values = [value for value in range(16) if value % 4]
    assert frequencies[[4, 8, 12]].sum() == 0
    result = scipy.stats.chisquare(
        [frequencies[0], *frequencies[values]], [100, *expected]
    )
    assert result.pvalue > 0.01


def test_directions_and_places_are_evenly_spread(monkeypatch):
    def write(image, direction, place):
        drawn = tf.stack([direction, *tf.unstack(place)])
        levels = tf.cast(100 * (drawn + 1), tf.uint8)
        return tf.zeros_like(image) + levels

    monkeypatch.setattr(module, "list_operations", lambda *_: {"only": write})
    image = tf.fill((1, 1, 3), tf.constant(255, tf.uint8))
    drawn = call_with_keys(lambda key: rand_augment(image, key, 1), range(2000))
    drawn = drawn[:, 0, 0]
    directions, *places = drawn[drawn[:, 1] < 255].T
    assert set(directions) == {0, 200}
    positive = np.sum(directions == 200)
    assert scipy.stats.binomtest(positive, len(directions)).pvalue > 0.01
    for place in places:
        frequencies = np.bincount(place // 10 - 10, minlength=10)
        assert scipy.stats.chisquare(frequencies).pvalue > 0.01
    assert abs(np.corrcoef([directions, *places])[0, 1:]).max() < 0.1


def test_no_layer_leaves_the_image():
    image = make_image()
    result = rand_augment(image, make_key(0), num_layers=0)
    np.testing.assert_array_equal(result, image)


def test_floats_are_rounded_and_limited():
    image = tf.constant([[[-7.0, 1.6, 300.0]]])
    result = rand_augment(image, make_key(0), num_layers=0)
    np.testing.assert_array_equal(result, [[[0, 2, 255]]])


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"image": make_image(channels=2)}, "image.shape"),
        ({"num_layers": -1}, "num_layers=-1"),
        ({"magnitude": -0.5}, "magnitude=-0.5"),
        ({"magnitude": math.inf}, "magnitude=inf"),
        ({"magnitude": math.nan}, "magnitude=nan"),
    ],
)
def test_wrong_arguments_raise(changes, received):
    with pytest.raises(ValueError, match=f"Received: .*{received}"):
        rand_augment(**{"image": make_image(), "key": make_key(0), **changes})
