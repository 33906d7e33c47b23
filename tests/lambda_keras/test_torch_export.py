"""Every public layer in what PyTorch's tracers make of it."""

import keras
import numpy as np
import pytest

import lambda_keras
from tests.support import reference
from tests.support.layer_cases import all_cases

if keras.backend.backend() != "torch":
    pytest.skip("Needs the backend PyTorch.", allow_module_level=True)

import torch


def export(model, inputs, open_axes):
    """Exports a model, with some axes of its inputs of any size."""
    # A named `Dim` would have PyTorch prove what a reshape needs, and its
    # algebra is too weak for a sequence's; this fails only for a fixed size.
    sizes = dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC)
    # Keras's models take a list, and any arguments.
    shapes = (([sizes for _ in inputs],),)
    return torch.export.export(
        model.eval(), (inputs,), dynamic_shapes=shapes, strict=False
    ).module()


def trace(model, inputs):
    return torch.jit.trace(model.eval(), (inputs,), check_trace=False)


def make_larger_batch(inputs):
    return [
        torch.cat([tensor, tensor + 1, tensor[:1] * 2]) for tensor in inputs
    ]


def assert_equal(traced, model, inputs):
    with torch.no_grad():
        outputs, expected = traced(inputs), model(inputs)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


@all_cases
def test_export_takes_any_batch_size(case):
    model = case.make_model()
    inputs = [torch.tensor(tensor) for tensor in case.make_inputs()]
    exported = export(model, inputs, open_axes=[0])
    assert_equal(exported, model, make_larger_batch(inputs))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@all_cases
def test_trace_takes_any_batch_size(case):
    model = case.make_model()
    inputs = [torch.tensor(tensor) for tensor in case.make_inputs()]
    assert_equal(trace(model, inputs), model, make_larger_batch(inputs))


@pytest.mark.parametrize(
    "arguments",
    [
        dict(scope_size=3),
        # Wider than the example, so that all of it is in reach.
        dict(scope_size=23),
        dict(scope_size=3, local_content=True, use_bias=True, intra_depth=2),
    ],
    ids=["narrow", "wide", "local_content"],
)
@pytest.mark.parametrize(
    ("rank", "call_arguments"),
    [(1, {}), (1, dict(use_causal_mask=True)), (2, {})],
    ids=["sequence", "causal_sequence", "image"],
)
def test_exported_conv_takes_any_size(rank, call_arguments, arguments):
    layer = lambda_keras.LambdaConv(
        22, num_heads=2, key_dim=13, name="subject", **arguments
    )
    inputs = keras.Input((*[None] * rank, 7))
    model = keras.Model([inputs], layer(inputs, **call_arguments))
    reference.randomize_weights(layer)
    normal = np.random.default_rng(5).normal
    example, other = (
        torch.tensor(normal(size=(*sizes, 7)).astype("float32"))
        for sizes in [(2, 5, 3)[: 1 + rank], (3, 7, 11)[: 1 + rank]]
    )
    exported = export(model, [example], open_axes=range(1 + rank))
    assert_equal(exported, model, [other])


def test_exported_layer_loops_over_rows_of_a_large_map():
    layer = lambda_keras.LambdaLayer(6, num_heads=2, key_dim=3)
    inputs = keras.Input((37, 2, 5))
    model = keras.Model([inputs], layer(inputs))
    images = np.random.default_rng(5).normal(size=(2, 37, 2, 5))
    images = [torch.tensor(images.astype("float32"))]
    exported = export(model, images, open_axes=[0])
    assert_equal(exported, model, make_larger_batch(images))
