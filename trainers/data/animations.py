"""Takes the first frame out of animations, within graphs.

TensorFlow's decoders decode all frames before they take the first, and a small
file can hold thousands of large ones.
"""

import tensorflow as tf

from trainers.data.byte_strings import cut
from trainers.data.byte_strings import read_number

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
    size = tf.cast(tf.strings.length(image_bytes), tf.int64)

    def read(position):
        return read_number(image_bytes, position, 1)

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

    header_size = skip_table(tf.constant(13, tf.int64), read(10))
    (begin,) = tf.while_loop(
        lambda position: read(position) == ord(_EXTENSION),
        lambda position: (skip_blocks(position + 2),),
        (header_size,),
    )
    # Before the blocks of the frame: how many bits its codes begin with.
    end = skip_blocks(skip_table(begin + 10, read(begin + 9)) + 1)
    # Without extensions, one of which says what is transparent: that would be
    # black. And the decoder takes the corner of the frame for the image's.
    frame = tf.strings.join(
        [
            cut(image_bytes, 0, header_size),
            _FRAME,
            b"\0" * 4,
            cut(image_bytes, begin + 5, end - begin - 5),
            _TRAILER,
        ]
    )
    width, height = (read_number(image_bytes, begin + n, 2) for n in (5, 7))
    is_whole = (read(begin) == ord(_FRAME)) & (end <= size)
    return frame, width * height, is_whole


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
    size = tf.cast(tf.strings.length(image_bytes), tf.int64)
    flags = read_number(image_bytes, 20, 1)

    def skip_chunk(position):
        """Skips a name, a size, as many bytes, and one more if it is odd."""
        num_bytes = read_number(image_bytes, position + 4, 4)
        return position + 8 + num_bytes + num_bytes % 2

    def take():
        (begin,) = tf.while_loop(
            lambda position: (
                (position < size) & (cut(image_bytes, position, 4) != b"ANMF")
            ),
            lambda position: (skip_chunk(position),),
            (tf.constant(12, tf.int64),),
        )
        end = skip_chunk(begin)
        frame = tf.strings.join(
            [
                cut(image_bytes, 0, 4),
                # How much follows.
                _encode(end - 8, 4),
                cut(image_bytes, 8, 12),
                _encode(tf.bitwise.bitwise_or(flags, _HAS_ALPHA), 1),
                cut(image_bytes, 21, end - 21),
            ]
        )
        return frame, end <= size

    is_extended = cut(image_bytes, 12, 4) == b"VP8X"
    is_animation = tf.bitwise.bitwise_and(flags, _IS_ANIMATION) > 0
    return tf.cond(
        is_extended & is_animation,
        take,
        lambda: (image_bytes, tf.constant(True)),
    )


def _encode(number, size):
    """Returns the bytes of a number, the lowest digits first."""
    powers = tf.constant([256**n for n in range(size)], tf.int64)
    digits = number // powers % 256
    return tf.strings.reduce_join(tf.gather(tf.constant(_BYTES), digits))
