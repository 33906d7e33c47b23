"""Lambda layers in PyTorch that this project is measured beside.

- [timm](https://github.com/huggingface/pytorch-image-models), its
  `timm.layers.LambdaLayer`
- [lambda-networks](https://github.com/lucidrains/lambda-networks)
"""

import importlib

import torch

from export.timm_networks import import_timm


def load() -> None:
    """Imports timm, lambda-networks and the compiler of PyTorch."""
    import_timm()
    importlib.import_module("lambda_networks")
    importlib.import_module("torch._inductor.compile_fx")


def build_timm_layer(
    size: int, channels: int, scope: int | None, num_heads: int, key_dim: int
) -> torch.nn.Module:
    """Builds timm's layer, with relative embeddings if the scope is `None`."""
    return import_timm().layers.lambda_layer.LambdaLayer(
        channels,
        feat_size=size if scope is None else None,
        num_heads=num_heads,
        dim_head=key_dim,
        r=scope,
    )


def build_lucidrains_layer(
    size: int, channels: int, scope: int | None, num_heads: int, key_dim: int
) -> torch.nn.Module:
    """Builds the layer of lambda-networks, global if the scope is `None`."""
    from lambda_networks import LambdaLayer

    return LambdaLayer(
        channels,
        dim_k=key_dim,
        n=size if scope is None else None,
        r=scope,
        heads=num_heads,
    )


def build_convolution(channels: int) -> torch.nn.Module:
    """Builds a 3x3 convolution."""
    return torch.nn.Conv2d(channels, channels, 3, padding=1)


def build_timm_network(name: str) -> torch.nn.Module:
    """Builds a network of timm without trained weights."""
    return import_timm().create_model(name)
