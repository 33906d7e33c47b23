"""What happens to an image before a network sees it in evaluation.

Training augments besides; an exported model does exactly this.
"""

import tensorflow as tf


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
