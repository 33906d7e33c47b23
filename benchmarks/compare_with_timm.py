r"""Compares our networks with timm's of the same weights.

    python -m benchmarks.compare_with_timm

gives timm's networks random weights and statistics, loads these into ours and
prints the largest difference between the logits, over the largest logit, for
two images of noise. Needs timm (`pip install '.[peers]'`), and takes about a
minute on two cores.
"""

import keras
import numpy as np

import lambda_keras
from export import timm_networks
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

# What is compared, with the height and width of the images.
_COMPARED = {
    "lambda_resnet26t": (96, 160),
    "lambda_resnet26rpt_256": (256, 256),
    "lambda_resnet50ts": (96, 160),
    "resnet50": (96, 160),
    "resnet_rs50": (96, 160),
}


def measure_difference(name: str, image_size: tuple[int, int]) -> float:
    """Returns the largest difference from timm, over the largest logit.

    Args:
        name: one of `lambda_keras.NETWORKS` that timm has too.
        image_size: height and width of the images, pixels.
    """
    images = np.random.default_rng(3).normal(size=(2, *image_size, 3))
    images = images.astype("float32")
    module = timm_networks.create_timm_network(name, image_size)
    shapes = {key: tuple(x.shape) for key, x in module.state_dict().items()}
    state = timm_networks.draw_state(shapes)
    timm_networks.load_state(module, state)
    expected = timm_networks.compute_logits(module, images)
    model = lambda_keras.build_network(
        name, (*image_size, 3), weights=state, classifier_activation=None
    )
    logits = keras.ops.convert_to_numpy(model(images))
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    try:
        timm_networks.import_timm()
    except ImportError as error:
        raise UserError(
            f"Install the extra `peers` of this project first. ({error})"
        ) from error
    print("| network | images | largest difference |\n|---|---|---|")
    for name, (height, width) in _COMPARED.items():
        difference = measure_difference(name, (height, width))
        print(f"| `{name}` | {height}x{width} | {difference:.1e} |", flush=True)


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
