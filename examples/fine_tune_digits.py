"""Fine-tunes a network for other classes, at another image size.

    python -m examples.fine_tune_digits

trains a small LambdaResNet on scikit-learn's scans of the digits 0 to 6, in 8
times 8 pixels, and saves it. Then the same network reads 7, 8 and 9, in 16
times 16 pixels and from ten examples of each: once with the saved weights and
a new classifier, and once from scratch. Prints the accuracy of both on scans
that were not trained on. Nothing is downloaded, and all is written to a new
temporary folder. Takes about a minute on two cores.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("examples.fine_tune_digits")

import functools
import pathlib
import tempfile

import keras
import numpy as np
from absl import flags

import lambda_keras
from trainers.program import refuse_arguments
from trainers.program import run_program

_SEED = flags.DEFINE_integer("seed", 0, "Of weights, order and choice.")

_OLD_DIGITS = (0, 1, 2, 3, 4, 5, 6)
_NEW_DIGITS = (7, 8, 9)
_EXAMPLES_PER_CLASS = 10


def load_digits(
    classes: tuple[int, ...], image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scans of some digits, and the classes' numbers.

    Args:
        classes: the digits.
        image_size: multiple of 8; pixels are repeated.

    Returns:
        float32 `(examples, image_size, image_size, 1)`, -1 to 1, and integers
        `(examples,)`: positions in `classes`.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    chosen = np.isin(digits.target, classes)
    scale = image_size // 8
    images = digits.images[chosen].repeat(scale, axis=1).repeat(scale, axis=2)
    images = (images / 8 - 1).astype("float32")
    return images[..., None], np.searchsorted(classes, digits.target[chosen])


def build_network(image_size: int, num_classes: int = 1, **kwargs):
    """Builds a LambdaResNet for small images, without probabilities.

    Args:
        image_size: height and width of the images, pixels.
        num_classes: number of classes.
        **kwargs: arguments of `build_lambda_resnet`.
    """
    return lambda_keras.build_lambda_resnet(
        26,
        (image_size, image_size, 1),
        num_classes,
        lambda_layer=functools.partial(lambda_keras.LambdaConv, scope_size=7),
        width_multiplier=0.25,
        stem_strides=1,
        classifier_activation=None,
        **kwargs,
    )


def train(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    learning_rate: float,
) -> None:
    """Trains a classifier that returns logits."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images, labels, batch_size=30, epochs=epochs, verbose=2)


def add_classifier(features: keras.Model, num_classes: int) -> keras.Model:
    """Puts a new classifier on a network that has none."""
    logits = keras.layers.Dense(num_classes, name="new_classifier")
    return keras.Model(features.input, logits(features.output))


def run_demo(folder: pathlib.Path, seed: int) -> dict[str, float]:
    """Trains, saves and fine-tunes.

    Args:
        folder: where the trained network is saved.
        seed: of weights, order and choice.

    Returns:
        Accuracies on scans that were not trained on.
    """
    keras.utils.set_random_seed(seed)
    print(f"The digits {_OLD_DIGITS}, 8x8 pixels:")
    network = build_network(8, len(_OLD_DIGITS))
    train(network, *load_digits(_OLD_DIGITS, 8), epochs=5, learning_rate=2e-3)
    path = folder / "digits.keras"
    network.save(path)

    images, labels = load_digits(_NEW_DIGITS, 16)
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = images[order], labels[order]
    trained = np.zeros(len(labels), bool)
    for number in range(len(_NEW_DIGITS)):
        trained[np.flatnonzero(labels == number)[:_EXAMPLES_PER_CLASS]] = True
    accuracies = {}
    for name, weights in (("fine-tuned", path), ("from scratch", None)):
        print(f"The digits {_NEW_DIGITS}, 16x16 pixels, {name}:")
        features = build_network(
            16, weights=weights, include_top=False, pooling="avg"
        )
        model = add_classifier(features, len(_NEW_DIGITS))
        train(
            model,
            images[trained],
            labels[trained],
            epochs=30,
            learning_rate=1e-3,
        )
        _, accuracies[name] = model.evaluate(
            images[~trained], labels[~trained], verbose=0
        )
    return accuracies


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        accuracies = run_demo(pathlib.Path(folder), _SEED.value)
    print(f"\n{_EXAMPLES_PER_CLASS} examples of each of {_NEW_DIGITS}; others:")
    for name, accuracy in accuracies.items():
        print(f"  {accuracy:6.1%}  {name}")


def run() -> None:
    run_program(main)
