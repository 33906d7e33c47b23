"""Every public layer, in each configuration that the contract tests run."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras import attention
from tests.support import reference


class LayerCase(NamedTuple):
    """A layer's class, its arguments and how it is called."""

    layer_class: type
    arguments: dict
    input_shape: tuple
    context_shape: tuple | None = None
    call_arguments: Mapping = MappingProxyType({})

    def make_layer(self, **kwargs):
        return self.layer_class(**self.arguments, **kwargs)

    def input_shapes(self):
        shapes = [self.input_shape, self.context_shape]
        return [shape for shape in shapes if shape is not None]

    def make_inputs(self):
        generator = np.random.default_rng(7)
        return [
            generator.normal(size=shape).astype("float32")
            for shape in self.input_shapes()
        ]

    def make_model(self, batch_size=None, **kwargs):
        """A functional model of the layer alone, with random weights."""
        inputs = [
            keras.Input(shape[1:], batch_size=batch_size)
            for shape in self.input_shapes()
        ]
        layer = self.make_layer(name="subject", **kwargs)
        model = keras.Model(inputs, layer(*inputs, **self.call_arguments))
        reference.randomize_weights(layer)
        return model


_LAYER = lambda_keras.LambdaLayer
_CONV = lambda_keras.LambdaConv
# Different primes, so that no axis can stand for another.
_SIZES = dict(filters=22, num_heads=2, key_dim=13)
_SEQUENCE = (2, 19, 7)
_IMAGE = (2, 5, 3, 7)
_VOLUME = (2, 3, 5, 2, 7)
_CAUSAL = dict(use_causal_mask=True)

LAYER_CASES = {
    "layer_default": LayerCase(_LAYER, dict(filters=32), (2, 7, 5, 32)),
    "layer_sequence": LayerCase(_LAYER, _SIZES, _SEQUENCE),
    "layer_image": LayerCase(_LAYER, dict(**_SIZES, intra_depth=3), _IMAGE),
    "layer_volume": LayerCase(_LAYER, _SIZES, _VOLUME),
    "layer_causal": LayerCase(
        _LAYER, _SIZES, _SEQUENCE, call_arguments=_CAUSAL
    ),
    "layer_context": LayerCase(
        _LAYER, dict(**_SIZES, context_scale=0.5), (2, 10, 6, 7), (2, 5, 3, 11)
    ),
    "layer_unrelated_context": LayerCase(
        _LAYER, dict(**_SIZES, use_position=False), _IMAGE, (2, 17, 11)
    ),
    "conv_default": LayerCase(_CONV, dict(filters=32), (2, 7, 5, 32)),
    "conv_sequence": LayerCase(_CONV, dict(**_SIZES, scope_size=5), _SEQUENCE),
    "conv_image": LayerCase(
        _CONV, dict(**_SIZES, scope_size=3, intra_depth=3), (2, 5, 11, 7)
    ),
    "conv_volume": LayerCase(_CONV, dict(**_SIZES, scope_size=3), _VOLUME),
    "conv_causal": LayerCase(
        _CONV,
        dict(**_SIZES, scope_size=5),
        _SEQUENCE,
        call_arguments=_CAUSAL,
    ),
    "conv_local_content": LayerCase(
        _CONV, dict(**_SIZES, scope_size=3, local_content=True), _IMAGE
    ),
    "conv_multi_head": LayerCase(
        _CONV, dict(**_SIZES, scope_size=3, num_key_value_heads=2), _IMAGE
    ),
    "conv_content_only": LayerCase(
        _CONV, dict(**_SIZES, use_position=False), _IMAGE
    ),
    "conv_position_only": LayerCase(
        _CONV, dict(**_SIZES, use_content=False), _IMAGE
    ),
    "conv_l2_keys": LayerCase(
        _CONV, dict(**_SIZES, key_normalization="l2"), _IMAGE
    ),
    "conv_free_keys": LayerCase(
        _CONV, dict(**_SIZES, key_normalization=None), _IMAGE
    ),
    "conv_bias": LayerCase(
        _CONV,
        dict(
            **_SIZES,
            scope_size=3,
            intra_depth=3,
            num_key_value_heads=2,
            use_bias=True,
        ),
        _IMAGE,
    ),
    "conv_without_normalization": LayerCase(
        _CONV, dict(**_SIZES, normalization=None), _IMAGE
    ),
    "relative_sequence": LayerCase(
        attention.RelativeSelfAttention, _SIZES, _SEQUENCE
    ),
    "relative_image": LayerCase(
        attention.RelativeSelfAttention, _SIZES, _IMAGE
    ),
    "axial": LayerCase(attention.AxialSelfAttention, _SIZES, _IMAGE),
    "local": LayerCase(
        attention.LocalSelfAttention,
        dict(filters=22, num_heads=2, key_dim=14, window_size=3),
        (2, 5, 11, 7),
    ),
    "linear": LayerCase(attention.LinearAttention, _SIZES, _IMAGE),
    "augmented": LayerCase(
        attention.AttentionAugmentedConv2D,
        dict(**_SIZES, kernel_size=5, value_dim=3),
        _IMAGE,
    ),
}

all_cases = pytest.mark.parametrize(
    "case", LAYER_CASES.values(), ids=LAYER_CASES
)


def predict(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))
