"""Builds, trains and, after an interruption, goes on training a classifier."""

import contextlib
import functools
import math
import os
import warnings

import keras
import tensorflow as tf

from trainers import checkpointing
from trainers import classifier
from trainers import event_log
from trainers import memory
from trainers import optimization
from trainers import plots
from trainers import run_folder
from trainers import settings
from trainers.averaging import AveragedModel
from trainers.data import composition
from trainers.data import input_pipeline
from trainers.data import mixing
from trainers.data.image_dataset import ImageDataset
from trainers.distributed_model import DistributedModel
from trainers.distributed_model import check_divisibility
from trainers.event_log import EventLog
from trainers.files import make_path
from trainers.program import UserError
from trainers.progress import EpochLog
from trainers.progress import Progress
from trainers.progress import StepClock
from trainers.pseudo_labels.division import divide_batch
from trainers.recipes import Recipe
from trainers.settings import Run
from trainers.strategies import Devices


def make_model(
    recipe: Recipe, dataset: ImageDataset, run: Run, devices: Devices
) -> keras.Model:
    """Builds and compiles what trains a network.

    Args:
        recipe: names the network and its optimization.
        dataset: what to train on.
        run: names the weights to begin with, and how steps are run.
        devices: where to train.

    Returns:
        On TensorFlow a `DistributedModel`, or an `AveragedModel` if the recipe
        has an average; elsewhere the network itself.

    Raises:
        UserError: If there is no such network, it does not fit in memory, the
            weights are of another, or the batch size fits neither the data nor
            the devices.
    """
    check_batches(recipe, dataset, run, devices)
    memory.check_memory(
        recipe,
        channels=dataset.channels,
        num_classes=len(dataset.class_names),
        num_replicas=devices.count,
        frozen_stages=run.frozen_stages,
    )
    try:
        with devices.strategy.scope():
            network = classifier.build_classifier(
                recipe,
                channels=dataset.channels,
                num_classes=len(dataset.class_names),
                # JAX's sees the global batch anyway, in a process and across.
                synchronized=devices.strategy.num_replicas_in_sync > 1,
            )
    except ValueError as error:
        raise UserError(f"There is no such network: {error}") from error
    if run.weights:
        _load_weights(network, run.weights)
    classifier.freeze_stages(network, run.frozen_stages)
    with devices.strategy.scope():
        model = _wrap(network, recipe)
        optimization.compile_classifier(
            model,
            recipe,
            steps_per_epoch=count_steps(recipe, dataset),
            steps_per_execution=run.steps_per_execution,
            jit_compile=run.jit_compile,
        )
    return model


def check_batches(
    recipe: Recipe, dataset: ImageDataset, run: Run, devices: Devices
) -> None:
    """Checks that data and devices can be divided as the flags say.

    Raises:
        UserError: If they cannot.
    """
    labelled = count_labelled(recipe, dataset)
    if labelled > dataset.train.size:
        most = dataset.train.size * recipe.batch_size // labelled
        raise UserError(
            f"--batch_size must be at most {most}, because there are "
            f"{dataset.train.size} labelled images to train on. Received: "
            f"--batch_size={recipe.batch_size}"
        )
    check_divisibility(
        batch_size=recipe.batch_size,
        steps_per_epoch=count_steps(recipe, dataset),
        num_replicas=devices.count,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        steps_per_execution=run.steps_per_execution,
    )
    if run.jit_compile and devices.count > 1:
        raise UserError(
            "--jit_compile needs one device, because XLA does not compile "
            "across several; a TPU compiles without it. Received: "
            f"--jit_compile on {devices.count} devices"
        )
    if keras.backend.backend() == "tensorflow":
        return
    for name, plain in (
        ("gradient_accumulation_steps", 1),
        ("ema_momentum", 0),
    ):
        if getattr(recipe, name) != plain:
            raise UserError(
                f"--{name} needs KERAS_BACKEND=tensorflow, where training is "
                f"this project's; on other backends give --{name}={plain}. "
                f"Received: --{name}={getattr(recipe, name)}"
            )


def _load_weights(network, weights):
    try:
        is_whole = classifier.load_weights(network, weights)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--weights must be those of the network that is trained: {reason} "
            f"Received: --weights={weights}"
        ) from error
    print(
        f"Weights of {weights}"
        + ("." if is_whole else ", without its classifier.")
    )


def _wrap(network, recipe):
    if keras.backend.backend() != "tensorflow":
        return network
    parts = recipe.gradient_accumulation_steps
    if recipe.ema_momentum:
        return AveragedModel(
            network, recipe.ema_momentum, gradient_accumulation_steps=parts
        )
    return DistributedModel(network, gradient_accumulation_steps=parts)


