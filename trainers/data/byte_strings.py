"""Reads parts of strings within graphs, where a file may end before they do."""

import tensorflow as tf


def cut(text: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Returns a part of a string, less of it at its end.

    Args:
        text: scalar string.
        begin: where the part begins.
        size: number of bytes.
    """
    length = tf.cast(tf.strings.length(text), tf.int64)
    begin = tf.minimum(tf.cast(begin, tf.int64), length)
    return tf.strings.substr(text, begin, tf.cast(size, tf.int64))


def read_bytes(text: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
    """Returns bytes of a string.

    Args:
        text: scalar string.
        begin: where the first one stands.
        size: number of bytes.

    Returns:
        int32, `(size,)`, zeros behind the end of the string.
    """
    part = cut(text, begin, size)
    return tf.cast(
        tf.io.decode_raw(part, tf.uint8, fixed_length=size), tf.int32
    )


def read_number(text: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the number in some bytes, the lowest digits first.

    Args:
        text: scalar string.
        begin: where the first byte stands.
        size: number of bytes.

    Returns:
        Scalar int64.
    """
    powers = tf.constant([256**n for n in range(size)], tf.int64)
    return tf.reduce_sum(
        tf.cast(read_bytes(text, begin, size), tf.int64) * powers
    )
