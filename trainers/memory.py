"""Refuses what cannot fit in memory, before any of it is taken."""

import math
import os
import pathlib
import subprocess

import tensorflow as tf

from lambda_keras.networks import lambda_resnet
from trainers.program import UserError
from trainers.recipes import Recipe

_FLOAT32_BYTES = 4
_FLOAT16_BYTES = 2
# The default of `LambdaConv`.
_KEY_DIM = 16
# Of the first convolution over the width of the stem, at least.
_FIRST_SHARE = 3 / 8
# Where containers have less than the machine.
_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def check_memory(
    recipe: Recipe,
    *,
    channels: int,
    num_classes: int,
    num_replicas: int,
    frozen_stages: int = 0,
) -> None:
    """Checks that a training step may fit in the memory of a device.

    Only what is far too large is refused: see `estimate_bytes`.

    Args:
        recipe: names the network, its images and its optimization.
        channels: of the images.
        num_classes: number of classes.
        num_replicas: number of devices that share a batch.
        frozen_stages: as in `trainers.settings.Run`.

    Raises:
        UserError: If even the least that a step holds is more than there is.
    """
    available = measure_memory()
    parts = estimate_bytes(
        recipe,
        channels=channels,
        num_classes=num_classes,
        num_replicas=num_replicas,
        frozen_stages=frozen_stages,
    )
    total = sum(parts.values())
    if available is None or total <= available:
        return
    names = max(parts, key=parts.get)
    received = [f"--{name}={getattr(recipe, name)}" for name in names]
    raise UserError(
        f"{' times '.join(f'--{name}' for name in names)} must be small enough "
        f"for the memory: a step needs more than {_format(total)}, "
        f"{_format(parts[names])} of it through this, and there is "
        f"{_format(available)}. Received: {' '.join(received)}"
    )


def estimate_bytes(
    recipe: Recipe,
    *,
    channels: int,
    num_classes: int,
    num_replicas: int,
    frozen_stages: int = 0,
) -> dict[tuple[str, ...], float]:
    """Computes the least that a training step holds on each device.

    That is each weight of `count_weights`, with its gradient and its momentum
    if it is trained; the device's share of a batch; and what the first
    convolution makes of the part of it that is computed at a time, in half
    precision. A real step holds several times as much. Nothing is built.

    Args:
        recipe: names the network, its images and its optimization.
        channels: of the images.
        num_classes: number of classes.
        num_replicas: number of devices that share a batch.
        frozen_stages: as in `trainers.settings.Run`.

    Returns:
        Bytes, by the flags that decide on them.
    """
    has_momentum = recipe.optimizer != "sgd" or recipe.momentum > 0
    copies = 1 if frozen_stages else 2 + has_momentum
    weights, embeddings = count_weights(recipe, num_classes)
    images = recipe.batch_size / num_replicas
    pixels = images * recipe.image_size * recipe.image_size
    positions = pixels / recipe.gradient_accumulation_steps
    positions /= min(recipe.stem_strides, 2) ** 2
    features = positions * _FIRST_SHARE * 64 * recipe.width_multiplier
    batch = pixels * channels * _FLOAT32_BYTES + features * _FLOAT16_BYTES
    return {
        ("width_multiplier",): copies * weights * _FLOAT32_BYTES,
        ("scope_size",): copies * embeddings * _FLOAT32_BYTES,
        ("batch_size", "image_size"): batch,
    }


def count_weights(recipe: Recipe, num_classes: int) -> tuple[float, float]:
    """Counts most of the weights of a network from numbers alone.

    Args:
        recipe: names the network.
        num_classes: number of classes.

    Returns:
        Number of weights in the convolutions of the blocks and in the
        classifier, but for the rounding of widths; and number of position
        embeddings.
    """
    placement = lambda_resnet.place_lambda_layers(
        recipe.depth, recipe.layout, recipe.architecture
    )
    width = 64.0 * recipe.width_multiplier
    inputs = width
    weights = 0.0
    for number, stage in enumerate(placement):
        # Floats, and products: those that are too large become infinite.
        filters = width * 2**number
        convolutions = len(stage) - sum(stage)
        weights += convolutions * 9 * filters * filters
        # To the bottleneck and out of it, and the shortcut of the first block.
        weights += inputs * filters + 4 * inputs * filters
        weights += (len(stage) - 1) * 4 * filters * filters
        weights += len(stage) * 4 * filters * filters
        inputs = 4 * filters
    weights += inputs * num_classes
    lambda_layers = sum(map(sum, placement))
    embeddings = lambda_layers * _KEY_DIM * recipe.scope_size**2
    return weights, embeddings


def measure_memory() -> float | None:
    """Returns bytes of memory of a device, `None` if it does not say.

    That of a GPU, if there is any, else that of the machine or, if less, of
    the container. Swap space does not count.
    """
    gpus = _measure_gpus()
    if any(map(tf.config.list_physical_devices, ("GPU", "TPU"))):
        return max(gpus, default=None)
    # Another framework may use those that TensorFlow does not.
    return max([measure_machine(), *gpus])


def measure_machine() -> float:
    """Returns bytes of memory of the machine or the container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *map(_read_limit, _CGROUP_LIMITS)])


def _read_limit(path):
    try:
        text = pathlib.Path(path).read_text().strip()
    except OSError:
        return math.inf
    return math.inf if text == "max" else int(text)


def _measure_gpus():
    """Returns bytes of memory of each GPU that NVIDIA's tool knows."""
    try:
        result = subprocess.run(
            [
                "nvidia-smi",
                "--query-gpu=memory.total",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    # Megabytes in lines, or sentences on what is wrong.
    lines = result.stdout.split("\n")
    return [int(line) * 2**20 for line in lines if line.strip().isdigit()]


def _format(size):
    return f"{size / 2**30:.3g} GiB"
