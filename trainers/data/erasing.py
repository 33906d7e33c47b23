"""Random erasing, decided by a key alone."""

import math

import tensorflow as tf

from trainers.data.augmentation import split_key

# As in timm and tf-models-official; the paper erases up to 0.4 and draws the
# ratio of the sides, not its logarithm, uniformly.
_AREA_SHARES = (0.02, 1 / 3)
_LARGEST_LOG_RATIO = math.log(1 / 0.3)
_ATTEMPTS = 10


def random_erasing(
    image: tf.Tensor, key: tf.Tensor, rate: float = 0.25
) -> tf.Tensor:
    """Puts noise in place of one rectangle of some images.

    The rectangle has 2 to 33 % of the image's area, sides in a ratio of 0.3 to
    1 / 0.3, and lies anywhere in the image, all of it. tf-models-official's
    has its middle where the upper left corner should be, so that most are cut
    off at the top and the left; and its noise is the standard normal one,
    which on images up to 255 is black.

    Args:
        image: `(height, width, channels)`, 0 to 255, of any numeric type.
        key: `(2,)`.
        rate: share of the images in which a rectangle is erased.

    Returns:
        The image, in its type and shape. Each number in the rectangle is a
        whole one from 0 to 255, all equally likely.

    Raises:
        ValueError: If the rate is no share.

    Reference:
        - [Zhong et al., 2020](https://arxiv.org/abs/1708.04896)
    """
    if not 0 <= rate <= 1:
        raise ValueError(
            f"`rate` must be a share from 0 to 1. Received: rate={rate}"
        )
    rate_key, rectangle_key, noise_key = split_key(key, 3)

    def erase():
        noise = tf.random.stateless_uniform(
            tf.shape(image), noise_key, maxval=256, dtype=tf.int32
        )
        inside = _draw_rectangle(tf.shape(image)[:2], rectangle_key)
        return tf.where(inside[..., None], tf.cast(noise, image.dtype), image)

    chosen = tf.random.stateless_uniform((), rate_key) < rate
    # Three of four images are spared the noise.
    erased = tf.cond(chosen, erase, lambda: tf.identity(image))
    return tf.ensure_shape(erased, image.shape)


def _draw_rectangle(image_size, key):
    """Returns which pixels lie in a random rectangle: `(height, width)`."""
    image_size = tf.cast(image_size, tf.float32)
    draws = tf.random.stateless_uniform((_ATTEMPTS, 4), key)
    smallest, largest = _AREA_SHARES
    areas = smallest + (largest - smallest) * draws[:, 0]
    areas *= tf.reduce_prod(image_size)
    ratios = tf.exp(_LARGEST_LOG_RATIO * (2 * draws[:, 1] - 1))
    sizes = tf.stack([tf.sqrt(areas * ratios), tf.sqrt(areas / ratios)], -1)
    sizes = tf.round(sizes)
    fits = tf.reduce_all(sizes < image_size, axis=-1)
    first = tf.argmax(tf.cast(fits, tf.int32))
    size = tf.where(fits[first], sizes[first], 0.0)
    start = tf.floor(draws[first, 2:] * (image_size - size + 1))
    end = start + size
    rows = tf.range(image_size[0])[:, None]
    columns = tf.range(image_size[1])[None, :]
    return (
        (rows >= start[0])
        & (rows < end[0])
        & (columns >= start[1])
        & (columns < end[1])
    )
