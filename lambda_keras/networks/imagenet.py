"""What surrounds a network that is trained on ImageNet."""

import keras
import numpy as np

# Of the pixels of ImageNet, red, green and blue, in units of the range.
MEANS = (0.485, 0.456, 0.406)
STANDARD_DEVIATIONS = (0.229, 0.224, 0.225)


def preprocess_input(images):
    """Brings pixels to what networks trained on ImageNet take.

    Keras's `preprocess_input(mode="torch")`: less the mean of ImageNet's
    pixels, over their standard deviation. timm's networks take that.

    Args:
        images: `(..., 3)`, red, green and blue from 0 to 255.

    Returns:
        The same shape, about -2 to 2.6.
    """
    # Keras would change an array of floats in place.
    if isinstance(images, np.ndarray):
        images = images.astype("float32")
    return keras.applications.imagenet_utils.preprocess_input(
        images, data_format="channels_last", mode="torch"
    )


def decode_predictions(predictions, top=5, class_names=None):
    """Names the most likely classes.

    Args:
        predictions: probabilities or logits, `(batch_size, classes)`.
        top: int. How many classes to name.
        class_names: a name for each class. Defaults to those of ImageNet,
            which Keras downloads once.

    Returns:
        For each example a list of `(class, name, prediction)`, the most likely
        first. `class` is ImageNet's identifier, or else a number.

    Raises:
        ValueError: If there are not as many names as classes.

    Example:

    >>> probabilities = np.array([[0.1, 0.7, 0.2]])
    >>> lambda_keras.decode_predictions(
    ...     probabilities, top=2, class_names=["hen", "cat", "dog"])
    [[(1, 'cat', 0.7), (2, 'dog', 0.2)]]
    """
    predictions = np.asarray(keras.ops.convert_to_numpy(predictions))
    if class_names is None:
        return keras.applications.imagenet_utils.decode_predictions(
            predictions, top=top
        )
    if predictions.ndim != 2 or predictions.shape[1] != len(class_names):
        raise ValueError(
            "`predictions` must be (batch_size, classes) with a name for each "
            f"class. Received: predictions of shape {predictions.shape} and "
            f"{len(class_names)} names"
        )
    return [
        [
            (int(number), class_names[number], float(row[number]))
            for number in np.argsort(-row, kind="stable")[:top]
        ]
        for row in predictions
    ]
