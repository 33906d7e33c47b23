"""timm's networks beside ours: created, loaded and run on the same images.

[timm](https://github.com/huggingface/pytorch-image-models) is in the extra
`peers`; this is the one place that imports it.
"""

import contextlib
import sys
from collections.abc import Iterator

import numpy as np

# What timm calls the networks that have another name here.
_TIMM_NAMES = {
    f"resnet_rs{depth}": f"resnetrs{depth}"
    for depth in (50, 101, 152, 200, 270, 350, 420)
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
    with _without_operators_of_torchvision():
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


@contextlib.contextmanager
def _without_operators_of_torchvision() -> Iterator[None]:
    """Lets torchvision be imported where its compiled part does not load.

    It then registers shapes for operators that do not exist, which PyTorch
    refuses. timm needs none of them.
    """
    import torch

    register_fake = torch.library.register_fake

    def register_known(operator, *args, **kwargs):
        if str(operator).startswith("torchvision::"):
            return lambda function: function
        return register_fake(operator, *args, **kwargs)

    torch.library.register_fake = register_known
    try:
        yield
    finally:
        torch.library.register_fake = register_fake
