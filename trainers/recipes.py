"""What a recipe is: a network, its images and its optimization."""

import dataclasses
import functools
import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lambda_keras.networks import lambda_resnet
from trainers.data import augmentation
from trainers.knobs import Rule
from trainers.knobs import at_least
from trainers.knobs import between
from trainers.knobs import greater_than
from trainers.knobs import knob
from trainers.knobs import one_of
from trainers.knobs import share

_data = functools.partial(knob, group="data")
_augmentation = functools.partial(knob, group="augmentation")
_model = functools.partial(knob, group="model")
_optimization = functools.partial(knob, group="optimization")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, its images and its optimization.

    Each knob is a flag of `train_classifier`. `recipe_table` has those that
    have a name.

    Attributes:
        crop_fraction: share of the shorter side that the central crop keeps in
            evaluation.
        augment: function `(image, image_size, key)` to a float32 image, the
            first part of the augmentation.
        sources: where the values are from, by the names of the fields.
    """

    image_size: int = _data(
        224,
        "Height and width of the images, pixels; at least 8 times "
        "--stem_strides",
    )

    color_jitter_strength: float = _augmentation(
        0.0,
        "Largest relative change of brightness, contrast and saturation, 0 for "
        "none",
        between(0, 1),
    )
    rand_augment_layers: int = _augmentation(
        0, "Operations of RandAugment on each image, 0 for none", at_least(0)
    )
    rand_augment_magnitude: float = _augmentation(
        10.0, "Strength of these operations", between(0, 30)
    )
    random_erasing_rate: float = _augmentation(
        0.0, "Share of images in which a rectangle becomes noise", between(0, 1)
    )
    mixup_alpha: float = _augmentation(
        0.0,
        "Of the beta distribution of Mixup, 0 for none; with --cutmix_alpha, "
        "each mixes half of the batches",
        at_least(0),
    )
    cutmix_alpha: float = _augmentation(
        0.0, "Of the beta distribution of CutMix, 0 for none", at_least(0)
    )
    pseudo_color_jitter_strength: float | None = _augmentation(
        None,
        "--color_jitter_strength of the pseudo-labelled images; without it "
        "that of the labelled ones",
        between(0, 1),
    )
    pseudo_rand_augment_layers: int | None = _augmentation(
        None,
        "--rand_augment_layers of the pseudo-labelled images; without it that "
        "of the labelled ones",
        at_least(0),
    )
    pseudo_rand_augment_magnitude: float | None = _augmentation(
        None,
        "--rand_augment_magnitude of the pseudo-labelled images; without it "
        "that of the labelled ones",
        between(0, 30),
    )
    pseudo_random_erasing_rate: float | None = _augmentation(
        None,
        "--random_erasing_rate of the pseudo-labelled images; without it that "
        "of the labelled ones",
        between(0, 1),
    )

    depth: int = _model(50, "Layers", one_of(*lambda_resnet.DEPTHS))
    layout: str | None = _model(
        None,
        "C (convolutions) or L (lambda layers) for each of four stages; "
        "without it the paper's hybrid",
        Rule(
            "four letters, each C or L",
            lambda layout: re.fullmatch("[CL]{4}", layout),
        ),
    )
    architecture: str = _model(
        "rs",
        "rs is ResNet-RS, v1 the first ResNet, tiered is timm's",
        one_of(*lambda_resnet.ARCHITECTURES),
    )
    scope_size: int = _model(
        23,
        "Width of the lambda layers' scope, positions",
        Rule(
            "odd, because the scope is centered on the query, and at least 1",
            lambda size: size >= 1 and size % 2,
        ),
    )
    width_multiplier: float = _model(
        1.0, "Factor on all numbers of channels", greater_than(0)
    )
    stem_strides: int = _model(
        4, "Downsampling before the first stage", one_of(4, 2, 1)
    )

    batch_norm_momentum: float = _model(
        0.9, "Share that batch normalization keeps of its statistics", share()
    )
    dropout_rate: float = _model(
        0.0, "Share of features dropped before the classifier", share()
    )
    stochastic_depth_rate: float = _model(
        0.0, "Share of examples that skip a block in the last stage", share()
    )

    epochs: int = _optimization(90, "Length of training, epochs", at_least(1))
    steps_per_epoch: int | None = _optimization(
        None,
        "Steps in an epoch; without it those of one pass through the labelled "
        "images",
        at_least(1),
    )
    batch_size: int = _optimization(
        256, "Examples per step on all devices together", at_least(1)
    )
    pseudo_ratio: float = _optimization(
        1.0,
        "Pseudo-labelled images for each labelled one in every batch, with "
        "--pseudo_labels; --batch_size must be a whole number times 1 more",
        greater_than(0),
    )
    pseudo_loss_weight: float = _optimization(
        1.0,
        "Weight of the losses of the pseudo-labelled images; that of the "
        "labelled is 1",
        greater_than(0),
    )
    gradient_accumulation_steps: int = _optimization(
        1,
        "Parts of a device's share of the batch that are computed one after "
        "the other, in the memory of one",
        at_least(1),
    )
    optimizer: str = _optimization(
        "sgd", "Optimizer", one_of("sgd", "adamw", "lamb", "rmsprop")
    )
    learning_rate: float = _optimization(
        0.1,
        "Largest learning rate, after the warm-up; without it the recipe's, "
        "in proportion to the batch size",
        greater_than(0),
    )
    learning_rate_decay: str = _optimization(
        "cosine",
        "What follows the warm-up: half a cosine down to 0, steps to a tenth "
        "after 1/3, 2/3 and 8/9 of the epochs, or nothing",
        one_of("cosine", "step", "constant"),
    )
    warmup_epochs: float = _optimization(
        5.0,
        "Epochs in which the learning rate rises from 0; half of the run at "
        "most",
        at_least(0),
    )
    momentum: float = _optimization(0.9, "Of sgd and rmsprop", share())
    nesterov: bool = _optimization(False, "Whether sgd's is Nesterov's")
    weight_decay: float = _optimization(
        1e-4,
        "Twice the factor on the sum of squared weights, without those of "
        "normalizations and biases; adamw and lamb take it of the weights "
        "instead, in proportion to the learning rate",
        at_least(0),
    )
    global_clipnorm: float = _optimization(
        0.0, "Longest gradient of the whole batch, 0 for any", at_least(0)
    )
    label_smoothing: float = _optimization(
        0.1, "Share of a label that is spread over all classes", share()
    )
    ema_momentum: float = _optimization(
        0.0,
        "Share that the average of the weights keeps per step, 0 for no "
        "average",
        share(),
    )

    crop_fraction: float = 0.875
    augment: Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor] = (
        augmentation.crop_and_flip
    )
    sources: Mapping[str, str] = dataclasses.field(
        default_factory=dict, compare=False
    )

    def replace(self, source: str, **values: Any) -> "Recipe":
        """Returns a recipe with other values, which are from `source`."""
        sources = {**self.sources, **dict.fromkeys(values, source)}
        return dataclasses.replace(self, **values, sources=sources)
