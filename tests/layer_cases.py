"""Every public layer, in each configuration that the contract tests run."""

from typing import NamedTuple

import lambda_keras


class LayerCase(NamedTuple):
    """A layer's class, its arguments and the shape of its input."""

    layer_class: type
    arguments: dict
    input_shape: tuple

    def make_layer(self, **kwargs):
        return self.layer_class(**self.arguments, **kwargs)


LAYER_CASES = {
    "lambda_layer_sequence": LayerCase(
        lambda_keras.LambdaLayer,
        dict(filters=22, num_heads=2, key_dim=13),
        (2, 19, 7),
    ),
    "lambda_layer_image": LayerCase(
        lambda_keras.LambdaLayer,
        dict(filters=22, num_heads=2, key_dim=13, intra_depth=3),
        (2, 5, 3, 7),
    ),
    "lambda_layer_volume": LayerCase(
        lambda_keras.LambdaLayer,
        dict(filters=22, num_heads=2, key_dim=13),
        (2, 3, 5, 2, 7),
    ),
    "lambda_conv_sequence": LayerCase(
        lambda_keras.LambdaConv,
        dict(filters=22, scope_size=5, num_heads=2, key_dim=13),
        (2, 19, 7),
    ),
    "lambda_conv_image": LayerCase(
        lambda_keras.LambdaConv,
        dict(filters=22, scope_size=3, num_heads=2, key_dim=13, intra_depth=3),
        (2, 5, 11, 7),
    ),
    "lambda_conv_volume": LayerCase(
        lambda_keras.LambdaConv,
        dict(filters=22, scope_size=3, num_heads=2, key_dim=13),
        (2, 3, 5, 2, 7),
    ),
    "lambda_conv_default": LayerCase(
        lambda_keras.LambdaConv, dict(filters=32), (2, 7, 5, 32)
    ),
}
