r"""Trains, saves, loads and exports every named network, and compares.

    python -m benchmarks.check_networks

takes a step of `fit` with each of `lambda_keras.NETWORKS`, after which every
trainable weight must have changed; saves it and loads it again, after which it
must return the same to the last bit; and exports it as a SavedModel and as a
TensorFlow Lite file, which must return the same within 1e-4. Networks have
their full width and depth, 10 classes and images of 64 pixels.

Prints a row of docs/networks.md for each: what building, training, saving
with loading, and exporting take in seconds of the processor, of all threads
together, and in memory at the most, TensorFlow's own included; and the largest
differences between probabilities. Each network has a process of its own. All
take the better part of an hour on two cores; for a first look:

    python -m benchmarks.check_networks --networks=resnet50,lambda_resnet26t
"""

import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import pathlib
import sys
import tempfile
from typing import NamedTuple

import keras
import numpy as np
from absl import flags
from tqdm import tqdm

import lambda_keras
from benchmarks import workers
from benchmarks.arguments import check_names
from export import exporter
from export.trained_classifier import Classifier
from trainers.data.preprocessing import prepare_image
from trainers.program import refuse_arguments
from trainers.program import run_program

_NETWORKS = flags.DEFINE_list(
    "networks", list(lambda_keras.NETWORKS), "Names of those to check."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 64, "Height and width of the images in pixels."
)

_NUM_CLASSES = 10
_PHASES = ("build", "train", "save", "export")
# Names of the exported files in the table and in an export's folder.
_EXPORTED = {"SavedModel": "saved_model", "TFLite": "tflite"}
_FILES = (".keras", *_EXPORTED)


class CheckError(Exception):
    """A network does not do what every network must do."""


class Check(NamedTuple):
    """What was found out about a network.

    Attributes:
        parameters: number of trainable parameters.
        costs: for each of `_PHASES`, seconds of the processor and the bytes
            that the process held at the most.
        differences: for each of `_FILES`, the largest difference between its
            probabilities and those of the network before.
    """

    parameters: int
    costs: list[tuple[float, int]]
    differences: list[float]

    def format_row(self, name: str) -> str:
        cells = [f"`{name}`", f"{self.parameters:,}"]
        cells += [
            f"{seconds:.0f} s, {size / 1e9:.1f} GB"
            for seconds, size in self.costs
        ]
        cells += [f"{difference:.1e}" for difference in self.differences]
        return _format_line(cells)


def check_network(
    name: str, image_size: int, folder: pathlib.Path, num_classes: int
) -> Check:
    """Builds, trains, saves, loads and exports a network.

    Args:
        name: one of `lambda_keras.NETWORKS`.
        image_size: height and width of the images, pixels.
        folder: where its files go.
        num_classes: number of classes.

    Raises:
        CheckError: If a step or a file does not do what it must.
        VerificationError: If an exported file returns something else.
    """
    images = np.stack(
        [
            prepare_image(image, image_size, 1.0)
            for image in exporter.make_examples(image_size, channels=3)
        ]
    )
    labels = np.arange(len(images)) % num_classes
    costs = []
    with _measure(costs):
        model = build_network(name, image_size, num_classes)
    with _measure(costs):
        train_step(model, images, labels)
    # The statistics of the new weights: those before do not go with them.
    model(images, training=True)
    expected = model.predict(images, verbose=0)
    check_variety(expected)
    parameters = sum(math.prod(w.shape) for w in model.trainable_weights)
    with _measure(costs):
        model.save(folder / "model.keras")
        del model
        loaded = keras.saving.load_model(folder / "model.keras")
    outputs = loaded.predict(images, verbose=0)
    difference = float(np.abs(outputs - expected).max())
    # So written, a NaN fails too.
    if not difference <= 0:
        raise CheckError(
            "The loaded network must return the same to the last bit. "
            f"Received: a difference of {difference:.1e}"
        )
    class_names = [str(number) for number in range(num_classes)]
    export_dir = folder / "export"
    with _measure(costs):
        exporter.export_classifier(
            Classifier(loaded, class_names, crop_fraction=1.0),
            export_dir,
            formats=list(_EXPORTED.values()),
            # The largest differences are what counts.
            min_agreement=0.0,
        )
    rows = exporter.read_report(export_dir)["formats"]
    exported = [rows[name]["max_difference"] for name in _EXPORTED.values()]
    return Check(parameters, costs, [difference, *exported])


