"""What happens to an image before a network sees it in evaluation.

Training augments besides; an exported model does exactly this.
"""

import tensorflow as tf

from trainers.data.orientation import orient_image
from trainers.data.orientation import read_orientation

# Pillow's limit too: 256 MiB as colors.
MAX_PIXELS = 2**28 // 3
TOO_LARGE = f"more than {MAX_PIXELS} pixels"
# As far as the sizes of a PNG, a GIF and a BMP.
_HEADER_BYTES = 26


def decode_image(image_bytes: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a PNG, JPEG, BMP or the first frame of a GIF.

    A JPEG is turned and mirrored as its EXIF orientation says. What would take
    up too much memory is refused: a file of a few hundred kilobytes can hold
    an image of gigabytes.

    Args:
        image_bytes: scalar string, the contents of an image file.
        channels: 1 for grayscale or 3 for colors, converted if need be.

    Returns:
        uint8, `(height, width, channels)`.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are no such image, or one
            of more than `MAX_PIXELS`.
    """
    is_small = tf.debugging.assert_less_equal(
        count_pixels(image_bytes), tf.constant(MAX_PIXELS, tf.int64), TOO_LARGE
    )
    # Run eagerly, it has raised already.
    with tf.control_dependencies([] if is_small is None else [is_small]):
        image = tf.io.decode_image(
            tf.identity(image_bytes),
            channels=channels,
            expand_animations=False,
        )
    image = orient_image(image, read_orientation(image_bytes))
    return tf.ensure_shape(image, (None, None, channels))


def count_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
    """Reads the size of an image from its header.

    Args:
        image_bytes: scalar string, the contents of an image file.

    Returns:
        int64, height times width; any number if the bytes are no image.

    Raises:
        tf.errors.InvalidArgumentError: If they begin as a damaged JPEG.
    """
    header = tf.io.decode_raw(
        tf.strings.substr(image_bytes, 0, _HEADER_BYTES),
        tf.uint8,
        fixed_length=_HEADER_BYTES,
    )
    header = tf.cast(header, tf.int64)

    def read(begin, powers):
        digits = header[begin : begin + len(powers)]
        return tf.reduce_sum(digits * tf.constant(powers, tf.int64))

    def read_two(begin, step, powers):
        return read(begin, powers) * read(begin + step, powers)

    def read_jpeg():
        height, width, _ = tf.unstack(
            tf.io.extract_jpeg_shape(image_bytes, tf.int64), num=3
        )
        return height * width

    little = [2**0, 2**8, 2**16, 2**24]
    return tf.case(
        [
            (header[0] == 0xFF, read_jpeg),
            (header[0] == ord("G"), lambda: read_two(6, 2, little[:2])),
            (header[0] == ord("B"), lambda: read_two(18, 4, little)),
        ],
        # PNG.
        default=lambda: read_two(16, 4, little[::-1]),
        exclusive=True,
    )


def prepare_image(
    image: tf.Tensor, image_size: int, crop_fraction: float
) -> tf.Tensor:
    """Cuts the central square out of an image and resizes it.

    Args:
        image: `(height, width, channels)`, any numeric type, 0 to 255.
        image_size: height and width of the result in pixels.
        crop_fraction: side of the square over the image's shorter side.

    Returns:
        float32, `(image_size, image_size, channels)`, 0 to 255.
    """
    size = tf.shape(image)[:2]
    shorter = tf.cast(tf.reduce_min(size), tf.float32)
    side = tf.maximum(1, tf.cast(tf.round(shorter * crop_fraction), tf.int32))
    top, left = tf.unstack((size - side) // 2)
    square = image[top : top + side, left : left + side]
    square = tf.image.resize(square, (image_size, image_size), antialias=True)
    return tf.ensure_shape(square, (image_size, image_size, image.shape[-1]))
