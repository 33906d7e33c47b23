"""How each data set is trained if the flags say nothing else."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from trainers.data import augmentation


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, its images and its optimization.

    The first block of fields are flags of `train_classifier`, which explains
    them. The defaults are the 90 epochs of the paper on ImageNet, with a
    batch that fits one accelerator.

    Reference:
        - [Bello, 2021](https://arxiv.org/abs/2102.08602), appendix E.2
    """

    depth: int = 50
    layout: str | None = None
    architecture: str = "rs"
    scope_size: int = 23
    width_multiplier: float = 1.0
    stem_strides: int = 4
    image_size: int = 224
    epochs: int = 90
    batch_size: int = 256
    # The paper's 0.1 for each 256 examples in a batch.
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0

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

_RECIPES = {
    "digits": _DIGITS,
    "cifar10": _SMALL_PHOTOGRAPHS,
    "cifar100": _SMALL_PHOTOGRAPHS,
}


def get_recipe(dataset: str) -> Recipe:
    """Returns the recipe of a data set, the paper's for an unknown one."""
    name, _, _ = dataset.partition(":")  # Without a version.
    return _RECIPES.get(name, _IMAGENET)
