"""The normalization that layers and networks repeat, as one unbuilt layer."""

import keras
from keras import ops

from lambda_keras.functional import widen_dtype


@keras.saving.register_keras_serializable(package="lambda_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """Normalizes over the batch, and learns nothing of one without examples.

    Keras's own takes the mean of nothing there, which is not a number, and
    neither are the moving statistics and the gradients from then on. A device
    gets such a batch where the last one of an epoch does not suffice for all.
    """

    def _moments(self, inputs, mask):
        mean, variance = super()._moments(inputs, mask)
        if mask is None and inputs.shape[0]:
            return mean, variance
        count = ops.size(inputs) if mask is None else ops.sum(mask)
        is_empty = ops.equal(count, 0)
        if mask is None and self.synchronized:
            # The devices that have examples give this one their mean.
            is_empty = ops.logical_and(is_empty, ops.isnan(mean))
        return (
            ops.where(is_empty, self.moving_mean, mean),
            ops.where(is_empty, self.moving_variance, variance),
        )


class Untracked:
    """Holds a layer that Keras must not count among those of its owner.

    One that is only copied is never built, and `model.quantize` fails there.
    """

    def __init__(self, value):
        self.value = value


def standardize_normalization(normalization):
    """Checks a `normalization` argument.

    Args:
        normalization: `"batch"`, `None`, a layer that has not been built, or
            the serialized form of one.

    Returns:
        The same, with a serialized layer deserialized.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(normalization, dict):
        normalization = keras.saving.deserialize_keras_object(normalization)
    if normalization in ("batch", None):
        return normalization
    if isinstance(normalization, keras.layers.Layer):
        if not normalization.built:
            return normalization
        raise ValueError(
            "`normalization` must be a layer that has not been built, because "
            "it is copied wherever it is used and the copies share no weights. "
            f"Received: normalization={normalization}"
        )
    raise ValueError(
        '`normalization` must be "batch", None or a Keras layer. '
        f"Received: normalization={normalization!r}"
    )


def make_normalization(
    normalization, *, name, dtype=None, gamma_initializer=None
):
    """Makes a layer from a `normalization` argument.

    Args:
        normalization: what `standardize_normalization` returns.
        name: name of the layer.
        dtype: dtype policy of the layer. `None` keeps that of `normalization`.
        gamma_initializer: initializer of the layer's scale. `None` keeps that
            of `normalization`.

    Returns:
        `BatchNormalization(momentum=0.9, epsilon=1e-5)` for `"batch"`,
        `Identity` for `None`, otherwise a copy of the layer.
    """
    if normalization is None:
        return keras.layers.Identity(name=name, dtype=dtype)
    if normalization == "batch":
        normalization = BatchNormalization(momentum=0.9, epsilon=1e-5)
    config = {**normalization.get_config(), "name": name}
    if dtype is not None:
        config["dtype"] = dtype
    if gamma_initializer is not None:
        config["gamma_initializer"] = gamma_initializer
    made = type(normalization)
    if made is keras.layers.BatchNormalization:
        made = BatchNormalization
    return made.from_config(config)


def project_normalized(inputs, projection, normalization, mask, training):
    """Projects and normalizes.

    Args:
        inputs: `(b, ..., channels)`.
        projection: a built `Dense` without bias.
        normalization: a built layer that `make_normalization` made.
        mask: bools, `(b, ...)`, which a batch normalization regards. `None`
            where no position is hidden.
        training: bool.

    Returns:
        `(b, ..., units)`.
    """
    if not isinstance(normalization, keras.layers.BatchNormalization):
        return normalization(projection(inputs), training=training)
    folds = has_affine(normalization) and projection.quantization_mode is None
    if training or not folds:
        return normalization(projection(inputs), training=training, mask=mask)
    # In inference it is cheaper to scale the kernel than what it makes.
    compute_dtype = projection.compute_dtype
    dtype = widen_dtype(compute_dtype)
    scale, shift = find_affine(normalization, dtype)
    kernel = ops.cast(projection.kernel, dtype) * scale
    inputs = ops.cast(inputs, compute_dtype)
    outputs = ops.matmul(inputs, ops.cast(kernel, compute_dtype))
    return outputs + ops.cast(shift, compute_dtype)


def has_affine(normalization):
    """Whether inference is a scale and a shift of the last axis."""
    known = (keras.layers.BatchNormalization, BatchNormalization)
    return type(normalization) in known and normalization.axis == -1


def find_affine(normalization, dtype):
    """Returns what a batch normalization does in inference.

    Args:
        normalization: a built one that `has_affine`.
        dtype: dtype of the results.

    Returns:
        The scale and the shift of each channel: its outputs are
        `inputs * scale + shift`.
    """
    variance = ops.cast(normalization.moving_variance, dtype)
    scale = ops.rsqrt(variance + normalization.epsilon)
    if normalization.scale:
        scale = scale * ops.cast(normalization.gamma, dtype)
    shift = -ops.cast(normalization.moving_mean, dtype) * scale
    if normalization.center:
        shift = shift + ops.cast(normalization.beta, dtype)
    return scale, shift