def count_steps(recipe: Recipe, dataset: ImageDataset) -> int:
    """Returns the number of batches in an epoch."""
    if recipe.steps_per_epoch is not None:
        return recipe.steps_per_epoch
    return dataset.train.size // count_labelled(recipe, dataset)


def count_labelled(recipe: Recipe, dataset: ImageDataset) -> int:
    """Returns how many images of a batch are labelled, not pseudo-labelled.

    Raises:
        UserError: If there is no whole number for the ratio of the recipe.
    """
    if dataset.pseudo_labelled is None:
        return recipe.batch_size
    labelled, _ = divide_batch(recipe.batch_size, recipe.pseudo_ratio)
    return labelled


def restore(
    model: keras.Model, *, model_dir: os.PathLike, run: Run, devices: Devices
) -> checkpointing.Checkpoint:
    """Gives a model the last state in a folder; changes nothing there.

    Args:
        model: what `make_model` returns.
        model_dir: existing folder of the run.
        run: says how states are kept.
        devices: where to train.

    Returns:
        What `train` goes on with.

    Raises:
        UserError: If a file that training needs is damaged, or the steps that
            are left of an epoch cannot be divided as the flags say.
    """
    model_dir = make_path(model_dir)
    checkpoint = checkpointing.Checkpoint(
        model_dir,
        every_steps=run.checkpoint_every_steps,
        keep=run.keep_checkpoints,
        events=(
            EventLog(
                model_dir / run_folder.LOGS_FOLDER,
                profile_steps=settings.parse_profile_steps(run.profile_steps),
            )
            if devices.is_chief
            else None
        ),
        writes=devices.is_chief,
    )
    with devices.strategy.scope():
        checkpoint.restore(model)
    if checkpoint.step % run.steps_per_execution:
        raise UserError(
            f"--steps_per_execution must divide {checkpoint.step}, the steps "
            "that are done of an epoch. Received: "
            f"--steps_per_execution={run.steps_per_execution}"
        )
    return checkpoint


def train(
    model: keras.Model,
    recipe: Recipe,
    dataset: ImageDataset,
    *,
    checkpoint: checkpointing.Checkpoint,
    run: Run,
    devices: Devices,
) -> float | None:
    """Trains a model, or goes on where training in the folder stopped.

    Writes metadata.json and augmented_batch.png, and after each epoch
    train.log, metrics.csv, events for TensorBoard in logs, last.keras,
    best.keras and a state; at the end training_curves.png. All processes call
    this, and the chief writes.

    Args:
        model: what `make_model` returns.
        recipe: names images and optimization.
        dataset: what to train on.
        checkpoint: what `restore` returns.
        run: its seed decides the order of the images and their augmentation.
        devices: where to train.

    Returns:
        Images per second in the last epoch, `None` if no step was taken.

    Raises:
        UserError: If the loss is no longer finite.
        Terminated: If SIGTERM came to a process that trains alone; a state is
            saved before.
    """
    model_dir = checkpoint.model_dir
    checkpoint.roll_back()
    stop = StopEarly(checkpoint, run.early_stopping_epochs)
    if checkpoint.epoch >= recipe.epochs or stop.is_due():
        print(f"All {checkpoint.epoch} epochs are done.")
        return None
    if checkpoint.epoch or checkpoint.step:
        steps = f" and {checkpoint.step} steps" if checkpoint.step else ""
        print(
            f"Going on after epoch {checkpoint.epoch}{steps} of "
            f"{recipe.epochs}."
        )
    clock = StepClock(recipe.batch_size)
    callbacks = [StopAtInfiniteLoss(), checkpoint, stop, clock]
    if devices.is_chief:
        run_folder.write_json(
            model_dir / run_folder.METADATA_FILE,
            {
                "class_names": list(dataset.class_names),
                "crop_fraction": recipe.crop_fraction,
            },
        )
        if not checkpoint.epoch and not checkpoint.step:
            _record_first_batch(recipe, dataset, run, model_dir)
        log = EpochLog(model_dir / run_folder.LOG_FILE)
        log.roll_back(checkpoint.epoch)
        progress = Progress(
            clock,
            log,
            epochs=recipe.epochs,
            steps=count_steps(recipe, dataset),
        )
        checkpoint.events.clock = clock
        callbacks[1:1] = [progress, checkpoint.events]
    fit = functools.partial(
        _fit, model, recipe, dataset, callbacks, checkpoint, run
    )
    with contextlib.ExitStack() as stack:
        # Several processes cannot agree on the step after which to save.
        if devices.processes == 1:
            stack.enter_context(checkpoint.saving_when_terminated())
        # Keras knows epochs of one length: the rest of one is a fit of its
        # own.
        if checkpoint.step:
            fit(checkpoint.epoch + 1)
        if checkpoint.epoch < recipe.epochs and not stop.is_due():
            fit(recipe.epochs)
    if devices.is_chief:
        plots.plot_training_curves(
            model_dir / run_folder.METRICS_FILE,
            model_dir / run_folder.CURVES_FILE,
        )
    return clock.images_per_second


