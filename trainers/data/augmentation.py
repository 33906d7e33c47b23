"""Random changes to training images, each decided by a key alone.

A key is an integer tensor of shape `(2,)`. The same key gives the same image,
so that a resumed run sees what an uninterrupted one would have seen.
"""

import math

import tensorflow as tf

from trainers.data.preprocessing import prepare_image


def split_key(key: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Makes `count` independent keys from one."""
    return [
        tf.random.experimental.stateless_fold_in(key, number)
        for number in range(count)
    ]


def jitter(
    image: tf.Tensor,
    image_size: int,
    key: tf.Tensor,
    *,
    shift: float = 1 / 8,
    rotation: float = math.radians(10),
    zoom: float = 0.1,
) -> tf.Tensor:
    """Resizes an image, then shifts, turns and zooms it a little.

    What comes in from outside is black.

    Args:
        image: `(height, width, channels)`, 0 to 255.
        image_size: height and width of the result in pixels.
        key: `(2,)`.
        shift: largest shift on each axis as a share of the image's side.
        rotation: largest angle in radians.
        zoom: largest relative change of size.

    Returns:
        float32, `(image_size, image_size, channels)`, 0 to 255.
    """
    image = prepare_image(image, image_size, crop_fraction=1.0)
    shift_x, shift_y, turn, scale = tf.unstack(
        tf.random.stateless_uniform((4,), key, -1.0, 1.0)
    )
    angle = rotation * turn
    scale = 1.0 + zoom * scale
    cosine = scale * tf.cos(angle)
    sine = scale * tf.sin(angle)
    # The transform maps pixels of the result to those of the image, about
    # the middle of both.
    middle = (image_size - 1) / 2
    right = (
        middle
        - cosine * middle
        + sine * middle
        + shift * shift_x * (image_size)
    )
    down = (
        middle
        - sine * middle
        - cosine * middle
        + shift * shift_y * (image_size)
    )
    transform = tf.stack([cosine, -sine, right, sine, cosine, down, 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=(image_size, image_size),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def shift_and_flip(
    image: tf.Tensor, image_size: int, key: tf.Tensor, *, padding: int = 4
) -> tf.Tensor:
    """Pads an image with black, crops at random and flips every other one.

    Args:
        image: `(height, width, channels)`, 0 to 255.
        image_size: height and width of the result in pixels.
        key: `(2,)`.
        padding: largest shift on each axis in pixels.

    Returns:
        float32, `(image_size, image_size, channels)`, 0 to 255.

    Reference:
        - [He et al., 2016](https://arxiv.org/abs/1512.03385), section 4.2
    """
    crop_key, flip_key = split_key(key, 2)
    image = prepare_image(image, image_size, crop_fraction=1.0)
    image = tf.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    image = tf.image.stateless_random_crop(
        image, (image_size, image_size, image.shape[-1]), crop_key
    )
    return tf.image.stateless_random_flip_left_right(image, flip_key)


def crop_and_flip(
    image: tf.Tensor, image_size: int, key: tf.Tensor
) -> tf.Tensor:
    """Crops a random window, resizes it and flips every other one.

    Args:
        image: `(height, width, channels)`, 0 to 255.
        image_size: height and width of the result in pixels.
        key: `(2,)`.

    Returns:
        float32, `(image_size, image_size, channels)`, 0 to 255.

    Reference:
        - [Szegedy et al., 2015](https://arxiv.org/abs/1409.4842), section 6
    """
    crop_key, flip_key = split_key(key, 2)
    whole_image = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        whole_image,
        crop_key,
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        # Where ten tries find no window, the whole image is taken.
        max_attempts=10,
    )
    window = tf.slice(image, begin, size)
    window = tf.image.resize(window, (image_size, image_size), antialias=True)
    window = tf.ensure_shape(window, (image_size, image_size, image.shape[-1]))
    return tf.image.stateless_random_flip_left_right(window, flip_key)


def color_jitter(
    image: tf.Tensor, key: tf.Tensor, strength: float
) -> tf.Tensor:
    """Changes brightness, contrast and saturation at random, in this order.

    Each is multiplied by a factor between `1 - strength` and `1 + strength`:
    the difference of each pixel from black, from the mean gray of the image,
    and from the gray of the same pixel. On gray images the last is left out.

    Args:
        image: `(height, width, channels)` of 1 or 3 channels, 0 to 255.
        key: `(2,)`.
        strength: largest relative change, 0 to 1; 0.4 is usual.

    Returns:
        float32, in the image's shape, 0 to 255.

    Raises:
        ValueError: If the strength is outside its range.
    """
    if not 0 <= strength <= 1:
        raise ValueError(
            f"`strength` must be from 0 to 1. Received: strength={strength}"
        )
    is_colored = image.shape[-1] == 3
    brightness, contrast, saturation = tf.unstack(
        tf.random.stateless_uniform((3,), key, 1 - strength, 1 + strength)
    )
    image = _clip(brightness * tf.cast(image, tf.float32))
    gray = tf.image.rgb_to_grayscale(image) if is_colored else image
    mean = tf.reduce_mean(gray)
    image = _clip(mean + contrast * (image - mean))
    if not is_colored:
        return image
    gray = tf.image.rgb_to_grayscale(image)
    return _clip(gray + saturation * (image - gray))


def _clip(image):
    return tf.clip_by_value(image, 0.0, 255.0)
