"""timm's networks, where timm is installed, to compare ours with."""

import sys

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
    import timm

    return timm


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
    timm = import_timm()
    import torch

    name = _TIMM_NAMES.get(name, name)
    if not timm.is_model(name):
        return None
    arguments = {}
    if name == "lambda_resnet26rpt_256":
        arguments["img_size"] = images.shape[1:3]
    model = timm.create_model(name, **arguments).eval()
    model.load_state_dict(
        {key: torch.tensor(array) for key, array in state.items()}
    )
    with torch.no_grad():
        return model(torch.tensor(np.moveaxis(images, -1, 1))).numpy()
