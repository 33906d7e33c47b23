"""The attention layers that lambda layers are compared with.

Bello, 2021, Tables 3 and 4, names them by their sources and says little of
their details; these layers are what the sources say. Each keeps the grid of
its inputs, so that `build_lambda_resnet` takes it in place of a lambda layer.
"""

from lambda_keras.attention.attention_augmented_conv2d import (
    AttentionAugmentedConv2D,
)
from lambda_keras.attention.axial_self_attention import AxialSelfAttention
from lambda_keras.attention.linear_attention import LinearAttention
from lambda_keras.attention.local_self_attention import LocalSelfAttention
from lambda_keras.attention.relative_self_attention import RelativeSelfAttention

__all__ = [
    "AttentionAugmentedConv2D",
    "AxialSelfAttention",
    "LinearAttention",
    "LocalSelfAttention",
    "RelativeSelfAttention",
]
