"""Takes the first frame out of a GIF, within graphs.

TensorFlow's decoder decodes all frames before it takes the first, and a small
file can hold thousands of large ones.
"""

import tensorflow as tf

# What begins an extension, a frame and the end.
_EXTENSION, _FRAME, _TRAILER = b"!", b",", b";"


def take_first_frame(
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
    # Zeros behind the end stop what reads on.
    digits = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8), tf.int32)
    size = tf.size(digits)
    digits = tf.pad(digits, [[0, 16]])

    def read(position):
        return digits[tf.minimum(position, size)]

    def skip_table(position, flags):
        """Skips a table of colors, if the flags say that there is one."""
        num_bytes = 3 * tf.bitwise.left_shift(2, flags % 8)
        return position + tf.where(flags >= 128, num_bytes, 0)

    def skip_blocks(position):
        """Skips blocks that begin with their size, and the empty one."""
        (position,) = tf.while_loop(
            lambda position: read(position) > 0,
            lambda position: (position + read(position) + 1,),
            (position,),
        )
        return position + 1

    header_size = skip_table(13, read(10))
    (begin,) = tf.while_loop(
        lambda position: read(position) == ord(_EXTENSION),
        lambda position: (skip_blocks(position + 2),),
        (header_size,),
    )
    begin = tf.minimum(begin, size)
    sides = digits[begin + 5 : begin + 9]
    # Before the blocks of the frame: how many bits its codes begin with.
    end = skip_blocks(skip_table(begin + 10, read(begin + 9)) + 1)
    # Without extensions, one of which says what is transparent: that would be
    # black. And the decoder takes the corner of the frame for the image's.
    frame = tf.strings.join(
        [
            tf.strings.substr(image_bytes, 0, tf.minimum(header_size, size)),
            _FRAME,
            b"\0" * 4,
            tf.strings.substr(
                image_bytes, tf.minimum(begin + 5, size), end - begin - 5
            ),
            _TRAILER,
        ]
    )
    width, height = sides[0] + 256 * sides[1], sides[2] + 256 * sides[3]
    num_pixels = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    is_whole = (read(begin) == ord(_FRAME)) & (end <= size)
    return frame, num_pixels, is_whole
