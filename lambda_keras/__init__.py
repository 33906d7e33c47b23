"""LambdaNetworks for Keras 3, on every backend of Keras."""

from lambda_keras import attention
from lambda_keras import visualize
from lambda_keras.lambda_conv import LambdaConv
from lambda_keras.lambda_layer import LambdaLayer
from lambda_keras.multiply_adds import count_multiply_adds
from lambda_keras.networks.imagenet import decode_predictions
from lambda_keras.networks.imagenet import preprocess_input
from lambda_keras.networks.lambda_resnet import build_lambda_resnet
from lambda_keras.networks.named import NETWORKS
from lambda_keras.networks.named import build_network
from lambda_keras.networks.torch_weights import load_timm_weights
from lambda_keras.networks.torch_weights import make_timm_state
from lambda_keras.position_embeddings import PositionEmbeddings
from lambda_keras.position_embeddings import resize_position_embeddings

__version__ = "0.1.0"

__all__ = [
    "NETWORKS",
    "LambdaConv",
    "LambdaLayer",
    "PositionEmbeddings",
    "attention",
    "build_lambda_resnet",
    "build_network",
    "count_multiply_adds",
    "decode_predictions",
    "load_timm_weights",
    "make_timm_state",
    "preprocess_input",
    "resize_position_embeddings",
    "visualize",
]
