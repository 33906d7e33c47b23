"""The networks that are measured, and a step of each.

`MODES` are the two things measured. `"infer"` is what `predict` does with a
batch, `"train"` what `fit` does with one: a step of stochastic gradient descent
on the cross entropy.
"""

import math
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np

from benchmarks.workers import Task

MODES = ("infer", "train")
_NUM_CLASSES = 1000
_LEARNING_RATE = 0.01


class Model(NamedTuple):
    """How to build a network.

    Attributes:
        framework: `"keras"` or `"torch"`.
        build: function that takes the height and width of the images.
        image_size: height and width that the network is made for.
        compiled: whether to use `torch.compile`.
    """

    framework: str
    build: Callable[[int], Any]
    image_size: int = 224
    compiled: bool = False


def _lambda_resnet(depth, layout=None, architecture="rs", free=False):
    def build(image_size):
        import keras

        import lambda_keras

        return lambda_keras.build_lambda_resnet(
            depth,
            (image_size, image_size, 3),
            _NUM_CLASSES,
            layout=layout,
            architecture=architecture,
            lambda_layer=(lambda _: keras.layers.Identity()) if free else None,
        )

    return Model("keras", build)


def _efficientnet(variant, image_size):
    def build(image_size):
        import keras

        return getattr(keras.applications, f"EfficientNet{variant}")(
            weights=None,
            input_shape=(image_size, image_size, 3),
            classes=_NUM_CLASSES,
        )

    return Model("keras", build, image_size)


def _timm(name, compiled=False):
    def build(image_size):
        from benchmarks import peers

        return peers.build_timm_network(name)

    return Model("torch", build, 256, compiled)


MODELS = {
    "resnet50_cccc": _lambda_resnet(50, "CCCC", "v1"),
    "resnet50_ccll": _lambda_resnet(50, "CCLL", "v1"),
    "resnet50_clll": _lambda_resnet(50, "CLLL", "v1"),
    "resnet50_llll": _lambda_resnet(50, "LLLL", "v1"),
    # With layers that do nothing where the lambda layers are: as fast as these
    # could become.
    "resnet50_ccll_free": _lambda_resnet(50, "CCLL", "v1", free=True),
    "resnet50_llll_free": _lambda_resnet(50, "LLLL", "v1", free=True),
    "resnet_rs50": _lambda_resnet(50, "CCCC"),
    "resnet_rs152": _lambda_resnet(152, "CCCC"),
    "lambda_resnet50": _lambda_resnet(50),
    "lambda_resnet152": _lambda_resnet(152),
    "efficientnet_b0": _efficientnet("B0", 224),
    "efficientnet_b4": _efficientnet("B4", 380),
    "lambda_resnet26t": _timm("lambda_resnet26t"),
    "lambda_resnet26t_compiled": _timm("lambda_resnet26t", compiled=True),
    "lambda_resnet50ts": _timm("lambda_resnet50ts"),
    "lambda_resnet50ts_compiled": _timm("lambda_resnet50ts", compiled=True),
}


def find_frameworks(names: list[str]) -> list[str]:
    """Returns the frameworks that some models need."""
    return list(dict.fromkeys(MODELS[name].framework for name in names))


def make_task(name: str, mode: str, batch_size: int, image_size: int) -> Task:
    """Returns what a worker does for a model."""
    framework = MODELS[name].framework
    build = {"keras": build_keras_step, "torch": build_torch_step}[framework]
    return Task(framework, build, (name, mode, batch_size, image_size))


def build_keras_step(name: str, mode: str, batch_size: int, image_size: int):
    """Builds a network in Keras, and returns its step."""
    import keras

    model = MODELS[name].build(image_size)
    images, labels = _make_batch((batch_size, image_size, image_size, 3))
    model.compile(
        keras.optimizers.SGD(_LEARNING_RATE), "sparse_categorical_crossentropy"
    )
    facts = {
        "parameters": sum(math.prod(w.shape) for w in model.trainable_weights),
        "gmacs": _count_gmacs(model),
    }
    if mode == "infer":
        return lambda: model.predict_on_batch(images), facts
    return lambda: model.train_on_batch(images, labels), facts


def build_torch_step(name: str, mode: str, batch_size: int, image_size: int):
    """Builds a network of timm, and returns its step."""
    import torch

    model = MODELS[name].build(image_size)
    model.train(mode == "train")
    parameters = list(model.parameters())
    images, labels = _make_batch((batch_size, 3, image_size, image_size))
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(parameters, _LEARNING_RATE)
    call = torch.compile(model) if MODELS[name].compiled else model

    def infer():
        with torch.inference_mode():
            return call(images)

    def train():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(call(images), labels)
        loss.backward()
        optimizer.step()

    facts = {"parameters": sum(weight.numel() for weight in parameters)}
    return (infer if mode == "infer" else train), facts


def _count_gmacs(model):
    """Returns the multiply-adds of an image, in 1e9."""
    import lambda_keras

    return lambda_keras.count_multiply_adds(model) / 1e9


def _make_batch(shape):
    random = np.random.default_rng(0)
    images = random.normal(size=shape).astype("float32")
    return images, random.integers(_NUM_CLASSES, size=shape[0])
