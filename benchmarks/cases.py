"""What the layers are measured on, and who takes part."""

from typing import NamedTuple

import numpy as np

from benchmarks import arithmetic
from benchmarks import frameworks
from benchmarks.workers import Measurement
from benchmarks.workers import Task

_MATRIX_SIZE = 2048
NUM_HEADS = 4
KEY_DIM = 16
# Sizes and channels of the feature maps of a ResNet-50 at 224 pixels, and of
# c4 and c5 of a detector at 1024.
SHAPES = {
    "56x56x64": (56, 64),
    "28x28x128": (28, 128),
    "14x14x256": (14, 256),
    "7x7x512": (7, 512),
    "64x64x256": (64, 256),
    "32x32x512": (32, 512),
}
SCOPES = {"7": 7, "23": 23, "global": None}
LIMIT = "arithmetic_limit"
PEERS = ("timm", "timm_compiled", "lucidrains", "lucidrains_compiled")
CONTESTANTS = (
    "ours",
    "ours_compiled",
    "ours_litert",
    *PEERS,
    "keras_conv",
    "torch_conv",
    "keras_attention",
)


class Case(NamedTuple):
    """One layer on inputs of one shape.

    Attributes:
        shape: key of `SHAPES`.
        scope: key of `SCOPES`.
        batch_size: number of images.
        mode: one of `frameworks.MODES`.
    """

    shape: str
    scope: str
    batch_size: int
    mode: str

    def __str__(self):
        return (
            f"{self.shape}, scope {self.scope}, batch {self.batch_size}, "
            f"{self.mode}"
        )

    @property
    def size(self) -> int:
        return SHAPES[self.shape][0]

    @property
    def channels(self) -> int:
        return SHAPES[self.shape][1]

    def compute_limit(self, matrix_product: Measurement) -> Measurement:
        """Returns the seconds that arithmetic takes at a product's rate."""
        multiply_adds = arithmetic.count_multiply_adds(
            (self.size, self.size),
            self.channels,
            scope=SCOPES[self.scope],
            num_heads=NUM_HEADS,
            key_dim=KEY_DIM,
        )
        share = (
            self.batch_size
            * multiply_adds
            * arithmetic.PASSES[self.mode]
            / _MATRIX_SIZE**3
        )
        return Measurement(
            [share * seconds for seconds in matrix_product.seconds],
            error=matrix_product.error,
        )


def make_tasks(case: Case, contestants: list[str]) -> dict[str, Task]:
    """Returns what each contestant does in a case, by its name.

    On TensorFlow and JAX our layers are always compiled, so that there is no
    `"ours_compiled"`. An exported layer, `"ours_litert"`, takes one image, as
    the files of this project do, and needs TensorFlow.
    """
    backend = frameworks.keras_backend()
    takes_part = {
        "ours_compiled": backend == "torch",
        "ours_litert": backend == "tensorflow"
        and case.mode == "forward"
        and case.batch_size == 1,
    }
    tasks = {}
    for name in contestants:
        if not takes_part.get(name, True):
            continue
        if name.startswith(("ours", "keras")):
            tasks[name] = Task("keras", build_keras_contestant, (name, case))
        else:
            tasks[name] = Task("torch", build_torch_contestant, (name, case))
    return tasks


def find_frameworks(contestants: list[str]) -> list[str]:
    """Returns the frameworks that a run needs, Keras in any case."""
    others = [
        name for name in contestants if not name.startswith(("ours", "keras"))
    ]
    return ["keras", "torch"] if others else ["keras"]


def build_keras_contestant(name: str, case: Case):
    """Builds a layer of Keras or of ours, and returns its step."""
    shape = (case.batch_size, case.size, case.size, case.channels)
    layer = {
        "ours": _build_ours,
        "ours_compiled": _build_ours,
        "ours_litert": _build_ours,
        "keras_conv": _build_keras_convolution,
        "keras_attention": _build_keras_attention,
    }[name](case)
    if not layer.built:
        layer.build(shape)
    facts = {"parameters": layer.count_params()}
    inputs = _make_inputs(shape)
    if name == "ours_litert":
        return frameworks.prepare_litert(layer, inputs), facts
    compiled = name.endswith("compiled")
    step = frameworks.prepare_keras(layer, inputs, case.mode, compiled=compiled)
    return step, facts


def build_torch_contestant(name: str, case: Case):
    """Builds a layer in PyTorch, and returns its step."""
    from benchmarks import peers

    shape = (case.batch_size, case.channels, case.size, case.size)
    if name == "torch_conv":
        module = peers.build_convolution(case.channels)
    else:
        build = {
            "timm": peers.build_timm_layer,
            "lucidrains": peers.build_lucidrains_layer,
        }[name.removesuffix("_compiled")]
        scope = SCOPES[case.scope]
        module = build(case.size, case.channels, scope, NUM_HEADS, KEY_DIM)
    module.train(case.mode == "train")
    weights = list(module.parameters())
    step = frameworks.prepare_torch(
        module,
        weights,
        _make_inputs(shape),
        case.mode,
        compiled=name.endswith("compiled"),
    )
    return step, {"parameters": sum(weight.numel() for weight in weights)}


def build_matrix_product():
    """Builds a product of square matrices, which tells the arithmetic rate."""
    import keras

    size = _MATRIX_SIZE
    inputs = keras.Input((size,), batch_size=size)
    matrix = keras.layers.Dense(size, use_bias=False)
    model = keras.Model(inputs, matrix(inputs))
    step = frameworks.prepare_keras(
        model, _make_inputs((size, size)), "forward"
    )
    return step, {}


MATRIX_PRODUCT = Task("keras", build_matrix_product, ())


def _build_ours(case):
    import lambda_keras

    if case.scope == "global":
        return lambda_keras.LambdaLayer(
            case.channels, num_heads=NUM_HEADS, key_dim=KEY_DIM
        )
    return lambda_keras.LambdaConv(
        case.channels,
        scope_size=SCOPES[case.scope],
        num_heads=NUM_HEADS,
        key_dim=KEY_DIM,
    )


def _build_keras_convolution(case):
    import keras

    inputs = keras.Input((case.size, case.size, case.channels))
    convolution = keras.layers.Conv2D(case.channels, 3, padding="same")
    return keras.Model(inputs, convolution(inputs))


def _build_keras_attention(case):
    import keras

    attention = keras.layers.MultiHeadAttention(
        NUM_HEADS, key_dim=case.channels // NUM_HEADS
    )
    inputs = keras.Input((case.size, case.size, case.channels))
    x = keras.layers.Reshape((-1, case.channels))(inputs)
    x = keras.layers.Reshape(inputs.shape[1:])(attention(x, x))
    return keras.Model(inputs, x)


def _make_inputs(shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")
