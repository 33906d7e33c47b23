"""Trains a LambdaResNet to classify images.

    python -m trainers.train_classifier --model_dir=runs/digits

trains a small one on the 8x8 scans of digits that come with scikit-learn, in
two to three minutes on two busy CPU cores. Of the 360 scans that are held
out, it reads 100, 99.4 and 99.7 % right after the last epoch with the seeds 0,
1 and 2, and 100, 99.7 and 99.7 % in the best, which these same scans choose.

    python -m trainers.train_classifier --dataset=cifar10 --model_dir=runs/cifar
    python -m trainers.train_classifier --dataset=photos --model_dir=runs/photos

train on what `tfds build cifar10` has prepared, and on a folder with a folder
of images for each class; neither recipe has been measured yet.

    python -m trainers.train_classifier --dataset=photos \\
        --pseudo_labels=selected --pseudo_ratio=3 --model_dir=runs/student

trains on images besides that a network has labelled: what `export.label_images`
or `trainers.select_labels` wrote. Each batch has --pseudo_ratio of them for
each labelled one, so that --batch_size=256 is 64 labelled and 192
pseudo-labelled ones, and an epoch is one pass through the labelled, or
--steps_per_epoch. The labels are soft where the records have probabilities;
what those of the surest classes lack to 1 is spread over the others. The
pseudo-labelled have an order of their own, in which each comes once before
any comes again; Mixup and CutMix mix images of one kind; and the accuracy in
training is that on both kinds, weighted as the losses are. With
--teacher=EXPORT_DIR/saved_model, --pseudo_labels may be up to 100,000 images
without labels, in a folder, say, which that network labels as training
begins.

A flag that is left out has the value of the data set's recipe (`recipes.py`)
or, in a folder that holds a run, of that run: the same command goes on where
it stopped, and a larger --epochs goes on for longer. A run that is repeated,
or stopped and resumed, ends in the same weights (measured on CPUs).
SIGTERM has it save a state after the current step and exit with code 143;
killed in any other way, it goes on from the last state, the one after the last
epoch or after --checkpoint_every_steps. What TensorFlow logs of the machine is
left out (`launch.py`); TF_CPP_MIN_LOG_LEVEL=0 in the environment shows it.

While it trains, it says how fast, and "wait", the share of the time in which a
step waits for its batch: much of it says that reading and augmenting images
limits the speed. Another process evaluates each epoch meanwhile with
--mode=continuous_eval and the same --model_dir.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("trainers.train_classifier")

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping

import keras
import tensorflow as tf
from absl import flags
from absl import logging

from trainers import continuous_evaluation
from trainers import data_parallel
from trainers import evaluation
from trainers import files
from trainers import knobs
from trainers import reports
from trainers import run_folder
from trainers import settings
from trainers import strategies
from trainers import training
from trainers.data import caching
from trainers.data import checking
from trainers.data import datasets
from trainers.data.image_dataset import ImageDataset
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program
from trainers.pseudo_labels import labelled_images
from trainers.pseudo_labels import teaching
from trainers.pseudo_labels.division import divide_batch
from trainers.recipes import Recipe

_KNOBS = (
    *knobs.define_flags(settings.Run, show_defaults=True),
    # Each data set has defaults of its own.
    *knobs.define_flags(Recipe, show_defaults=False),
)
_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "Where all results go: a folder, or a path that TensorFlow knows, such as "
    "gs://bucket/run. Required.",
    module_name="run",
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train_and_eval",
    ["train", "eval", "train_and_eval", "continuous_eval"],
    "What to do; eval writes results.json and confusion_matrix.png, and "
    "continuous_eval a row of continuous_eval.csv for each epoch of a run that "
    "another process trains.",
    module_name="run",
)
_CONTINUOUS_EVAL_TIMEOUT = flags.DEFINE_float(
    "continuous_eval_timeout",
    3600.0,
    "Seconds without a new last.keras after which continuous_eval ends.",
    lower_bound=0.0,
    module_name="run",
)
_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "JSON or YAML file of flags by name; the command line overrides it, and it "
    "the recipe.",
    module_name="run",
)
_PRINT_RECIPE = flags.DEFINE_bool(
    "print_recipe",
    False,
    "Print each value of the recipe and where it is from, and stop.",
    module_name="run",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Check all, draw the first batch as augmented_batch.png, and stop.",
    module_name="run",
)

# A run may go on for longer, elsewhere, or with its data in another place.
_CHANGES_IN_TRAINING = (
    "checkpoint_every_steps",
    "data_dir",
    "early_stopping_epochs",
    "epochs",
    "jit_compile",
    "keep_checkpoints",
    "profile_steps",
    "steps_per_execution",
    "strategy",
    "tpu",
    "weights",
)
_CHANGES_IN_EVALUATION = (*_CHANGES_IN_TRAINING, "batch_size", "dataset")


def run_mode(
    mode: str,
    given: Mapping,
    model_dir: os.PathLike,
    *,
    config: Mapping | None = None,
    is_dry: bool = False,
    timeout: float = 0.0,
) -> None:
    """Trains or evaluates as the flags say.

    Args:
        mode: `"train"`, `"eval"`, `"train_and_eval"` or `"continuous_eval"`.
        given: the flags that were given, by name.
        model_dir: folder of the run.
        config: the flags in a file, by name.
        is_dry: whether to stop before the first step, with a picture of the
            first batch.
        timeout: seconds without a new network after which continuous
            evaluation ends.

    Raises:
        UserError: If something is wrong that the user can mend.
    """
    start = time.monotonic()
    if mode == "continuous_eval":
        continuous_evaluation.wait_for_run(model_dir, timeout=timeout)
    trains = mode in ("train", "train_and_eval")
    saved = settings.read_saved(model_dir)
    if not saved and mode == "eval":
        raise UserError(
            f"--mode=eval needs the --model_dir of a run. Received: {model_dir}"
        )
    resolved = settings.resolve_flags(given, saved, config)
    run_folder.check_flags(
        model_dir,
        saved,
        resolved,
        may_change=(_CHANGES_IN_TRAINING if trains else _CHANGES_IN_EVALUATION),
    )
    # Those that a run began with are of no use to it later.
    has_begun = bool(run_folder.list_states(model_dir))
    run = settings.make_run(
        {**resolved, "weights": None} if has_begun else resolved
    )
    recipe = settings.make_recipe(resolved)
    if trains and run.pseudo_labels:
        # Before images are read.
        divide_batch(recipe.batch_size, recipe.pseudo_ratio)
    configure_keras(run)
    devices = strategies.find_devices(run.strategy, run.tpu)
    dataset = open_checked(
        run,
        model_dir,
        mode if trains else "eval",
        is_new=not saved,
        is_chief=devices.is_chief,
    )
    images_per_second = None
    if trains:
        model = training.make_model(recipe, dataset, run, devices)
        if devices.is_chief:
            facts = {"run": run, "devices": devices, "model_dir": model_dir}
            print(reports.describe_run(model, recipe, dataset, **facts))
        if is_dry:
            run_folder.prepare_folder(model_dir)
            path = model_dir / run_folder.BATCH_FILE
            training.draw_first_batch(recipe, dataset, run, path)
            print(f"First batch: {path}")
            return
        images_per_second = train_in_folder(
            model,
            recipe,
            dataset,
            run=run,
            devices=devices,
            model_dir=model_dir,
            saved=saved,
            resolved=resolved,
        )
    if not devices.is_chief:
        return
    # One of several processes evaluates, alone.
    is_alone = devices.processes == 1
    evaluation_arguments = {
        "batch_size": recipe.batch_size,
        "strategy": (
            devices.strategy if is_alone else tf.distribute.get_strategy()
        ),
    }
    if mode == "continuous_eval":
        continuous_evaluation.follow(
            model_dir, dataset, timeout=timeout, **evaluation_arguments
        )
        return
    results = None
    if mode != "train":
        with data_parallel.pausing():
            results = evaluation.evaluate(
                model_dir, dataset, **evaluation_arguments
            )
    is_own = not saved or saved["dataset"] == resolved["dataset"]
    print(
        f"\nAccuracy on {dataset.validation.size:,} validation images"
        f"{', by which the best epoch was chosen' if is_own else ''}:"
    )
    seconds = time.monotonic() - start
    if not trains:
        text = reports.describe_evaluation(
            model_dir, results=results, seconds=seconds
        )
    else:
        text = reports.describe_training(
            model_dir,
            results=results,
            images_per_second=images_per_second,
            seconds=seconds,
        )
    print(text)


def train_in_folder(
    model: keras.Model,
    recipe: Recipe,
    dataset: ImageDataset,
    *,
    run: settings.Run,
    devices: strategies.Devices,
    model_dir: os.PathLike,
    saved: Mapping,
    resolved: Mapping,
) -> float | None:
    """Trains, or goes on, while no other process may in the same folder.

    Args:
        model: what `training.make_model` returns.
        recipe: names images and optimization.
        dataset: what to train on.
        run: names the seed and how states are kept.
        devices: where to train.
        model_dir: folder of the run.
        saved: flags of the run that is in it, empty if there is none.
        resolved: flags of the run now.

    Returns:
        As `training.train`.

    Raises:
        UserError: If another process trains there, or the files of the run
            are damaged.
    """
    with contextlib.ExitStack() as stack:
        if devices.is_chief:
            run_folder.prepare_folder(model_dir)
            stack.enter_context(run_folder.locking(model_dir))
        checkpoint = training.restore(
            model, model_dir=model_dir, run=run, devices=devices
        )
        if saved and saved["epochs"] < recipe.epochs:
            print(
                f"--epochs={recipe.epochs} instead of {saved['epochs']}: from "
                "here on, the learning rate is that of a run of this length."
            )
        if devices.is_chief:
            # After all that can be refused.
            run_folder.write_json(model_dir / run_folder.FLAGS_FILE, resolved)
        return training.train(
            model,
            recipe,
            dataset,
            checkpoint=checkpoint,
            run=run,
            devices=devices,
        )


def open_checked(
    run: settings.Run,
    model_dir: os.PathLike,
    mode: str,
    *,
    is_new: bool,
    is_chief: bool = True,
) -> ImageDataset:
    """Opens the data set of a run, without the images that are bad.

    Args:
        run: names the data set.
        model_dir: folder of the run; bad_images.txt is written in it, if
            there are any and the run is new.
        mode: `"eval"` to look at those that are held out alone.
        is_new: whether nothing was trained in the folder before.
        is_chief: whether this process writes files.

    Raises:
        UserError: If there is no such data set, or it has too many bad images
            or others than when the run began.
    """
    dataset = datasets.open_dataset(
        run.dataset,
        run.data_dir,
        channels=run.channels,
        first_label=run.first_label,
    )
    path = model_dir / run_folder.BAD_IMAGES_FILE
    try:
        dataset, bad_images = checking.drop_bad_images(
            dataset, run.max_bad_images, training=mode != "eval"
        )
        if run.pseudo_labels and mode != "eval":
            dataset, others = add_pseudo_labelled(dataset, run)
            bad_images += others
            checking.check_number(bad_images, run.max_bad_images)
    except checking.BadImagesError as error:
        if is_new and is_chief:
            run_folder.prepare_folder(model_dir)
            checking.write_bad_images(path, error.lines)
        raise
    if bad_images:
        print(f"Left out: {len(bad_images)} images that cannot be read.")
    if mode == "eval":
        return dataset
    if not is_chief:
        # What the chief writes would seem to be of an earlier run.
        pass
    elif not is_new:
        checking.compare_bad_images(path, bad_images)
    elif bad_images or path.exists():
        run_folder.prepare_folder(model_dir)
        checking.write_bad_images(path, bad_images)
    return caching.cache_images(dataset) if run.cache else dataset


def add_pseudo_labelled(
    dataset: ImageDataset, run: settings.Run
) -> tuple[ImageDataset, list[str]]:
    """Opens the pseudo-labelled images of a run, or has a teacher label them.

    Args:
        dataset: what they are to be mixed with.
        run: names them and the teacher.

    Returns:
        The data set with them, and lines of those that are left out because
        they cannot be read.

    Raises:
        UserError: If there are none, or they or the teacher do not fit.
    """
    about = {
        "class_names": dataset.class_names,
        "channels": dataset.channels,
    }
    if run.teacher:
        split, bad_images = teaching.label_images(
            run.pseudo_labels,
            run.teacher,
            min_confidence=run.pseudo_min_confidence,
            **about,
        )
    else:
        split = labelled_images.open_labelled(run.pseudo_labels, **about)
        bad_images = []
    return dataclasses.replace(dataset, pseudo_labelled=split), bad_images


def configure_keras(run: settings.Run) -> None:
    """Makes runs of this process repeatable, in a precision."""
    keras.utils.set_random_seed(run.seed)
    if not run.jit_compile:
        # XLA lacks some operations in a deterministic form.
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(run.precision)


def main(argv: list[str]) -> None:
    # TensorFlow Datasets tells how it looks for one.
    logging.set_verbosity(logging.WARNING)
    refuse_arguments(argv)
    given = {flag.name: flag.value for flag in _KNOBS if flag.value is not None}
    config = settings.read_config(_CONFIG.value) if _CONFIG.value else {}
    if _PRINT_RECIPE.value:
        print(settings.describe_recipe(given, config, _CONFIG.value))
        return
    if not _MODEL_DIR.value:
        raise UserError("--model_dir is missing: where the results go.")
    with checking.explaining_bad_images():
        run_mode(
            _MODE.value,
            given,
            files.make_path(_MODEL_DIR.value),
            config=config,
            is_dry=_DRY_RUN.value,
            timeout=_CONTINUOUS_EVAL_TIMEOUT.value,
        )


def run() -> None:
    run_program(
        main,
        flag_groups=("data", "augmentation", "model", "optimization", "run"),
        interrupted="Stopped. The same command goes on from the last state.",
    )
