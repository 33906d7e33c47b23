"""What holds for every public layer, over the list of `layer_cases.py`."""

import inspect
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras.normalization import make_normalization
from tests.support import reference
from tests.support.layer_cases import LAYER_CASES
from tests.support.layer_cases import all_cases
from tests.support.layer_cases import predict


def test_the_cases_hold_every_public_layer():
    public = {
        value
        for module in (lambda_keras, lambda_keras.attention)
        for name in module.__all__
        if inspect.isclass(value := getattr(module, name))
        and issubclass(value, keras.layers.Layer)
    }
    cases = {case.layer_class for case in LAYER_CASES.values()}
    # Holds a weight of the others, and is never called.
    assert public - cases == {lambda_keras.PositionEmbeddings}


@all_cases
def test_config_holds_every_argument(case):
    arguments = set(inspect.signature(case.layer_class).parameters)
    config = case.make_layer().get_config()
    assert arguments - {"kwargs"} <= set(config)
    assert case.arguments.items() <= config.items()


@all_cases
def test_config_round_trip_gives_the_same_layer(case):
    layer = case.make_layer(
        name="subject", dtype="mixed_bfloat16", trainable=False
    )
    copy = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    assert copy.get_config() == layer.get_config()
    assert (copy.name, copy.trainable) == ("subject", False)
    assert copy.compute_dtype == "bfloat16"
    copy.build(*case.input_shapes())
    layer.build(*case.input_shapes())
    reference.randomize_weights(layer)
    copy.set_weights(layer.get_weights())
    outputs, expected = (
        keras.ops.convert_to_numpy(
            keras.ops.cast(
                subject(*case.make_inputs(), **case.call_arguments), "float32"
            )
        )
        for subject in (copy, layer)
    )
    np.testing.assert_array_equal(outputs, expected)


@all_cases
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_weights_may_be_of_any_float(case, dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is told to.")
    model = case.make_model()
    other = case.make_model(dtype=dtype)
    other.set_weights(model.get_weights())
    inputs = case.make_inputs()
    outputs = other(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    expected = predict(model, inputs)
    tolerance = {"bfloat16": 1e-1, "float64": 1e-5}[dtype]
    np.testing.assert_allclose(
        outputs, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@all_cases
def test_compute_output_shape_is_the_shape(case):
    layer = case.make_layer()
    shape = tuple(layer(*case.make_inputs(), **case.call_arguments).shape)
    assert layer.compute_output_shape(*case.input_shapes()) == shape
    assert case.make_model().output_shape == (None, *shape[1:])


def train_on(model, inputs, targets):
    """Takes a step on a batch of which the graph does not know the size."""
    batches = (batch for batch in [(tuple(inputs), targets)])
    model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)


@pytest.mark.slow
@all_cases
def test_every_weight_learns_from_examples_and_nothing_without(case):
    model = case.make_model()
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    inputs = case.make_inputs()
    targets = np.random.default_rng(1).normal(size=model(inputs).shape)
    train_on(model, inputs, targets)
    after = model.get_weights()
    for weight, old, new in zip(model.weights, before, after, strict=True):
        assert np.all(np.isfinite(new)), weight.path
        assert np.abs(new - old).max() > 1e-5, weight.path
    train_on(model, [tensor[:0] for tensor in inputs], targets[:0])
    for weight, old in zip(model.weights, after, strict=True):
        new = keras.ops.convert_to_numpy(weight)
        np.testing.assert_allclose(new, old, rtol=1e-6, err_msg=weight.path)


@pytest.mark.slow
@all_cases
def test_no_examples_give_no_rows(case):
    model = case.make_model()
    inputs = case.make_inputs()
    empty = [tensor[:0] for tensor in inputs]
    for training in (False, True):
        outputs = model(empty, training=training)
        assert tuple(outputs.shape) == (0, *model.output_shape[1:])
    # In a graph that does not know how many examples there are.
    batches = ((tuple(batch),) for batch in [inputs, empty])
    np.testing.assert_allclose(
        model.predict(batches, steps=2, verbose=0),
        predict(model, inputs),
        rtol=1e-5,
        atol=1e-5,
    )


@all_cases
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("mixed_float16", 5e-3), ("mixed_bfloat16", 4e-2)],
)
def test_mixed_precision_is_close_to_float32(case, precision, tolerance):
    inputs = case.make_inputs()
    model = case.make_model()
    expected = predict(model, inputs)
    mixed = case.make_model(dtype=precision)
    mixed.set_weights(model.get_weights())
    outputs = mixed(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == precision[6:]
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    np.testing.assert_allclose(
        outputs, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@pytest.mark.parametrize(
    "normalization",
    ["batch", keras.layers.BatchNormalization(momentum=0.7)],
    ids=["default", "of_keras"],
)
def test_batch_norm_ignores_masked_out_batches(normalization):
    """A batch of which every position is hidden holds no examples either."""
    norm = make_normalization(normalization, name="norm")
    inputs = np.random.default_rng(3).normal(size=(2, 5, 7)).astype("float32")
    norm(inputs, training=True)
    before = norm.get_weights()
    hidden = keras.ops.zeros((2, 5), "bool")
    outputs = norm(inputs, training=True, mask=hidden)
    for new, old in zip(norm.get_weights(), before, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(outputs),
        keras.ops.convert_to_numpy(norm(inputs, training=False)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
# Keras warns of each layer that stays as it is, such as the input.
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("name", ["layer_context", "conv_template", "axial"])
def test_quantized_layer_is_close_and_loads_again(name, tmp_path):
    template = keras.layers.LayerNormalization(epsilon=0.25)
    case = LAYER_CASES.get(name) or LAYER_CASES["conv_image"]
    arguments = {"normalization": template} if name == "conv_template" else {}
    model = case.make_model(**arguments)
    inputs = case.make_inputs()
    expected = predict(model, inputs)
    model.quantize("int8")
    outputs = predict(model, inputs)
    error = np.abs(outputs - expected).max() / np.abs(expected).max()
    # Not zero: something was quantized.
    assert 1e-4 < error < 5e-2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        predict(loaded, inputs), outputs, rtol=1e-6, atol=1e-6
    )
    kinds = [
        {keras.backend.standardize_dtype(w.dtype) for w in m.weights}
        for m in (model, loaded)
    ]
    assert kinds[0] == kinds[1] == {"int8", "float32"}
    if arguments:
        assert loaded.get_layer("subject").normalization.epsilon == 0.25


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """Every case as a `.keras` file, with inputs and outputs beside it."""
    folder = tmp_path_factory.mktemp("saved_models")
    for name, case in LAYER_CASES.items():
        model = case.make_model()
        model.save(folder / f"{name}.keras")
        inputs = case.make_inputs()
        np.savez(
            folder / f"{name}.npz", *inputs, outputs=predict(model, inputs)
        )
    return folder


@pytest.mark.slow
def test_keras_files_load_in_a_fresh_process(saved_models):
    program = """
import glob, sys
import keras, lambda_keras, numpy as np
for path in sorted(glob.glob(sys.argv[1] + "/*.keras")):
    arrays = dict(np.load(path.replace(".keras", ".npz")))
    expected = arrays.pop("outputs")
    model = keras.saving.load_model(path)
    outputs = keras.ops.convert_to_numpy(model(list(arrays.values())))
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
