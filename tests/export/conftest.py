"""Models that several tests of exports share."""

import keras
import pytest


@pytest.fixture(scope="module")
def keras_model(model_dir):
    return keras.saving.load_model(model_dir / "best.keras")


@pytest.fixture
def linear_model_path(tmp_path):
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(inputs)
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(tmp_path / "last.keras")
    return tmp_path / "last.keras"
