"""Networks of lambda layers, and their weights."""

from lambda_keras.networks.lambda_resnet import build_lambda_resnet
from lambda_keras.networks.named import NETWORKS
from lambda_keras.networks.named import build_network

__all__ = ["NETWORKS", "build_lambda_resnet", "build_network"]
