"""Takes the first frame out of animations, within graphs.

TensorFlow's decoders decode all frames before they take the first, and a small
file can hold thousands of large ones.
"""

import tensorflow as tf

# What begins an extension, a frame and the end of a GIF.
_EXTENSION, _FRAME, _TRAILER = b"!", b",", b";"
# In the flags of a WebP.
_HAS_ALPHA, _IS_ANIMATION = 0x10, 0x02
_BYTES = [bytes([number]) for number in range(256)]


def take_first_gif_frame(
    image_bytes: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a GIF with the first frame of another.

    Args:
        image_bytes: scalar string, the contents of a GIF.

    Returns:
        The contents of a GIF of the size of the frame; int64, height times
        width; and bool, whether the frame does not end before it should.

    Reference:
        - GIF89a, sections 15, 18, 20 and 24:
          https://www.w3.org/Graphics/GIF/spec-gif89a.txt
    """
    digits, size = _read_digits(image_bytes)

    def read(position):
        return digits[tf.minimum(position, size)]

    def skip_table(position, flags):
        """Skips a table of colors, if the flags say that there is one."""
        num_colors = tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)
        return position + tf.where(flags >= 128, 3 * num_colors, 0)

    def skip_blocks(position):
        """Skips blocks that begin with their size, and the empty one."""
        (position,) = tf.while_loop(
            lambda position: read(position) > 0,
            lambda position: (position + read(position) + 1,),
            (position,),
        )
        return position + 1

    header_size = skip_table(tf.constant(13, tf.int64), digits[10])
    (begin,) = tf.while_loop(
        lambda position: read(position) == ord(_EXTENSION),
        lambda position: (skip_blocks(position + 2),),
        (header_size,),
    )
    begin = tf.minimum(begin, size)
    # Before the blocks of the frame: how many bits its codes begin with.
    end = skip_blocks(skip_table(begin + 10, read(begin + 9)) + 1)
    # Without extensions, one of which says what is transparent: that would be
    # black. And the decoder takes the corner of the frame for the image's.
    frame = tf.strings.join(
        [
            _cut(image_bytes, 0, header_size),
            _FRAME,
            b"\0" * 4,
            _cut(image_bytes, begin + 5, end),
            _TRAILER,
        ]
    )
    sides = digits[begin + 5 : begin + 9]
    num_pixels = (sides[0] + 256 * sides[1]) * (sides[2] + 256 * sides[3])
    is_whole = (read(begin) == ord(_FRAME)) & (end <= size)
    return frame, num_pixels, is_whole


def take_first_webp_frame(
    image_bytes: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a WebP with the first frame of another.

    An animation is then one of transparent images: of others TensorFlow 2.20
    writes four channels to where there is room for three.

    Args:
        image_bytes: scalar string, the contents of a WebP.

    Returns:
        The contents of a WebP, the same if it is no animation; and bool,
        whether the frame does not end before it should.

    Reference:
        - https://developers.google.com/speed/webp/docs/riff_container
    """
    digits, size = _read_digits(image_bytes)
    powers = tf.constant([1, 2**8, 2**16, 2**24], tf.int64)

    def skip_chunk(position):
        """Skips a name, a size, as many bytes, and one more if it is odd."""
        num_bytes = tf.reduce_sum(digits[position + 4 : position + 8] * powers)
        return position + 8 + num_bytes + num_bytes % 2

    def is_no_frame(position):
        name = digits[position : position + 4]
        is_frame = tf.reduce_all(name == tf.constant([*b"ANMF"], tf.int64))
        return (position < size) & ~is_frame

    def take():
        (begin,) = tf.while_loop(
            is_no_frame,
            lambda position: (tf.minimum(skip_chunk(position), size),),
            (tf.constant(12, tf.int64),),
        )
        end = skip_chunk(begin)
        # Where the size of all that follows stands.
        num_bytes = tf.minimum(end, size) - 8
        frame = tf.strings.join(
            [
                _cut(image_bytes, 0, 4),
                _encode(num_bytes // powers % 256),
                _cut(image_bytes, 8, 20),
                _encode(tf.bitwise.bitwise_or(digits[20:21], _HAS_ALPHA)),
                _cut(image_bytes, 21, end),
            ]
        )
        return frame, end <= size

    is_extended = tf.reduce_all(
        digits[12:16] == tf.constant([*b"VP8X"], tf.int64)
    )
    is_animation = tf.bitwise.bitwise_and(digits[20], _IS_ANIMATION) > 0
    return tf.cond(
        is_extended & is_animation,
        take,
        lambda: (image_bytes, tf.constant(True)),
    )


def _read_digits(image_bytes):
    """Returns the bytes as int64, with zeros behind them, and their number."""
    digits = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8), tf.int64)
    # As many as are read at once where a file ends early.
    return tf.pad(digits, [[0, 32]]), tf.size(digits, tf.int64)


def _cut(text, begin, end):
    """Returns a part of a string, less of it at its end."""
    length = tf.cast(tf.strings.length(text), tf.int64)
    begin = tf.minimum(tf.cast(begin, tf.int64), length)
    return tf.strings.substr(text, begin, tf.cast(end, tf.int64) - begin)


def _encode(digits):
    return tf.strings.reduce_join(tf.gather(tf.constant(_BYTES), digits))
