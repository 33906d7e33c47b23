"""What a run says before its first step, and after its last."""

import csv
import datetime
import math
import os
from collections.abc import Mapping

import keras
import tensorflow as tf

import lambda_keras
from trainers import classifier
from trainers import optimization
from trainers import run_folder
from trainers import training
from trainers.checkpointing import get_network
from trainers.checkpointing import score_epoch
from trainers.data.image_dataset import ImageDataset
from trainers.files import make_path
from trainers.recipes import Recipe
from trainers.settings import Run
from trainers.strategies import Devices

_RESULTS = {
    run_folder.BEST_FILE: "the network of the best epoch",
    run_folder.LAST_FILE: "that of the last",
    run_folder.METRICS_FILE: "loss and accuracy of each epoch",
    run_folder.LOG_FILE: "the same to read, with times",
    run_folder.RESULTS_FILE: "the accuracy of both, also by class",
    run_folder.CURVES_FILE: "loss and accuracy drawn by epoch",
    run_folder.CONFUSION_MATRIX_FILE: "what was taken for what",
    run_folder.LOGS_FOLDER: "for TensorBoard",
}


def describe_run(
    model: keras.Model,
    recipe: Recipe,
    dataset: ImageDataset,
    *,
    run: Run,
    devices: Devices,
    model_dir: os.PathLike,
) -> str:
    """Returns what will be trained, on what, where and how; aligned lines.

    Args:
        model: what `training.make_model` returns.
        recipe: names the network and its optimization.
        dataset: what to train on.
        run: names the data set, the recipe and the precision.
        devices: where to train.
        model_dir: folder of the run.
    """
    network = get_network(model)
    steps = training.count_steps(recipe, dataset)
    multiply_adds = lambda_keras.count_multiply_adds(network) / 1e9
    return _align(
        {
            "Network": _describe_network(network, recipe),
            "Parameters": (
                f"{_count(network.trainable_variables):,} trainable of "
                f"{network.count_params():,}"
            ),
            "Multiply-adds": f"{multiply_adds:.3g} G per image",
            "Images": (
                f"{recipe.image_size}x{recipe.image_size} pixels, "
                f"{_name_number(dataset.channels, 'channel')}"
            ),
            "Data": (
                f"{run.dataset}, {len(dataset.class_names):,} classes, "
                f"{dataset.train.size:,} images to train on, "
                f"{dataset.validation.size:,} to validate"
            ),
            **_describe_pseudo_labels(recipe, dataset, run),
            "Devices": _describe_devices(devices),
            "Batch": _describe_batch(recipe, devices),
            "Length": (
                f"{_name_number(recipe.epochs, 'epoch')} of "
                f"{_name_number(steps, 'step')}"
            ),
            "Recipe": run.recipe,
            "Optimizer": (
                f"{recipe.optimizer}, learning rate "
                f"{recipe.learning_rate:.4g}, "
                f"{_describe_decay(recipe, steps)}"
            ),
            "Precision": run.precision,
            "Results": str(model_dir),
        }
    )


def describe_training(
    model_dir: os.PathLike,
    *,
    results: Mapping | None,
    images_per_second: float | None,
    seconds: float,
) -> str:
    """Returns what training has come to and where it is, a table and lines.

    Args:
        model_dir: folder of a run with a whole epoch.
        results: what `evaluation.evaluate` returned, `None` without it.
        images_per_second: in the last epoch, `None` if no step was taken now.
        seconds: that the program took.
    """
    model_dir = make_path(model_dir)
    rows = _read_rows(model_dir / run_folder.METRICS_FILE)
    last = rows[-1]
    if results:
        lines = _list_results(results)
    else:
        best = max(rows, key=lambda row: score_epoch(row)[0])
        prefix = "val_average_" if score_epoch(best)[1] else "val_"
        lines = [
            _list_accuracies(run_folder.BEST_FILE, best, prefix),
            _list_accuracies(run_folder.LAST_FILE, last, "val_"),
        ]
    if "val_average_accuracy" in last:
        lines.append(_list_accuracies("last average", last, "val_average_"))
    speed = "no step was taken now"
    if images_per_second:
        speed = f"{images_per_second:,.0f} images/s in the last epoch"
    facts = {
        "Epochs": f"{len(rows):,}",
        "Speed": speed,
        "Time": _describe_seconds(seconds),
    }
    return "\n\n".join(
        [_format_accuracies(lines), _align(facts), _list_files(model_dir)]
    )


