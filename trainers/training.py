"""Builds, trains and, after an interruption, goes on training a classifier."""

import math
import os
import sys

import keras
import tensorflow as tf

from trainers import checkpointing
from trainers import classifier
from trainers import optimization
from trainers import plots
from trainers import run_folder
from trainers.data import input_pipeline
from trainers.data.image_dataset import ImageDataset
from trainers.event_log import EventLog
from trainers.files import make_path
from trainers.program import UserError
from trainers.recipes import Recipe
from trainers.settings import Run


def make_model(
    recipe: Recipe,
    dataset: ImageDataset,
    strategy: tf.distribute.Strategy,
) -> keras.Model:
    """Builds and compiles a model on the devices of a strategy.

    Raises:
        UserError: If there is no such network, or the batch size fits neither
            the data nor the devices.
    """
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size > dataset.train.size:
        raise UserError(
            f"--batch_size must be at most {dataset.train.size}, the number "
            f"of training images. Received: --batch_size={recipe.batch_size}"
        )
    if recipe.batch_size % replicas:
        raise UserError(
            f"--batch_size must be divisible by {replicas}, the number of "
            f"devices. Received: --batch_size={recipe.batch_size}"
        )
    try:
        with strategy.scope():
            model = classifier.build_classifier(
                recipe,
                channels=dataset.channels,
                num_classes=len(dataset.class_names),
                synchronized=replicas > 1,
            )
            optimization.compile_classifier(
                model, recipe, steps_per_epoch=count_steps(recipe, dataset)
            )
    except ValueError as error:
        raise UserError(f"There is no such network: {error}") from error
    return model


def count_steps(recipe: Recipe, dataset: ImageDataset) -> int:
    """Returns the number of whole batches in an epoch."""
    return dataset.train.size // recipe.batch_size


def restore(
    model: keras.Model, *, model_dir: os.PathLike, run: Run
) -> checkpointing.Checkpoint:
    """Gives a model the last state in a folder; changes nothing there.

    Args:
        model: what `make_model` returns.
        model_dir: existing folder of the run.
        run: says how states are kept.

    Returns:
        What `train` goes on with.

    Raises:
        UserError: If a file that training needs is damaged.
    """
    model_dir = make_path(model_dir)
    checkpoint = checkpointing.Checkpoint(
        model_dir,
        every_steps=run.checkpoint_every_steps,
        keep=run.keep_checkpoints,
        events=EventLog(model_dir / run_folder.LOGS_FOLDER),
    )
    with model.distribute_strategy.scope():
        checkpoint.restore(model)
    return checkpoint


def train(
    model: keras.Model,
    recipe: Recipe,
    dataset: ImageDataset,
    *,
    checkpoint: checkpointing.Checkpoint,
    seed: int,
) -> None:
    """Trains a model, or goes on where training in the folder stopped.

    Writes metadata.json, and after each epoch metrics.csv, events for
    TensorBoard in logs, last.keras, best.keras and a state; at the end
    training_curves.png.

    Args:
        model: what `make_model` returns.
        recipe: names images and optimization.
        dataset: what to train on.
        checkpoint: what `restore` returns.
        seed: int. Decides the order of the images and their augmentation.

    Raises:
        UserError: If the loss is no longer finite.
        Terminated: If SIGTERM came; a state is saved before.
    """
    model_dir = checkpoint.model_dir
    checkpoint.roll_back()
    if checkpoint.epoch >= recipe.epochs:
        print(f"All {recipe.epochs} epochs are done.")
        return
    if checkpoint.epoch or checkpoint.step:
        steps = f" and {checkpoint.step} steps" if checkpoint.step else ""
        print(
            f"Going on after epoch {checkpoint.epoch}{steps} of "
            f"{recipe.epochs}."
        )
    run_folder.write_json(
        model_dir / run_folder.METADATA_FILE,
        {
            "class_names": list(dataset.class_names),
            "crop_fraction": recipe.crop_fraction,
        },
    )
    callbacks = [StopAtInfiniteLoss(), checkpoint.events, checkpoint]
    with checkpoint.saving_when_terminated():
        # Keras knows epochs of one length: the rest of one is a fit of its
        # own.
        if checkpoint.step:
            _fit(model, recipe, dataset, callbacks, checkpoint.epoch + 1, seed)
        if checkpoint.epoch < recipe.epochs:
            _fit(model, recipe, dataset, callbacks, recipe.epochs, seed)
    plots.plot_training_curves(
        model_dir / run_folder.METRICS_FILE,
        model_dir / run_folder.CURVES_FILE,
    )


class StopAtInfiniteLoss(keras.callbacks.Callback):
    """Stops training before weights that are not numbers are saved."""

    def on_train_batch_end(self, batch, logs=None):
        self._check(logs["loss"])

    def on_test_end(self, logs=None):
        self._check(logs["loss"])

    def _check(self, loss):
        if not math.isfinite(loss):
            raise UserError(
                "The loss is no longer finite; try a smaller --learning_rate "
                "in another --model_dir. The last whole epoch is kept."
            )


def _fit(model, recipe, dataset, callbacks, epochs, seed):
    checkpoint = callbacks[-1]
    num_classes = len(dataset.class_names)
    training_batches = input_pipeline.make_training_batches(
        dataset.train,
        num_classes=num_classes,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        augment=recipe.augment,
        seed=seed,
        epochs=epochs,
        initial_epoch=checkpoint.epoch,
        initial_step=checkpoint.step,
    )
    validation_batches = input_pipeline.make_evaluation_batches(
        dataset.validation,
        num_classes=num_classes,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        crop_fraction=recipe.crop_fraction,
    )
    try:
        model.fit(
            training_batches,
            steps_per_epoch=count_steps(recipe, dataset) - checkpoint.step,
            initial_epoch=checkpoint.epoch,
            epochs=epochs,
            validation_data=validation_batches,
            callbacks=callbacks,
            # The batches are in their order already.
            shuffle=False,
            # A bar that moves, or in a log file a line per epoch.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    finally:
        # Keras leaves files open when it is interrupted.
        for callback in callbacks:
            callback.on_train_end()
