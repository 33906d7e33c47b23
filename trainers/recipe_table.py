"""The recipes that have a name, and where each of their values is from."""

import functools

from trainers.data import augmentation
from trainers.program import UserError
from trainers.recipes import Recipe

# How far to trust what is said of the paper: its tables were read, but of its
# appendix E.2, which has the training, only what others write of it.
_SECOND_HAND = "Bello, 2021, E.2, as joigalcar3/LambdaNetworks reports it"
_REMEMBERED = "Bello, 2021, E.2, from memory, unverified"
_NOT_STATED = "not stated by the paper; this project's choice"
_FIGURE = "Bello, 2021, the figure of speed and accuracy"
_RELEASED = "the authors' ResNet-RS code, tensorflow/tpu"
_OURS = "this project's choice"

_BASE = Recipe(sources={})

_IMAGENET_90 = (
    _BASE.replace(
        _SECOND_HAND,
        image_size=224,
        epochs=90,
        learning_rate=0.1,
        learning_rate_decay="cosine",
        warmup_epochs=5.0,
        weight_decay=1e-4,
        label_smoothing=0.1,
        ema_momentum=0.9999,
        augment=augmentation.crop_and_flip,
    )
    .replace(_REMEMBERED, optimizer="sgd", momentum=0.9)
    .replace(
        "Bello, 2021, table 3",
        depth=50,
        layout="LLLL",
        architecture="v1",
    )
    .replace(
        "Bello, 2021, table 3: only this width has its 15.0M parameters",
        scope_size=23,
    )
    .replace(_NOT_STATED, nesterov=False, batch_norm_momentum=0.9)
    .replace(
        "fits one accelerator; 4096 in the paper, with a learning rate in "
        "proportion",
        batch_size=256,
    )
)

# What a folder of photographs is trained with.
_PHOTOS = _IMAGENET_90.replace(
    f"{_OURS}: the paper's hybrid trains faster than lambdas throughout",
    layout=None,
    architecture="rs",
).replace(
    f"{_OURS}: evaluating an average too takes twice as long",
    ema_momentum=0.0,
)

_EPOCHS_350 = _IMAGENET_90.replace(
    _REMEMBERED,
    epochs=350,
    weight_decay=4e-5,
    rand_augment_layers=2,
    layout=None,
    architecture="rs",
)

_RESNET_RS = _EPOCHS_350.replace(
    _RELEASED,
    layout="CCCC",
    epochs=350,
    learning_rate=0.1,
    # Its paper and tf-models-official have a cosine.
    learning_rate_decay="step",
    warmup_epochs=5.0,
    momentum=0.9,
    nesterov=True,
    weight_decay=4e-5,
    label_smoothing=0.1,
    rand_augment_layers=2,
    ema_momentum=0.9999,
    batch_norm_momentum=0.0,
)

# Batch, rate, weight decay and augmentation: He et al., 2016, section 4.2.
_SMALL_PHOTOGRAPHS = _BASE.replace(
    "He et al., 2016, section 4.2",
    image_size=32,
    batch_size=128,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    augment=augmentation.shift_and_flip,
).replace(
    _OURS,
    scope_size=7,
    stem_strides=1,
    epochs=200,
    crop_fraction=1.0,
)

_DIGITS = _BASE.replace(
    f"{_OURS}, measured: see train_classifier",
    depth=26,
    scope_size=7,
    width_multiplier=0.25,
    stem_strides=1,
    image_size=16,
    epochs=20,
    batch_size=64,
    warmup_epochs=2.0,
    crop_fraction=1.0,
    augment=augmentation.jitter,
)

_FASHION_MNIST = _BASE.replace(
    f"{_OURS}, measured: see docs/training.md",
    depth=26,
    scope_size=7,
    width_multiplier=0.25,
    stem_strides=2,
    image_size=28,
    epochs=15,
    batch_size=128,
    warmup_epochs=1.0,
    crop_fraction=1.0,
    augment=functools.partial(augmentation.shift_and_flip, padding=2),
)


def _make_lambda_resnet(
    depth, size, magnitude, dropout, stochastic_depth, source=_FIGURE
):
    return _EPOCHS_350.replace(
        _REMEMBERED,
        rand_augment_magnitude=magnitude,
        dropout_rate=dropout,
        stochastic_depth_rate=stochastic_depth,
    ).replace(source, depth=depth, image_size=size)


