"""Compares our networks with timm's of the same weights.

    python -m export.timm_networks

gives timm's networks random weights and statistics, loads these into ours and
prints the largest difference between the logits, over the largest logit, for
two images of noise. Needs timm (`pip install '.[peers]'`), and takes about a
minute on two cores.
"""

import sys

import keras
import numpy as np

import lambda_keras

# What timm calls the networks that have another name here.
_TIMM_NAMES = {
    f"resnet_rs{depth}": f"resnetrs{depth}"
    for depth in (50, 101, 152, 200, 270, 350, 420)
}
# Compared by the command, with the height and width of the images.
_COMPARED = {
    "lambda_resnet26t": (96, 160),
    "lambda_resnet26rpt_256": (256, 256),
    "lambda_resnet50ts": (96, 160),
    "resnet50": (96, 160),
    "resnet_rs50": (96, 160),
}


def import_timm():
    """Imports timm beside TensorFlow.

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed.
    """
    # PyTorch imports Triton where it finds it. Its compiler and TensorFlow's
    # in one process end in a segmentation fault; networks run without it.
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)
    import timm

    return timm


def create_timm_network(name: str, image_size: tuple[int, int]):
    """Creates timm's network of a name, in inference.

    Args:
        name: one of `lambda_keras.NETWORKS`.
        image_size: height and width, pixels.

    Returns:
        A PyTorch module, or `None` if timm has no such network.

    Raises:
        ImportError: If timm is not installed.
    """
    timm = import_timm()
    name = _TIMM_NAMES.get(name, name)
    if not timm.is_model(name):
        return None
    arguments = {}
    if name == "lambda_resnet26rpt_256":
        arguments["img_size"] = image_size
    return timm.create_model(name, **arguments).eval()


def load_state(module, state: dict[str, np.ndarray]) -> None:
    """Gives a PyTorch module the weights of a dictionary of arrays."""
    import torch

    module.load_state_dict(
        {name: torch.tensor(array) for name, array in state.items()}
    )


def compute_logits(module, images: np.ndarray) -> np.ndarray:
    """Runs a PyTorch module on images with the channels last."""
    import torch

    with torch.no_grad():
        return module(torch.tensor(np.moveaxis(images, -1, 1))).numpy()


def compute_timm_logits(
    name: str, state: dict[str, np.ndarray], images: np.ndarray
) -> np.ndarray | None:
    """Runs timm's network of a name.

    Args:
        name: one of `lambda_keras.NETWORKS`.
        state: its checkpoint.
        images: float32, `(examples, height, width, 3)`.

    Returns:
        Logits `(examples, classes)`, or `None` if timm has no such network.

    Raises:
        ImportError: If timm is not installed.
    """
    module = create_timm_network(name, images.shape[1:3])
    if module is None:
        return None
    load_state(module, state)
    return compute_logits(module, images)


def draw_state(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Draws weights and statistics that keep a network's numbers near 1.

    Args:
        shapes: of the tensors of a checkpoint, by name.

    Returns:
        A checkpoint, the same at every call.
    """
    random = np.random.default_rng(0)
    return {name: _draw(random, name, shape) for name, shape in shapes.items()}


def _draw(random, name, shape):
    if name.endswith("num_batches_tracked"):
        return np.array(random.integers(1, 1000), "int64")
    values = random.normal(size=shape)
    is_scale = name.endswith(".weight") and len(shape) == 1
    if is_scale or name.endswith("running_var"):
        values = random.uniform(0.5, 1.5, size=shape)
    elif len(shape) > 1:
        sums_over = shape[:-1] if name.endswith("pos_emb") else shape[1:]
        values /= np.sqrt(np.prod(sums_over))
    else:
        values /= 4
    return values.astype("float32")


def measure_difference(name: str, image_size: tuple[int, int]) -> float:
    """Returns the largest difference from timm, over the largest logit.

    Args:
        name: one of `lambda_keras.NETWORKS` that timm has too.
        image_size: height and width of the images, pixels.
    """
    images = np.random.default_rng(3).normal(size=(2, *image_size, 3))
    images = images.astype("float32")
    module = create_timm_network(name, image_size)
    shapes = {key: tuple(x.shape) for key, x in module.state_dict().items()}
    state = draw_state(shapes)
    load_state(module, state)
    expected = compute_logits(module, images)
    model = lambda_keras.build_network(
        name, (*image_size, 3), weights=state, classifier_activation=None
    )
    logits = keras.ops.convert_to_numpy(model(images))
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def main() -> None:
    print("| network | images | largest difference |\n|---|---|---|")
    for name, (height, width) in _COMPARED.items():
        difference = measure_difference(name, (height, width))
        print(f"| `{name}` | {height}x{width} | {difference:.1e} |")


if __name__ == "__main__":
    main()
