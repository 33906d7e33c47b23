"""RandAugment, decided by a key alone.

The operations on pixels are those of tf-models-official. Which are applied,
in which direction and where is drawn here from a key: theirs draws from
TensorFlow's global state, so that a run which was stopped sees other images.
"""

import functools
import math
from collections.abc import Callable

import tensorflow as tf
from official.vision.ops import augment as image_operations

# An operation takes an image, a direction of -1 or 1, and a place: shares of
# the height and the width. Few use the latter two.
Operation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]

# Of pixels that a distorted image does not cover.
_GRAY = 128
# The shares of a side, at magnitude 10, that tf-models-official's 100 pixels
# to translate and 40 pixels to cut out on each side are of 224.
_TRANSLATION = 100 / 224
_CUTOUT = 40 / 224


def rand_augment(
    image: tf.Tensor,
    key: tf.Tensor,
    num_layers: int = 2,
    magnitude: float = 10.0,
) -> tf.Tensor:
    """Applies randomly chosen operations to an image, one after the other.

    Each layer chooses among the operations of `list_operations` and leaving
    the image as it is, all equally likely, as in tf-models-official. Two
    things differ from it besides the key: no standard deviation of the
    magnitude is offered (theirs ignores the value that it is given), and
    floats are rounded to whole levels, not cut off.

    Args:
        image: `(height, width, channels)` of 1 or 3 channels, 0 to 255, of
            any numeric type.
        key: `(2,)`.
        num_layers: number of operations.
        magnitude: strength of all operations, usually 5 to 15.

    Returns:
        Whole numbers from 0 to 255 in the image's type and shape.

    Raises:
        ValueError: If the image has other channels, or a number is negative or
            not finite.

    Reference:
        - [Cubuk et al., 2020](https://arxiv.org/abs/1909.13719)
    """
    channels = image.shape[-1]
    if channels not in (1, 3):
        raise ValueError(
            "`image` must have 1 channel (gray) or 3 (colors). "
            f"Received: image.shape={image.shape}"
        )
    if num_layers < 0 or not 0 <= magnitude < math.inf:
        raise ValueError(
            "`num_layers` and `magnitude` must be finite and not negative. "
            f"Received: num_layers={num_layers}, magnitude={magnitude}"
        )
    operations = list(list_operations(magnitude, channels).values())
    # As a loop, the graph holds the operations once, not once per layer.
    pixels = tf.foldl(
        functools.partial(_apply_one, operations),
        tf.random.stateless_uniform((num_layers, 4), key),
        _to_colors(image),
    )
    return tf.cast(pixels[..., :channels], image.dtype)


def list_operations(magnitude: float, channels: int) -> dict[str, Operation]:
    """Returns the operations to choose from, by name.

    A magnitude means what it means in tf-models-official, whose constants are
    AutoAugment's: more is stronger, but more bits are left by `posterize`, a
    higher threshold by `solarize`, and the four from `color` on leave the
    image as it is at about 5. Different are

    - what a moved image does not cover: it is gray, as their documentation
      says, where their code mirrors the image;
    - `solarize` from magnitude 10 and `posterize` from 20 on: they do nothing,
      where their thresholds and bits no longer fit a byte, so that 256
      inverts the image and 384 counts as 128;
    - the lengths of `translate` and `cutout`: they are shares of the image,
      equal to their pixels at 224 pixels, so that they suit small images too.

    Args:
        magnitude: strength, from 0.
        channels: 1 for gray images, on which `color` would do nothing and is
            left out, or 3.

    Returns:
        Functions `(image, direction, place)` to an image, uint8 with 3
        channels both.
    """
    ops = image_operations
    strength = magnitude / 10
    factor = 1.8 * strength + 0.1
    bits = min(max(int(4 * strength), 1), 8)
    threshold = int(256 * strength)
    addition = int(110 * strength)
    operations = {
        "autocontrast": lambda image, *_: ops.autocontrast(image),
        "equalize": lambda image, *_: ops.equalize(image),
        "invert": lambda image, *_: ops.invert(image),
        "posterize": lambda image, *_: ops.posterize(image, bits),
        "solarize": lambda image, *_: (
            ops.solarize(image, threshold) if threshold < 256 else image
        ),
        "solarize_add": lambda image, *_: ops.solarize_add(image, addition),
        "color": lambda image, *_: ops.color(image, factor),
        "contrast": lambda image, *_: ops.contrast(image, factor),
        "brightness": lambda image, *_: ops.brightness(image, factor),
        "sharpness": lambda image, *_: ops.sharpness(image, factor),
        "rotate": functools.partial(_rotate, math.radians(30 * strength)),
        "shear_x": functools.partial(_shear, (0.3 * strength, 0.0)),
        "shear_y": functools.partial(_shear, (0.0, 0.3 * strength)),
        "translate_x": functools.partial(
            _translate, (_TRANSLATION * strength, 0.0)
        ),
        "translate_y": functools.partial(
            _translate, (0.0, _TRANSLATION * strength)
        ),
        "cutout": functools.partial(_cut_out, _CUTOUT * strength),
    }
    if channels == 1:
        del operations["color"]
    return operations


