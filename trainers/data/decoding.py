"""Decodes image files within graphs, all kinds of them alike.

`export.preprocessing` does the same without TensorFlow, to the bit.
"""

import functools

import tensorflow as tf

from trainers.data.animations import take_first_gif_frame
from trainers.data.animations import take_first_webp_frame
from trainers.data.orientation import orient_image
from trainers.data.orientation import read_orientation

# Pillow's limit too: 256 MiB as colors.
MAX_PIXELS = 2**28 // 3
# What an image that cannot be decoded does.
NO_IMAGE = "is no PNG, JPEG, BMP, GIF or WebP image"
TOO_LARGE = f"has more than {MAX_PIXELS} pixels"
OTHER_BMP = "is a BMP, but not of 8, 24 or 32 bits per pixel, uncompressed"
DAMAGED = "is damaged or cut off"
# As far as the sizes, and what kind of BMP it is.
_HEADER_BYTES = 66
# Of red, green and blue in a pixel of 32 bits, as they are without masks.
_BMP_MASKS = (0xFF0000, 0xFF00, 0xFF)
# As Pillow has them, by 65536; those of ITU-R BT.601.
_GRAY_WEIGHTS = (19595, 38470, 7471)


def decode_image(image_bytes: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a PNG, JPEG, BMP, GIF or WebP.

    Of animations it is the first frame; of more than 8 bits the upper 8.
    Transparency is left out. A JPEG is turned and mirrored as its EXIF
    orientation says. What would take up too much memory is refused: a file of
    a few hundred bytes can hold an image of gigabytes.

    Args:
        image_bytes: scalar string, the contents of an image file.
        channels: 1 for grayscale or 3 for colors, converted if need be.

    Returns:
        uint8, `(height, width, channels)`.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are no such image, one of
            more than `MAX_PIXELS`, or a BMP of another kind than 8, 24 or 32
            bits per pixel without compression.
    """
    return _make_decoder(channels)(image_bytes)


@functools.cache
def _make_decoder(channels):
    """Makes one graph for all data sets, each of which would take a while."""
    return tf.function(
        functools.partial(_decode, channels=channels),
        input_signature=[tf.TensorSpec((), tf.string)],
    )


def _decode(image_bytes, channels):
    header = tf.io.decode_raw(
        tf.strings.substr(image_bytes, 0, _HEADER_BYTES),
        tf.uint8,
        fixed_length=_HEADER_BYTES,
    )
    header = tf.cast(header, tf.int64)
    decoders = {
        b"\xff\xd8\xff": _decode_jpeg,
        b"\x89PNG": _decode_png,
        b"GIF8": _decode_gif,
        b"BM": _decode_bmp,
        b"RIFF": _decode_webp,
        # What all begin with, for what is none of these.
        b"": _refuse,
    }
    matches = [
        tf.reduce_all(header[: len(begin)] == tf.constant([*begin], tf.int64))
        for begin in decoders
    ]
    image = tf.switch_case(
        tf.argmax(matches, output_type=tf.int32),
        [
            functools.partial(decode, image_bytes, header, channels)
            for decode in decoders.values()
        ],
    )
    image = orient_image(image, read_orientation(image_bytes))
    return tf.ensure_shape(image, (None, None, channels))


def _decode_jpeg(image_bytes, header, channels):
    del header
    height, width, components = tf.unstack(
        tf.io.extract_jpeg_shape(image_bytes, tf.int64), num=3
    )
    image_bytes = _check_size(image_bytes, height * width)

    def decode(channels):
        # As Pillow does; without it, faster and less exact.
        return tf.io.decode_jpeg(
            image_bytes, channels, dct_method="INTEGER_ACCURATE"
        )

    if channels == 3:
        return decode(3)
    # The brightness is there already, but in cyan, magenta, yellow and black.
    return tf.cond(
        components == 4,
        lambda: _convert_colors(decode(3), 1),
        lambda: decode(1),
    )


def _decode_png(image_bytes, header, channels):
    # The highest digits are the first.
    header = header[::-1]
    width, height = (
        _read(header, _HEADER_BYTES - begin - 4, 4) for begin in (16, 20)
    )
    image_bytes = _check_size(image_bytes, height * width)
    return _convert_colors(tf.io.decode_png(image_bytes, 3), channels)


def _decode_gif(image_bytes, header, channels):
    # Programs that show it make room for all of it, the frame or not.
    num_pixels = _read(header, 6, 2) * _read(header, 8, 2)
    frame, num_frame_pixels, is_whole = take_first_gif_frame(image_bytes)
    frame = _check_size(frame, tf.maximum(num_pixels, num_frame_pixels))
    # The decoder fills up what is missing with anything.
    frame = _require(frame, is_whole, DAMAGED)
    return _convert_colors(tf.io.decode_gif(frame)[0], channels)


def _decode_bmp(image_bytes, header, channels):
    height = _read(header, 22, 4)
    # A negative one says that the first row is the upper one.
    height = tf.minimum(height, 2**32 - height)
    image_bytes = _check_size(image_bytes, height * _read(header, 18, 4))
    size, bits, compression, num_colors = (
        _read(header, begin, count)
        for begin, count in ((14, 4), (28, 2), (30, 4), (46, 4))
    )
    has_usual_masks = tf.reduce_all(
        [
            _read(header, 54 + 4 * n, 4) == mask
            for n, mask in enumerate(_BMP_MASKS)
        ]
    )
    is_uncompressed = (compression == 0) | (
        (compression == 3) & (bits == 32) & has_usual_masks
    )
    has_known_bits = (bits == 8) | (bits == 24) | (bits == 32)
    is_known = (size >= 40) & has_known_bits & is_uncompressed
    image_bytes = _require(image_bytes, is_known, OTHER_BMP)
    image = tf.io.decode_bmp(image_bytes)

    def look_up():
        # No number stands for all of them.
        most = tf.constant(256, tf.int64)
        num_bytes = 4 * tf.where(num_colors == 0, most, num_colors)
        table = tf.io.decode_raw(
            tf.strings.substr(image_bytes, 14 + size, num_bytes),
            tf.uint8,
            fixed_length=4 * 256,
        )
        # Blue, green, red and nothing.
        table = tf.reshape(table, (256, 4))[:, 2::-1]
        return tf.gather(table, tf.cast(image[..., 0], tf.int32))

    colors = tf.cond(bits == 8, look_up, lambda: image[..., :3])
    return _convert_colors(colors, channels)


def _decode_webp(image_bytes, header, channels):
    # Lossless: 14 bits each.
    sides = _read(header, 21, 4)
    lossless = (sides % 2**14 + 1) * (sides // 2**14 % 2**14 + 1)
    extended = (_read(header, 24, 3) + 1) * (_read(header, 27, 3) + 1)
    lossy = (_read(header, 26, 2) % 2**14) * (_read(header, 28, 2) % 2**14)
    num_pixels = tf.where(
        header[15] == ord("X"),
        extended,
        tf.where(header[15] == ord("L"), lossless, lossy),
    )
    image_bytes = _check_size(image_bytes, num_pixels)
    frame, is_whole = take_first_webp_frame(image_bytes)
    frame = _require(frame, is_whole, DAMAGED)
    image = tf.io.decode_image(frame, expand_animations=False)
    return _convert_colors(image[..., :3], channels)


def _refuse(image_bytes, header, channels):
    del header
    image_bytes = _require(image_bytes, tf.constant(False), NO_IMAGE)
    return tf.io.decode_png(image_bytes, channels)


def _read(header, begin, size):
    """Returns the number in some bytes, the lowest digits first."""
    powers = tf.constant([256**n for n in range(size)], tf.int64)
    return tf.reduce_sum(header[begin : begin + size] * powers)


def _check_size(image_bytes, num_pixels):
    return _require(
        image_bytes, num_pixels <= tf.constant(MAX_PIXELS, tf.int64), TOO_LARGE
    )


def _require(image_bytes, condition, message):
    """Returns the bytes, to be decoded once the condition is known to hold."""
    check = tf.debugging.Assert(condition, [message])
    # Run eagerly, it has raised already.
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(image_bytes)


def _convert_colors(image, channels):
    """Converts colors to gray as Pillow does, to the bit."""
    if channels == 3:
        return image
    weights = tf.constant(_GRAY_WEIGHTS, tf.float32, (3, 1))
    # Of integers below 2**24, so that nothing is rounded.
    gray = tf.tensordot(tf.cast(image, tf.float32), weights, axes=1)
    return tf.cast((gray + 2**15) / 2**16, tf.uint8)
