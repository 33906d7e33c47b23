r"""Converts a PyTorch checkpoint into a Keras file, and checks the result.

    python -m export.convert_weights --network=lambda_resnet26t \
        --weights=lambda_resnet26t.safetensors --output=runs/t26/model.keras

takes a `.safetensors` file, a file of `torch.save` or, with huggingface_hub
installed, `hf://timm/lambda_resnet26t.c1_in1k`. It writes a model from pixels,
0 to 255, to logits, which `export.export_model` deploys and `weights=` reads.
Prints how many tensors were read and used, logits of a fixed image and, where
timm is installed, the largest difference from timm's logits, and fails if that
is above 1e-4 of the largest. docs/networks.md lists the networks. Takes some
twenty seconds on two cores.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("export.convert_weights")

import pathlib

import keras
import numpy as np
from absl import flags

import lambda_keras
from export import timm_networks
from lambda_keras.networks import imagenet
from lambda_keras.networks import torch_weights
from trainers.files import replacing
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_NETWORK = flags.DEFINE_string(
    "network", None, "Name in lambda_keras.NETWORKS. Required."
)
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "The checkpoint, a path or hf://owner/name. Required."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The .keras file to write. Required."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width of the images in pixels. Defaults to the network's own.",
)

# Float32 sums in another order differ by some 1e-6 of the largest logit.
TOLERANCE = 1e-4


def build_pixel_model(network: keras.Model) -> keras.Model:
    """Returns a model that prepares pixels for a network of ImageNet.

    Args:
        network: takes what `lambda_keras.preprocess_input` returns.

    Returns:
        A model from pixels, 0 to 255, to what the network returns.
    """
    means = np.array(imagenet.MEANS)
    deviations = np.array(imagenet.STANDARD_DEVIATIONS)
    pixels = keras.Input(network.input_shape[1:], name="images")
    prepared = keras.layers.Rescaling(
        (1 / (255 * deviations)).tolist(),
        offset=(-means / deviations).tolist(),
        # Half precision does not hold all that lies between two gray levels.
        dtype="float32",
        name="rescaling",
    )(pixels)
    return keras.Model(pixels, network(prepared), name=f"{network.name}_logits")


def make_pixels(image_size: int) -> np.ndarray:
    """Makes two images that are always the same: waves, and noise.

    Args:
        image_size: height and width.

    Returns:
        float32, `(2, image_size, image_size, 3)`, 0 to 255.
    """
    positions = np.arange(image_size) / image_size
    waves = np.sin(2 * np.pi * np.multiply.outer((3, 5, 7), positions))
    waves = np.einsum("cy,cx->yxc", waves, waves[::-1])
    noise = np.random.default_rng(0).uniform(0, 255, waves.shape)
    return np.stack([127.5 * (waves + 1), noise]).astype("float32")


def check_against_timm(
    name: str, state: dict, pixels: np.ndarray, logits: np.ndarray
) -> str:
    """Compares logits with those of timm's network of the same checkpoint.

    Args:
        name: one of `lambda_keras.NETWORKS`.
        state: the checkpoint.
        pixels: as from `make_pixels`.
        logits: what Keras says of them.

    Returns:
        A sentence on what was found, or why nothing was compared.

    Raises:
        UserError: If the logits differ.
    """
    images = lambda_keras.preprocess_input(pixels)
    try:
        expected = timm_networks.compute_timm_logits(name, state, images)
    except ImportError as error:
        return f"not compared, because timm cannot be imported ({error})"
    if expected is None:
        return "not compared, because timm has no such network"
    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    # So written, a NaN fails too.
    if not difference <= TOLERANCE:
        raise UserError(
            f"The logits must be within {TOLERANCE:g} of timm's, relative to "
            f"the largest. Received: a difference of {difference:.1e}"
        )
    return f"{difference:.1e} of the largest logit"


def describe(state: dict, model: keras.Model) -> str:
    """Returns what a conversion read and used, in lines."""
    tensors = torch_weights.list_tensors(model)
    numbers = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    return (
        f"Tensors read: {len(state)}, of which {len(state) - len(tensors)} "
        f"count batches\nTensors used: {len(tensors)}, all that the network "
        f"has, with {numbers:,} numbers"
    )


def convert(
    name: str, weights: str, path: pathlib.Path, image_size: int
) -> None:
    """Reads, checks and writes; prints what it finds.

    Raises:
        UserError: If the checkpoint does not fit or timm says otherwise.
    """
    try:
        state = torch_weights.read_checkpoint(weights)
        network = lambda_keras.build_network(
            name,
            (image_size, image_size, 3),
            weights=state,
            classifier_activation=None,
        )
    except ImportError as error:
        raise UserError(
            "--weights of this kind need a package that cannot be imported: "
            f"{error}. Install it. Received: {weights}"
        ) from error
    except OSError as error:
        # The hub's messages have several lines.
        reason = " ".join(str(error).split())
        raise UserError(
            f"--weights cannot be read: {reason}. Received: {weights}"
        ) from error
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    model = build_pixel_model(network)
    print(describe(state, model))
    pixels = make_pixels(image_size)
    logits = model.predict(pixels, verbose=0)
    for picture, row in zip(("waves", "noise"), logits, strict=True):
        first = " ".join(f"{logit:.5g}" for logit in row[:4])
        print(
            f"Logits ({picture}): {first} ...; highest {row.max():.5g} for "
            f"class {row.argmax()}"
        )
    found = check_against_timm(name, state, pixels, logits)
    print(f"Largest difference from timm: {found}")
    with replacing(path) as temporary:
        model.save(temporary)
    print(f"Written: {path}")


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    for flag in (_NETWORK, _WEIGHTS, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing.")
    path = pathlib.Path(_OUTPUT.value)
    if path.suffix != ".keras":
        raise UserError(f"--output must end in .keras. Received: {path}")
    if _NETWORK.value not in lambda_keras.NETWORKS:
        raise UserError(
            f"--network must be one of {', '.join(lambda_keras.NETWORKS)}. "
            f"Received: {_NETWORK.value}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output must be in a folder that can be made: {error.strerror}. "
            f"Received: {path}"
        ) from error
    image_size = _IMAGE_SIZE.value
    if image_size is None:
        image_size = lambda_keras.NETWORKS[_NETWORK.value].image_size
    convert(_NETWORK.value, _WEIGHTS.value, path, image_size)


def run() -> None:
    run_program(main)
