"""Images in memory are those that were read."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.support.training import SMALL
from tests.support.training import run_main_eagerly
from trainers.data import caching
from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import Split
from trainers.data.input_pipeline import make_training_batches
from trainers.program import UserError

SIZES = ((5, 7), (3, 11), (13, 2))


@pytest.fixture
def dataset():
    """Images of different sizes, which are made when they are loaded."""

    def load(number):
        shape = tf.gather(SIZES, number % 3)
        pixels = tf.range(tf.reduce_prod(shape) * 3) + tf.cast(number, tf.int32)
        image = tf.reshape(tf.cast(pixels, tf.uint8), [*tf.unstack(shape), 3])
        return tf.ensure_shape(image, (None, None, 3))

    def split(numbers):
        examples = tf.data.Dataset.from_tensor_slices((numbers, numbers % 2))
        return Split(examples, len(numbers), len(numbers), load)

    others = split(np.arange(5))
    shares = others.examples.map(
        lambda number, label: (number, tf.one_hot(label, 2) / 2 + 0.25)
    )
    return ImageDataset(
        ["even", "odd"],
        3,
        split(np.arange(17)),
        split(np.arange(17, 22)),
        dataclasses.replace(others, examples=shares),
    )


def read(split):
    batches = make_training_batches(
        split,
        num_classes=2,
        image_size=4,
        batch_size=3,
        augment=lambda image, size, key: tf.ensure_shape(
            tf.image.resize(tf.cast(image, tf.float32), (size, size)),
            (size, size, 3),
        ),
        seed=0,
        epochs=2,
    )
    return list(batches.as_numpy_iterator())


def test_cached_batches_are_the_same(dataset):
    cached = caching.cache_images(dataset)
    for split, expected in (
        (cached.train, dataset.train),
        (cached.validation, dataset.validation),
        (cached.pseudo_labelled, dataset.pseudo_labelled),
    ):
        assert split.size == expected.size
        for batch, other in zip(read(split), read(expected), strict=True):
            np.testing.assert_array_equal(batch[0], other[0])
            np.testing.assert_array_equal(batch[1], other[1])


def test_cache_is_not_filled_beyond_the_memory(dataset, monkeypatch):
    monkeypatch.setattr(caching, "_LARGEST_SHARE", 1e-9)
    with pytest.raises(UserError, match="--cache needs more than"):
        caching.cache_images(dataset)


@pytest.mark.slow
def test_run_with_a_cache_gives_the_same_metrics(tmp_path, capsys):
    for name, cache in (("without", False), ("with", True)):
        run_main_eagerly(
            model_dir=str(tmp_path / name),
            epochs=1,
            mode="train",
            cache=cache,
            layout="CCCC",
            image_size=8,
            **SMALL,
        )
    # 1797 scans of 64 pixels.
    assert "Images in memory: 0.1 MiB" in capsys.readouterr().out
    metrics = (tmp_path / "with" / "metrics.csv").read_text()
    assert metrics == (tmp_path / "without" / "metrics.csv").read_text()