def _make_resnet_rs(depth, size, magnitude, dropout, stochastic_depth):
    return _RESNET_RS.replace(
        _RELEASED,
        depth=depth,
        image_size=size,
        rand_augment_magnitude=magnitude,
        dropout_rate=dropout,
        stochastic_depth_rate=stochastic_depth,
    )


_PSEUDO_LABELS = "Bello, 2021, section 5.3, pseudo-labels"
# The paper's pseudo-labelled images are 130 million of JFT, filtered and
# balanced by class as in Noisy Student, with the labels of an EfficientNet-L2
# that is right on 88.4 % of ImageNet's validation images.
_LAMBDA_RESNET_PSEUDO = _make_lambda_resnet(
    152, 288, 15.0, 0.3, 0.1, _PSEUDO_LABELS
).replace(
    _NOT_STATED,
    pseudo_ratio=3.0,
    pseudo_loss_weight=1.0,
    steps_per_epoch=None,
)

# Depth, image size, magnitude of RandAugment, dropout, stochastic depth. The
# last of a depth is what its name without a size means.
_LAMBDA_RESNETS = [
    (50, 128, 10.0, 0.2, 0.0),
    (50, 160, 10.0, 0.2, 0.0),
    (101, 160, 10.0, 0.3, 0.0),
    (101, 192, 15.0, 0.2, 0.0),
    (152, 192, 15.0, 0.3, 0.0),
    (152, 224, 15.0, 0.3, 0.1),
    (152, 288, 15.0, 0.3, 0.1, _PSEUDO_LABELS),
    (152, 256, 15.0, 0.3, 0.1),
    (200, 256, 15.0, 0.3, 0.1, f"{_OURS}: as of depths 152 and 270"),
    (270, 256, 15.0, 0.3, 0.1),
    (350, 256, 15.0, 0.3, 0.2),
    (350, 288, 15.0, 0.3, 0.2),
    (350, 320, 15.0, 0.3, 0.2),
    (420, 320, 15.0, 0.3, 0.2),
]
_RESNETS_RS = [
    (50, 160, 10.0, 0.25, 0.0),
    (101, 160, 10.0, 0.25, 0.0),
    (101, 192, 15.0, 0.25, 0.0),
    (152, 192, 15.0, 0.25, 0.0),
    (152, 224, 15.0, 0.25, 0.0),
    (152, 256, 15.0, 0.25, 0.0),
    (200, 256, 15.0, 0.25, 0.1),
    (270, 256, 15.0, 0.25, 0.1),
    (350, 256, 15.0, 0.25, 0.1),
    (350, 320, 15.0, 0.4, 0.1),
    (420, 320, 15.0, 0.4, 0.1),
]


def _name_sizes(family, make, rows):
    sizes = {f"{family}{row[0]}_{row[1]}": make(*row) for row in rows}
    return {**{f"{family}{row[0]}": make(*row) for row in rows}, **sizes}


RECIPES = {
    "digits": _DIGITS,
    "fashion_mnist": _FASHION_MNIST,
    "cifar10": _SMALL_PHOTOGRAPHS,
    "cifar100": _SMALL_PHOTOGRAPHS,
    "photos": _PHOTOS,
    "imagenet_90": _IMAGENET_90,
    **_name_sizes("lambda_resnet", _make_lambda_resnet, _LAMBDA_RESNETS),
    "lambda_resnet152_pseudo": _LAMBDA_RESNET_PSEUDO,
    **_name_sizes("resnet_rs", _make_resnet_rs, _RESNETS_RS),
}


def choose_recipe(dataset: str) -> str:
    """Returns the name of the recipe that a data set has by default."""
    name, _, _ = dataset.partition(":")  # Without a version.
    if name == "imagenet2012":
        return "imagenet_90"
    return name if name in RECIPES else "photos"


def get_recipe(name: str) -> Recipe:
    """Returns the recipe of a name.

    Raises:
        UserError: If there is none.
    """
    if name not in RECIPES:
        raise UserError(
            f"--recipe must be one of {', '.join(RECIPES)}. "
            f"Received: --recipe={name}"
        )
    return RECIPES[name]
