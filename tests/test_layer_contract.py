"""What holds for every public layer, over the list of `layer_cases.py`."""

import inspect
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import lambda_keras
from tests import reference
from tests.layer_cases import LAYER_CASES

all_cases = pytest.mark.parametrize(
    "case", LAYER_CASES.values(), ids=LAYER_CASES
)


def make_inputs(case):
    generator = np.random.default_rng(7)
    return generator.normal(size=case.input_shape).astype("float32")


def make_model(case, batch_size=None):
    """A functional model of the layer alone, with random weights."""
    inputs = keras.Input(case.input_shape[1:], batch_size=batch_size)
    layer = case.make_layer(name="subject")
    model = keras.Model(inputs, layer(inputs))
    reference.randomize_weights(layer)
    return model


def predict(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))


def test_the_cases_hold_every_public_layer():
    public = {
        value
        for name in lambda_keras.__all__
        if inspect.isclass(value := getattr(lambda_keras, name))
        and issubclass(value, keras.layers.Layer)
    }
    assert {case.layer_class for case in LAYER_CASES.values()} == public


@all_cases
def test_config_holds_every_argument(case):
    arguments = set(inspect.signature(case.layer_class).parameters)
    config = case.make_layer().get_config()
    assert arguments - {"kwargs"} <= set(config)
    assert case.arguments.items() <= config.items()


@all_cases
def test_config_round_trip_gives_the_same_layer(case):
    layer = case.make_layer(name="subject", dtype="float64", trainable=False)
    copy = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.get_config() == layer.get_config()
    assert (copy.name, copy.trainable) == ("subject", False)
    assert copy.compute_dtype == "float64"
    copy.build(case.input_shape)
    layer.build(case.input_shape)
    reference.randomize_weights(layer)
    copy.set_weights(layer.get_weights())
    inputs = make_inputs(case)
    np.testing.assert_array_equal(copy(inputs), layer(inputs))


@all_cases
def test_compute_output_shape_is_the_shape(case):
    layer = case.make_layer()
    shape = tuple(layer(make_inputs(case)).shape)
    assert layer.compute_output_shape(case.input_shape) == shape
    symbolic = keras.Input(case.input_shape[1:])
    assert tuple(layer(symbolic).shape) == (None, *shape[1:])


@all_cases
def test_every_weight_receives_a_gradient(case):
    layer = case.make_layer()
    layer.build(case.input_shape)
    reference.randomize_weights(layer)
    with tf.GradientTape() as tape:
        outputs = layer(make_inputs(case), training=True)
        loss = tf.reduce_sum(tf.sin(outputs))
    weights = [weight.value for weight in layer.trainable_weights]
    for weight, gradient in zip(
        layer.trainable_weights, tape.gradient(loss, weights), strict=True
    ):
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.all(np.isfinite(gradient)), weight.path
        assert np.abs(gradient).max() > 1e-4, weight.path


@all_cases
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("mixed_float16", 5e-3), ("mixed_bfloat16", 4e-2)],
)
def test_mixed_precision_is_close_to_float32(case, precision, tolerance):
    inputs = make_inputs(case)
    model = make_model(case)
    expected = predict(model, inputs)
    layer = case.make_layer(dtype=precision)
    layer.build(case.input_shape)
    layer.set_weights(model.get_weights())
    outputs = layer(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == precision[6:]
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    np.testing.assert_allclose(
        outputs, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@all_cases
def test_compiled_by_xla_gives_the_same(case):
    model = make_model(case)
    inputs = make_inputs(case)
    compiled = tf.function(model, jit_compile=True)
    np.testing.assert_allclose(
        compiled(inputs), predict(model, inputs), rtol=1e-4, atol=1e-4
    )


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """Every case as a `.keras` file, with inputs and outputs beside it."""
    folder = tmp_path_factory.mktemp("saved_models")
    for name, case in LAYER_CASES.items():
        model = make_model(case)
        model.save(folder / f"{name}.keras")
        inputs = make_inputs(case)
        np.save(folder / f"{name}.inputs.npy", inputs)
        np.save(folder / f"{name}.outputs.npy", predict(model, inputs))
    return folder


def test_keras_files_load_in_a_fresh_process(saved_models):
    program = """
import glob, sys
import keras, lambda_keras, numpy as np
for path in sorted(glob.glob(sys.argv[1] + "/*.keras")):
    stem = path.removesuffix(".keras")
    model = keras.saving.load_model(path)
    outputs = model.predict(np.load(stem + ".inputs.npy"), verbose=0)
    expected = np.load(stem + ".outputs.npy")
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    print("equal", path)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(saved_models)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.count("equal") == len(LAYER_CASES), result.stderr


@all_cases
def test_saved_model_gives_the_same(case, tmp_path):
    model = make_model(case)
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    inputs = make_inputs(case)
    for batch in (inputs, inputs[:1]):
        np.testing.assert_allclose(
            loaded.serve(batch), predict(model, batch), rtol=1e-5, atol=1e-5
        )


@all_cases
def test_tflite_gives_the_same(case):
    model = make_model(case, batch_size=case.input_shape[0])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    inputs = make_inputs(case)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    interpreter.invoke()
    outputs = interpreter.get_tensor(
        interpreter.get_output_details()[0]["index"]
    )
    np.testing.assert_allclose(
        outputs, predict(model, inputs), rtol=1e-4, atol=1e-4
    )