def draw_first_batch(
    recipe: Recipe, dataset: ImageDataset, run: Run, path: os.PathLike
) -> None:
    """Draws the first batch that training sees, as a PNG file."""
    batches = make_training_batches(recipe, dataset, seed=run.seed, epochs=1)
    images, labels, *_ = next(batches.as_numpy_iterator())
    plots.plot_batch(images, labels, dataset.class_names, path)


def _record_first_batch(recipe, dataset, run, model_dir):
    picture = model_dir / run_folder.BATCH_FILE
    draw_first_batch(recipe, dataset, run, picture)
    event_log.write_picture(
        model_dir / run_folder.LOGS_FOLDER / "train", "first_batch", picture
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


class StopEarly(keras.callbacks.Callback):
    """Ends training when no epoch was better for a while.

    It depends on what the checkpoint knows alone, so that a run that goes on
    ends at the same epoch.

    Args:
        checkpoint: knows the epochs; precedes this among the callbacks.
        patience: number of epochs to wait for a better one; 0 for ever.
    """

    def __init__(self, checkpoint: checkpointing.Checkpoint, patience: int):
        super().__init__()
        self.checkpoint = checkpoint
        self.patience = patience

    def is_due(self) -> bool:
        since_best = self.checkpoint.count_epochs_since_best()
        return bool(self.patience) and since_best >= self.patience

    def on_epoch_end(self, epoch, logs=None):
        if self.is_due():
            print(f"No better epoch in {self.patience}: training ends.")
            self.model.stop_training = True


def make_training_batches(
    recipe: Recipe,
    dataset: ImageDataset,
    *,
    seed: int,
    epochs: int,
    initial_epoch: int = 0,
    initial_step: int = 0,
) -> tf.data.Dataset:
    """Makes the augmented and mixed batches of a recipe.

    Args and Returns: see `input_pipeline.make_training_batches`.
    """
    labelled = count_labelled(recipe, dataset)
    pseudo_labelled = dataset.pseudo_labelled
    if pseudo_labelled is not None:
        pseudo_labelled = input_pipeline.PseudoLabelled(
            pseudo_labelled,
            batch_size=recipe.batch_size - labelled,
            augment=_compose_augmentation(recipe, "pseudo_"),
            loss_weight=recipe.pseudo_loss_weight,
        )
    return input_pipeline.make_training_batches(
        dataset.train,
        num_classes=len(dataset.class_names),
        image_size=recipe.image_size,
        batch_size=labelled,
        augment=_compose_augmentation(recipe),
        mix=functools.partial(
            mixing.mix_batch,
            mixup_alpha=recipe.mixup_alpha,
            cutmix_alpha=recipe.cutmix_alpha,
        ),
        seed=seed,
        epochs=epochs,
        initial_epoch=initial_epoch,
        initial_step=initial_step,
        steps_per_epoch=count_steps(recipe, dataset),
        pseudo_labelled=pseudo_labelled,
    )


def _compose_augmentation(recipe, prefix=""):
    """Puts the augmentation together, of values some of which are not set."""

    def choose(name):
        value = getattr(recipe, prefix + name)
        return getattr(recipe, name) if value is None else value

    return composition.compose_augmentation(
        recipe.augment,
        color_jitter_strength=choose("color_jitter_strength"),
        rand_augment_layers=choose("rand_augment_layers"),
        rand_augment_magnitude=choose("rand_augment_magnitude"),
        random_erasing_rate=choose("random_erasing_rate"),
    )


def _fit(model, recipe, dataset, callbacks, checkpoint, run, epochs):
    training_batches = make_training_batches(
        recipe,
        dataset,
        seed=run.seed,
        epochs=epochs,
        initial_epoch=checkpoint.epoch,
        initial_step=checkpoint.step,
    )
    validation_batches = input_pipeline.make_evaluation_batches(
        dataset.validation,
        num_classes=len(dataset.class_names),
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        crop_fraction=recipe.crop_fraction,
    )
    try:
        with warnings.catch_warnings():
            # Keras does not know how many batches its share of the validation
            # has, and takes their end for an interruption.
            if keras.distribution.distribution():
                warnings.filterwarnings("ignore", "Your input ran out of data")
            model.fit(
                training_batches,
                steps_per_epoch=count_steps(recipe, dataset) - checkpoint.step,
                initial_epoch=checkpoint.epoch,
                epochs=epochs,
                validation_data=validation_batches,
                callbacks=callbacks,
                # The batches are in their order already.
                shuffle=False,
                # `Progress` says it.
                verbose=0,
            )
    finally:
        # Keras leaves files open when it is interrupted.
        for callback in callbacks:
            callback.on_train_end()
