"""Builds the networks of the paper's Tables 3 and 4 and counts.

    python -m examples.baselines

prints the table of docs/baselines.md in about 20 s on 2 CPU cores: for each
layer that the paper compares, the trainable parameters of a ResNet-50 with it
at 224x224, beside those that the paper prints, and its billions of
multiply-adds. Nothing is trained.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("examples.baselines")

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

import lambda_keras
from lambda_keras import attention
from lambda_keras import build_lambda_resnet
from trainers.program import refuse_arguments
from trainers.program import run_program


class Baseline(NamedTuple):
    """A row of the paper's tables.

    Attributes:
        name: name of the layer.
        layout: where the layer stands, as in `build_lambda_resnet`.
        layer: function `filters -> layer`; `None` for the default.
        squeeze_excite_ratio: as in `build_lambda_resnet`.
        reported: millions of parameters that the paper prints, `None` where
            it prints none.
    """

    name: str
    layout: str
    layer: Callable[[int], keras.layers.Layer] | None
    squeeze_excite_ratio: float
    reported: float | None

    def build(self, input_shape=(224, 224, 3), num_classes=1000, **kwargs):
        """Builds the ResNet-50, or one of another size by `kwargs`."""
        return build_lambda_resnet(
            50,
            input_shape,
            num_classes,
            layout=self.layout,
            architecture="v1",
            lambda_layer=self.layer,
            squeeze_excite_ratio=self.squeeze_excite_ratio,
            **kwargs,
        )


# Bello, 2021, Tables 3 and 4. Bello et al., 2019, leave c2 to convolutions.
BASELINES = {
    "convolution": Baseline("Conv2D", "CCCC", None, 0, 25.6),
    "channel": Baseline(
        "Conv2D, squeeze-and-excite", "CCCC", None, 1 / 16, 28.1
    ),
    "linear": Baseline(
        "LinearAttention", "LLLL", attention.LinearAttention, 0, None
    ),
    "augmented": Baseline(
        "AttentionAugmentedConv2D",
        "CLLL",
        attention.AttentionAugmentedConv2D,
        0,
        25.8,
    ),
    "global": Baseline(
        "RelativeSelfAttention",
        "LLLL",
        attention.RelativeSelfAttention,
        0,
        None,
    ),
    "axial": Baseline(
        "AxialSelfAttention", "LLLL", attention.AxialSelfAttention, 0, None
    ),
    "local": Baseline(
        "LocalSelfAttention", "LLLL", attention.LocalSelfAttention, 0, 18.0
    ),
    "lambda": Baseline("LambdaConv", "LLLL", None, 0, 15.0),
    "lambda_u4": Baseline(
        "LambdaConv, scope 7, u = 4",
        "LLLL",
        functools.partial(lambda_keras.LambdaConv, scope_size=7, intra_depth=4),
        0,
        16.0,
    ),
}


def count_trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    print("| layer | layout | ours | paper | GMACs |")
    print("|---|---|---|---|---|")
    for baseline in BASELINES.values():
        model = baseline.build()
        reported = f"{baseline.reported}M" if baseline.reported else ""
        print(
            f"| {baseline.name} | {baseline.layout} "
            f"| {count_trainable(model):,} | {reported} "
            f"| {lambda_keras.count_multiply_adds(model) / 1e9:.2f} |",
            flush=True,
        )
        keras.backend.clear_session()


def run() -> None:
    run_program(main)
