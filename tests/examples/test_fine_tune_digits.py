"""The example of fine-tuning: its data, and a short run."""

import functools
from typing import NamedTuple

import keras
import numpy as np
import pytest
from sklearn import datasets

from tests.support.programs import Program

PROGRAM = Program("examples.fine_tune_digits")


def test_scans_of_the_chosen_digits_are_enlarged():
    images, labels = PROGRAM.module.load_digits((7, 8, 9), 16)
    digits = datasets.load_digits()
    chosen = digits.target >= 7
    np.testing.assert_array_equal(labels, digits.target[chosen] - 7)
    assert images.shape == (chosen.sum(), 16, 16, 1)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pixels = 8 * (images[:, row::2, column::2, 0] + 1)
        np.testing.assert_allclose(pixels, digits.images[chosen])


class Training(NamedTuple):
    """What one of the example's trainings began with, and its model."""

    model: keras.Model
    shape: tuple
    kernel: np.ndarray


def read_kernel(model):
    kernel = model.get_layer("stem_1_conv").kernel
    return keras.ops.convert_to_numpy(kernel).copy()


@pytest.fixture
def trainings(monkeypatch):
    """Leaves the example a step of each training, and few scans."""
    module = PROGRAM.module
    load_digits, train = module.load_digits, module.train
    begun = []

    def load_few(classes, image_size):
        images, labels = load_digits(classes, image_size)
        return images[:50], labels[:50]

    def take_step(model, images, labels, *, epochs, learning_rate):
        begun.append(Training(model, images.shape, read_kernel(model)))
        train(
            model,
            images[:30],
            labels[:30],
            epochs=1,
            learning_rate=learning_rate,
        )

    monkeypatch.setattr(module, "load_digits", load_few)
    monkeypatch.setattr(module, "train", take_step)
    # For one step, compiling a graph would take most of the time.
    compile_eagerly = functools.partialmethod(
        keras.Model.compile, run_eagerly=True
    )
    monkeypatch.setattr(keras.Model, "compile", compile_eagerly)
    return begun


@pytest.mark.slow
def test_other_digits_begin_with_what_was_learned(trainings, capsys):
    PROGRAM.run()
    learned, tuned, scratch = trainings
    assert learned.shape == (50, 8, 8, 1)
    # Ten of each digit; the accuracies are those of the other 20.
    assert tuned.shape == scratch.shape == (30, 16, 16, 1)
    outputs = [training.model.output_shape for training in trainings]
    assert outputs == [(None, 7), (None, 3), (None, 3)]
    for training in trainings:
        assert np.any(read_kernel(training.model) != training.kernel)
    np.testing.assert_array_equal(tuned.kernel, read_kernel(learned.model))
    assert np.any(scratch.kernel != tuned.kernel)

    rows = capsys.readouterr().out.splitlines()[-2:]
    names = [row.partition("%  ")[2] for row in rows]
    assert names == ["fine-tuned", "from scratch"]
    for row in rows:
        right = float(row.partition("%")[0]) / 100 * 20
        assert right == pytest.approx(round(right))
        assert 0 <= right <= 20
