"""How each data set is trained if the flags say nothing else."""

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from trainers.data import augmentation
from trainers.knobs import at_least
from trainers.knobs import greater_than
from trainers.knobs import knob
from trainers.knobs import one_of
from trainers.knobs import share

_data = functools.partial(knob, group="data")
_model = functools.partial(knob, group="model")
_optimization = functools.partial(knob, group="optimization")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, its images and its optimization.

    Each knob is a flag of `train_classifier`. The defaults are the 90 epochs
    of the paper on ImageNet, with a batch that fits one accelerator.

    Reference:
        - [Bello, 2021](https://arxiv.org/abs/2102.08602), appendix E.2
    """

    image_size: int = _data(
        224,
        "Height and width of the images, pixels; at least 8 times "
        "--stem_strides",
    )

    depth: int = _model(50, "Layers: 26, 50, 101, 152, 200, 270, 350 or 420")
    layout: str | None = _model(
        None,
        "C (convolutions) or L (lambda layers) for each of four stages; "
        "without it the paper's hybrid",
    )
    architecture: str = _model("rs", "rs (ResNet-RS) or v1 (the first ResNet)")
    scope_size: int = _model(
        23, "Width of the lambda layers' scope, odd, positions"
    )
    width_multiplier: float = _model(
        1.0, "Factor on all numbers of channels", greater_than(0)
    )
    stem_strides: int = _model(
        4, "Downsampling before the first stage", one_of(4, 2, 1)
    )

    epochs: int = _optimization(90, "Length of training, epochs", at_least(1))
    batch_size: int = _optimization(
        256, "Examples per step on all devices together", at_least(1)
    )
    # The paper's 0.1 per 256 examples in a batch.
    learning_rate: float = _optimization(
        0.1,
        "Largest learning rate, after the warm-up; without it the recipe's, "
        "in proportion to the batch size",
        greater_than(0),
    )
    weight_decay: float = _optimization(
        1e-4, "Twice the factor on the sum of squared weights", at_least(0)
    )
    label_smoothing: float = _optimization(
        0.1, "Share of a label that is spread over all classes", share()
    )
    dropout_rate: float = _optimization(
        0.0, "Share of features dropped before the classifier", share()
    )
    stochastic_depth_rate: float = _optimization(
        0.0, "Share of examples that skip a block in the last stage", share()
    )

    warmup_epochs: float = 5
    # Share of the shorter side that the central crop keeps in evaluation.
    crop_fraction: float = 0.875
    # Function (image, image_size, key) -> float32 image.
    augment: Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor] = (
        augmentation.crop_and_flip
    )


_IMAGENET = Recipe()

# Batch, rate, weight decay and augmentation: He et al., 2016, section 4.2.
_SMALL_PHOTOGRAPHS = Recipe(
    scope_size=7,
    stem_strides=1,
    image_size=32,
    epochs=200,
    batch_size=128,
    crop_fraction=1.0,
    augment=augmentation.shift_and_flip,
)

# Measured on the 8x8 scans of scikit-learn: see `train_classifier`.
_DIGITS = Recipe(
    depth=26,
    scope_size=7,
    width_multiplier=0.25,
    stem_strides=1,
    image_size=16,
    epochs=20,
    batch_size=64,
    warmup_epochs=2,
    crop_fraction=1.0,
    augment=augmentation.jitter,
)

# About 25 minutes on two CPU cores, 207 ms per step.
_FASHION_MNIST = Recipe(
    depth=26,
    scope_size=7,
    width_multiplier=0.25,
    stem_strides=2,
    image_size=28,
    epochs=15,
    batch_size=128,
    warmup_epochs=1,
    crop_fraction=1.0,
    augment=functools.partial(augmentation.shift_and_flip, padding=2),
)

_RECIPES = {
    "digits": _DIGITS,
    "fashion_mnist": _FASHION_MNIST,
    "cifar10": _SMALL_PHOTOGRAPHS,
    "cifar100": _SMALL_PHOTOGRAPHS,
}


def get_recipe(dataset: str) -> Recipe:
    """Returns the recipe of a data set, the paper's for an unknown one."""
    name, _, _ = dataset.partition(":")  # Without a version.
    return _RECIPES.get(name, _IMAGENET)