def build_network(name: str, image_size: int, num_classes: int) -> keras.Model:
    """Builds a network from pixels to probabilities, in which all weights act.

    As a network is built, each block is the identity, because its last scale
    is zero, and the scale of a lambda layer's values does nothing before their
    shift has moved, because the next normalization undoes it. So scales and
    shifts are drawn here: the last scales of blocks around a quarter, because
    with ones, 16 random lambda layers make of a millionth of their inputs a
    hundredth of a probability; around less where there are more such layers.
    The classifier's weights are larger, so that images differ. The statistics
    are those of the last batch.

    Args:
        name: one of `lambda_keras.NETWORKS`.
        image_size: height and width of the images, pixels.
        num_classes: number of classes.
    """
    pixels = keras.Input((image_size, image_size, 3))
    model = lambda_keras.build_network(
        name,
        num_classes=num_classes,
        input_tensor=keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels),
        normalization=keras.layers.BatchNormalization(
            momentum=0.0, epsilon=1e-5
        ),
    )
    random = np.random.default_rng(0)
    lambda_layers = sum(
        isinstance(layer, lambda_keras.LambdaConv | lambda_keras.LambdaLayer)
        for layer in model.layers
    )
    damping = max(4, lambda_layers / 4)
    for weight in model.trainable_weights:
        if weight.name == "gamma":
            is_last = weight.path.endswith("_3_normalization/gamma")
            scales = random.uniform(0.5, 1.5, weight.shape)
            weight.assign(scales / damping if is_last else scales)
        elif weight.name == "beta":
            weight.assign(random.normal(0, 0.5, weight.shape))
        elif weight.path == "predictions/kernel":
            weight.assign(4 * weight)
    return model


def train_step(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> None:
    """Takes one step of `fit`.

    Raises:
        CheckError: If loss or weights are not finite, or if a trainable
            weight did not change; the message names it.
    """
    before = [
        keras.ops.convert_to_numpy(weight).copy()
        for weight in model.trainable_weights
    ]
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    history = model.fit(images, labels, batch_size=len(images), verbose=0)
    (loss,) = history.history["loss"]
    idle = []
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = keras.ops.convert_to_numpy(weight)
        if not np.all(np.isfinite(new)) or np.array_equal(new, old):
            idle.append(weight.path)
    if idle or not math.isfinite(loss):
        raise CheckError(
            "A step must have a finite loss and change every trainable weight, "
            f"to finite numbers. Received: a loss of {loss}; {len(idle)} "
            f"weights that did not: {', '.join(idle[:8])}"
        )


def check_variety(probabilities: np.ndarray) -> None:
    """Raises a `CheckError` where a comparison would say little.

    Args:
        probabilities: `(examples, classes)`.
    """
    variety = np.ptp(probabilities, axis=0).max()
    if not variety > 0.05:
        raise CheckError(
            "Some probability must differ by more than 0.05 between images, "
            "because a network that does not see its images would return the "
            f"same from each of its files. Received: {variety:.1e}"
        )


def run_alone(name: str, image_size: int) -> Check:
    """Checks a network in a process of its own, with a folder of its own."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ProcessPoolExecutor(1, context) as executor,
    ):
        return executor.submit(
            check_network,
            name,
            image_size,
            pathlib.Path(folder),
            _NUM_CLASSES,
        ).result()


def _format_line(cells):
    return f"| {' | '.join(cells)} |"


@contextlib.contextmanager
def _measure(costs):
    """Appends the seconds and bytes of what is done within."""
    workers.reset_peak_memory()
    start = _read_seconds()
    yield
    costs.append((_read_seconds() - start, workers.read_memory("VmHWM")))


def _read_seconds():
    """Returns the processor's seconds of this process and of ended children."""
    return sum(os.times()[:4])


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    names = check_names("networks", _NETWORKS.value, lambda_keras.NETWORKS)
    # What the others log would break up the table; what they raise comes back.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(_format_line(["name", "parameters", *_PHASES, *_FILES]))
    print("|---" * (2 + len(_PHASES) + len(_FILES)) + "|", flush=True)
    failed = []
    progress = tqdm(names)
    for name in progress:
        progress.set_description(name)
        # Whatever happens to one, the others are checked.
        try:
            row = run_alone(name, _IMAGE_SIZE.value).format_row(name)
        except Exception as error:
            failed.append(name)
            row = f"{name}: {type(error).__name__}: {error}"
        progress.write(row)
        sys.stdout.flush()
    if failed:
        sys.exit(f"Error: {len(failed)} failed: {', '.join(failed)}")


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
