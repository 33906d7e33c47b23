"""LambdaNetworks for Keras 3, on every backend of Keras."""

from lambda_keras import attention
from lambda_keras import visualize
from lambda_keras.lambda_conv import LambdaConv
from lambda_keras.lambda_layer import LambdaLayer
from lambda_keras.lambda_resnet import build_lambda_resnet
from lambda_keras.position_embeddings import PositionEmbeddings
from lambda_keras.position_embeddings import resize_position_embeddings

__version__ = "0.1.0"

__all__ = [
    "LambdaConv",
    "LambdaLayer",
    "PositionEmbeddings",
    "attention",
    "build_lambda_resnet",
    "resize_position_embeddings",
    "visualize",
]
