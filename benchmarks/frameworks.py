"""How each framework is started, and how it runs a layer.

A layer runs as its users run it: compiled where the framework compiles by
default (`tf.function` without XLA, as in `fit` and `predict`; `jax.jit`), else
as it is, and compiled on demand.

`MODES` are the two things measured. `"forward"` is a call in inference mode.
`"train"` is a call in training mode, the mean of the squared outputs as a
loss, and the gradients for all weights and for the inputs; there is no
optimizer.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from typing import Any

MODES = ("forward", "train")


def load(framework: str) -> None:
    """Imports a framework and starts none of its threads."""
    # Every contestant gets the processor, also beside a GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Compiling in this process leaves no idle processes beside others.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    # It warns of a missing GPU at each compilation.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    if framework == "torch":
        from benchmarks import peers

        peers.load()
        return
    import keras

    # With this Keras imports TensorFlow where it is installed, on every
    # backend; it does the same later for layers that copy a normalization.
    keras.saving.serialize_keras_object(keras.DTypePolicy("float32"))


def start(
    framework: str, threads: int, concurrent_operations: int | None = None
) -> None:
    """Sets the number of threads and starts the framework.

    Args:
        framework: `"keras"` or `"torch"`.
        threads: number of threads of an operation.
        concurrent_operations: how many operations TensorFlow may run at once.
            Defaults to the number of threads.
    """
    if framework == "torch" or keras_backend() == "torch":
        import torch

        torch.set_num_threads(threads)
        torch.square(torch.ones(8))
    elif keras_backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(
            concurrent_operations or threads
        )
        tf.function(tf.square)(tf.ones(8))
    else:
        import jax

        jax.jit(jax.numpy.square)(jax.numpy.ones(8)).block_until_ready()


def keras_backend() -> str:
    import keras

    return keras.backend.backend()


def prepare_keras(layer, inputs, mode: str, *, compiled: bool = True):
    """Returns a step of a built Keras layer.

    Args:
        layer: a built layer or model.
        inputs: NumPy array.
        mode: one of `MODES`.
        compiled: whether to use `torch.compile`; on the other backends layers
            are always compiled.

    Returns:
        A function without arguments that returns when all is computed.
    """
    backend = keras_backend()
    if backend == "tensorflow":
        return _prepare_tensorflow(layer, inputs, mode)
    if backend == "jax":
        return _prepare_jax(layer, inputs, mode)
    weights = [variable.value for variable in layer.trainable_variables]
    training = mode == "train"

    def call(images):
        return layer(images, training=training)

    return prepare_torch(call, weights, inputs, mode, compiled=compiled)


def prepare_litert(layer, inputs) -> Callable[[], Any]:
    """Returns a step of a built layer that is exported to LiteRT.

    Args:
        layer: a built layer, in inference mode.
        inputs: NumPy array.

    Returns:
        A function without arguments that returns the outputs. It uses as many
        threads as this process has cores.
    """
    import keras
    from ai_edge_litert.interpreter import Interpreter

    images = keras.Input(inputs.shape[1:], batch_size=len(inputs))
    model = keras.Model(images, layer(images))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "layer.tflite")
        model.export(
            path,
            format="litert",
            verbose=False,
            experimental_enable_resource_variables=False,
        )
        with open(path, "rb") as file:
            content = file.read()
    interpreter = Interpreter(
        model_content=content, num_threads=len(os.sched_getaffinity(0))
    )
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()

    def forward():
        interpreter.set_tensor(source["index"], inputs)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return forward


def prepare_torch(
    call: Callable, weights, inputs, mode: str, *, compiled: bool
) -> Callable[[], Any]:
    """Returns a step of a PyTorch module, or of a function.

    Args:
        call: what is measured, already in the mode.
        weights: what the gradients are for, besides the inputs.
        inputs: NumPy array.
        mode: one of `MODES`.
        compiled: whether to use `torch.compile`.
    """
    import torch

    inputs = torch.from_numpy(inputs)
    call = torch.compile(call) if compiled else call
    sources = [inputs.requires_grad_(mode == "train"), *weights]

    def forward():
        with torch.inference_mode():
            return call(inputs)

    def train():
        loss = torch.mean(torch.square(call(inputs)))
        return torch.autograd.grad(loss, sources)

    return forward if mode == "forward" else train


def _prepare_tensorflow(layer, inputs, mode):
    import tensorflow as tf

    inputs = tf.constant(inputs)
    weights = [variable.value for variable in layer.trainable_variables]

    @tf.function
    def forward(images):
        return layer(images, training=False)

    @tf.function
    def train(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_mean(tf.square(layer(images, training=True)))
        return tape.gradient(loss, [images, *weights])

    step = forward if mode == "forward" else train
    return lambda: step(inputs)


def _prepare_jax(layer, inputs, mode):
    import jax

    inputs = jax.numpy.asarray(inputs)
    weights = [variable.value for variable in layer.trainable_variables]
    state = [variable.value for variable in layer.non_trainable_variables]

    @jax.jit
    def forward(weights, state, images):
        return layer.stateless_call(weights, state, images, training=False)[0]

    def compute_loss(weights, state, images):
        outputs, state = layer.stateless_call(
            weights, state, images, training=True
        )
        return jax.numpy.mean(jax.numpy.square(outputs)), state

    train = jax.jit(jax.grad(compute_loss, argnums=(0, 2), has_aux=True))
    step = forward if mode == "forward" else train
    return lambda: jax.block_until_ready(step(weights, state, inputs))
