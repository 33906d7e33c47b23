"""The whole augmentation of one image, put together of its steps."""

from collections.abc import Callable

import tensorflow as tf

from trainers.data.augmentation import color_jitter
from trainers.data.augmentation import split_key
from trainers.data.erasing import random_erasing

# From an image, its new size and a key to a float32 image, 0 to 255.
Augmentation = Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor]


def compose_augmentation(
    crop: Augmentation,
    *,
    color_jitter_strength: float = 0.0,
    rand_augment_layers: int = 0,
    rand_augment_magnitude: float = 10.0,
    random_erasing_rate: float = 0.0,
) -> Augmentation:
    """Puts what follows the crop behind it: colors, RandAugment, erasing.

    What a step draws does not depend on which others there are, and with none
    of them the images are those of `crop`, to the bit.

    Args:
        crop: function `(image, image_size, key)` of
            `trainers.data.augmentation`, such as `crop_and_flip`.
        color_jitter_strength: see `color_jitter`; 0 for none.
        rand_augment_layers: see `rand_augment`; 0 for none.
        rand_augment_magnitude: see `rand_augment`.
        random_erasing_rate: see `random_erasing`; 0 for none.

    Returns:
        Function `(image, image_size, key)` to a float32 image `(image_size,
        image_size, channels)`, 0 to 255: the `augment` of
        `make_training_batches`.
    """
    if rand_augment_layers:
        # Importing tf-models-official takes seconds; few need it.
        from trainers.data.rand_augment import rand_augment

    def augment(image, image_size, key):
        image = crop(image, image_size, key)
        # The crop draws from the key itself and from the first two.
        _, _, color_key, choice_key, erasing_key = split_key(key, 5)
        if color_jitter_strength:
            image = color_jitter(image, color_key, color_jitter_strength)
        if rand_augment_layers:
            image = rand_augment(
                image, choice_key, rand_augment_layers, rand_augment_magnitude
            )
        if random_erasing_rate:
            image = random_erasing(image, erasing_key, random_erasing_rate)
        return image

    return augment
