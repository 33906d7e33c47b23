"""Every public layer in what TensorFlow makes of it: XLA and exported files."""

import keras
import numpy as np
import pytest

from lambda_keras.contraction import cost_model
from lambda_keras.contraction.cost_model import Blocks
from lambda_keras.contraction.cost_model import Plan
from tests.support.layer_cases import LAYER_CASES
from tests.support.layer_cases import all_cases
from tests.support.layer_cases import predict

if keras.backend.backend() != "tensorflow":
    pytest.skip("Needs the backend TensorFlow.", allow_module_level=True)

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter


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


def test_tflite_takes_any_batch_size(tmp_path):
    case = LAYER_CASES["conv_image"]
    model = case.make_model()
    model.export(tmp_path / "model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "model")
    )
    interpreter = Interpreter(model_content=converter.convert())
    index = interpreter.get_input_details()[0]["index"]
    for batch_size in (1, 3):
        inputs = np.random.default_rng(0).normal(
            size=(batch_size, *case.input_shape[1:])
        )
        inputs = inputs.astype("float32")
        interpreter.resize_tensor_input(index, inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, inputs)
        interpreter.invoke()
        outputs = interpreter.get_tensor(
            interpreter.get_output_details()[0]["index"]
        )
        np.testing.assert_allclose(
            outputs, predict(model, [inputs]), rtol=1e-4, atol=1e-4
        )


def test_loop_over_blocks_is_compiled_and_exported(monkeypatch, tmp_path):
    blocks = Blocks("offset_rows", 1)
    plan = Plan("queries_first", blocks, blocks)
    monkeypatch.setattr(cost_model, "choose_plan", lambda *_: plan)
    case = LAYER_CASES["layer_image"]
    test_compiled_by_xla_gives_the_same(case)
    test_saved_model_gives_the_same(case, tmp_path)
    test_tflite_gives_the_same(case)
