"""Measures a trained model on the examples that were held out."""

import contextlib
import math
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

# Registers the layers, so that saved models load.
import lambda_keras  # noqa: F401
from trainers import event_log
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
    """Evaluates best.keras and, if it is there, last.keras.

    Writes results.json and, of best.keras, confusion_matrix.png and the same
    picture for TensorBoard.

    Args:
        model_dir: folder of the run.
        dataset: its validation split is evaluated on.
        batch_size: examples per step on all devices together.
        strategy: devices to run on.

    Returns:
        What results.json holds of best.keras: what `timm` reports, `"model"`,
        `"top1"`, `"top1_err"`, `"top5"`, `"top5_err"` in per cent,
        `"param_count"` in millions, `"img_size"`, `"crop_pct"` and
        `"interpolation"`; its `"epoch"`, from 1; what `measure` returns; and
        in `"classes"` what `measure_classes` does. `"last"` has the same of
        last.keras.

    Raises:
        UserError: If there is no model, or it is of other classes.
    """
    model_dir = make_path(model_dir)
    metadata = read_metadata(model_dir, dataset)
    with strategy.scope():
        model = load_model(model_dir / run_folder.BEST_FILE)
    labels = list_labels(dataset)

    def evaluate_file(name):
        logits = predict_logits(
            model, dataset, batch_size, metadata["crop_fraction"]
        )
        with fetching(model_dir / name) as local:
            epoch = run_folder.read_epoch(local)
        return logits, {
            **_describe_model(model, logits, labels, metadata),
            "epoch": epoch,
            **measure(logits, labels),
            "classes": measure_classes(logits, labels, dataset.class_names),
        }

    logits, results = evaluate_file(run_folder.BEST_FILE)
    if (model_dir / run_folder.LAST_FILE).exists():
        load_weights(model, model_dir / run_folder.LAST_FILE)
        _, results["last"] = evaluate_file(run_folder.LAST_FILE)
    run_folder.write_json(model_dir / run_folder.RESULTS_FILE, results)
    picture = model_dir / run_folder.CONFUSION_MATRIX_FILE
    plots.plot_confusion_matrix(
        labels, logits.argmax(axis=-1), dataset.class_names, picture
    )
    events = model_dir / run_folder.LOGS_FOLDER / "evaluation"
    # Those of an evaluation before.
    event_log.remove_files(events)
    event_log.write_picture(events, "confusion_matrix", picture)
    return results


def read_metadata(model_dir: os.PathLike, dataset: ImageDataset) -> dict:
    """Reads metadata.json of a run.

    Raises:
        UserError: If there is none, or it names other classes than `dataset`.
    """
    metadata = run_folder.read_metadata(model_dir / run_folder.METADATA_FILE)
    if metadata["class_names"] != list(dataset.class_names):
        raise UserError(
            f"The model in {model_dir} was trained on other classes than "
            f"those of the data set. Received: {len(dataset.class_names)} "
            f"classes instead of {len(metadata['class_names'])}, or others."
        )
    return metadata


def list_labels(dataset: ImageDataset) -> np.ndarray:
    """Returns the true classes of the validation split, `(examples,)`."""
    labels = dataset.validation.examples.map(lambda _, label: label)
    return np.array(list(labels.as_numpy_iterator()))


def predict_logits(
    model: keras.Model,
    dataset: ImageDataset,
    batch_size: int,
    crop_fraction: float,
) -> np.ndarray:
    """Returns logits of the validation split, `(examples, classes)`."""
    batches = input_pipeline.make_evaluation_batches(
        dataset.validation,
        num_classes=len(dataset.class_names),
        image_size=model.input_shape[1],
        batch_size=batch_size,
        crop_fraction=crop_fraction,
    )
    # The last batch is filled up.
    return model.predict(batches, verbose=0)[: dataset.validation.size]


def load_model(path: os.PathLike) -> keras.Model:
    """Loads a model that a run saved.

    Raises:
        UserError: If there is none, or its file is damaged.
    """
    with _reading(path) as local:
        return keras.saving.load_model(local, compile=False)


def load_weights(model: keras.Model, path: os.PathLike) -> None:
    """Gives a model the weights of another that the same run saved.

    Raises:
        UserError: If there is none, or its file is damaged.
    """
    with _reading(path) as local:
        model.load_weights(local)


def measure(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Computes accuracy and mean cross-entropy.

    Args:
        logits: `(examples, classes)`.
        labels: `(examples,)`, the true classes.

    Returns:
        The share of right answers `"accuracy"`, the mean cross-entropy in nats
        `"loss"`, without label smoothing and weight decay, and the number of
        `"examples"`.
    """
    losses = keras.ops.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )
    return {
        "accuracy": float(np.mean(logits.argmax(axis=-1) == labels)),
        "loss": float(np.mean(losses)),
        "examples": len(labels),
    }


def measure_classes(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> list[dict]:
    """Computes the accuracy of each class.

    Args:
        logits: `(examples, classes)`.
        labels: `(examples,)`, the true classes.
        class_names: the names of the classes.

    Returns:
        For each class its `"name"`, which need not be the only one,
        `"accuracy"`, `None` without examples, and number of `"examples"`.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    is_right = logits.argmax(axis=-1) == labels
    right = np.bincount(labels[is_right], minlength=len(class_names))
    return [
        {
            "name": name,
            "accuracy": float(hits / count) if count else None,
            "examples": int(count),
        }
        for name, hits, count in zip(class_names, right, counts, strict=True)
    ]


def measure_top_5(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns how often the class is among the five of the largest logits."""
    # Of fewer classes, all are.
    count = min(5, logits.shape[-1])
    return float(np.mean(keras.ops.in_top_k(labels, logits, count)))


def _describe_model(model, logits, labels, metadata):
    """Returns what timm's `validate.py` reports, under its names."""
    # The network is named after itself and what comes out.
    name = model.name.removesuffix("_logits")
    top_1 = 100 * float(np.mean(logits.argmax(axis=-1) == labels))
    top_5 = 100 * measure_top_5(logits, labels)
    return {
        "model": name,
        "top1": round(top_1, 4),
        "top1_err": round(100 - top_1, 4),
        "top5": round(top_5, 4),
        "top5_err": round(100 - top_5, 4),
        "param_count": round(_count_parameters(model) / 1e6, 2),
        "img_size": model.input_shape[1],
        "crop_pct": metadata["crop_fraction"],
        "interpolation": "bilinear",
    }


def _count_parameters(model):
    """Counts as timm does, without the statistics of normalizations."""
    return sum(
        math.prod(weight.shape)
        for weight in model.weights
        if weight.name not in ("moving_mean", "moving_variance")
    )


@contextlib.contextmanager
def _reading(path):
    path = make_path(path)
    if not path.exists():
        raise UserError(f"There is no {path}; train first.")
    message = f"{path} is damaged; train again in another --model_dir."
    if not run_folder.is_whole_model(path):
        raise UserError(message)
    try:
        with fetching(path) as local:
            yield local
    except run_folder.KERAS_ERRORS as error:
        raise UserError(message) from error