def describe_evaluation(
    model_dir: os.PathLike, *, results: Mapping, seconds: float
) -> str:
    """Returns what evaluation has come to and where it is.

    Args:
        model_dir: folder of the run.
        results: what `evaluation.evaluate` returned.
        seconds: that the program took.
    """
    facts = {"Time": _describe_seconds(seconds)}
    return "\n\n".join(
        [
            _format_accuracies(_list_results(results)),
            _align(facts),
            _list_files(make_path(model_dir)),
        ]
    )


def _describe_network(network, recipe):
    layers = sum(
        isinstance(layer, lambda_keras.LambdaConv)
        for layer in classifier.get_network(network).layers
    )
    parts = [
        network.name.removesuffix("_logits"),
        _name_number(layers, "lambda layer"),
    ]
    if layers:
        parts[-1] += f" of scope {recipe.scope_size}"
    if recipe.width_multiplier != 1:
        parts.append(f"width x {recipe.width_multiplier:g}")
    return ", ".join(parts)


def _describe_pseudo_labels(recipe, dataset, run):
    if dataset.pseudo_labelled is None:
        return {}
    labelled = training.count_labelled(recipe, dataset)
    text = (
        f"{run.pseudo_labels}, "
        f"{_name_number(dataset.pseudo_labelled.size, 'image')}, "
        f"{recipe.pseudo_ratio:g} for each labelled one: "
        f"{recipe.batch_size - labelled:,} and {labelled:,} in a batch"
    )
    if recipe.pseudo_loss_weight != 1:
        text += f", weight of their losses {recipe.pseudo_loss_weight:g}"
    return {"Pseudo-labels": text}


def _describe_devices(devices):
    if keras.backend.backend() == "jax":
        import jax

        kind = jax.devices()[0].device_kind
    elif isinstance(devices.strategy, tf.distribute.TPUStrategy):
        kind = "TPU"
    else:
        gpus = tf.config.list_physical_devices("GPU")
        details = (
            tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
        )
        kind = details.get("device_name", "GPU" if gpus else "CPU")
    processes = _name_number(devices.processes, "process", "processes")
    return f"{devices.count} x {kind} in {processes}"


def _describe_batch(recipe, devices):
    text = f"{_name_number(recipe.batch_size, 'image')}"
    if devices.count > 1:
        text += f", {recipe.batch_size // devices.count:,} on each device"
    if recipe.gradient_accumulation_steps > 1:
        text += f", in {recipe.gradient_accumulation_steps} parts"
    return text


def _describe_decay(recipe, steps):
    warmup = optimization.count_warmup_steps(recipe, steps)
    decay = {"cosine": "cosine decay", "step": "decay in steps"}
    return (
        f"{decay.get(recipe.learning_rate_decay, 'constant')} after "
        f"{_name_number(warmup, 'step')} of warm-up"
    )


def _read_rows(path):
    lines = path.read_text().splitlines()
    return [
        {name: float(text) for name, text in row.items() if text != "NA"}
        for row in csv.DictReader(lines)
    ]


def _list_accuracies(name, row, prefix):
    top_5 = row.get(f"{prefix}top_5_accuracy")
    return (
        name,
        f"{row['epoch'] + 1:,.0f}",
        f"{row[f'{prefix}accuracy']:.2%}",
        "-" if top_5 is None else f"{top_5:.2%}",
    )


def _list_results(results):
    return [
        (
            name,
            str(each["epoch"] or "-"),
            f"{each['accuracy']:.2%}",
            f"{each['top5'] / 100:.2%}",
        )
        for name, each in (
            (run_folder.BEST_FILE, results),
            (run_folder.LAST_FILE, results.get("last")),
        )
        if each
    ]


def _list_files(model_dir):
    files = {
        f"  {name}": text
        for name, text in _RESULTS.items()
        if (model_dir / name).exists()
    }
    return f"Results in {model_dir}:\n{_align(files)}"


def _format_accuracies(lines):
    lines = [("", "epoch", "top-1", "top-5"), *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in lines
    )


def _describe_seconds(seconds):
    return str(datetime.timedelta(seconds=round(seconds)))


def _align(facts):
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in facts.items())


def _count(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def _name_number(number, singular, plural=None):
    name = singular if number == 1 else plural or f"{singular}s"
    return f"{number:,} {name}"
