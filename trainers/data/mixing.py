"""Mixup and CutMix of whole batches, decided by a key alone."""

import math

import tensorflow as tf

from trainers.data.augmentation import split_key


def mix_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    key: tf.Tensor,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each example of a batch with the one before it.

    Each example has its own rate, drawn from a symmetric beta distribution.
    Where both alphas are above 0, half of the batches get Mixup and half
    CutMix.

    Args:
        images: `(batch_size, height, width, channels)`, any floating type.
        labels: `(batch_size, num_classes)`, one-hot or other weights, floats.
        key: `(2,)`.
        mixup_alpha: of the beta distribution for Mixup; 0 for no Mixup.
        cutmix_alpha: of the beta distribution for CutMix; 0 for no CutMix.

    Returns:
        The mixed `(images, labels)`; the labels of an example have the sum
        that they had.

    Raises:
        ValueError: If an alpha is negative or not finite.

    Reference:
        - [Zhang et al., 2018](https://arxiv.org/abs/1710.09412)
        - [Yun et al., 2019](https://arxiv.org/abs/1905.04899)
    """
    if not (0 <= mixup_alpha < math.inf and 0 <= cutmix_alpha < math.inf):
        raise ValueError(
            "`mixup_alpha` and `cutmix_alpha` must be finite and not negative. "
            f"Received: mixup_alpha={mixup_alpha}, cutmix_alpha={cutmix_alpha}"
        )
    choice_key, mixing_key = split_key(key, 2)

    def apply_mixup():
        return mixup(images, labels, mixing_key, mixup_alpha)

    def apply_cutmix():
        return cutmix(images, labels, mixing_key, cutmix_alpha)

    if mixup_alpha and cutmix_alpha:
        is_mixup = tf.random.stateless_uniform((), choice_key) < 0.5
        return tf.cond(is_mixup, apply_mixup, apply_cutmix)
    if mixup_alpha:
        return apply_mixup()
    if cutmix_alpha:
        return apply_cutmix()
    return images, labels


def mixup(
    images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Averages each example with the one before it, at a rate of its own.

    Args, Returns and Reference: see `mix_batch`.
    """
    rates = _draw_beta(alpha, tf.shape(images)[0], key)
    return (
        _interpolate(images, tf.cast(rates[:, None, None, None], images.dtype)),
        _interpolate(labels, tf.cast(rates[:, None], labels.dtype)),
    )


def cutmix(
    images: tf.Tensor, labels: tf.Tensor, key: tf.Tensor, alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a rectangle of the one before it into each example.

    The rectangles have the image's proportions and their middle anywhere in
    it; what lies outside is cut off. The labels are averaged by the area that
    is left, so that they say how many pixels are whose. tf-models-official
    takes the width from the height, and the labels from the area before the
    cut.

    Args, Returns and Reference: see `mix_batch`.
    """
    rate_key, middle_key = split_key(key, 2)
    batch_size, height, width, channels = tf.unstack(tf.shape(images))
    image_size = tf.cast([height, width], tf.float32)
    side_shares = tf.sqrt(1 - _draw_beta(alpha, batch_size, rate_key))
    half_sizes = side_shares[:, None] * image_size / 2
    middles = tf.random.stateless_uniform((batch_size, 2), middle_key)
    middles *= image_size
    starts = tf.maximum(tf.round(middles - half_sizes), 0)
    ends = tf.minimum(tf.round(middles + half_sizes), image_size)
    areas = tf.reduce_prod(ends - starts, axis=-1)
    rates = 1 - areas / tf.reduce_prod(image_size)
    rows = _make_mask(starts[:, 0], ends[:, 0], height)
    columns = _make_mask(starts[:, 1], ends[:, 1], width)
    columns = tf.repeat(columns, channels, axis=1)
    inside = tf.reshape(rows[:, :, None] & columns[:, None], tf.shape(images))
    return (
        # `tf.where`, which can broadcast, takes four times as long.
        tf.raw_ops.Select(condition=inside, x=_get_partners(images), y=images),
        _interpolate(labels, tf.cast(rates[:, None], labels.dtype)),
    )


def _draw_beta(alpha, count, key):
    """Draws from the beta distribution of parameters alpha and alpha."""
    # Of two gamma variables, alpha's is that of alpha + 1 times a power of a
    # uniform one. Their logarithms do not underflow where alpha is small.
    gamma_key, power_key = split_key(key, 2)
    gammas = tf.random.stateless_gamma((2, count), gamma_key, alpha + 1.0)
    # Above 0.
    uniforms = 1 - tf.random.stateless_uniform((2, count), power_key)
    logarithms = tf.math.log(gammas) + tf.math.log(uniforms) / alpha
    return tf.sigmoid(logarithms[0] - logarithms[1])


def _get_partners(values):
    return tf.roll(values, 1, axis=0)


def _interpolate(values, rates):
    partners = _get_partners(values)
    # One rate per example: weights per pixel would double the traffic of
    # memory, which is what takes the time.
    return partners + rates * (values - partners)


def _make_mask(starts, ends, size):
    """Returns which of `size` pixels lie in each range: `(batch, size)`."""
    positions = tf.range(size, dtype=tf.float32)
    return (positions >= starts[:, None]) & (positions < ends[:, None])
