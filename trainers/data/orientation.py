"""Which way up a photograph is, by the EXIF in its JPEG.

TensorFlow's decoders do not read it. `export.preprocessing` does the same
without graphs.
"""

import tensorflow as tf

from trainers.data.byte_strings import cut
from trainers.data.byte_strings import read_bytes


def read_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG.

    Args:
        image_bytes: scalar string, the contents of an image file.

    Returns:
        int32, 1 to 8; 1, upright, for other files and where nothing or
        nonsense is said.

    Reference:
        - Exif 2.32, CIPA DC-008-2019, sections 4.5.4, 4.6.2 and 4.6.4
    """
    is_jpeg = tf.strings.substr(image_bytes, 0, 2) == b"\xff\xd8"
    return tf.cond(
        is_jpeg,
        lambda: _find_orientation(*_find_exif(image_bytes)),
        lambda: tf.constant(1),
    )


def orient_image(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors an image so that it is upright.

    Args:
        image: `(height, width, channels)`.
        orientation: int32, 1 to 8, as in EXIF.

    Returns:
        The image; 5 to 8 exchange height and width.
    """

    def is_one_of(*orientations):
        return tf.reduce_any(orientation == tf.constant(orientations))

    def orient():
        turned = tf.cond(
            orientation >= 5,
            lambda: tf.transpose(image, (1, 0, 2)),
            lambda: image,
        )
        is_mirrored = tf.stack([is_one_of(3, 4, 7, 8), is_one_of(2, 3, 6, 7)])
        return tf.reverse(turned, tf.boolean_mask([0, 1], is_mirrored))

    return tf.cond(orientation > 1, orient, lambda: image)


def _find_exif(image_bytes):
    """Returns the TIFF within the EXIF of a JPEG, and whether there is any."""

    def read_segment(position):
        return position, read_bytes(image_bytes, position, 10)

    def is_skipped(_, segment):
        return _is_application(segment) & ~_is_exif(segment)

    def skip(position, segment):
        return read_segment(position + 2 + 256 * segment[2] + segment[3])

    # The segments of applications, and comments, come first.
    position, segment = tf.while_loop(
        is_skipped, skip, read_segment(tf.constant(2))
    )
    size = 256 * segment[2] + segment[3]
    tiff = cut(image_bytes, position + 10, tf.maximum(0, size - 8))
    return tiff, _is_application(segment)


def _is_application(segment):
    is_application = (segment[1] // 16 == 0xE) | (segment[1] == 0xFE)
    return (segment[0] == 0xFF) & is_application


def _is_exif(segment):
    return tf.reduce_all(segment[4:] == tf.constant([*b"Exif\0\0"]))


def _find_orientation(tiff, is_there):
    is_little = tf.strings.substr(tiff, 0, 2) == b"II"

    def add_up(digits):
        """Makes numbers of their bytes, which are on the last axis."""
        digits = tf.cast(digits, tf.int64)
        powers = 256 ** tf.range(digits.shape[-1], dtype=tf.int64)
        return tf.reduce_sum(
            digits * tf.where(is_little, powers, powers[::-1]), axis=-1
        )

    begin = add_up(read_bytes(tiff, 4, 4))
    count = add_up(read_bytes(tiff, begin, 2))
    entries = tf.io.decode_raw(cut(tiff, begin + 2, 12 * count), tf.uint8)
    # Those that are whole.
    entries = entries[: tf.size(entries) // 12 * 12]
    entries = tf.cast(tf.reshape(entries, (-1, 12)), tf.int32)
    # Tag, type and number of values: a number of 16 bits.
    wanted = tf.where(
        is_little, [0x12, 1, 3, 0, 1, 0, 0, 0], [1, 0x12, 0, 3, 0, 0, 0, 1]
    )
    is_wanted = tf.reduce_all(entries[:, :8] == wanted, axis=-1)
    values = tf.boolean_mask(entries[:, 8:10], is_wanted)
    value = tf.concat([add_up(values), [1]], axis=0)[0]
    is_known = is_there & (value >= 1) & (value <= 8)
    return tf.where(is_known, tf.cast(value, tf.int32), 1)
