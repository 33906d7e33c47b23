"""Measures a trained model on the examples that were held out."""

import os

import keras
import numpy as np
import tensorflow as tf

# Registers the layers, so that saved models load.
import lambda_keras  # noqa: F401
from trainers import plots
from trainers import run_folder
from trainers.data import input_pipeline
from trainers.data.image_dataset import ImageDataset
from trainers.files import fetching
from trainers.files import make_path
from trainers.program import UserError


def evaluate(
    model_dir: os.PathLike,
    dataset: ImageDataset,
    *,
    batch_size: int,
    strategy: tf.distribute.Strategy,
) -> dict:
    """Evaluates best.keras; writes results.json and confusion_matrix.png.

    Args:
        model_dir: folder of the run.
        dataset: its validation split is evaluated on.
        batch_size: examples per step on all devices together.
        strategy: devices to run on.

    Returns:
        What results.json holds: the share of right answers `"accuracy"`, the
        mean cross-entropy in nats `"loss"`, without label smoothing and
        weight decay, and the number of `"examples"`.

    Raises:
        UserError: If there is no model, or it is of other classes.
    """
    model_dir = make_path(model_dir)
    metadata = run_folder.read_metadata(model_dir / run_folder.METADATA_FILE)
    if metadata["class_names"] != list(dataset.class_names):
        raise UserError(
            f"The model in {model_dir} was trained on other classes than "
            f"those of the data set. Received: {len(dataset.class_names)} "
            f"classes instead of {len(metadata['class_names'])}, or others."
        )
    with strategy.scope():
        model = load_model(model_dir / run_folder.BEST_FILE)
    batches = input_pipeline.make_evaluation_batches(
        dataset.validation,
        num_classes=len(dataset.class_names),
        image_size=model.input_shape[1],
        batch_size=batch_size,
        crop_fraction=metadata["crop_fraction"],
    )
    # The last batch is filled up.
    logits = model.predict(batches, verbose=0)[: dataset.validation.size]
    labels = dataset.validation.examples.map(lambda _, label: label)
    labels = np.array(list(labels.as_numpy_iterator()))
    results = measure(logits, labels)
    run_folder.write_json(model_dir / run_folder.RESULTS_FILE, results)
    plots.plot_confusion_matrix(
        labels,
        logits.argmax(axis=-1),
        dataset.class_names,
        model_dir / run_folder.CONFUSION_MATRIX_FILE,
    )
    return results


def load_model(path: os.PathLike) -> keras.Model:
    """Loads a model that a run saved.

    Raises:
        UserError: If there is none, or its file is damaged.
    """
    path = make_path(path)
    if not path.exists():
        raise UserError(f"There is no {path}; train first.")
    message = f"{path} is damaged; train again in another --model_dir."
    if not run_folder.is_whole_model(path):
        raise UserError(message)
    try:
        with fetching(path) as local:
            return keras.saving.load_model(local, compile=False)
    # What Keras raises, depending on where the damage is.
    except (
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(message) from error


def measure(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Computes accuracy and mean cross-entropy.

    Args:
        logits: `(examples, classes)`.
        labels: `(examples,)`, the true classes.

    Returns:
        `{"accuracy": float, "loss": float, "examples": int}`.
    """
    losses = keras.ops.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )
    return {
        "accuracy": float(np.mean(logits.argmax(axis=-1) == labels)),
        "loss": float(np.mean(losses)),
        "examples": len(labels),
    }
