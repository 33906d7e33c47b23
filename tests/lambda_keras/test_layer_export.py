"""Every public layer in what TensorFlow makes of it: XLA and exported files."""

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import attention
from lambda_keras.contraction import cost_model
from lambda_keras.contraction.cost_model import Blocks
from lambda_keras.contraction.cost_model import Plan
from tests.support import reference
from tests.support.layer_cases import LAYER_CASES
from tests.support.layer_cases import all_cases
from tests.support.layer_cases import predict

if keras.backend.backend() != "tensorflow":
    pytest.skip("Needs the backend TensorFlow.", allow_module_level=True)

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

# Builds, saves or exports whole models: not for the edit loop.
pytestmark = pytest.mark.slow


@all_cases
def test_compiled_by_xla_gives_the_same(case):
    model = case.make_model()
    inputs = case.make_inputs()
    compiled = tf.function(model, jit_compile=True)
    np.testing.assert_allclose(
        compiled(inputs), predict(model, inputs), rtol=1e-4, atol=1e-4
    )


@all_cases
def test_saved_model_gives_the_same(case, tmp_path):
    model = case.make_model()
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    inputs = case.make_inputs()
    for batch in (inputs, [tensor[:1] for tensor in inputs]):
        np.testing.assert_allclose(
            loaded.serve(batch),
            predict(model, batch),
            rtol=1e-5,
            atol=1e-5,
        )


@all_cases
def test_tflite_gives_the_same(case):
    model = case.make_model(batch_size=2)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    inputs = {tensor.shape: tensor for tensor in case.make_inputs()}
    for details in interpreter.get_input_details():
        interpreter.set_tensor(
            details["index"], inputs[tuple(details["shape"])]
        )
    interpreter.invoke()
    outputs = interpreter.get_tensor(
        interpreter.get_output_details()[0]["index"]
    )
    np.testing.assert_allclose(
        outputs, predict(model, case.make_inputs()), rtol=1e-4, atol=1e-4
    )


_SIZES = dict(filters=22, num_heads=2, key_dim=13, scope_size=3)
_LOCAL = dict(**_SIZES, local_content=True)
_CAUSAL = dict(use_causal_mask=True)
# Sizes that are `None` in the file, and the inputs that it is given then.
FREE_CASES = {
    "conv_image": (
        lambda_keras.LambdaConv(**_SIZES, intra_depth=3),
        {},
        (None, 5, 11, 7),
        [(1, 5, 11, 7), (3, 5, 11, 7)],
    ),
    "local_content_volume": (
        lambda_keras.LambdaConv(**_LOCAL),
        {},
        (None, 3, 5, 2, 7),
        [(1, 3, 5, 2, 7), (2, 3, 5, 2, 7)],
    ),
    "causal_local_content_volume": (
        lambda_keras.LambdaConv(**_LOCAL, num_key_value_heads=2, intra_depth=3),
        _CAUSAL,
        (None, 3, 5, 2, 7),
        [(1, 3, 5, 2, 7), (2, 3, 5, 2, 7)],
    ),
    "causal_local_content_image": (
        lambda_keras.LambdaConv(**_LOCAL),
        _CAUSAL,
        (None, 5, 3, 7),
        [(1, 5, 3, 7), (2, 5, 3, 7)],
    ),
    "causal_image_of_any_size": (
        lambda_keras.LambdaConv(**_SIZES, num_key_value_heads=2, intra_depth=3),
        _CAUSAL,
        (None, None, None, 7),
        [(1, 5, 3, 7), (2, 7, 5, 7)],
    ),
    "local_content_sequence_of_any_length": (
        lambda_keras.LambdaConv(**_LOCAL),
        {},
        (None, None, 7),
        [(1, 19, 7), (2, 2, 7)],
    ),
    "causal_local_content_image_of_any_size": (
        lambda_keras.LambdaConv(**_LOCAL),
        _CAUSAL,
        (None, None, None, 7),
        [(1, 5, 3, 7), (2, 7, 5, 7)],
    ),
    "local_attention": (
        attention.LocalSelfAttention(22, 3, num_heads=2, key_dim=14),
        {},
        (None, 5, 11, 7),
        [(1, 5, 11, 7), (2, 5, 11, 7)],
    ),
    "local_attention_of_any_size": (
        attention.LocalSelfAttention(22, 3, num_heads=2, key_dim=14),
        {},
        (None, None, None, 7),
        [(1, 5, 11, 7), (2, 3, 4, 7)],
    ),
}


@pytest.mark.parametrize(
    ("layer", "call_arguments", "shape", "shapes"),
    FREE_CASES.values(),
    ids=FREE_CASES,
)
def test_tflite_takes_what_is_free_in_the_shape(
    layer, call_arguments, shape, shapes, tmp_path
):
    """Built-in operations only, with the delegate that is the default."""
    inputs = keras.Input(shape[1:])
    layer = type(layer).from_config(layer.get_config())
    model = keras.Model(inputs, layer(inputs, **call_arguments))
    reference.randomize_weights(layer)
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = Interpreter(model_path=str(path))
    index = interpreter.get_input_details()[0]["index"]
    for shape_here in shapes:
        images = np.random.default_rng(0).normal(size=shape_here)
        images = images.astype("float32")
        interpreter.resize_tensor_input(index, shape_here)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        outputs = interpreter.get_tensor(
            interpreter.get_output_details()[0]["index"]
        )
        np.testing.assert_allclose(
            outputs, predict(model, images), rtol=1e-4, atol=1e-4
        )


def test_loop_over_blocks_is_compiled_and_exported(monkeypatch, tmp_path):
    blocks = Blocks("offset_rows", 1)
    plan = Plan("queries_first", blocks, blocks)
    monkeypatch.setattr(cost_model, "choose_plan", lambda *_: plan)
    case = LAYER_CASES["layer_image"]
    test_compiled_by_xla_gives_the_same(case)
    test_saved_model_gives_the_same(case, tmp_path)
    test_tflite_gives_the_same(case)