def _to_colors(image):
    if image.dtype != tf.uint8:
        image = tf.clip_by_value(tf.cast(image, tf.float32), 0.0, 255.0)
        image = tf.cast(tf.round(image), tf.uint8)
    # Their operations know three channels only.
    return tf.image.grayscale_to_rgb(image) if image.shape[-1] == 1 else image


def _apply_one(operations, image, draws):
    """Applies the operation that four numbers below 1 decide on, or none."""
    chosen = tf.cast(draws[0] * (len(operations) + 1), tf.int32)
    direction = tf.where(draws[1] < 0.5, -1.0, 1.0)
    place = draws[2:]
    branches = [
        functools.partial(operation, image, direction, place)
        for operation in operations
    ]
    branches.append(lambda: tf.identity(image))
    distorted = tf.switch_case(chosen, branches)
    return tf.ensure_shape(distorted, image.shape)


def _rotate(angle, image, direction, _):
    height, width, _ = tf.unstack(tf.cast(tf.shape(image), tf.float32))
    x, y = (width - 1) / 2, (height - 1) / 2
    cosine = tf.cos(angle)
    sine = tf.sin(angle) * direction
    right = x - cosine * x + sine * y
    down = y - sine * x - cosine * y
    return _transform(image, [cosine, -sine, right, sine, cosine, down])


def _shear(slopes, image, direction, _):
    x_slope, y_slope = slopes
    return _transform(
        image, [1.0, direction * x_slope, 0.0, direction * y_slope, 1.0, 0.0]
    )


def _translate(shares, image, direction, _):
    x_share, y_share = shares
    height, width, _ = tf.unstack(tf.cast(tf.shape(image), tf.float32))
    right = direction * x_share * width
    down = direction * y_share * height
    return _transform(image, [1.0, 0.0, right, 0.0, 1.0, down])


def _transform(image, matrix):
    """Takes each pixel from where a matrix of 2 rows and 3 columns says."""
    return image_operations.transform(
        image,
        tf.stack([*matrix, 0.0, 0.0]),
        fill_mode="constant",
        fill_value=float(_GRAY),
    )


def _cut_out(share, image, _, place):
    height, width, _ = tf.unstack(tf.cast(tf.shape(image), tf.float32))
    reach = tf.floor(share * tf.minimum(height, width))
    y, x = tf.unstack(tf.floor(place * [height, width]))
    rows = tf.range(height)[:, None, None]
    columns = tf.range(width)[None, :, None]
    inside = (
        (rows >= y - reach)
        & (rows < y + reach)
        & (columns >= x - reach)
        & (columns < x + reach)
    )
    return tf.where(inside, tf.constant(_GRAY, tf.uint8), image)
